"""Mapspaces: which mappings each dataflow allows for a layer on an array.

A mapspace is data: what is spread over X and Y, which loops may be tiled in the
register file and at DRAM, and the order of the loops at the global buffer. Two rules
say how a side is cut. `strip` cuts the leading loop of a side into the fewest strips
and pads the layer to whole strips; the cost of a padded mapping is that of the padded
layer. `timeloop` takes perfect factors only.

Groups: G is the channel loop of a depthwise layer and takes K's place there. Where a
group has more channels, G may be tiled everywhere, and copies of it fill what K leaves
of an array's side.

Source: the constraint files of Timeloop's runs for the three dataflows; groups are ours.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

from dance_tf.structs import LOOPS, Layer

__all__ = [
    "CHANNEL_LOOPS",
    "MAPSPACE_RULES",
    "PLANE_LOOPS",
    "RULES",
    "WEIGHT_SPAD_ORDER",
    "Candidates",
    "DataflowRule",
    "Spread",
    "Spreads",
    "dram_orders",
    "present_loops",
    "shortage",
    "spreads",
    "tile_words",
    "tilings",
]

MAPSPACE_RULES = ("strip", "timeloop")

#: The loops in two parts, tilings of which are listed apart: those over channels, and those
#: over the plane of an image with its batch: output positions and filter taps.
CHANNEL_LOOPS = "KCG"
PLANE_LOOPS = "NPQRS"

#: Loops of the weight file where register files are split, outer to inner. The input
#: file has none; the file of partial sums has the rest.
WEIGHT_SPAD_ORDER = "CSR"

_INDEX = {name: index for index, name in enumerate(LOOPS)}


@dataclasses.dataclass(frozen=True)
class DataflowRule:
    """Places where a dataflow lets each loop be tiled; every other factor there is 1."""

    leading_x: str | None  # loop cut along X
    leading_y: str | None  # along Y; None: all of S
    copies_x: str  # loops of which copies fill what is left of X
    copies_y: str
    register_file: str  # loops that may be tiled there
    global_buffer_order: str  # loops, outer to inner
    dram: str  # loops that may be tiled there, in any order


#: Rule of each dataflow, by name.
RULES = {
    "weight_stationary": DataflowRule("C", "K", "", "G", "CKGRS", "NGKCSRQP", "NGKCPQ"),
    "output_stationary": DataflowRule("P", "Q", "", "", "NGKCPQRS", "NGKQPCSR", "NGKCPQ"),
    "row_stationary": DataflowRule("Q", None, "KG", "CKG", "CKGR", "NSQGKCRP", "NGKCQ"),
}

#: Orders of the DRAM loops, outer to inner, one of each kind of cost. G is relevant to
#: all operands and stays outside. What matters: whether C is innermost (only then do
#: outputs stay), else how long the innermost run of N, P and Q is (weights stay), which
#: of P and Q slides, and whether K lies within (inputs stay). An order that differs in
#: nothing else costs the same, or more than one of these.
_DRAM_ORDERS = (
    "GNQPKC",
    "GCNQPK",
    "GCNPQK",
    "GCNQKP",
    "GCNPKQ",
    "GCKNQP",
    "GCKNPQ",
    "GCNKQP",
    "GCNKPQ",
)

#: Tilings of the plane per chunk: some 100 MB of coefficients.
MAX_TILINGS = 16_384

#: All padding together may add this share of the MACs where copies are chosen.
_MAX_COPY_PADDING = 1 / 8


@dataclasses.dataclass(frozen=True)
class Spread:
    """One way to spread a layer over an array, and the sides for which it is allowed."""

    x: tuple[int, ...]  # factors on X, in the order of LOOPS
    y: tuple[int, ...]
    padded_bounds: tuple[int, ...]
    pe_x: frozenset[int]  # sides of the array that may use it
    pe_y: frozenset[int]

    @property
    def temporal_bounds(self) -> tuple[int, ...]:
        """Rest of each loop's bound, for the register file, the global buffer and DRAM."""
        pairs = zip(self.padded_bounds, self.x, self.y, strict=True)
        return tuple(bound // (x * y) for bound, x, y in pairs)


@dataclasses.dataclass(frozen=True, eq=False)
class Spreads(Sequence[Spread]):
    """Ways to spread a layer over arrays, as arrays with a row each; an item is a Spread."""

    x: np.ndarray  # int64 [n, 8], in the order of LOOPS
    y: np.ndarray
    padded_bounds: np.ndarray
    sides_x: tuple[int, ...]  # sides of the array that were asked for
    sides_y: tuple[int, ...]
    fits_x: np.ndarray  # bool [n, sides_x], sides that may use it
    fits_y: np.ndarray

    @functools.cached_property
    def temporal_bounds(self) -> np.ndarray:
        """Rest of each loop's bound, int64 [n, 8]; see `Spread.temporal_bounds`."""
        return self.padded_bounds // (self.x * self.y)

    def take(self, rows: Sequence[int] | np.ndarray) -> Spreads:
        """Return some of them, in the order of `rows`."""
        rows = np.asarray(rows, np.int64)
        fields = ("x", "y", "padded_bounds", "fits_x", "fits_y")
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in fields})

    def __len__(self) -> int:
        return len(self.x)

    @overload
    def __getitem__(self, row: int) -> Spread: ...
    @overload
    def __getitem__(self, row: slice) -> Spreads: ...
    def __getitem__(self, row: int | slice) -> Spread | Spreads:
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        x, y, padded = (
            tuple(values[row].tolist()) for values in (self.x, self.y, self.padded_bounds)
        )
        pe_x = frozenset(itertools.compress(self.sides_x, self.fits_x[row]))
        pe_y = frozenset(itertools.compress(self.sides_y, self.fits_y[row]))
        return Spread(x, y, padded, pe_x, pe_y)


def spreads(
    layer: Layer, dataflow: str, pe_x: Sequence[int], pe_y: Sequence[int], rule: str = "strip"
) -> Spreads:
    """Return every way to spread a layer over arrays of the given sides.

    Sides to which no spread applies cannot run the layer.

    Args:
        layer: The layer.
        dataflow: A key of RULES.
        pe_x: Sides along X to consider.
        pe_y: Sides along Y.
        rule: One of MAPSPACE_RULES.
    """
    allowed = RULES[dataflow]
    bounds = np.asarray(layer.loop_bounds, np.int64)
    leading_y, copies_y = allowed.leading_y, allowed.copies_y
    if leading_y == "K" and layer.num_groups > 1 and bounds[_INDEX["K"]] == 1:
        leading_y, copies_y = "G", ""
    # Only row_stationary has the choice of perfect factors in Timeloop's runs.
    is_free = rule == "timeloop" and bool(allowed.copies_x)
    if rule == "timeloop" and not is_free:
        copies_y = ""
    cuts_x = _cuts(layer.loop_bounds, allowed.leading_x, pe_x, rule, is_free)
    cuts_y = _cuts(layer.loop_bounds, leading_y, pe_y, rule, is_free)
    parts: list[tuple[np.ndarray, ...]] = []
    # The leading loops have no copies, so no two cuts give the same spread.
    for (cut_x, with_x), (cut_y, with_y) in itertools.product(cuts_x.items(), cuts_y.items()):
        along_x = _copies(allowed.copies_x, bounds, max(with_x) // cut_x, rule)
        along_y = _copies(copies_y, bounds, max(with_y) // cut_y, rule)
        x, y = np.repeat(along_x, len(along_y), axis=0), np.tile(along_y, (len(along_x), 1))
        has_copies = (x > 1).any(axis=1) | (y > 1).any(axis=1)
        x[:, _INDEX[allowed.leading_x or "S"]] *= cut_x
        y[:, _INDEX[leading_y or "S"]] *= cut_y
        factors = x * y
        padded = -(-bounds // factors) * factors
        if rule == "timeloop":
            kept = (padded == bounds).all(axis=1)
        else:
            most = (1 + _MAX_COPY_PADDING) * math.prod(layer.loop_bounds)
            kept = ~has_copies | (padded.prod(axis=1, dtype=np.float64) <= most)
        x, y, padded = x[kept], y[kept], padded[kept]
        fits_x, fits_y = (
            np.isin(sides, with_sides) & (np.asarray(sides) >= used.prod(axis=1)[:, None])
            for sides, with_sides, used in ((pe_x, with_x, x), (pe_y, with_y, y))
        )
        parts.append((x, y, padded, fits_x, fits_y))
    empty = np.zeros((0, len(LOOPS)), np.int64)
    parts.append((empty,) * 3 + tuple(np.zeros((0, len(s)), bool) for s in (pe_x, pe_y)))
    x, y, padded, fits_x, fits_y = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Spreads(x, y, padded, tuple(pe_x), tuple(pe_y), fits_x, fits_y)


def _cuts(
    bounds: Sequence[int], leading: str | None, sides: Sequence[int], rule: str, is_free: bool
) -> dict[int, list[int]]:
    """Return factor of the leading loop -> sides that take it; without one, all of S."""
    cuts: dict[int, list[int]] = {}
    bound = bounds[_INDEX[leading or "S"]]
    for side in sides:
        if leading is None:
            factors = [bound] if bound <= side else []
        elif rule == "strip":
            factors = [-(-bound // -(-bound // side))]
        else:
            factors = [d for d in _divisors(bound) if d <= side]
            factors = factors if is_free else factors[-1:]
        for factor in factors:
            cuts.setdefault(factor, []).append(side)
    return cuts


def _copies(names: str, bounds: np.ndarray, room: int, rule: str) -> np.ndarray:
    """Return every choice of copies of the named loops that fits into `room`, int64 [n, 8]."""
    factors = np.ones((1, len(LOOPS)), np.int64)
    for name in names:
        bound = int(bounds[_INDEX[name]])
        # More copies than the loop has steps would only pad.
        choices = _divisors(bound) if rule == "timeloop" else range(1, min(room, bound) + 1)
        num = len(factors)
        factors = np.repeat(factors, len(choices), axis=0)
        factors[:, _INDEX[name]] = np.tile(choices, num)
        factors = factors[factors.prod(axis=1) <= room]
    return factors


def dram_orders(layer: Layer, dataflow: str) -> tuple[str, ...]:
    """Return orders of the DRAM loops, outer to inner, among which the best of all orders is.

    Loops that the layer or the dataflow does not have are left out.
    """
    present = present_loops(layer, RULES[dataflow].dram)
    orders = ("".join(n for n in order if n in present) for order in _DRAM_ORDERS)
    return tuple(dict.fromkeys(orders))


def present_loops(layer: Layer, loops: str) -> str:
    """Return those of the loops that layers of this kind have.

    A kind is depthwise, grouped or neither, with or without a batch: few, as the mapper
    traces a function for each.
    """
    bounds = dict(zip(LOOPS, layer.loop_bounds, strict=True))
    is_depthwise = bounds["G"] > 1 and bounds["K"] == bounds["C"] == 1
    absent = {"K", "C"} if is_depthwise else set()
    # A padded loop may be longer than the layer's, but not where the layer has one step.
    absent |= {name for name in "NG" if bounds[name] == 1}
    return "".join(name for name in loops if name not in absent)


def tilings(
    layer: Layer,
    dataflow: str,
    bounds: Sequence[int],
    loops: str,
    *,
    rf_words: int,
    global_buffer_words: int,
    is_split: bool,
) -> np.ndarray:
    """Return all tilings of some loops that fit one PE where all other loops are 1.

    Args:
        layer: The layer.
        dataflow: A key of RULES.
        bounds: Temporal bounds of the loops, in the order of LOOPS.
        loops: Names of LOOPS.
        rf_words: Capacity of the largest register file of interest.
        global_buffer_words: Capacity of the largest global buffer of interest.
        is_split: Whether each operand has a register file of its own.
    Returns:
        Factors in the register file, at the global buffer and at DRAM, int64
        [3, len(loops), n], in a fixed order.
    """
    rule = RULES[dataflow]
    indices = [_INDEX[name] for name in loops]
    options = [
        _three_way_splits(bounds[_INDEX[name]], name in rule.register_file, name in rule.dram)
        for name in loops
    ]
    # Whether a register file holds the tiles depends on the factors there alone, and those are
    # few: each choice of them that fits then takes all splits of what is left.
    in_file = [np.unique(of_loop[0], return_index=True, return_counts=True) for of_loop in options]
    choices = np.indices([len(factors) for factors, _, _ in in_file]).reshape(len(loops), -1)
    extents: list[np.ndarray | int] = [1] * len(LOOPS)
    for index, (factors, _, _), choice in zip(indices, in_file, choices, strict=True):
        extents[index] = factors[choice]
    words = tile_words(layer, extents)
    needed = functools.reduce(np.maximum, words) if is_split else sum(words)
    choices = choices[:, needed <= rf_words]
    firsts, counts = (
        np.stack([part[at][choice] for part, choice in zip(in_file, choices, strict=True)])
        for at in (1, 2)
    )
    num = counts.prod(axis=0)
    of_choice = np.repeat(np.arange(len(num)), num)
    rest = np.arange(len(of_choice)) - np.repeat(np.cumsum(num) - num, num)
    chosen = np.empty((len(loops), len(of_choice)), np.int64)
    for row in reversed(range(len(loops))):
        rest, chosen[row] = np.divmod(rest, counts[row][of_choice])
        chosen[row] += firsts[row][of_choice]
    key = np.ravel_multi_index(tuple(chosen), [of_loop.shape[1] for of_loop in options])
    chosen = chosen[:, np.argsort(key, kind="stable")]
    tiles = np.stack([of_loop[:, row] for of_loop, row in zip(options, chosen, strict=True)], 1)
    for index, of_loop in zip(indices, (tiles[0] * tiles[1]).copy(), strict=True):
        extents[index] = of_loop
    return tiles[:, :, np.asarray(sum(tile_words(layer, extents)) <= global_buffer_words)]


@dataclasses.dataclass(frozen=True)
class Candidates:
    """All mappings of one layer and dataflow, in parts that multiply.

    Tilings are those that fit a single PE: where all PEs together need more than the global
    buffer holds, `SpreadSearch` leaves them out.
    """

    layer: Layer
    dataflow: str
    spreads: Spreads
    orders: tuple[str, ...]
    rf_words: int  # of the largest register file of interest
    global_buffer_words: int  # of the largest buffer of interest
    is_split: bool
    _listed: dict[tuple[str, tuple[int, ...]], np.ndarray] = dataclasses.field(default_factory=dict)

    def tilings(self, row: int, names: str) -> np.ndarray:
        """Return the tilings of some loops in a spread; those of the same bounds are shared."""
        temporal = self.spreads.temporal_bounds[row]
        key = (names, tuple(temporal[[_INDEX[name] for name in names]].tolist()))
        if key not in self._listed:
            self._listed[key] = tilings(
                self.layer,
                self.dataflow,
                temporal.tolist(),
                names,
                rf_words=self.rf_words,
                global_buffer_words=self.global_buffer_words,
                is_split=self.is_split,
            )
        return self._listed[key]

    def chunks(
        self, rows: Iterable[int] | np.ndarray, num_tilings: int = MAX_TILINGS
    ) -> Iterator[list[int]]:
        """Yield rows of spreads that together have few tilings of the plane, or one spread's."""
        chunk: list[int] = []
        num, most = 0, min(num_tilings, MAX_TILINGS)
        for row in rows:
            of_row = self.tilings(row, PLANE_LOOPS).shape[2]
            if chunk and num + of_row > most:
                yield chunk
                chunk, num = [], 0
            chunk.append(int(row))
            num += of_row
        if chunk:
            yield chunk


def shortage(
    layer: Layer,
    dataflow: str,
    pe_x: Sequence[int],
    pe_y: Sequence[int],
    rule: str = "strip",
    *,
    rf_words: int,
    global_buffer_words: int,
    is_split: bool,
) -> str | None:
    """Return which resource is too small for any mapping of a layer, None if none is.

    Tiles are least where every loop that may run outside of them does.

    Args:
        layer: The layer.
        dataflow: A key of RULES.
        pe_x: Sides along X to consider.
        pe_y: Sides along Y.
        rule: One of MAPSPACE_RULES.
        rf_words: Capacity of the largest register file.
        global_buffer_words: Capacity of the global buffer.
        is_split: Whether each operand has a register file of its own.
    """
    allowed = spreads(layer, dataflow, pe_x, pe_y, rule)
    if not len(allowed):
        return f"S = {layer.S} needs as many PEs along Y, there are {max(pe_y)}"
    words = [int(part) for part in tile_words(layer, np.ones(8, np.int64))]
    least = max(words) if is_split else sum(words)
    if least > rf_words:
        return f"the register file holds {rf_words} words, the smallest tiles need {least}"
    held = []
    for spread in allowed:
        factors = zip(LOOPS, spread.x, spread.y, spread.temporal_bounds, strict=True)
        extents = [
            x * y * (1 if name in RULES[dataflow].dram else bound) for name, x, y, bound in factors
        ]
        held.append(sum(int(part) for part in tile_words(layer, np.asarray(extents, np.int64))))
    if min(held) > global_buffer_words:
        return (
            f"the global buffer holds {global_buffer_words} words, the smallest tiles need"
            f" {min(held)}"
        )
    return None


def tile_words(
    layer: Layer, extents: Sequence[np.ndarray | int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the words of the tiles of weights, inputs and outputs, [...], of 8 extents [...].

    Where register files are split by operand, an inner file holds no more than this.
    """
    n, k, c, p, q, r, s, g = extents
    width = (p - 1) * layer.stride[0] + (r - 1) * layer.dilation[0] + 1
    height = (q - 1) * layer.stride[1] + (s - 1) * layer.dilation[1] + 1
    words = (g * k * c * r * s, n * g * c * width * height, n * g * k * p * q)
    weights, inputs, outputs = map(np.asarray, words)
    return weights, inputs, outputs


@functools.lru_cache(maxsize=4096)
def _three_way_splits(bound: int, has_file: bool, has_dram: bool) -> np.ndarray:
    """Return all (register file, global buffer, DRAM) factors of `bound`, [3, n]."""
    splits = [
        (file, bound // file // dram, dram)
        for file in (_divisors(bound) if has_file else [1])
        for dram in (_divisors(bound // file) if has_dram else [1])
    ]
    return np.asarray(splits, np.int64).T


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]
