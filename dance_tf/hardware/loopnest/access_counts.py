"""Access counts: how often each operand is accessed at each level.

Accesses follow from what enters the buffers (`fills`), multicast and reduction; they
are linear in the fills.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from dance_tf.hardware.loopnest.fills import (
    OPERANDS,
    Fills,
    LoopNests,
    Values,
    box_words,
    fills_of_orders,
    product,
)
from dance_tf.hardware.loopnest.mapping import MappingBatch

__all__ = ["AccessCounts", "count_accesses", "counts_of_fills"]

_N, _K, _C, _P, _Q, _R, _S, _G = range(8)
#: Loops that do not move an operand, in the order of OPERANDS.
_UNUSED_DIMS = ((_N, _P, _Q), (_K,), (_C, _R, _S))


class AccessCounts(NamedTuple):
    """Counts of M mappings; words or accesses, summed over all instances of a level.

    Axis 0 of fields of shape [3, M] is in the order of OPERANDS. Fields are of the
    floating type that `count_accesses` was asked for.
    """

    macs: Values  # [M]
    compute_cycles: Values  # [M], product of all temporal bounds
    rf_tile_words: Values  # [3, M], of one register file
    rf_reads: Values  # [3, M]
    rf_fills: Values  # [3, M]
    rf_updates: Values  # [3, M]
    global_buffer_tile_words: Values  # [3, M]
    global_buffer_reads: Values  # [3, M]
    global_buffer_fills: Values  # [3, M]
    global_buffer_updates: Values  # [3, M]
    dram_tile_words: Values  # [3, M], of the whole tensors
    dram_reads: Values  # [3, M]
    dram_updates: Values  # [3, M]
    used_x: Values  # [M]
    used_y: Values  # [M]
    transfer_unused_x: (
        Values  # [3, M], product of X factors over dimensions the operand does not use
    )
    transfer_unused_y: Values  # [3, M]

    # Sums over operands, [M]; they hold for stacked arrays and for lists of three.

    @property
    def rf_accesses(self) -> Values:
        """Reads, fills and updates of the register files."""
        return _total(self.rf_reads, self.rf_fills, self.rf_updates)

    @property
    def rf_words_out(self) -> Values:
        """Reads of the register files."""
        return _total(self.rf_reads)

    @property
    def rf_words_in(self) -> Values:
        """Fills and updates of the register files."""
        return _total(self.rf_fills, self.rf_updates)

    @property
    def global_buffer_words_out(self) -> Values:
        """Reads of the global buffer."""
        return _total(self.global_buffer_reads)

    @property
    def global_buffer_words_in(self) -> Values:
        """Fills and updates of the global buffer."""
        return _total(self.global_buffer_fills, self.global_buffer_updates)

    @property
    def dram_accesses(self) -> Values:
        """Reads and updates of DRAM."""
        return _total(self.dram_reads, self.dram_updates)

    @property
    def dram_words_out(self) -> Values:
        """Reads of DRAM."""
        return _total(self.dram_reads)

    @property
    def dram_words_in(self) -> Values:
        """Updates of DRAM."""
        return self.dram_updates[2]  # nothing but outputs is written there


def count_accesses(
    batch: MappingBatch,
    *,
    num_dram_slots: int,
    is_split: bool = False,
    accounting: str = "timeloop_2020",
    dtype: tf.DType = tf.float64,
) -> AccessCounts:
    """Count the accesses of every operand at every level, of any mappings together.

    Args:
        batch: M mappings; see `mapping.MappingBatch`.
        num_dram_slots: Number of the slots of `batch.bound` that are DRAM loops.
        is_split: Whether the last 14 slots are loops of the input and weight files.
        accounting: "timeloop_2020" charges a fill for an output's first visit,
            "timeloop_2025" does not.
        dtype: Type of the counts; float32 is exact up to 2**24.
    Returns:
        Counts of shape [M] and [3, M].
    Source: Timeloop's access model, checked against its runs.
    """

    def rows(array: tf.Tensor) -> list[tf.Tensor]:
        return tf.unstack(tf.cast(array, dtype))

    slots = list(zip(tf.unstack(tf.convert_to_tensor(batch.dim)), rows(batch.bound), strict=True))
    files = len(slots) - (14 if is_split else 0)
    nests = LoopNests(
        dram=slots[:num_dram_slots],
        global_buffer=slots[num_dram_slots:files],
        inner=rows(batch.inner),
        spatial_x=rows(batch.spatial_x),
        spatial_y=rows(batch.spatial_y),
        stride=rows(batch.stride),
        dilation=rows(batch.dilation),
        input_spad=slots[files : files + 7],
        weight_spad=slots[files + 7 :],
    )
    (fills,), extents = fills_of_orders(nests, [range(num_dram_slots)])
    tiles = [
        [box_words(operand, e, nests) for operand, e in zip(OPERANDS, each, strict=True)]
        for each in (extents[:3], (extents.buffer,) * 3, (extents.dram,) * 3)
    ]
    counts = counts_of_fills(
        fills,
        macs=product(extents.dram),
        spatial_x=nests.spatial_x,
        spatial_y=nests.spatial_y,
        accounting=accounting,
    )
    counts = counts._replace(
        rf_tile_words=tiles[0], global_buffer_tile_words=tiles[1], dram_tile_words=tiles[2]
    )
    shape = tf.shape(nests.stride[0])

    def whole(part: Values) -> Values:
        return tf.broadcast_to(tf.cast(part, dtype), shape)

    return AccessCounts(
        *(
            tf.stack([whole(part) for part in field]) if isinstance(field, list) else whole(field)
            for field in counts
        )
    )


def counts_of_fills(
    fills: Fills,
    *,
    macs: Values,
    spatial_x: Sequence[Values],
    spatial_y: Sequence[Values],
    accounting: str = "timeloop_2020",
) -> AccessCounts:
    """Return the accesses that follow from fills: multicast, reduction, read-modify-write.

    All counts are linear in the fills.

    Args:
        fills: Fills of M mappings; arrays, or polynomials.
        macs: Multiply-accumulates, [M].
        spatial_x: Factors along X, 8 in the order of LOOPS.
        spatial_y: Factors along Y.
        accounting: "timeloop_2020" or "timeloop_2025"; see `count_accesses`.
    Returns:
        Counts, without tiles, as broadcastable arrays and lists of three in place of [3, M].
    """
    instances = product(spatial_x) * product(spatial_y)
    unused_x = [product([spatial_x[d] for d in dims]) for dims in _UNUSED_DIMS]
    unused_y = [product([spatial_y[d] for d in dims]) for dims in _UNUSED_DIMS]
    # Children with identical tiles share one read.
    readers = [instances / (a * b) for a, b in zip(unused_x, unused_y, strict=True)]
    refills = fills.outputs - fills.first_outputs
    buffer_refills = fills.buffer_outputs - fills.first_buffer_outputs
    charges_first = accounting == "timeloop_2020"
    output_fills = fills.outputs if charges_first else refills
    buffer_output_fills = fills.buffer_outputs if charges_first else buffer_refills
    return AccessCounts(
        macs=macs,
        compute_cycles=macs / instances,
        rf_tile_words=None,
        rf_reads=[macs, macs, macs - fills.first_outputs * instances],
        rf_fills=[fills.weights * instances, fills.inputs * instances, output_fills * instances],
        rf_updates=[0.0, 0.0, macs],
        global_buffer_tile_words=None,
        global_buffer_reads=[
            fills.weights * readers[0],
            fills.inputs * readers[1],
            refills * readers[2],
        ],
        global_buffer_fills=[fills.buffer_weights, fills.buffer_inputs, buffer_output_fills],
        global_buffer_updates=[0.0, 0.0, fills.outputs * readers[2]],
        dram_tile_words=None,
        dram_reads=[fills.buffer_weights, fills.buffer_inputs, buffer_refills],
        dram_updates=[0.0, 0.0, fills.buffer_outputs],
        used_x=product(spatial_x),
        used_y=product(spatial_y),
        transfer_unused_x=unused_x,
        transfer_unused_y=unused_y,
    )


def _total(*fields: Sequence[Values]) -> Values:
    parts = [field[operand] for field in fields for operand in range(3)]
    result = parts[0]
    for part in parts[1:]:
        if not (isinstance(part, float) and part == 0.0):
            result = result + part
    return result
