"""Mappings that a search has found, as a batch to count and as records to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dance_tf.hardware.loopnest.mapping import (
    SHARED_LEVELS,
    SPLIT_LEVELS,
    Level,
    Mapping,
    MappingBatch,
)
from dance_tf.hardware.loopnest.mapspace import CHANNEL_LOOPS, OTHER_LOOPS, RULES, WEIGHT_SPAD_ORDER
from dance_tf.hardware.loopnest.spread_search import Winner
from dance_tf.structs import LOOPS, Layer

__all__ = ["NUM_DRAM_SLOTS", "FoundMapping", "as_batch", "as_mapping", "num_slots"]

#: Loops above the buffer, at most: those that a mapping has are the last of them.
NUM_DRAM_SLOTS = 6


class FoundMapping(NamedTuple):
    """A mapping that is the best of some accelerator."""

    layer: Layer
    winner: Winner
    dataflow: str
    rf_words: int


def num_slots(is_split: bool) -> int:
    """Return how many loops `as_batch` gives a mapping: DRAM, buffer, and split files' own."""
    return NUM_DRAM_SLOTS + 8 + (14 if is_split else 0)


def as_batch(found: Sequence[FoundMapping], is_split: bool) -> MappingBatch:
    """Return mappings as NumPy arrays, one column each.

    Args:
        found: M mappings.
        is_split: Whether each operand has a register file of its own.
    """
    num = len(found)
    factors = np.ones((3, 8, num), np.int32)  # register file, buffer, DRAM
    bound = np.ones((num_slots(is_split), num), np.int32)
    dim = np.zeros(bound.shape, np.int32)
    channels = [LOOPS.index(loop) for loop in CHANNEL_LOOPS]
    others = [LOOPS.index(loop) for loop in OTHER_LOOPS]
    for column, each in enumerate(found):
        factors[:, channels, column] = each.winner.channels
        factors[:, others, column] = each.winner.others
        order = [LOOPS.index(loop) for loop in each.winner.order]
        start = NUM_DRAM_SLOTS - len(order)
        bound[start:NUM_DRAM_SLOTS, column] = factors[2, order, column]
        dim[start:NUM_DRAM_SLOTS, column] = order
        order = [LOOPS.index(loop) for loop in RULES[each.dataflow].global_buffer_order]
        bound[NUM_DRAM_SLOTS : NUM_DRAM_SLOTS + 8, column] = factors[1, order, column]
        dim[NUM_DRAM_SLOTS : NUM_DRAM_SLOTS + 8, column] = order
    if is_split:
        order = [LOOPS.index(loop) for loop in WEIGHT_SPAD_ORDER]
        bound[-len(order) :], dim[-len(order) :] = factors[0, order], np.asarray(order)[:, None]
        factors[0, order] = 1
    spread = [each.winner.spread for each in found]
    return MappingBatch(
        bound=bound,
        dim=dim,
        spatial_x=np.asarray([s.x for s in spread], np.int32).reshape(num, 8).T,
        spatial_y=np.asarray([s.y for s in spread], np.int32).reshape(num, 8).T,
        inner=factors[0],
        stride=np.asarray([f.layer.stride for f in found], np.int32).reshape(num, 2).T,
        dilation=np.asarray([f.layer.dilation for f in found], np.int32).reshape(num, 2).T,
    )


def as_mapping(found: FoundMapping, is_split: bool) -> Mapping:
    """Return the record of a mapping; a depthwise layer's G is called K."""
    winner = found.winner
    names = {"G": "K"} if found.layer.kind == "depthwise" else {}
    values = [
        dict(zip(CHANNEL_LOOPS, winner.channels[level].tolist(), strict=True))
        | dict(zip(OTHER_LOOPS, winner.others[level].tolist(), strict=True))
        for level in range(3)
    ]

    def loops(order: Sequence[str], bounds: dict[str, int]) -> tuple[tuple[str, int], ...]:
        return tuple((names.get(n, n), bounds[n]) for n in order if bounds[n] > 1)

    spread = winner.spread
    levels = [
        Level(SHARED_LEVELS[0], loops(winner.order, values[2])),
        Level(
            SHARED_LEVELS[1],
            loops(RULES[found.dataflow].global_buffer_order, values[1]),
            loops(LOOPS, dict(zip(LOOPS, spread.x, strict=True))),
            loops(LOOPS, dict(zip(LOOPS, spread.y, strict=True))),
        ),
    ]
    if is_split:
        inner = [loop for loop in LOOPS if loop not in WEIGHT_SPAD_ORDER]
        orders: list[Sequence[str]] = ["", WEIGHT_SPAD_ORDER, inner]
        files = zip(SPLIT_LEVELS[2:], orders, strict=True)
        levels += [Level(name, loops(order, values[0])) for name, order in files]
    else:
        levels.append(Level(SHARED_LEVELS[2], loops(LOOPS, values[0])))
    return Mapping(tuple(levels))
