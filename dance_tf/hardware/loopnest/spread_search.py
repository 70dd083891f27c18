"""The best mapping of one layer for every spread and register file, exhaustively.

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

from dance_tf.config import MachineConfig
from dance_tf.hardware.loopnest import cost_model
from dance_tf.hardware.loopnest.channel_terms import figure_weights, fill_coefficients
from dance_tf.hardware.loopnest.mapping import FoundMapping
from dance_tf.hardware.loopnest.mapspace import (
    CHANNEL_LOOPS,
    PLANE_LOOPS,
    Candidates,
    present_loops,
    tile_words,
)
from dance_tf.run.threads import map_in_threads
from dance_tf.structs import LOOPS

__all__ = ["Best", "SpreadSearch"]

_CHANNELS = [LOOPS.index(loop) for loop in CHANNEL_LOOPS]
_PLANE = [LOOPS.index(loop) for loop in PLANE_LOOPS]

#: Tilings of the channels and of the plane in a tile.
_MEMBERS, _COLUMNS = 16, 8

#: Numbers of a tile's members that may differ.
_WIDTHS = (4, 8, _MEMBERS)

_MAPPINGS = 114_688  # per block: few calls, and arrays that a cache still holds


class Best(NamedTuple):
    """The best score of every spread and size of register file, float32 [spreads, sizes]."""

    score: np.ndarray  # what is minimised, infinite where nothing fits
    tie_break: np.ndarray  # energy where latency is minimised


class SpreadSearch:
    """All mappings of some spreads of a layer, evaluated in tiles."""

    def __init__(
        self,
        candidates: Candidates,
        indices: Sequence[int],
        machine: MachineConfig,
        rf_words: np.ndarray,
    ) -> None:
        self._layer, self._machine, self._rf_words = candidates.layer, machine, rf_words
        self._dataflow, self._orders = candidates.dataflow, candidates.orders
        self.spreads = [candidates.spreads[i] for i in indices]
        channels = [candidates.channels[i] for i in indices]
        planes = [candidates.planes[i] for i in indices]
        self._channels, self._planes = (np.concatenate(f, axis=2) for f in (channels, planes))
        of_channel = np.repeat(np.arange(len(indices)), [c.shape[2] for c in channels])
        of_plane = np.repeat(np.arange(len(indices)), [p.shape[2] for p in planes])
        patterns, pattern = np.unique(
            _pattern_codes(self._channels, machine.rf_mode == "split"), return_inverse=True
        )
        self._patterns = patterns
        temporal = np.asarray([spread.temporal_bounds for spread in self.spreads], np.float32)
        spatial = np.asarray([(spread.x, spread.y) for spread in self.spreads], np.float32)
        fills = fill_coefficients(
            candidates.dataflow,
            candidates.orders,
            present_loops(candidates.layer, CHANNEL_LOOPS),
            machine.rf_mode == "split",
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
        weights = figure_weights(self.spreads, candidates.dataflow, machine, rf_words)
        # Terms to (monomial, figure): a matrix for each spread.
        num_monomials, num_figures = self._values.shape[1], weights.shape[1]
        mixing = np.zeros((len(indices), num_monomials, num_figures, len(fills.terms)), np.float32)
        for term, (fill, _) in enumerate(fills.terms):
            mixing[:, monomial_of_term[term], :, term] = weights[:, :, 1 + fill]
        self._mixing = mixing.reshape(len(indices), num_monomials * num_figures, -1)
        self._constants = weights[:, :, 0]
        _, per_cycle = cost_model.bandwidths(machine)
        # Divided as the last step, so that whole quotients stay whole.
        self._words_per_cycle = np.asarray(per_cycle, np.float32)[:, None, None]
        self._compute_cycles = np.prod(temporal.astype(np.float64), axis=1).astype(np.float32)
        at_file, at_buffer = self._tile_parts(spatial.prod(axis=1), of_channel, of_plane)
        self._file_parts, self._buffer_parts = at_file, at_buffer
        # A product of both, as either may be what does not fit.
        needs = [f.sum(axis=1) * b.sum(axis=1) for f, b in zip(at_file, at_buffer, strict=True)]
        self._tiles = _make_tiles(
            _Side(of_channel, pattern, needs[0]),
            _Side(of_plane, np.zeros_like(of_plane), needs[1]),
        )

    def best(self) -> Best:
        """Return the best of every spread."""
        shape = (len(self._tiles.spread), len(self._rf_words))
        score, tie_break = (np.full(shape, np.inf, np.float32) for _ in range(2))

        def evaluate(tiles: np.ndarray) -> None:
            score[tiles], tie_break[tiles] = self._scores(tiles)

        for _ in map_in_threads(evaluate, self._blocks(np.arange(shape[0]))):
            pass
        edges = np.flatnonzero(np.diff(self._tiles.spread, prepend=-1))
        best = np.minimum.reduceat(score, edges, axis=0)
        is_best = score == best[self._tiles.spread]
        tie_break = np.where(is_best, tie_break, np.float32(np.inf))
        self._tile_scores = score, tie_break
        return Best(best, np.minimum.reduceat(tie_break, edges, axis=0))

    def winners(self, spreads: np.ndarray, size: int) -> list[FoundMapping]:
        """Return the first mapping that reaches each spread's best for a size; after `best`."""
        score, tie_break = (scores[:, size] for scores in self._tile_scores)
        order = np.lexsort((tie_break, score, self._tiles.spread))
        first = order[np.searchsorted(self._tiles.spread, spreads)]
        found: list[FoundMapping | None] = [None] * len(spreads)
        for block in self._blocks(first):
            scores, ties = self._mapping_scores(first[block], size)
            num, _, _, _ = scores.shape
            ranked = np.lexsort((ties.reshape(num, -1), scores.reshape(num, -1)), axis=1)
            members, orders, columns = np.unravel_index(ranked[:, 0], scores.shape[1:])
            names = self._orders_of(first[block[0]])
            for at, member, its_order, column in zip(block, members, orders, columns, strict=True):
                tile = first[at]
                found[at] = FoundMapping(
                    layer=self._layer,
                    dataflow=self._dataflow,
                    rf_words=int(self._rf_words[size]),
                    spread=self.spreads[spreads[at]],
                    channels=self._channels[:, :, self._tiles.members[tile, member]],
                    plane=self._planes[:, :, self._tiles.columns[tile, column]],
                    order=self._orders[names[its_order]],
                )
        return [winner for winner in found if winner is not None]

    def count(self) -> int:
        """Return how many different mappings there are that fit the largest register file.

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
            fits = self._fitting_words(members, columns) <= self._rf_words[-1]
            # The last column of a tile may repeat to fill it.
            is_new = [np.diff(c, axis=1, prepend=-1) != 0 for c in (members, columns)]
            fits &= is_new[0][:, :, None] & is_new[1][:, None]
            pairs = codes[members][:, :, None] + plane_codes[columns][:, None]
            total += int(num_orders[pairs][fits].sum())
        return total

    def _blocks(self, tiles: np.ndarray) -> Iterator[np.ndarray]:
        """Yield indices into `tiles` of those that have orders and width in common."""
        dram_code = self._patterns[self._tiles.pattern[tiles]] >> 6
        key = dram_code * (_MEMBERS + 1) + self._tiles.width[tiles]
        order = np.argsort(key, kind="stable")
        ends = [*(np.flatnonzero(np.diff(key[order])) + 1), len(order)]
        for first, end in itertools.pairwise([0, *ends]):
            alike = order[first:end]
            num_orders = len(self._orders_of(tiles[alike[0]]))
            per_tile = int(self._tiles.width[tiles[alike[0]]]) * num_orders * _COLUMNS
            step = max(1, _MAPPINGS // per_tile)
            for start in range(0, len(alike), step):
                yield alike[start : start + step]

    def _orders_of(self, tile: int) -> list[int]:
        """Return the orders that differ in the channels' loops that a tile has at DRAM."""
        channels = int(self._patterns[self._tiles.pattern[tile]]) >> 6
        return _different_orders(self._orders, channels, (1 << len(PLANE_LOOPS)) - 1)

    def _scores(self, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the best score and its tie break in each tile, float32 [tiles, sizes]."""
        shape = (len(tiles), len(self._rf_words))
        best, ties = np.full(shape, np.inf, np.float32), np.zeros(shape, np.float32)
        words = self._fitting_words(*self._pairs(tiles))
        some_fit = (words <= self._rf_words[-1]).any(axis=(1, 2))
        if some_fit.any():
            best[some_fit], ties[some_fit] = self._scores_of_fitting(
                tiles[some_fit], words[some_fit]
            )
        return best, ties

    def _scores_of_fitting(
        self, tiles: np.ndarray, words: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        figures, cycles = self._figures(tiles)
        shape = (len(tiles), len(self._rf_words))
        best, ties = np.full(shape, np.inf, np.float32), np.zeros(shape, np.float32)
        objective, infinite = self._machine.mapping_objective, np.float32(np.inf)
        for size, capacity in enumerate(self._rf_words):
            does_not_fit = words > capacity
            if does_not_fit.all():
                continue
            energy = figures[:, :, 3 + size]
            if objective == "latency":
                score, ties[:, size] = _lexicographic_minimum(cycles, energy, does_not_fit)
            else:
                product = energy * cycles if objective == "edp" else energy.copy()
                if does_not_fit.any():
                    product += np.where(does_not_fit, infinite, np.float32(0))[:, :, None]
                score = product.reshape(len(product), -1).min(axis=1)
            best[:, size] = score
        return best, ties

    def _mapping_scores(self, tiles: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return score and tie break of each mapping, [tiles, members, orders, columns]."""
        figures, cycles = self._figures(tiles)
        words = self._fitting_words(*self._pairs(tiles))
        energy = figures[:, :, 3 + size]
        score = {"edp": energy * cycles, "energy": energy, "latency": cycles}[
            self._machine.mapping_objective
        ]
        does_not_fit = np.broadcast_to((words > self._rf_words[size])[:, :, None], score.shape)
        return np.where(does_not_fit, np.float32(np.inf), score), energy

    def _pairs(self, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the columns of channels and of planes of tiles of the same width."""
        width = self._tiles.width[tiles[0]]
        return self._tiles.members[tiles, :width], self._tiles.columns[tiles]

    def _figures(self, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what the mappings of some tiles cost.

        Args:
            tiles: Indices of tiles that have orders and width in common.
        Returns:
            Figures, [tiles, members, figures, orders, columns]; cycles, without figures.
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
        mixed = mixed.reshape(num, -1, num_figures, num_orders * _COLUMNS)
        mixed[:, self._constant_monomial] += self._constants[spread][:, :, None]
        mixed = mixed.reshape(num, mixed.shape[1], -1)
        figures = self._values[members] @ mixed
        figures = figures.reshape(num, -1, num_figures, num_orders, _COLUMNS)
        waiting = figures[:, :, :3]
        np.ceil(np.divide(waiting, self._words_per_cycle, out=waiting), out=waiting)
        cycles = np.maximum(figures[:, :, 0], figures[:, :, 1])
        np.maximum(cycles, figures[:, :, 2], out=cycles)
        np.maximum(cycles, self._compute_cycles[spread][:, None, None, None], out=cycles)
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

    def _fitting_words(self, members: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return words of a register file, infinite where the buffer is too small."""
        words = self._words(self._file_parts, members, columns)
        in_buffer = self._words(self._buffer_parts, members, columns)
        words[in_buffer > self._machine.global_buffer_words] = np.inf
        return words

    def _words(
        self, parts: tuple[np.ndarray, np.ndarray], members: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:
        """Return the words of all operands, or of the largest, [tiles, members, columns]."""
        of_channels, of_planes = parts[0][members], parts[1][columns]
        if self._machine.rf_mode == "split" and parts is self._file_parts:
            return (of_channels[:, :, None] * of_planes[:, None]).max(axis=-1)
        return of_channels @ of_planes.transpose(0, 2, 1)


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


class _Tiles(NamedTuple):
    """Pairs of tilings of one spread in rectangles: channels with one pattern x planes."""

    spread: np.ndarray  # [tiles]
    pattern: np.ndarray  # [tiles], which loops of the channels are there
    members: np.ndarray  # [tiles, _MEMBERS], columns of all channels; the last one may repeat
    width: np.ndarray  # [tiles], of _WIDTHS: no more members than this differ
    columns: np.ndarray  # [tiles, _COLUMNS], columns of all planes; the last one may repeat


class _Side(NamedTuple):
    """Tilings of the channels, or of the plane, of all spreads, [n]."""

    spread: np.ndarray  # ascending
    pattern: np.ndarray  # what the tilings of a tile have in common
    words: np.ndarray  # what they need; tiles hold tilings that need about the same


def _make_tiles(channels: _Side, planes: _Side) -> _Tiles:
    """Cover all pairs of a spread's channels and its planes; spreads are in order."""
    members, of_member = _chunks_of(channels, _MEMBERS)
    columns, of_column = _chunks_of(planes, _COLUMNS)
    # Each chunk of channels meets each chunk of planes of its spread.
    spread = channels.spread[of_member]
    first, count = _runs(planes.spread[of_column])
    left = np.repeat(np.arange(len(spread)), count[spread])
    before = np.cumsum(count[spread]) - count[spread]
    right = first[spread[left]] + np.arange(len(left)) - np.repeat(before, count[spread])
    # Narrow chunks are common, and repeating members is work for nothing.
    width = np.full(len(members), _MEMBERS)
    for narrow in sorted(_WIDTHS, reverse=True):
        width[members[:, narrow - 1] == members[:, -1]] = narrow
    return _Tiles(
        spread=spread[left],
        pattern=channels.pattern[of_member][left],
        members=members[left],
        width=width[left],
        columns=columns[right],
    )


def _chunks_of(side: _Side, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return chunks of alike tilings, [chunks, width], and one tiling of each, [chunks]."""
    order = np.lexsort((side.words, side.pattern, side.spread))
    key = side.spread[order] * (side.pattern.max() + 1) + side.pattern[order]
    first, count = _runs(key)
    run, chunks = _chunks(first, count, width)
    return order[chunks], order[first[run]]


def _runs(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return first index and length of each run of equal values."""
    first = np.flatnonzero(np.diff(key, prepend=key[:1] - 1))
    return first, np.diff(first, append=len(key))


def _chunks(first: np.ndarray, count: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut runs into chunks: run of each chunk, and its indices [chunks, width]."""
    num = -(-count // width)
    run = np.repeat(np.arange(len(first)), num)
    offset = np.arange(len(run)) - np.repeat(np.cumsum(num) - num, num)
    last = first[run] + count[run] - 1
    indices = first[run][:, None] + offset[:, None] * width + np.arange(width)
    return run, np.minimum(indices, last[:, None])
