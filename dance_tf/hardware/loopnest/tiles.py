"""Pairs of tilings in rectangles of one size: what a search computes at once.

All pairs of a spread's tilings of the channels and of the plane are covered by tiles whose
tilings are alike in their loops and in the words that they need.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["COLUMNS", "MEMBERS", "Side", "Tiles", "make_tiles"]

#: Tilings of the channels and of the plane in a tile.
MEMBERS, COLUMNS = 16, 8

#: Numbers of a tile's members that may differ.
WIDTHS = (4, 8, MEMBERS)


class Tiles(NamedTuple):
    """Pairs of tilings of one spread in rectangles: channels with one pattern x planes."""

    spread: np.ndarray  # [tiles]
    pattern: np.ndarray  # [tiles], which loops of the channels are there
    members: np.ndarray  # [tiles, MEMBERS], columns of all channels; the last one may repeat
    width: np.ndarray  # [tiles], of WIDTHS: no more members than this differ
    columns: np.ndarray  # [tiles, COLUMNS], columns of all planes; the last one may repeat


class Side(NamedTuple):
    """Tilings of the channels, or of the plane, of all spreads, [n]."""

    spread: np.ndarray  # ascending
    pattern: np.ndarray  # what the tilings of a tile have in common
    words: np.ndarray  # what they need; tiles hold tilings that need about the same


def make_tiles(channels: Side, planes: Side) -> Tiles:
    """Cover all pairs of a spread's channels and its planes; spreads are in order."""
    members, of_member = _chunks_of(channels, MEMBERS)
    columns, of_column = _chunks_of(planes, COLUMNS)
    # Each chunk of channels meets each chunk of planes of its spread.
    spread = channels.spread[of_member]
    owners = planes.spread[of_column]
    first = np.searchsorted(owners, spread)
    count = np.searchsorted(owners, spread, side="right") - first
    left = np.repeat(np.arange(len(spread)), count)
    right = np.arange(len(left)) - np.repeat(np.cumsum(count) - count - first, count)
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
    key = side.spread[order] * (side.pattern.max(initial=0) + 1) + side.pattern[order]
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
