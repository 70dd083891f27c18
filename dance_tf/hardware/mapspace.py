"""Mapspaces: which mappings each dataflow allows for a layer on an array.

A mapspace is data: what is spread over X and Y, which dimensions may be tiled in the
register file and at DRAM, and the order of the loops at the global buffer. The rule
`strip` cuts the leading dimension of a side into the fewest strips and pads the layer
to whole strips; the cost of a padded mapping is that of the padded layer.

Source: the constraint files of Timeloop's runs for the three dataflows.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from dance_tf.structs import DIMENSIONS, Layer

__all__ = ["RULES", "DataflowRule", "MappingTable", "Spread", "enumerate_mappings", "spreads"]

_INDEX = {name: index for index, name in enumerate(DIMENSIONS)}
_N, _K, _C, _P, _Q, _R, _S = range(7)


@dataclasses.dataclass(frozen=True)
class DataflowRule:
    """Where a dataflow lets each dimension be tiled; every other factor there is 1."""

    leading_x: str | None  # dimension cut into strips along X
    leading_y: str | None  # along Y; None: all of S
    copies_x: str  # dimensions of which copies fill what a strip leaves of X
    copies_y: str
    register_file: str  # dimensions that may be tiled there
    global_buffer_order: str  # loops, outer to inner
    dram: str  # dimensions that may be tiled there, in any order


#: Of each dataflow, by name.
RULES = {
    "weight_stationary": DataflowRule("C", "K", "", "", "CKRS", "NKCSRQP", "NKCPQ"),
    "output_stationary": DataflowRule("P", "Q", "", "", "NKCPQRS", "NKQPCSR", "NKCPQ"),
    "row_stationary": DataflowRule("Q", None, "K", "CK", "CKR", "NSQKCRP", "NKCQ"),
}

#: All padding together may add this share of the MACs where copies are chosen.
_MAX_COPY_PADDING = 1 / 8


@dataclasses.dataclass(frozen=True)
class Spread:
    """One way to spread a layer over an array, and the sides for which it is allowed."""

    x: tuple[int, ...]  # factors on X, in the order of DIMENSIONS
    y: tuple[int, ...]
    padded_dims: tuple[int, ...]
    pe_x: frozenset[int]  # sides of the array that may use it
    pe_y: frozenset[int]


def spreads(layer: Layer, dataflow: str, pe_x: Sequence[int], pe_y: Sequence[int]) -> list[Spread]:
    """Return every way to spread a layer over arrays of the given sides, rule `strip`.

    Sides to which no spread applies cannot run the layer.

    Args:
        layer: The layer.
        dataflow: A key of RULES.
        pe_x: Sides along X to consider.
        pe_y: Sides along Y.
    """
    rule = RULES[dataflow]
    dims = layer.dims
    found: dict[tuple, tuple[set, set]] = {}
    strips_x, strips_y = _strips(dims, rule.leading_x, pe_x), _strips(dims, rule.leading_y, pe_y)
    for (strip_x, sides_x), (strip_y, sides_y) in itertools.product(
        strips_x.items(), strips_y.items()
    ):
        base_x, base_y = [1] * 7, [1] * 7
        if rule.leading_x:
            base_x[_INDEX[rule.leading_x]] = strip_x
        base_y[_INDEX[rule.leading_y or "S"]] = strip_y
        for copies_x in _copies(rule.copies_x, max(sides_x) // strip_x):
            for copies_y in _copies(rule.copies_y, max(sides_y) // strip_y):
                x = tuple(a * b for a, b in zip(base_x, copies_x, strict=True))
                y = tuple(a * b for a, b in zip(base_y, copies_y, strict=True))
                padded = tuple(-(-d // (a * b)) * a * b for d, a, b in zip(dims, x, y, strict=True))
                has_copies = max(*copies_x, *copies_y) > 1
                if has_copies and np.prod(padded) > (1 + _MAX_COPY_PADDING) * np.prod(dims):
                    continue
                fits_x = {side for side in sides_x if np.prod(x) <= side}
                fits_y = {side for side in sides_y if np.prod(y) <= side}
                entry = found.setdefault((x, y, padded), (set(), set()))
                entry[0].update(fits_x)
                entry[1].update(fits_y)
    return [
        Spread(x, y, padded, frozenset(fits_x), frozenset(fits_y))
        for (x, y, padded), (fits_x, fits_y) in found.items()
    ]


def _strips(dims: Sequence[int], leading: str | None, sides: Sequence[int]) -> dict[int, list[int]]:
    """Return strip width -> sides that cut so; without a leading dimension, all of S."""
    strips: dict[int, list[int]] = {}
    for side in sides:
        if leading is None:
            if dims[_S] <= side:
                strips.setdefault(dims[_S], []).append(side)
        else:
            bound = dims[_INDEX[leading]]
            passes = -(-bound // side)
            strips.setdefault(-(-bound // passes), []).append(side)
    return strips


def _copies(names: str, room: int) -> Iterator[tuple[int, ...]]:
    """Yield every choice of copies of the named dimensions that fits into `room`."""
    for counts in itertools.product(range(1, room + 1), repeat=len(names)):
        if np.prod(counts, dtype=int) <= room:
            factors = [1] * 7
            for name, count in zip(names, counts, strict=True):
                factors[_INDEX[name]] = count
            yield tuple(factors)


@dataclasses.dataclass(frozen=True)
class MappingTable:
    """All temporal mappings of one spread: int32 arrays with mappings last.

    DRAM loops come in `num_dram_slots` slots, outer to inner; unused slots have bound 1.
    """

    dram_bound: np.ndarray  # [T, M]
    dram_dim: np.ndarray  # [T, M]
    global_buffer: np.ndarray  # [7, M], in the dataflow's loop order
    register_file: np.ndarray  # [7, M], in the order of DIMENSIONS
    rf_words: np.ndarray  # [M], what a register file must hold

    def __len__(self) -> int:
        return self.rf_words.shape[0]


def enumerate_mappings(
    layer: Layer, dataflow: str, spread: Spread, *, max_rf_words: int, global_buffer_words: int
) -> MappingTable:
    """Return every mapping of a spread whose tiles fit, for a shared register file.

    Args:
        layer: The layer; its stride, dilation and kind.
        dataflow: A key of RULES.
        spread: One of `spreads(layer, dataflow, ...)`.
        max_rf_words: Capacity of the largest register file of interest.
        global_buffer_words: Capacity of the global buffer.
    Returns:
        The mappings, possibly none; the order is fixed.
    """
    rule = RULES[dataflow]
    file, buffer, dram = (np.ones((7, 1), np.int64) for _ in range(3))
    spatial = np.asarray(spread.x) * np.asarray(spread.y)
    for index, name in enumerate(DIMENSIONS):
        options = _three_way_splits(
            spread.padded_dims[index] // int(spatial[index]),
            has_file=name in rule.register_file,
            has_dram=name in rule.dram,
        )
        file, buffer, dram = (
            np.repeat(factors, options.shape[1], axis=1) for factors in (file, buffer, dram)
        )
        copies = file.shape[1] // options.shape[1]
        file[index], buffer[index], dram[index] = np.tile(options, copies)
        # Tiles only grow with further dimensions, so what does not fit now never will.
        fits = _tile_words(file, layer) <= max_rf_words
        fits &= _tile_words(spatial[:, None] * file * buffer, layer) <= global_buffer_words
        file, buffer, dram = file[:, fits], buffer[:, fits], dram[:, fits]
    dram_bound, dram_dim, source = _order_dram_loops(dram, rule.dram)
    order = [_INDEX[name] for name in rule.global_buffer_order]
    return MappingTable(
        dram_bound=dram_bound,
        dram_dim=dram_dim,
        global_buffer=buffer[order][:, source].astype(np.int32),
        register_file=file[:, source].astype(np.int32),
        rf_words=_tile_words(file, layer)[source].astype(np.int32),
    )


def _tile_words(extents: np.ndarray, layer: Layer) -> np.ndarray:
    """Return the words of the three operands' tiles together, [M], of extents [7, M]."""
    n, k, c, p, q, r, s = extents
    width = (p - 1) * layer.stride[0] + (r - 1) * layer.dilation[0] + 1
    height = (q - 1) * layer.stride[1] + (s - 1) * layer.dilation[1] + 1
    channels = k if layer.kind == "depthwise" else c
    return k * c * r * s + n * channels * width * height + n * k * p * q


def _three_way_splits(bound: int, *, has_file: bool, has_dram: bool) -> np.ndarray:
    """Return all (register file, global buffer, DRAM) factors of `bound`, [3, n]."""
    splits = [
        (file, bound // file // dram, dram)
        for file in (_divisors(bound) if has_file else [1])
        for dram in (_divisors(bound // file) if has_dram else [1])
    ]
    return np.asarray(splits, np.int64).T


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _order_dram_loops(dram: np.ndarray, names: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return every order of the DRAM loops that exist: bounds and dims [T, M'], source row [M']."""
    dims = np.asarray([_INDEX[name] for name in names])
    is_live = dram[dims] > 1
    code = (1 << np.arange(len(dims))) @ is_live
    bounds, codes, sources = [], [], []
    for value in np.unique(code):
        rows = np.flatnonzero(code == value)
        live = [dim for bit, dim in enumerate(dims) if value >> bit & 1]
        for permutation in itertools.permutations(live):
            bound = np.ones((len(dims), rows.size), np.int32)
            dim = np.zeros((len(dims), rows.size), np.int32)
            # Last slots first: the loops sit innermost, empty slots outside.
            for slot, name in enumerate(reversed(permutation)):
                bound[-1 - slot] = dram[name, rows]
                dim[-1 - slot] = name
            bounds.append(bound)
            codes.append(dim)
            sources.append(rows)
    if not bounds:
        empty = np.zeros((len(dims), 0), np.int32)
        return empty, empty, np.zeros(0, np.int64)
    return np.concatenate(bounds, 1), np.concatenate(codes, 1), np.concatenate(sources)
