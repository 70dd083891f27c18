"""Spreads: ways to lay the loops of a layer over the PEs of an array.

Each dataflow says which loops run along X and Y, and which loops may be tiled where. Two
rules say how a side is cut. `strip` cuts the leading loop of a side into the fewest strips
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
from collections.abc import Sequence
from typing import overload

import numpy as np

from dance_tf.structs import LOOPS, Layer

__all__ = [
    "MAPSPACE_RULES",
    "RULES",
    "DataflowRule",
    "Spread",
    "Spreads",
    "divisors",
    "spreads",
]

MAPSPACE_RULES = ("strip", "timeloop")

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
            factors = [d for d in divisors(bound) if d <= side]
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
        choices = divisors(bound) if rule == "timeloop" else range(1, min(room, bound) + 1)
        num = len(factors)
        factors = np.repeat(factors, len(choices), axis=0)
        factors[:, _INDEX[name]] = np.tile(choices, num)
        factors = factors[factors.prod(axis=1) <= room]
    return factors


def divisors(number: int) -> list[int]:
    """Return all divisors of a number, increasing."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]
