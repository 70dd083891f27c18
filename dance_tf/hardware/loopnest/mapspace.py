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
from collections.abc import Iterator, Sequence

import numpy as np

from dance_tf.config import MachineConfig
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
_ROWS = 16_384

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


def spreads(
    layer: Layer, dataflow: str, pe_x: Sequence[int], pe_y: Sequence[int], rule: str = "strip"
) -> list[Spread]:
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
    bounds = layer.loop_bounds
    leading_y, copies_y = allowed.leading_y, allowed.copies_y
    if leading_y == "K" and layer.num_groups > 1 and bounds[_INDEX["K"]] == 1:
        leading_y, copies_y = "G", ""
    # Only row_stationary has the choice of perfect factors in Timeloop's runs.
    is_free = rule == "timeloop" and bool(allowed.copies_x)
    if rule == "timeloop" and not is_free:
        copies_y = ""
    cuts_x = _cuts(bounds, allowed.leading_x, pe_x, rule, is_free)
    cuts_y = _cuts(bounds, leading_y, pe_y, rule, is_free)
    found: dict[tuple[tuple[int, ...], ...], tuple[set[int], set[int]]] = {}
    for (cut_x, sides_x), (cut_y, sides_y) in itertools.product(cuts_x.items(), cuts_y.items()):
        base_x, base_y = [1] * 8, [1] * 8
        base_x[_INDEX[allowed.leading_x or "S"]] = cut_x
        base_y[_INDEX[leading_y or "S"]] = cut_y
        for copies_of_x in _copies(allowed.copies_x, bounds, max(sides_x) // cut_x, rule):
            for copies_of_y in _copies(copies_y, bounds, max(sides_y) // cut_y, rule):
                x = tuple(a * b for a, b in zip(base_x, copies_of_x, strict=True))
                y = tuple(a * b for a, b in zip(base_y, copies_of_y, strict=True))
                factors = [a * b for a, b in zip(x, y, strict=True)]
                padded = tuple(-(-d // f) * f for d, f in zip(bounds, factors, strict=True))
                has_copies = max(*copies_of_x, *copies_of_y) > 1
                if rule == "timeloop" and padded != bounds:
                    continue
                if has_copies and _product(padded) > (1 + _MAX_COPY_PADDING) * _product(bounds):
                    continue
                used_x, used_y = _product(x), _product(y)
                entry = found.setdefault((x, y, padded), (set(), set()))
                entry[0].update(side for side in sides_x if used_x <= side)
                entry[1].update(side for side in sides_y if used_y <= side)
    return [
        Spread(x, y, padded, frozenset(fits_x), frozenset(fits_y))
        for (x, y, padded), (fits_x, fits_y) in found.items()
    ]


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


def _copies(names: str, bounds: Sequence[int], room: int, rule: str) -> Iterator[tuple[int, ...]]:
    """Yield every choice of copies of the named loops that fits into `room`."""
    choices = [
        _divisors(bounds[_INDEX[name]])
        if rule == "timeloop"
        # More copies than the loop has steps would only pad.
        else range(1, min(room, bounds[_INDEX[name]]) + 1)
        for name in names
    ]
    for counts in itertools.product(*choices):
        if _product(counts) <= room:
            factors = [1] * 8
            for name, count in zip(names, counts, strict=True):
                factors[_INDEX[name]] = count
            yield tuple(factors)


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
    spread: Spread,
    loops: str,
    *,
    rf_words: int,
    global_buffer_words: int,
    is_split: bool,
) -> np.ndarray:
    """Return all tilings of some loops that fit where all other loops are 1.

    Args:
        layer: The layer.
        dataflow: A key of RULES.
        spread: One of `spreads(layer, dataflow, ...)`.
        loops: Names of LOOPS.
        rf_words: Capacity of the largest register file of interest.
        global_buffer_words: Capacity of the global buffer.
        is_split: Whether each operand has a register file of its own.
    Returns:
        Factors in the register file, at the global buffer and at DRAM, int64
        [3, len(loops), n], in a fixed order.
    """
    rule = RULES[dataflow]
    bounds = spread.temporal_bounds
    factors = np.ones((3, 8, 1), np.int64)
    spatial = np.ones((8, 1), np.int64)
    for name in loops:
        spatial[_INDEX[name]] = spread.x[_INDEX[name]] * spread.y[_INDEX[name]]
    for name in loops:
        index = _INDEX[name]
        options = _three_way_splits(bounds[index], name in rule.register_file, name in rule.dram)
        num = options.shape[1]
        copies = factors.shape[2]
        factors = np.repeat(factors, num, axis=2)
        factors[:, index] = np.tile(options, copies)
        # Tiles only grow with further loops, so what does not fit now never will.
        fits = _fits(layer, factors[0], rf_words, is_split)
        fits &= sum(tile_words(layer, factors[0] * factors[1] * spatial)) <= global_buffer_words
        factors = factors[:, :, fits]
    return factors[:, [_INDEX[name] for name in loops]]


@dataclasses.dataclass(frozen=True)
class Candidates:
    """All mappings of one layer and dataflow, in parts that multiply."""

    layer: Layer
    dataflow: str
    spreads: tuple[Spread, ...]
    channels: tuple[np.ndarray, ...]  # of each spread, [3, 3, n]
    planes: tuple[np.ndarray, ...]  # of each spread, [3, 5, m]
    orders: tuple[str, ...]

    @classmethod
    def of(
        cls,
        layer: Layer,
        dataflow: str,
        spreads: Sequence[Spread],
        machine: MachineConfig,
        max_rf_words: int,
    ) -> Candidates:
        """List the tilings of every spread; spreads that no mapping fits are left out."""
        kept, channels, planes = [], [], []
        # Spreads that treat some loops alike share the tilings of those.
        listed: dict[tuple[str, tuple[tuple[int, int], ...]], np.ndarray] = {}

        def tilings_of(spread: Spread, names: str) -> np.ndarray:
            loops = [LOOPS.index(name) for name in names]
            bounds = spread.temporal_bounds
            key = (names, tuple((bounds[d], spread.x[d] * spread.y[d]) for d in loops))
            if key not in listed:
                listed[key] = tilings(
                    layer,
                    dataflow,
                    spread,
                    names,
                    rf_words=max_rf_words,
                    global_buffer_words=machine.global_buffer_words,
                    is_split=machine.rf_mode == "split",
                )
            return listed[key]

        for spread in spreads:
            channel, plane = tilings_of(spread, CHANNEL_LOOPS), tilings_of(spread, PLANE_LOOPS)
            if channel.shape[2] and plane.shape[2]:
                kept.append(spread)
                channels.append(channel)
                planes.append(plane)
        return cls(
            layer,
            dataflow,
            tuple(kept),
            tuple(channels),
            tuple(planes),
            dram_orders(layer, dataflow),
        )

    def chunks(self) -> Iterator[range]:
        """Yield ranges of spreads that together have a bounded number of tilings."""
        start, rows = 0, 0
        for index, plane in enumerate(self.planes):
            if rows and rows + plane.shape[2] > _ROWS:
                yield range(start, index)
                start, rows = index, 0
            rows += plane.shape[2]
        if rows:
            yield range(start, len(self.planes))


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
    if not allowed:
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


def _fits(layer: Layer, extents: np.ndarray, rf_words: int, is_split: bool) -> np.ndarray:
    words = np.stack(tile_words(layer, extents))
    return np.asarray((words.max(axis=0) if is_split else words.sum(axis=0)) <= rf_words)


def tile_words(layer: Layer, extents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the words of the tiles of weights, inputs and outputs, [...], of extents [8, ...].

    Where register files are split by operand, an inner file holds no more than this.
    """
    n, k, c, p, q, r, s, g = extents
    width = (p - 1) * layer.stride[0] + (r - 1) * layer.dilation[0] + 1
    height = (q - 1) * layer.stride[1] + (s - 1) * layer.dilation[1] + 1
    return g * k * c * r * s, n * g * c * width * height, n * g * k * p * q


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


def _product(factors: Sequence[int]) -> int:
    result = 1
    for factor in factors:
        result *= factor
    return result
