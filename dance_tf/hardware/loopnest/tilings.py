"""The mappings of a layer under one dataflow, as lists whose pairs they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dance_tf.config import MachineConfig
from dance_tf.hardware.loopnest.mapspace import (
    CHANNEL_LOOPS,
    OTHER_LOOPS,
    Spread,
    dram_orders,
    tilings,
)
from dance_tf.structs import LOOPS, Layer

__all__ = ["COLUMNS", "MEMBERS", "WIDTHS", "Candidates", "Side", "Tiles", "make_tiles"]

#: Tilings of the other loops per chunk: some 100 MB of coefficients.
_ROWS = 16_384


@dataclasses.dataclass(frozen=True)
class Candidates:
    """All mappings of one layer and dataflow, in parts that multiply."""

    layer: Layer
    dataflow: str
    spreads: tuple[Spread, ...]
    channels: tuple[np.ndarray, ...]  # of each spread, [3, 3, n]
    others: tuple[np.ndarray, ...]  # of each spread, [3, 5, m]
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
        limits: Any = {
            "rf_words": max_rf_words,
            "global_buffer_words": machine.global_buffer_words,
            "is_split": machine.rf_mode == "split",
        }
        kept, channels, others = [], [], []
        # Spreads that treat some loops alike share the tilings of those.
        listed: dict[tuple, np.ndarray] = {}

        def tilings_of(spread: Spread, names: str) -> np.ndarray:
            loops = [LOOPS.index(name) for name in names]
            bounds = spread.temporal_bounds
            key = (names, *((bounds[d], spread.x[d] * spread.y[d]) for d in loops))
            if key not in listed:
                listed[key] = tilings(layer, dataflow, spread, names, **limits)
            return listed[key]

        for spread in spreads:
            channel, other = tilings_of(spread, CHANNEL_LOOPS), tilings_of(spread, OTHER_LOOPS)
            if channel.shape[2] and other.shape[2]:
                kept.append(spread)
                channels.append(channel)
                others.append(other)
        return cls(
            layer,
            dataflow,
            tuple(kept),
            tuple(channels),
            tuple(others),
            dram_orders(layer, dataflow),
        )

    def chunks(self) -> Iterator[range]:
        """Yield ranges of spreads that together have a bounded number of tilings."""
        start, rows = 0, 0
        for index, other in enumerate(self.others):
            if rows and rows + other.shape[2] > _ROWS:
                yield range(start, index)
                start, rows = index, 0
            rows += other.shape[2]
        if rows:
            yield range(start, len(self.others))


#: Tilings of the channels and of the other loops in a tile.
MEMBERS, COLUMNS = 16, 8

#: How many of a tile's members may differ.
WIDTHS = (4, 8, MEMBERS)


class Tiles(NamedTuple):
    """Pairs of tilings of one spread in rectangles: channels with one pattern x other loops."""

    spread: np.ndarray  # [tiles]
    pattern: np.ndarray  # [tiles], which loops of the channels are there
    members: np.ndarray  # [tiles, MEMBERS], columns of all channels; the last one may repeat
    width: np.ndarray  # [tiles], of WIDTHS: no more members than this differ
    columns: np.ndarray  # [tiles, COLUMNS], columns of all others; the last one may repeat


class Side(NamedTuple):
    """Tilings of the channels, or of the other loops, of all spreads, [n]."""

    spread: np.ndarray  # ascending
    pattern: np.ndarray  # what the tilings of a tile have in common
    words: np.ndarray  # what they need; tiles hold tilings that need about the same


def make_tiles(channels: Side, others: Side) -> Tiles:
    """Cover all pairs of a spread's channels and its other loops; spreads are in order."""
    members, of_member = _chunks_of(channels, MEMBERS)
    columns, of_column = _chunks_of(others, COLUMNS)
    # Each chunk of channels meets each chunk of others of its spread.
    spread = channels.spread[of_member]
    first, count = _runs(others.spread[of_column])
    left = np.repeat(np.arange(len(spread)), count[spread])
    before = np.cumsum(count[spread]) - count[spread]
    right = first[spread[left]] + np.arange(len(left)) - np.repeat(before, count[spread])
    # Narrow chunks are common, and repeating members is work for nothing.
    width = np.full(len(members), MEMBERS)
    for narrow in sorted(WIDTHS, reverse=True):
        width[members[:, narrow - 1] == members[:, -1]] = narrow
    return Tiles(
        spread=spread[left],
        pattern=channels.pattern[of_member][left],
        members=members[left],
        width=width[left],
        columns=columns[right],
    )


def _chunks_of(side: Side, width: int) -> tuple[np.ndarray, np.ndarray]:
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
