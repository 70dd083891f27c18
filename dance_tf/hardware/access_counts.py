"""Loop-nest analysis: how often each operand is accessed at each level.

Every buffer instance holds one tile (a bounding box) per operand. The loops outside
the instance move the box; what each move brings in is a fill. All counts follow from
fills, multicast and reduction, batched over mappings: loop orders, bounds, strides
and layer kinds are data, so that one compiled function serves every layer.

Source: the analysis of Timeloop (Parashar et al., 2019) as its runs show it; where
Timeloop lets the second iteration of a loop stand for the rest, we count what
walking the loops counts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from dance_tf.hardware.mapping import MappingBatch

__all__ = ["OPERANDS", "AccessCounts", "count_accesses"]

#: The order of every axis of length 3 that holds operands.
OPERANDS = ("weights", "inputs", "outputs")

_N, _K, _C, _P, _Q, _R, _S = range(7)
_WEIGHT_DIMS, _OUTPUT_DIMS = (_K, _C, _R, _S), (_N, _K, _P, _Q)


class AccessCounts(NamedTuple):
    """Counts of M mappings; words or accesses, summed over all instances of a level.

    Axis 0 of fields of shape [3, M] is in the order of OPERANDS. Fields are of the
    floating type that `count_accesses` was asked for.
    """

    macs: Any  # [M]
    compute_cycles: Any  # [M], product of all temporal bounds
    rf_tile_words: Any  # [3, M], of one register file
    rf_reads: Any  # [3, M]
    rf_fills: Any  # [3, M]
    rf_updates: Any  # [3, M]
    global_buffer_tile_words: Any  # [3, M]
    global_buffer_reads: Any  # [3, M]
    global_buffer_fills: Any  # [3, M]
    global_buffer_updates: Any  # [3, M]
    dram_tile_words: Any  # [3, M], of the whole tensors
    dram_reads: Any  # [3, M]
    dram_updates: Any  # [3, M]
    used_x: Any  # [M]
    used_y: Any  # [M]
    transfer_unused_x: Any  # [3, M], product of X factors over dimensions the operand does not use
    transfer_unused_y: Any  # [3, M]

    @property
    def rf_accesses(self) -> Any:
        """Reads, fills and updates of the register files, [3, M]."""
        return self.rf_reads + self.rf_fills + self.rf_updates

    @property
    def dram_accesses(self) -> Any:
        """Reads and updates of DRAM, [3, M]."""
        return self.dram_reads + self.dram_updates


def count_accesses(
    batch: MappingBatch,
    *,
    num_dram_slots: int,
    is_split: bool = False,
    accounting: str = "timeloop_2020",
    dtype: tf.DType = tf.float64,
) -> AccessCounts:
    """Count the accesses of every operand at every level.

    Fills of a box by the loops outside it, in closed form: scanning the loops from
    inner to outer, each loop of bound b adds (b - 1) steps, each of which costs what
    its jump brings in, and repeats everything inside it b times. The jump is the loop's
    own step minus what all loops inside it have moved by their last iteration.

    Args:
        batch: M mappings; see `mapping.MappingBatch`.
        num_dram_slots: How many of the slots of `batch.bound` are DRAM loops.
        is_split: Whether the last 14 slots are loops of the input and weight files.
        accounting: "timeloop_2020" charges a fill for an output's first visit,
            "timeloop_2025" does not.
        dtype: Type of the counts; float32 is exact up to 2**24.
    Returns:
        Counts of shape [M] and [3, M].
    Source: Timeloop's access model, checked against its runs.
    """
    loops = _Loops(batch, dtype)
    num_slots = len(loops.bound)
    num_spad_slots = 14 if is_split else 0
    dram = range(num_dram_slots)
    shared = range(num_dram_slots, num_slots - num_spad_slots)
    input_spad = range(shared.stop, shared.stop + num_spad_slots // 2)
    weight_spad = range(input_spad.stop, num_slots)
    x = [tf.cast(batch.spatial_x[d], dtype) for d in range(7)]
    y = [tf.cast(batch.spatial_y[d], dtype) for d in range(7)]
    spatial = [a * b for a, b in zip(x, y, strict=True)]

    # Extents (what the loops inside touch, per dimension) from the register file outwards.
    in_outputs_file = [tf.cast(batch.inner[d], dtype) for d in range(7)]
    in_weights_file, weight_spad_starts = loops.grow(in_outputs_file, weight_spad)
    in_inputs_file, input_spad_starts = loops.grow(in_weights_file, input_spad)
    in_array = [a * b for a, b in zip(in_inputs_file, spatial, strict=True)]
    in_buffer, shared_starts = loops.grow(in_array, shared)
    in_dram, dram_starts = loops.grow(in_buffer, dram)
    starts = {**weight_spad_starts, **input_spad_starts, **shared_starts, **dram_starts}

    file_extents = (in_weights_file, in_inputs_file, in_outputs_file)
    rf_tile = [loops.box(o, e) for o, e in zip(OPERANDS, file_extents, strict=True)]
    buffer_tile = [loops.box(o, in_buffer) for o in OPERANDS]
    dram_tile = [loops.box(o, in_dram) for o in OPERANDS]

    # Slots outside each operand's register file, and outside the global buffer.
    outside = (range(input_spad.stop), range(shared.stop), range(num_slots))
    weights = rf_tile[0] * loops.visits(_WEIGHT_DIMS, outside[0])
    inputs = loops.input_fills(in_inputs_file, outside[1], starts)
    outputs = rf_tile[2] * loops.visits(_OUTPUT_DIMS, outside[2])
    first_outputs = rf_tile[2] * loops.distinct(_OUTPUT_DIMS, outside[2])
    buffer_weights = buffer_tile[0] * loops.visits(_WEIGHT_DIMS, dram)
    buffer_inputs = loops.input_fills(in_buffer, dram, starts)
    buffer_outputs = buffer_tile[2] * loops.visits(_OUTPUT_DIMS, dram)
    first_buffer_outputs = buffer_tile[2] * loops.distinct(_OUTPUT_DIMS, dram)

    instances = _product(spatial)
    used_x, used_y = _product(x), _product(y)
    relevant_x = [loops.relevant_product(o, x) for o in OPERANDS]
    relevant_y = [loops.relevant_product(o, y) for o in OPERANDS]
    relevant = [a * b for a, b in zip(relevant_x, relevant_y, strict=True)]
    macs = _product(in_dram)
    zero = tf.zeros_like(macs)
    refills = outputs - first_outputs
    buffer_refills = buffer_outputs - first_buffer_outputs
    charges_first = accounting == "timeloop_2020"
    output_fills = outputs if charges_first else refills
    buffer_output_fills = buffer_outputs if charges_first else buffer_refills
    return AccessCounts(
        macs=macs,
        compute_cycles=macs / instances,
        rf_tile_words=tf.stack(rf_tile),
        rf_reads=tf.stack([macs, macs, macs - first_outputs * instances]),
        rf_fills=tf.stack([weights * instances, inputs * instances, output_fills * instances]),
        rf_updates=tf.stack([zero, zero, macs]),
        global_buffer_tile_words=tf.stack(buffer_tile),
        global_buffer_reads=tf.stack(
            [weights * relevant[0], inputs * relevant[1], refills * relevant[2]]
        ),
        global_buffer_fills=tf.stack([buffer_weights, buffer_inputs, buffer_output_fills]),
        global_buffer_updates=tf.stack([zero, zero, outputs * relevant[2]]),
        dram_tile_words=tf.stack(dram_tile),
        dram_reads=tf.stack([buffer_weights, buffer_inputs, buffer_refills]),
        dram_updates=tf.stack([zero, zero, buffer_outputs]),
        used_x=used_x,
        used_y=used_y,
        transfer_unused_x=tf.stack([used_x / r for r in relevant_x]),
        transfer_unused_y=tf.stack([used_y / r for r in relevant_y]),
    )


class _Loops:
    """The temporal slots of a batch, and the questions asked of them."""

    def __init__(self, batch: MappingBatch, dtype: tf.DType) -> None:
        dim = tf.unstack(tf.convert_to_tensor(batch.dim))
        self.bound = [tf.cast(b, dtype) for b in tf.unstack(tf.convert_to_tensor(batch.bound))]
        self._is = [[tf.equal(d, code) for code in range(7)] for d in dim]
        self._is_depthwise = tf.convert_to_tensor(batch.is_depthwise)
        self._stride = [tf.cast(batch.stride[i], dtype) for i in range(2)]
        self._dilation = [tf.cast(batch.dilation[i], dtype) for i in range(2)]
        self._one = tf.ones_like(self._stride[0])
        self._zero = tf.zeros_like(self._stride[0])

    def grow(self, extents: list, slots: range) -> tuple[list, dict[int, list]]:
        """Return extents with the loops of `slots` inside, and the extents inside each slot."""
        extents, inside = list(extents), {}
        for slot in reversed(slots):
            inside[slot] = extents
            extents = [
                tf.where(self._is[slot][d], e * self.bound[slot], e) for d, e in enumerate(extents)
            ]
        return extents, inside

    def box(self, operand: str, extents: list) -> Any:
        """Return the words of an operand's bounding box."""
        if operand == "weights":
            return _product([extents[d] for d in _WEIGHT_DIMS])
        if operand == "outputs":
            return _product([extents[d] for d in _OUTPUT_DIMS])
        width, height = self._input_sides(extents)
        channels = tf.where(self._is_depthwise, extents[_K], extents[_C])
        return extents[_N] * channels * width * height

    def relevant_product(self, operand: str, factors: list) -> Any:
        """Return the product of the factors over dimensions that the operand uses."""
        if operand == "weights":
            return _product([factors[d] for d in _WEIGHT_DIMS])
        if operand == "outputs":
            return _product([factors[d] for d in _OUTPUT_DIMS])
        channels = tf.where(self._is_depthwise, factors[_K], factors[_C])
        return channels * _product([factors[d] for d in (_N, _P, _Q, _R, _S)])

    def visits(self, dims: tuple[int, ...], slots: range) -> Any:
        """Return how often a box without halos is loaded: loops inside which it stays are free."""
        count, is_moved = self._one, tf.zeros_like(self._is_depthwise)
        for slot in reversed(slots):
            is_moved |= self._any(slot, dims) & (self.bound[slot] > 1)
            count = tf.where(is_moved, count * self.bound[slot], count)
        return count

    def distinct(self, dims: tuple[int, ...], slots: range) -> Any:
        """Return how many different boxes without halos there are."""
        count = self._one
        for slot in slots:
            count = tf.where(self._any(slot, dims), count * self.bound[slot], count)
        return count

    def input_fills(self, extents: list, slots: range, inside: dict[int, list]) -> Any:
        """Return the words that the moves of an input box bring in, first box included.

        Width and height may slide: then only the new part is filled, if no other
        direction is remembered from the innermost loop. Everything else fills the box.
        """
        width, height = self._input_sides(extents)
        box = self.box("inputs", extents)
        zero = self._zero
        fills = zero
        moved_width, moved_height = zero, zero
        is_moved_elsewhere = tf.zeros_like(self._is_depthwise)
        is_innermost = tf.ones_like(self._is_depthwise)
        remembered = zero  # +-1: a slide along the width, +-2: along the height, 0: none
        for slot in reversed(slots):
            bound, is_dim, steps = self.bound[slot], self._is[slot], inside[slot]
            is_live = bound > 1
            step_width = tf.where(
                is_dim[_P],
                steps[_P] * self._stride[0],
                tf.where(is_dim[_R], steps[_R] * self._dilation[0], zero),
            )
            step_height = tf.where(
                is_dim[_Q],
                steps[_Q] * self._stride[1],
                tf.where(is_dim[_S], steps[_S] * self._dilation[1], zero),
            )
            is_elsewhere = is_dim[_N] | tf.where(self._is_depthwise, is_dim[_K], is_dim[_C])
            is_moved_elsewhere |= is_elsewhere & is_live
            jump_width, jump_height = step_width - moved_width, step_height - moved_height
            still_width, still_height = tf.equal(jump_width, 0), tf.equal(jump_height, 0)
            along_width, along_height = tf.sign(jump_width), 2 * tf.sign(jump_height)
            slides_width = (
                still_height
                & (tf.abs(jump_width) < width)
                & (tf.equal(remembered, 0) | tf.equal(remembered, along_width))
            )
            slides_height = (
                still_width
                & (tf.abs(jump_height) < height)
                & (tf.equal(remembered, 0) | tf.equal(remembered, along_height))
            )
            # Where both stand still, the first slide's part is box / width * 0 = 0.
            part = tf.where(
                is_moved_elsewhere,
                box,
                tf.where(
                    slides_width,
                    box / width * tf.abs(jump_width),
                    tf.where(slides_height, box / height * tf.abs(jump_height), box),
                ),
            )
            stays = still_width & still_height & ~is_moved_elsewhere
            part = tf.where(stays, zero, part)
            direction = tf.where(
                is_moved_elsewhere,
                zero,
                tf.where(slides_width, along_width, tf.where(slides_height, along_height, zero)),
            )
            remembered = tf.where(is_live & is_innermost, direction, remembered)
            is_innermost &= ~is_live
            # A dead slot (bound 1) changes nothing: its steps are multiplied by 0.
            fills = fills * bound + (bound - 1) * part
            moved_width += (bound - 1) * step_width
            moved_height += (bound - 1) * step_height
        return box + fills

    def _any(self, slot: int, dims: tuple[int, ...]) -> Any:
        result = self._is[slot][dims[0]]
        for dim in dims[1:]:
            result |= self._is[slot][dim]
        return result

    def _input_sides(self, extents: list) -> tuple[Any, Any]:
        sides = []
        for axis, (out, tap) in enumerate(((_P, _R), (_Q, _S))):
            span = (extents[out] - 1) * self._stride[axis]
            sides.append(span + (extents[tap] - 1) * self._dilation[axis] + 1)
        return sides[0], sides[1]


def _product(factors: Any) -> Any:
    result = factors[0]
    for factor in factors[1:]:
        result = result * factor
    return result
