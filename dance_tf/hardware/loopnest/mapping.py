"""Loop-nest mappings: one as a record, many as arrays, JSON and a printed form.

A mapping tiles, orders and spreads the loops of a layer over DRAM, global buffer, PE
array and register file: the seven dimensions, K and C being those of one group, and G
over the groups of a grouped layer. A depthwise layer has loops over K. The JSON form is
a list of levels, outer to inner; each has temporal loops (outer to inner) and, at the
global buffer, spatial loops on X and on Y:

    [{"level": "dram", "temporal": [["K", 3]]},
     {"level": "global_buffer", "temporal": [["P", 32]], "spatial_x": [["C", 8]], ...},
     {"level": "register_file", "temporal": [["R", 3]]}]

A split register file has three levels in its place: input_spad, weight_spad, psum_spad.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dance_tf.errors import UserError
from dance_tf.files import Json
from dance_tf.hardware.loopnest.mapspace import CHANNEL_LOOPS, PLANE_LOOPS, WEIGHT_SPAD_ORDER
from dance_tf.hardware.loopnest.spreads import RULES, Spread
from dance_tf.structs import LOOPS, Layer

__all__ = [
    "NUM_DRAM_SLOTS",
    "SHARED_LEVELS",
    "SPLIT_LEVELS",
    "FoundMapping",
    "Level",
    "Mapping",
    "MappingBatch",
    "as_batch",
    "as_mapping",
    "format_loop_nest",
    "mapping_from_json",
    "mapping_to_json",
    "num_slots",
    "to_batch",
]

SHARED_LEVELS = ("dram", "global_buffer", "register_file")
SPLIT_LEVELS = ("dram", "global_buffer", "input_spad", "weight_spad", "psum_spad")

#: Loops above the buffer, at most: those that a found mapping has are the last of them.
NUM_DRAM_SLOTS = 6

_Loops = tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class Level:
    """Loops of one level, outer to inner; loops with bound 1 are left out."""

    name: str
    temporal: _Loops = ()
    spatial_x: _Loops = ()
    spatial_y: _Loops = ()


@dataclasses.dataclass(frozen=True)
class Mapping:
    """Levels of one mapping, outer to inner: SHARED_LEVELS or SPLIT_LEVELS."""

    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        names = tuple(level.name for level in self.levels)
        if names not in (SHARED_LEVELS, SPLIT_LEVELS):
            raise UserError(
                f"mapping: levels are {', '.join(names)}, not {', '.join(SHARED_LEVELS)}"
                f" or {', '.join(SPLIT_LEVELS)}"
            )
        for level in self.levels:
            if level.name != "global_buffer" and (level.spatial_x or level.spatial_y):
                raise UserError(f"mapping: {level.name} has spatial loops; only global_buffer may")
            for dim, bound in (*level.temporal, *level.spatial_x, *level.spatial_y):
                if dim not in LOOPS:
                    raise UserError(f"mapping: {level.name} has a loop over {dim!r}")
                if not isinstance(bound, int) or isinstance(bound, bool) or bound < 1:
                    raise UserError(f"mapping: bound of {dim} at {level.name} is {bound!r}")

    @property
    def is_split(self) -> bool:
        """Whether the register file is split by operand."""
        return len(self.levels) == len(SPLIT_LEVELS)

    @property
    def loop_bounds(self) -> tuple[int, ...]:
        """Product of all factors of each loop, in the order of LOOPS."""
        product = dict.fromkeys(LOOPS, 1)
        for level in self.levels:
            for dim, bound in (*level.temporal, *level.spatial_x, *level.spatial_y):
                product[dim] *= bound
        return tuple(product.values())

    def check(self, layer: Layer) -> None:
        """Raise UserError unless the factors multiply out to the layer's dimensions."""
        wanted = (*layer.dims, 1) if layer.kind == "depthwise" else layer.loop_bounds
        for dim, product, bound in zip(LOOPS, self.loop_bounds, wanted, strict=True):
            if product != bound:
                raise UserError(
                    f"mapping: factors of {dim} multiply to {product}, layer {layer.name!r}"
                    f" has {bound}"
                )


class MappingBatch(NamedTuple):
    """M mappings, each of its own layer, as arrays with M last.

    `bound` and `dim` hold the temporal loops, outer to inner: `num_dram` slots of
    DRAM, then those of the global buffer and, where the register file is split, 7 of
    the input file and 7 of the weight file. Slots of bound 1 are empty. `inner` holds
    the factors of the innermost register file, whose order does not matter. What a
    depthwise layer calls K is G here, and its K is 1.
    """

    bound: np.ndarray  # int32 [T, M]
    dim: np.ndarray  # int32 [T, M], index into LOOPS
    spatial_x: np.ndarray  # int32 [8, M], in the order of LOOPS
    spatial_y: np.ndarray  # int32 [8, M]
    inner: np.ndarray  # int32 [8, M]
    stride: np.ndarray  # int32 [2, M], (width, height)
    dilation: np.ndarray  # int32 [2, M]


class FoundMapping(NamedTuple):
    """A mapping that a search has found, in the parts that multiply to it."""

    layer: Layer
    dataflow: str
    rf_words: int  # size of the register file for which it is the best
    spread: Spread
    channels: np.ndarray  # factors of CHANNEL_LOOPS in register file, buffer and DRAM, [3, 3]
    plane: np.ndarray  # factors of PLANE_LOOPS there, [3, 5]
    order: str  # of the DRAM loops, outer to inner


def mapping_from_json(data: Json) -> Mapping:
    """Build a mapping from its JSON form; unknown keys of a level are ignored.

    Raises:
        UserError: If it is not a mapping.
    """
    try:
        levels = tuple(
            Level(
                name=level["level"],
                temporal=_loops(level.get("temporal", [])),
                spatial_x=_loops(level.get("spatial_x", [])),
                spatial_y=_loops(level.get("spatial_y", [])),
            )
            for level in data
        )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"mapping: not a list of levels with loops ({error!r})") from None
    return Mapping(levels)


def mapping_to_json(mapping: Mapping) -> list[dict[str, Json]]:
    """Return the mapping as plain JSON data."""
    return [
        {
            "level": level.name,
            "temporal": [list(loop) for loop in level.temporal],
            "spatial_x": [list(loop) for loop in level.spatial_x],
            "spatial_y": [list(loop) for loop in level.spatial_y],
        }
        for level in mapping.levels
    ]


def format_loop_nest(mapping: Mapping) -> str:
    """Return the mapping as an indented loop nest, outer loop first."""
    lines, depth = [], 0
    for level in mapping.levels:
        lines.append(f"{'  ' * depth}[{level.name}]")
        for keyword, loops in (
            ("for", level.temporal),
            ("parallel_for_x", level.spatial_x),
            ("parallel_for_y", level.spatial_y),
        ):
            for dim, bound in loops:
                lines.append(f"{'  ' * depth}{keyword} {dim} in range({bound})")
                depth += 1
    lines.append(f"{'  ' * depth}multiply_accumulate")
    return "\n".join(lines)


def to_batch(mappings: Sequence[Mapping], layers: Sequence[Layer]) -> tuple[MappingBatch, int]:
    """Return mappings of layers as arrays, and the number of DRAM slots.

    Raises:
        UserError: If a mapping does not multiply out to its layer, or shared and split
            register files are mixed.
    """
    if len({mapping.is_split for mapping in mappings}) > 1:
        raise UserError("mappings with shared and with split register files cannot be mixed")
    for mapping, layer in zip(mappings, layers, strict=True):
        mapping.check(layer)
    num = len(mappings)
    slots = [
        max((len(m.levels[i].temporal) for m in mappings), default=0) for i in range(2)
    ]  # DRAM, global buffer
    slots += [7, 7] if num and mappings[0].is_split else []
    if any(len(level.temporal) > 7 for m in mappings for level in m.levels[2:]):
        raise UserError("mapping: a register file has more than seven loops")
    starts = np.cumsum([0, *slots])
    bound = np.ones((starts[-1], num), np.int32)
    dim = np.zeros((starts[-1], num), np.int32)
    factors = np.ones((3, len(LOOPS), num), np.int32)
    for column, (mapping, layer) in enumerate(zip(mappings, layers, strict=True)):
        index = {name: code for code, name in enumerate(LOOPS)}
        if layer.kind == "depthwise":
            index["K"] = index["G"]
        for start, level in zip(starts[:-1], mapping.levels[:-1], strict=True):
            for offset, (name, value) in enumerate(level.temporal):
                bound[start + offset, column] = value
                dim[start + offset, column] = index[name]
        parallel, innermost = mapping.levels[1], mapping.levels[-1]
        for row, loops in enumerate((parallel.spatial_x, parallel.spatial_y, innermost.temporal)):
            for name, value in loops:
                factors[row, index[name], column] *= value
    batch = MappingBatch(
        bound=bound,
        dim=dim,
        spatial_x=factors[0],
        spatial_y=factors[1],
        inner=factors[2],
        stride=np.asarray([layer.stride for layer in layers], np.int32).reshape(-1, 2).T,
        dilation=np.asarray([layer.dilation for layer in layers], np.int32).reshape(-1, 2).T,
    )
    return batch, slots[0]


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
    plane = [LOOPS.index(loop) for loop in PLANE_LOOPS]
    for column, each in enumerate(found):
        factors[:, channels, column] = each.channels
        factors[:, plane, column] = each.plane
        order = [LOOPS.index(loop) for loop in each.order]
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
    spread = [each.spread for each in found]
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
    names = {"G": "K"} if found.layer.kind == "depthwise" else {}
    values = [
        dict(zip(CHANNEL_LOOPS, found.channels[level].tolist(), strict=True))
        | dict(zip(PLANE_LOOPS, found.plane[level].tolist(), strict=True))
        for level in range(3)
    ]

    def loops(order: Sequence[str], bounds: dict[str, int]) -> tuple[tuple[str, int], ...]:
        return tuple((names.get(n, n), bounds[n]) for n in order if bounds[n] > 1)

    levels = [
        Level(SHARED_LEVELS[0], loops(found.order, values[2])),
        Level(
            SHARED_LEVELS[1],
            loops(RULES[found.dataflow].global_buffer_order, values[1]),
            loops(LOOPS, dict(zip(LOOPS, found.spread.x, strict=True))),
            loops(LOOPS, dict(zip(LOOPS, found.spread.y, strict=True))),
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


def _loops(data: Json) -> _Loops:
    return tuple((str(dim), bound) for dim, bound in data if bound != 1)
