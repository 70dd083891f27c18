"""Cycles, energy and area of mappings, from their access counts.

Latency is the largest of what each resource takes; energy is accesses times energy per
access plus the wires of the array; area depends on the accelerator alone.
"""

from __future__ import annotations

import fractions
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dance_tf.config import MachineConfig
from dance_tf.hardware.loopnest.access_counts import AccessCounts, count_accesses
from dance_tf.hardware.loopnest.fills import Values
from dance_tf.hardware.loopnest.mapping import Mapping, to_batch
from dance_tf.hardware.technology import technology_of
from dance_tf.structs import Layer

__all__ = [
    "BOUNDS",
    "ENERGY_COMPONENTS",
    "MappingCost",
    "accelerator_area_um2",
    "bandwidths",
    "cost_of_mappings",
    "cycle_terms",
    "energies_outside_files_pj",
    "mapping_cost",
    "part_areas_um2",
    "register_file_figures_pj",
    "register_file_pj",
    "wire_hops",
]

#: Resources that may bound a layer, in the order of the terms of `cycle_terms`.
BOUNDS = ("compute", "global_buffer_reads", "global_buffer_writes", "dram")

#: Components that take energy.
ENERGY_COMPONENTS = ("mac", "register_file", "global_buffer", "dram", "wires")


class MappingCost(NamedTuple):
    """Cost of M mappings with its parts. Energy in pJ, [M]."""

    cycles: Values
    energy_pj: Values
    mac_pj: Values
    register_file_pj: Values
    global_buffer_pj: Values
    dram_pj: Values
    wire_pj: Values  # [3, M], by operand
    cycle_terms: Values  # [4, M], in the order of BOUNDS

    @property
    def energy_parts_pj(self) -> list[Values]:
        """Energy in the order of ENERGY_COMPONENTS, [M] each."""
        wires = self.wire_pj[0] + self.wire_pj[1] + self.wire_pj[2]
        return [self.mac_pj, self.register_file_pj, self.global_buffer_pj, self.dram_pj, wires]


def cycle_terms(counts: AccessCounts, machine: MachineConfig) -> list[Values]:
    """Return what each resource takes, cycles [M] each in the order of BOUNDS.

    Latency is the largest.
    """
    words = (
        counts.global_buffer_words_out,
        counts.global_buffer_words_in,
        counts.dram_accesses,
    )
    rates = zip(words, *bandwidths(machine), strict=True)
    return [
        counts.compute_cycles,
        *(tf.math.ceil(each * times / per) for each, times, per in rates),
    ]


def bandwidths(machine: MachineConfig) -> tuple[list[float], list[float]]:
    """Return whole numbers t, w of buffer reads, buffer writes and DRAM: words * t / w cycles.

    Numerators of 0 are for no limit. Fractions, as 21 / 0.7 is a little above 30 in floating point.
    """
    buffer = fractions.Fraction(str(machine.global_buffer_words_per_cycle))
    dram = fractions.Fraction(str(machine.dram_words_per_cycle or 1))
    rates = (buffer, buffer, dram)
    times = [float(rate.denominator) for rate in rates]
    if machine.dram_words_per_cycle is None:
        times[2] = 0.0
    return times, [float(rate.numerator) for rate in rates]


def wire_hops(counts: AccessCounts, *, is_row_stationary: np.ndarray | bool) -> list[Values]:
    """Return word x PE pitch travelled between global buffer and PEs, [M] for each operand.

    A transfer that reaches m of n PEs travels hops(m, n) pitches. row_stationary sends
    in two steps, to columns over X and down the columns over Y; the other dataflows in one.
    Partial sums read back are not charged.

    Args:
        counts: Counts of M mappings.
        is_row_stationary: bool [M], or a Python bool for all.
    Source: Timeloop's network model (2025), as its runs show it.
    """
    transfers = (
        counts.global_buffer_reads[0],
        counts.global_buffer_reads[1],
        counts.global_buffer_updates[2],
    )
    hops = []
    for operand, transfer in enumerate(transfers):
        unused_x = counts.transfer_unused_x[operand]
        unused_y = counts.transfer_unused_y[operand]
        one_step = _hops(unused_x * unused_y, counts.used_x * counts.used_y)
        two_steps = _hops(unused_x, counts.used_x) + unused_x * _hops(unused_y, counts.used_y)
        if isinstance(is_row_stationary, bool):
            hops.append(transfer * (two_steps if is_row_stationary else one_step))
        else:
            hops.append(transfer * tf.where(is_row_stationary, two_steps, one_step))
    return hops


def energies_outside_files_pj(
    counts: AccessCounts, machine: MachineConfig
) -> tuple[Values, Values, Values]:
    """Return the energy of MACs, global buffer and DRAM, [M] each; linear in the counts."""
    tech = technology_of(machine)
    read_pj, write_pj = tech.global_buffer_pj(machine.global_buffer_kib, machine.accounting)
    dram_read_pj, dram_write_pj = tech.dram_pj(machine.accounting)
    if dram_read_pj == dram_write_pj:
        dram_pj = counts.dram_accesses * dram_read_pj
    else:
        dram_pj = counts.dram_words_out * dram_read_pj + counts.dram_words_in * dram_write_pj
    return (
        counts.macs * tech.mac_pj.value,
        counts.global_buffer_words_out * read_pj + counts.global_buffer_words_in * write_pj,
        dram_pj,
    )


def register_file_figures_pj(
    rf_words: np.ndarray, machine: MachineConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pJ per read, per write, and per word and PE pitch of wire, of files [...]."""
    tech = technology_of(machine)
    hop_pj = machine.word_bits * tech.wire_pj_per_bit_mm.value * tech.pe_pitch_mm(rf_words)
    return (*tech.register_file_pj(rf_words, machine.accounting), hop_pj)


def register_file_pj(
    counts: AccessCounts, read_pj: np.ndarray | float, write_pj: np.ndarray | float
) -> Values:
    """Return the energy of the register files, [M], from that of a read and of a write."""
    # Whether they differ is a matter of the table, not of the mapping: one product where not.
    if np.array_equal(read_pj, write_pj):
        return counts.rf_accesses * read_pj
    return counts.rf_words_out * read_pj + counts.rf_words_in * write_pj


def cost_of_mappings(
    mappings: Sequence[Mapping],
    layers: Sequence[Layer],
    *,
    rf_words: np.ndarray,
    is_row_stationary: np.ndarray,
    machine: MachineConfig,
) -> tuple[AccessCounts, MappingCost]:
    """Return access counts and cost of mappings, NumPy arrays.

    Args:
        mappings: M mappings; shared or split register files as the machine has them.
        layers: Layer that each multiplies out to.
        rf_words: Words of the register file of each mapping's accelerator, [M].
        is_row_stationary: Whether each mapping is row stationary, bool [M].
        machine: Bandwidths and technology.
    Raises:
        UserError: If the technology has no figure for a size, or a mapping is not one of its layer.
    """
    batch, num_dram_slots = to_batch(mappings, layers)
    counts = count_accesses(
        batch,
        num_dram_slots=num_dram_slots,
        is_split=machine.rf_mode == "split",
        accounting=machine.accounting,
    )
    cost = mapping_cost(
        counts, rf_words=rf_words, is_row_stationary=is_row_stationary, machine=machine
    )
    return AccessCounts._make(map(np.asarray, counts)), MappingCost._make(map(np.asarray, cost))


def mapping_cost(
    counts: AccessCounts,
    *,
    rf_words: np.ndarray,
    is_row_stationary: np.ndarray | bool,
    machine: MachineConfig,
) -> MappingCost:
    """Return cycles and energy of M mappings.

    Args:
        counts: Counts of M mappings.
        rf_words: Words of the register file of each mapping's accelerator, [M].
        is_row_stationary: bool [M].
        machine: Bandwidths and technology.
    Returns:
        Cost with fields of shape [M]; cycles and pJ.
    Raises:
        UserError: If the technology has no figure for a size.
    """
    dtype = tf.as_dtype(counts.macs.dtype).as_numpy_dtype  # counts may be numpy arrays
    read_pj, write_pj, hop_pj = (
        np.asarray(pj, dtype) for pj in register_file_figures_pj(rf_words, machine)
    )
    terms = tf.stack(cycle_terms(counts, machine))
    mac_pj, global_buffer_pj, dram_pj = energies_outside_files_pj(counts, machine)
    of_files_pj = register_file_pj(counts, read_pj, write_pj)
    wire_pj = hop_pj * tf.stack(wire_hops(counts, is_row_stationary=is_row_stationary))
    return MappingCost(
        cycles=tf.reduce_max(terms, axis=0),
        energy_pj=mac_pj
        + of_files_pj
        + global_buffer_pj
        + dram_pj
        + tf.reduce_sum(wire_pj, axis=0),
        mac_pj=mac_pj,
        register_file_pj=of_files_pj,
        global_buffer_pj=global_buffer_pj,
        dram_pj=dram_pj,
        wire_pj=wire_pj,
        cycle_terms=terms,
    )


def accelerator_area_um2(
    pe_x: np.ndarray | int,
    pe_y: np.ndarray | int,
    rf_words: np.ndarray | int,
    machine: MachineConfig,
) -> np.ndarray:
    """Return area in um2, float64 [A], of arrays of PEs with register files of `rf_words`."""
    buffer_um2, files_um2, mac_um2 = part_areas_um2(rf_words, machine)
    return buffer_um2 + np.asarray(pe_x, np.float64) * np.asarray(pe_y) * (files_um2 + mac_um2)


def part_areas_um2(
    rf_words: np.ndarray | int, machine: MachineConfig
) -> tuple[float, np.ndarray, float]:
    """Return um2 of the global buffer, and of all register files and of the MAC of one PE."""
    tech = technology_of(machine)
    num_files = 3 if machine.rf_mode == "split" else 1
    return (
        tech.global_buffer_area_um2(machine.global_buffer_kib),
        num_files * tech.register_file_um2(rf_words),
        tech.mac_um2.value,
    )


def _hops(reached: Values, total: Values) -> Values:
    # Powers, as both numpy and TensorFlow have them.
    return (
        (total * reached) ** 0.5 + (total**0.5 - reached**0.5) / 2 - (total / reached) ** 0.5 + 0.5
    )
