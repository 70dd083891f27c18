"""What decides between mappings, as linear functions of their fills."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dance_tf.config import MachineConfig
from dance_tf.hardware import cost_model
from dance_tf.hardware.access_counts import counts_of_fills
from dance_tf.hardware.fills import Fills
from dance_tf.hardware.mapper_coefficients import FILLS
from dance_tf.hardware.mapspace import Spread
from dance_tf.hardware.polynomial import Polynomial
from dance_tf.structs import LOOPS

__all__ = ["figure_weights"]


def figure_weights(
    spreads: Sequence[Spread], dataflow: str, machine: MachineConfig, rf_words: np.ndarray
) -> np.ndarray:
    """Return figures as linear functions of fills, float32 [spreads, figures, 1 + fills].

    Figures are the words of buffer reads, buffer writes and DRAM, times the first of
    `cost_model.bandwidths`, and the energy with each size of register file.
    """
    x = np.asarray([spread.x for spread in spreads], np.float64).T
    y = np.asarray([spread.y for spread in spreads], np.float64).T
    padded = np.asarray([spread.padded_bounds for spread in spreads], np.float64).T
    outputs = np.prod([padded[LOOPS.index(loop)] for loop in "NKPQG"], axis=0)
    spread_outputs = np.prod([(x * y)[LOOPS.index(loop)] for loop in "NKPQG"], axis=0)
    variables = {name: Polynomial.variable(name) for name in FILLS}
    counts = counts_of_fills(
        Fills(
            **variables,
            first_outputs=outputs / spread_outputs,
            first_buffer_outputs=outputs,
        ),
        macs=np.prod(padded, axis=0),
        spatial_x=list(x),
        spatial_y=list(y),
        accounting=machine.accounting,
    )
    words_out, words_in = counts.global_buffer_words_out, counts.global_buffer_words_in
    dram = counts.dram_accesses
    hops = cost_model.wire_hops(counts, is_row_stationary=dataflow == "row_stationary")
    mac_pj, global_buffer_pj, dram_pj = cost_model.energies_outside_files_pj(counts, machine)
    fixed_pj = global_buffer_pj + dram_pj + mac_pj
    wire_pj = hops[0] + hops[1] + hops[2]
    (out_times, in_times, dram_times), _ = cost_model.bandwidths(machine)
    per_file = zip(*cost_model.register_file_figures_pj(rf_words, machine), strict=True)
    figures = [words_out * out_times, words_in * in_times, dram * dram_times]
    for read_pj, write_pj, hop_pj in per_file:
        files_pj = cost_model.register_file_pj(counts, float(read_pj), float(write_pj))
        figures.append(fixed_pj + files_pj + wire_pj * float(hop_pj))
    monomials = [frozenset[str](), *(frozenset([name]) for name in FILLS)]
    result = np.zeros((len(spreads), len(figures), len(monomials)), np.float32)
    for row, figure in enumerate(figures):
        for column, monomial in enumerate(monomials):
            result[:, row, column] = np.asarray(figure.terms.get(monomial, 0.0))
    return result
