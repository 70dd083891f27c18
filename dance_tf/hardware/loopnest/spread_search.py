"""The best mapping of one layer for every spread and design point, exhaustively.

A mapping is a spread, a tiling of the channels, a tiling of the plane and an order of the
DRAM loops. Fills are multilinear in the channels' factors, and cycles of each resource and
energy are linear in the fills: so the figures of all pairs of tilings are matrix products
(see `channel_terms`), and what remains per mapping is to round up, to take the largest of
the resources and to compare.

Scores are float32; ties go to the first mapping in the order of enumeration.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dance_tf.hardware.loopnest.channel_terms import (
    DesignPoint,
    Figures,
    figures_of,
    fill_coefficients,
)
from dance_tf.hardware.loopnest.mapping import FoundMapping
from dance_tf.hardware.loopnest.mapspace import (
    CHANNEL_LOOPS,
    PLANE_LOOPS,
    Candidates,
    present_loops,
    tile_words,
)
from dance_tf.hardware.loopnest.tiles import COLUMNS, MEMBERS, Side, make_tiles
from dance_tf.run.threads import map_in_threads
from dance_tf.structs import LOOPS

__all__ = ["Best", "SpreadSearch"]

_CHANNELS = [LOOPS.index(loop) for loop in CHANNEL_LOOPS]
_PLANE = [LOOPS.index(loop) for loop in PLANE_LOOPS]

_MAPPINGS = 114_688  # per block of eight figures: few calls, arrays that a cache still holds
_LEAST_MAPPINGS = 16_384  # per block of any number of figures


class Best(NamedTuple):
    """The best score of every spread at every design point, float32 [spreads, points]."""

    score: np.ndarray  # what is minimised, infinite where nothing fits
    tie_break: np.ndarray  # energy where latency is minimised


class SpreadSearch:
    """All mappings of some spreads of a layer, evaluated in tiles."""

    def __init__(
        self,
        candidates: Candidates,
        indices: Sequence[int] | np.ndarray,
        points: Sequence[DesignPoint],
        figures: Figures | None = None,
    ) -> None:
        """List the mappings, and what they cost together.

        Args:
            candidates: All mappings of the layer.
            indices: Rows of the spreads to search.
            points: All of one register-file mode, accounting and objective.
            figures: What mappings of all the candidates' spreads cost; made if missing.
        """
        self._layer, self._points = candidates.layer, points
        self._dataflow, self._orders = candidates.dataflow, candidates.orders
        machine = points[0].machine
        self._is_split, self._objective = machine.rf_mode == "split", machine.mapping_objective
        # Points that differ in energy alone have the same mappings.
        capacities = [(p.rf_words, p.machine.global_buffer_words) for p in points]
        self._groups = {
            capacity: [i for i, other in enumerate(capacities) if other == capacity]
            for capacity in dict.fromkeys(capacities)
        }
        self._most = (max(p.rf_words for p in points), max(words for _, words in capacities))
        self.rows = np.asarray(indices)
        self.spreads = candidates.spreads.take(self.rows)
        if figures is None:
            figures = figures_of(self.spreads, self._dataflow, points)
        else:
            figures = figures.take(self.rows)
        channels = [candidates.tilings(i, CHANNEL_LOOPS) for i in indices]
        planes = [candidates.tilings(i, PLANE_LOOPS) for i in indices]
        self._channels, self._planes = (np.concatenate(f, axis=2) for f in (channels, planes))
        of_channel = np.repeat(np.arange(len(indices)), [c.shape[2] for c in channels])
        of_plane = np.repeat(np.arange(len(indices)), [p.shape[2] for p in planes])
        temporal = self.spreads.temporal_bounds.astype(np.float32)
        spatial = np.stack([self.spreads.x, self.spreads.y], axis=1).astype(np.float32)
        at_file, at_buffer = self._tile_parts(spatial.prod(axis=1), of_channel, of_plane)
        # Where the buffer is too small even alone, nothing fits.
        fits = [part.sum(axis=1) <= self._most[1] for part in at_buffer]
        if not (fits[0].all() and fits[1].all()):
            self._channels, self._planes = (
                factors[:, :, each]
                for factors, each in zip((self._channels, self._planes), fits, strict=True)
            )
            of_channel, of_plane = of_channel[fits[0]], of_plane[fits[1]]
            at_file, at_buffer = (
                tuple(part[each] for part, each in zip(parts, fits, strict=True))
                for parts in (at_file, at_buffer)
            )
        self._file_parts, self._buffer_parts = at_file, at_buffer
        patterns, pattern = np.unique(
            _pattern_codes(self._channels, self._is_split), return_inverse=True
        )
        self._patterns = patterns
        fills = fill_coefficients(
            candidates.dataflow,
            candidates.orders,
            present_loops(candidates.layer, CHANNEL_LOOPS),
            self._is_split,
        )
        self._coefficients = fills.evaluate(
            self._planes.astype(np.float32),
            spatial[of_plane].transpose(1, 2, 0),
            temporal[of_plane][:, _CHANNELS].T,
            (patterns[None] >> np.arange(9)[:, None] & 1).astype(bool),
            np.asarray([*candidates.layer.stride, *candidates.layer.dilation], np.float32),
        ).numpy()
        self._values, monomial_of_term = fills.monomial_values(self._channels)
        self._constant_monomial = next(
            at
            for at, (_, monomial) in zip(monomial_of_term, fills.terms, strict=True)
            if not monomial
        )
        # Terms to (monomial, figure): a matrix for each spread.
        weights = figures.weights
        num_monomials, num_figures = self._values.shape[1], weights.shape[1]
        mixing = np.zeros((len(indices), num_monomials, num_figures, len(fills.terms)), np.float32)
        for term, (fill, _) in enumerate(fills.terms):
            mixing[:, monomial_of_term[term], :, term] = weights[:, :, 1 + fill]
        self._mixing = mixing.reshape(len(indices), num_monomials * num_figures, -1)
        self._constants = weights[:, :, 0]
        self._bandwidth_of, self._energy_of = figures.bandwidth_of, figures.energy_of
        # Divided as the last step, so that whole quotients stay whole.
        self._words_per_cycle = figures.words_per_cycle[:, None, None]
        self._mappings = max(_LEAST_MAPPINGS, _MAPPINGS * 8 // max(8, num_figures))
        self._compute_cycles = np.prod(temporal.astype(np.float64), axis=1).astype(np.float32)
        # A product of both, as either may be what does not fit.
        needs = [f.sum(axis=1) * b.sum(axis=1) for f, b in zip(at_file, at_buffer, strict=True)]
        self._tiles = make_tiles(
            Side(of_channel, pattern, needs[0]),
            Side(of_plane, np.zeros_like(of_plane), needs[1]),
        )

    def best(self) -> Best:
        """Return the best of every spread."""
        shape = (len(self._tiles.spread), len(self._points))
        score, tie_break = (np.full(shape, np.inf, np.float32) for _ in range(2))

        def evaluate(tiles: np.ndarray) -> None:
            score[tiles], tie_break[tiles] = self._scores(tiles)

        for _ in map_in_threads(evaluate, self._blocks(np.arange(shape[0]))):
            pass
        self._tile_scores = score, tie_break
        best = Best(*np.full((2, len(self.spreads), shape[1]), np.inf, np.float32))
        edges = np.flatnonzero(np.diff(self._tiles.spread, prepend=-1))
        if len(edges):
            with_tiles = self._tiles.spread[edges]
            best.score[with_tiles] = np.minimum.reduceat(score, edges, axis=0)
            is_best = score == best.score[self._tiles.spread]
            tie_break = np.where(is_best, tie_break, np.float32(np.inf))
            self._tile_scores = score, tie_break
            best.tie_break[with_tiles] = np.minimum.reduceat(tie_break, edges, axis=0)
        return best

    def winners(self, spreads: np.ndarray, point: int) -> list[FoundMapping]:
        """Return the first mapping that reaches each spread's best at a point; after `best`."""
        score, tie_break = (scores[:, point] for scores in self._tile_scores)
        order = np.lexsort((tie_break, score, self._tiles.spread))
        first = order[np.searchsorted(self._tiles.spread, spreads)]
        found: list[FoundMapping | None] = [None] * len(spreads)
        for block in self._blocks(first):
            scores, ties = self._mapping_scores(first[block], point)
            num, _, _, _ = scores.shape
            ranked = np.lexsort((ties.reshape(num, -1), scores.reshape(num, -1)), axis=1)
            members, orders, columns = np.unravel_index(ranked[:, 0], scores.shape[1:])
            names = self._orders_of(first[block[0]])
            for at, member, its_order, column in zip(block, members, orders, columns, strict=True):
                tile = first[at]
                found[at] = FoundMapping(
                    layer=self._layer,
                    dataflow=self._dataflow,
                    rf_words=self._points[point].rf_words,
                    spread=self.spreads[int(spreads[at])],
                    channels=self._channels[:, :, self._tiles.members[tile, member]],
                    plane=self._planes[:, :, self._tiles.columns[tile, column]],
                    order=self._orders[names[its_order]],
                )
        return [winner for winner in found if winner is not None]

    def count(self) -> int:
        """Return how many different mappings there are that fit the largest memories.

        Orders that differ only in loops with one step are the same mapping.
        """
        num_orders = np.asarray(
            [
                len(_different_orders(self._orders, code & 7, code >> 3))
                for code in range(1 << len(CHANNEL_LOOPS + PLANE_LOOPS))
            ]
        )
        codes = (1 << np.arange(3)) @ (self._channels[2] > 1)
        plane_codes = (1 << np.arange(3, 8)) @ (self._planes[2] > 1)
        total = 0
        for tiles in self._blocks(np.arange(len(self._tiles.spread))):
            members, columns = self._pairs(tiles)
            fits = self._fits(self._words_of(tiles), *self._most)
            # The last column of a tile may repeat to fill it.
            is_new = [np.diff(c, axis=1, prepend=-1) != 0 for c in (members, columns)]
            fits &= is_new[0][:, :, None] & is_new[1][:, None]
            pairs = codes[members][:, :, None] + plane_codes[columns][:, None]
            total += int(num_orders[pairs][fits].sum())
        return total

    def _blocks(self, tiles: np.ndarray) -> Iterator[np.ndarray]:
        """Yield indices into `tiles` of those that have orders and width in common."""
        if not len(tiles):
            return
        dram_code = self._patterns[self._tiles.pattern[tiles]] >> 6
        key = dram_code * (MEMBERS + 1) + self._tiles.width[tiles]
        order = np.argsort(key, kind="stable")
        ends = [*(np.flatnonzero(np.diff(key[order])) + 1), len(order)]
        for first, end in itertools.pairwise([0, *ends]):
            alike = order[first:end]
            num_orders = len(self._orders_of(tiles[alike[0]]))
            per_tile = int(self._tiles.width[tiles[alike[0]]]) * num_orders * COLUMNS
            step = max(1, self._mappings // per_tile)
            for start in range(0, len(alike), step):
                yield alike[start : start + step]

    def _orders_of(self, tile: int) -> list[int]:
        """Return the orders that differ in the channels' loops that a tile has at DRAM."""
        channels = int(self._patterns[self._tiles.pattern[tile]]) >> 6
        return _different_orders(self._orders, channels, (1 << len(PLANE_LOOPS)) - 1)

    def _scores(self, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the best score and its tie break in each tile, float32 [tiles, points]."""
        shape = (len(tiles), len(self._points))
        best, ties = np.full(shape, np.inf, np.float32), np.zeros(shape, np.float32)
        words = self._words_of(tiles)
        some_fit = self._fits(words, *self._most).any(axis=(1, 2))
        if some_fit.any():
            words = words[0][some_fit], words[1][some_fit]
            best[some_fit], ties[some_fit] = self._scores_of_fitting(tiles[some_fit], words)
        return best, ties

    def _scores_of_fitting(
        self, tiles: np.ndarray, words: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        figures, cycles = self._figures(tiles)
        shape = (len(tiles), len(self._points))
        best, ties = np.full(shape, np.inf, np.float32), np.zeros(shape, np.float32)
        product = np.empty_like(cycles[0])
        for capacity, points in self._groups.items():
            does_not_fit = ~self._fits(words, *capacity)
            if does_not_fit.all():
                continue
            penalty = None
            if does_not_fit.any():
                penalty = np.where(does_not_fit, np.float32(np.inf), np.float32(0))[:, :, None]
            for point in points:
                energy = figures[:, :, self._energy_of[point]]
                of_point = cycles[self._bandwidth_of[point]]
                if self._objective == "latency":
                    best[:, point], ties[:, point] = _lexicographic_minimum(
                        of_point, energy, does_not_fit
                    )
                    continue
                if self._objective == "edp":
                    np.multiply(energy, of_point, out=product)
                else:
                    np.copyto(product, energy)
                if penalty is not None:
                    product += penalty
                best[:, point] = product.reshape(len(product), -1).min(axis=1)
        return best, ties

    def _mapping_scores(self, tiles: np.ndarray, point: int) -> tuple[np.ndarray, np.ndarray]:
        """Return score and tie break of each mapping, [tiles, members, orders, columns]."""
        figures, all_cycles = self._figures(tiles)
        energy = figures[:, :, self._energy_of[point]]
        cycles = all_cycles[self._bandwidth_of[point]]
        score = {"edp": energy * cycles, "energy": energy, "latency": cycles}[self._objective]
        its = self._points[point]
        fits = self._fits(self._words_of(tiles), its.rf_words, its.machine.global_buffer_words)
        fits = np.broadcast_to(fits[:, :, None], score.shape)
        return np.where(fits, score, np.float32(np.inf)), energy

    def _pairs(self, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the columns of channels and of planes of tiles of the same width."""
        width = self._tiles.width[tiles[0]]
        return self._tiles.members[tiles, :width], self._tiles.columns[tiles]

    def _figures(self, tiles: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return what the mappings of some tiles cost.

        Args:
            tiles: Indices of tiles that have orders and width in common.
        Returns:
            Figures, [tiles, members, figures, orders, columns]; cycles with each pair of
            bandwidths, likewise without figures.
        """
        spread, pattern = self._tiles.spread[tiles], self._tiles.pattern[tiles]
        members, columns = self._pairs(tiles)
        orders = np.asarray(self._orders_of(tiles[0]))
        num, num_orders = len(spread), len(orders)
        num_figures = self._constants.shape[1]
        _, all_orders, num_rows, num_terms = self._coefficients.shape
        # Whole rows of terms, [tiles, orders, columns, terms]: far faster than picking numbers.
        rows = (pattern[:, None] * all_orders + orders)[:, :, None] * num_rows + columns[:, None]
        terms = self._coefficients.reshape(-1, num_terms).take(rows, axis=0)
        mixed = self._mixing[spread] @ terms.reshape(num, -1, num_terms).transpose(0, 2, 1)
        mixed = mixed.reshape(num, -1, num_figures, num_orders * COLUMNS)
        mixed[:, self._constant_monomial] += self._constants[spread][:, :, None]
        mixed = mixed.reshape(num, mixed.shape[1], -1)
        figures = self._values[members] @ mixed
        figures = figures.reshape(num, -1, num_figures, num_orders, COLUMNS)
        waiting = figures[:, :, : len(self._words_per_cycle)]
        np.ceil(np.divide(waiting, self._words_per_cycle, out=waiting), out=waiting)
        computing = self._compute_cycles[spread][:, None, None, None]
        cycles = []
        for at in range(0, len(self._words_per_cycle), 3):
            most = np.maximum(figures[:, :, at], figures[:, :, at + 1])
            np.maximum(most, figures[:, :, at + 2], out=most)
            cycles.append(np.maximum(most, computing, out=most))
        return figures, cycles

    def _tile_parts(
        self, spatial: np.ndarray, of_channel: np.ndarray, of_plane: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Return what tiles are products of, of channels [n, 3] and of planes [m, 3], per level."""
        parts = []
        for level in range(2):
            both = []
            for factors, loops, owner in (
                (self._channels, _CHANNELS, of_channel),
                (self._planes, _PLANE, of_plane),
            ):
                extents = np.ones((8, factors.shape[2]))
                extents[loops] = factors[: level + 1].prod(axis=0)
                if level:
                    extents[loops] *= spatial[owner][:, loops].T
                words = tile_words(self._layer, extents)
                both.append(np.stack(words, axis=-1).astype(np.float32))
            parts.append((both[0], both[1]))
        return parts[0], parts[1]

    def _words_of(self, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return words in a register file and in the buffer, [tiles, members, columns]."""
        members, columns = self._pairs(tiles)
        in_file, in_buffer = (
            (parts[0][members], parts[1][columns])
            for parts in (self._file_parts, self._buffer_parts)
        )
        if self._is_split:  # what the largest of the three holds
            file_words = (in_file[0][:, :, None] * in_file[1][:, None]).max(axis=-1)
        else:
            file_words = in_file[0] @ in_file[1].transpose(0, 2, 1)
        return file_words, in_buffer[0] @ in_buffer[1].transpose(0, 2, 1)

    def _fits(
        self, words: tuple[np.ndarray, np.ndarray], rf_words: int, buffer_words: int
    ) -> np.ndarray:
        return np.asarray((words[0] <= rf_words) & (words[1] <= buffer_words))


def _lexicographic_minimum(
    cycles: np.ndarray, energy: np.ndarray, does_not_fit: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the least cycles in each tile, and the least energy among those, [tiles]."""
    infinite = np.float32(np.inf)
    least = np.where(does_not_fit[:, :, None], infinite, cycles).min(axis=(1, 2, 3))
    is_tied = (cycles == least[:, None, None, None]) & ~does_not_fit[:, :, None]
    return least, np.where(is_tied, energy, infinite).min(axis=(1, 2, 3))


@functools.lru_cache(maxsize=4096)
def _different_orders(orders: tuple[str, ...], channels: int, plane: int) -> list[int]:
    """Return the first of the orders that are alike in the loops that are there, as bits."""
    live = {loop for j, loop in enumerate(CHANNEL_LOOPS) if channels >> j & 1}
    live |= {loop for j, loop in enumerate(PLANE_LOOPS) if plane >> j & 1}
    kept: dict[str, int] = {}
    for index, order in enumerate(orders):
        kept.setdefault("".join(loop for loop in order if loop in live), index)
    return list(kept.values())


def _pattern_codes(channels: np.ndarray, is_split: bool) -> np.ndarray:
    """Return which loops are there as bits, level by level, [n]."""
    is_live = channels > 1
    if not is_split:
        is_live[0] = False  # a shared register file's loops have no order
    return (1 << np.arange(9)) @ is_live.reshape(9, -1)
