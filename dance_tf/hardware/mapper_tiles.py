"""Rectangles of mappings that are evaluated together.

A spread's mappings are all pairs of its tilings of the channels and of the other loops.
Which of the channels' loops are there decides which coefficients hold, so the rows of a
rectangle share that pattern. Rectangles have one size, and the last row or column of one
that is not full repeats: so that many can be evaluated by one matrix product.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["COLUMNS", "MEMBERS", "Tiles", "make_tiles"]

#: Tilings of the channels and of the other loops in a tile.
MEMBERS, COLUMNS = 8, 16


class Tiles(NamedTuple):
    """Pairs of tilings of one spread in rectangles: channels with one pattern x other loops."""

    spread: np.ndarray  # [tiles]
    pattern: np.ndarray  # [tiles], which loops of the channels are there
    members: np.ndarray  # [tiles, MEMBERS], columns of all channels; the last one may repeat
    columns: np.ndarray  # [tiles, COLUMNS], columns of all others; the last one may repeat


def make_tiles(of_channel: np.ndarray, pattern: np.ndarray, of_other: np.ndarray) -> Tiles:
    """Cover all pairs of a spread's channels and its others; spreads are in order.

    Args:
        of_channel: Spread of each tiling of the channels, [n], ascending.
        pattern: Pattern of each, [n].
        of_other: Spread of each tiling of the other loops, [m], ascending.
    """
    by_group = np.lexsort((pattern, of_channel))
    key = of_channel[by_group] * (pattern.max() + 1) + pattern[by_group]
    first, count = _runs(key)
    group, members = _chunks(first, count, MEMBERS)
    members = by_group[members]
    spread, kind = of_channel[by_group[first[group]]], pattern[by_group[first[group]]]
    first_other, count_other = _runs(of_other)
    owner, columns = _chunks(first_other, count_other, COLUMNS)
    # Each chunk of channels meets each chunk of others of its spread.
    first_chunk, num_chunks = _runs(owner)
    left = np.repeat(np.arange(len(spread)), num_chunks[spread])
    offset = np.arange(len(left)) - np.repeat(
        np.cumsum(num_chunks[spread]) - num_chunks[spread], num_chunks[spread]
    )
    right = first_chunk[spread[left]] + offset
    return Tiles(spread[left], kind[left], members[left], columns[right])


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
