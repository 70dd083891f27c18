"""Whether a mapping fits a machine: its array, its register files, its global buffer."""

from __future__ import annotations

import math

import numpy as np

from dance_tf.errors import UserError
from dance_tf.hardware.loopnest import mapspace
from dance_tf.hardware.loopnest.fills import OPERANDS
from dance_tf.hardware.loopnest.mapping import Mapping
from dance_tf.structs import LOOPS, Layer

__all__ = ["check_fits", "tile_words"]

#: The register file of each operand, where they are split.
_FILES = {"weights": "weight_spad", "inputs": "input_spad", "outputs": "psum_spad"}


def tile_words(layer: Layer, mapping: Mapping, level: str, operand: str) -> int:
    """Return the words of an operand's tile in one instance of a level, gaps included."""
    names = [found.name for found in mapping.levels]
    extent = dict.fromkeys(LOOPS, 1)
    for found in mapping.levels[names.index(level) :]:
        for name, bound in (*found.temporal, *found.spatial_x, *found.spatial_y):
            # A depthwise layer's K is what G is elsewhere: it indexes all three operands.
            extent["G" if layer.kind == "depthwise" and name == "K" else name] *= bound
    # Python's integers, as a user's sizes may be past 64 bits.
    extents = np.asarray(list(extent.values()), object)
    return int(mapspace.tile_words(layer, extents)[OPERANDS.index(operand)])


def check_fits(
    layer: Layer,
    mapping: Mapping,
    *,
    pe_x: int,
    pe_y: int,
    rf_words: int,
    global_buffer_words: int,
) -> None:
    """Raise UserError unless a mapping of a layer fits.

    Args:
        layer: Layer that the mapping multiplies out to.
        mapping: The mapping.
        pe_x, pe_y: Sides of the array.
        rf_words: Words of the shared register file, or of each of the split ones.
        global_buffer_words: Words of the global buffer.
    Raises:
        UserError: If it is no mapping of the layer, or needs more than there is; names
            the layer, what is needed and what there is.
    """
    mapping.check(layer)
    array = mapping.levels[1]
    for side, loops, pes in (("X", array.spatial_x, pe_x), ("Y", array.spatial_y, pe_y)):
        used = math.prod(bound for _, bound in loops)
        if used > pes:
            raise UserError(f"layer {layer.name!r}: the mapping uses {used} PEs on {side} of {pes}")
    holders = {"global_buffer": (tuple(_FILES), global_buffer_words)}
    if mapping.is_split:
        holders |= {file: ((operand,), rf_words) for operand, file in _FILES.items()}
    else:
        holders["register_file"] = (tuple(_FILES), rf_words)
    for level, (operands, words) in holders.items():
        needed = sum(tile_words(layer, mapping, level, operand) for operand in operands)
        if needed > words:
            raise UserError(
                f"layer {layer.name!r}: the tiles at {level} need {needed} words of {words}"
            )
