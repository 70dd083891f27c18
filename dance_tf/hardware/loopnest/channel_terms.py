"""Fills of all tilings of the channels, given the tiling of the plane.

What a mapping fills is multilinear in the factors of the channel loops K, C and G (see
`fills.Polynomial`). One pass of the loop-nest analysis over the tilings of N, P, Q, R and S
gives the coefficients; a matrix product with the channels' monomials then gives the
figures of every pair of the two, tens of operations a mapping.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dance_tf.config import MachineConfig
from dance_tf.hardware.loopnest import cost_model
from dance_tf.hardware.loopnest.access_counts import counts_of_fills
from dance_tf.hardware.loopnest.fills import (
    Fills,
    LoopNests,
    Polynomial,
    Slot,
    Values,
    add_up,
    fills_of_orders,
)
from dance_tf.hardware.loopnest.mapspace import CHANNEL_LOOPS, PLANE_LOOPS, WEIGHT_SPAD_ORDER
from dance_tf.hardware.loopnest.spreads import RULES, Spreads
from dance_tf.structs import LOOPS, Layer

__all__ = [
    "FILLS",
    "DesignPoint",
    "Figures",
    "FillCoefficients",
    "figures_of",
    "fill_coefficients",
    "least_fills",
]

_LEVELS = ("file", "buffer", "dram")
#: Fills that differ between mappings of one spread.
FILLS = tuple(f for f in Fills._fields if not f.startswith("first"))


class DesignPoint(NamedTuple):
    """All of an accelerator but the sides of its array, on which no mapping's cost depends."""

    machine: MachineConfig
    rf_words: int  # of a register file


class FillCoefficients(NamedTuple):
    """Compiled for one dataflow: what to call, and what its results mean."""

    #: (factors [3, 5, rows], spatial [2, 8, rows], totals [3, rows], live [9, patterns],
    #: steps [4]) to float32 [patterns, orders, rows, terms].
    evaluate: Callable[..., tf.Tensor]
    #: Index into FILLS of each term, and the factors that it is multiplied by.
    terms: tuple[tuple[int, frozenset[str]], ...]

    def monomial_values(self, channels: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Return different monomials, float32 [n, monomials], and which one each term has.

        Args:
            channels: Factors of CHANNEL_LOOPS, [3, 3, n].
        """
        monomials = sorted({monomial for _, monomial in self.terms}, key=sorted)
        values = np.ones((channels.shape[2], len(monomials)), np.float32)
        for column, monomial in enumerate(monomials):
            for name in sorted(monomial):
                level, loop = _LEVELS.index(name[:-1]), CHANNEL_LOOPS.index(name[-1])
                values[:, column] *= channels[level, loop]
        return values, [monomials.index(monomial) for _, monomial in self.terms]


_TRACING = threading.Lock()


def fill_coefficients(
    dataflow: str, orders: tuple[str, ...], channel_loops: str, is_split: bool
) -> FillCoefficients:
    """Return the coefficients' function, traced once for all layers.

    Args:
        dataflow: A key of mapspace.RULES.
        orders: Orders of the DRAM loops.
        channel_loops: Loops of CHANNEL_LOOPS that the layers have.
        is_split: Whether register files are split by operand.
    """
    with _TRACING:  # threads that want the same function wait for it
        return _trace(dataflow, orders, channel_loops, is_split)


@functools.lru_cache(maxsize=64)
def _trace(
    dataflow: str, orders: tuple[str, ...], channel_loops: str, is_split: bool
) -> FillCoefficients:
    terms: list[tuple[int, frozenset[str]]] = []

    def evaluate(
        factors: tf.Tensor, spatial: tf.Tensor, totals: tf.Tensor, live: tf.Tensor, steps: tf.Tensor
    ) -> Values:
        nests, dram_loops = _nests(
            dataflow, orders, channel_loops, is_split, factors, spatial, live, steps
        )
        by_order, _ = fills_of_orders(
            nests, [[dram_loops.index(loop) for loop in order] for order in orders]
        )
        canonical = [
            [_canonical(getattr(fills, name), totals) for name in FILLS] for fills in by_order
        ]
        terms[:] = [
            (index, monomial)
            for index in range(len(FILLS))
            for monomial in sorted({m for fills in canonical for m in fills[index]}, key=sorted)
        ]
        shape = [tf.shape(live)[1], tf.shape(factors)[2]]
        columns = [
            tf.broadcast_to(fills[index].get(monomial, 0.0), shape)
            for fills in canonical
            for index, monomial in terms
        ]
        stacked = tf.reshape(tf.stack(columns, 1), [shape[0], len(orders), len(terms), shape[1]])
        return tf.transpose(stacked, [0, 1, 3, 2])

    function = tf.function(
        evaluate,
        input_signature=[
            tf.TensorSpec([3, len(PLANE_LOOPS), None], tf.float32),
            tf.TensorSpec([2, len(LOOPS), None], tf.float32),
            tf.TensorSpec([len(CHANNEL_LOOPS), None], tf.float32),
            tf.TensorSpec([3 * len(CHANNEL_LOOPS), None], tf.bool),
            tf.TensorSpec([4], tf.float32),
        ],
        autograph=False,  # nothing depends on values; tracing takes half the time
    ).get_concrete_function()
    return FillCoefficients(function, tuple(terms))


def _nests(
    dataflow: str,
    orders: tuple[str, ...],
    channel_loops: str,
    is_split: bool,
    factors: tf.Tensor,
    spatial: tf.Tensor,
    live: tf.Tensor,
    steps: tf.Tensor,
) -> tuple[LoopNests, list[str]]:
    """Return the loop nests of all rows, with the channels' factors as variables."""
    one = tf.ones_like(factors[0, 0][None])
    bounds: list[dict[str, Values]] = []
    for i, level in enumerate(_LEVELS):
        channels = {
            loop: Polynomial.variable(level + loop, live[3 * i + j][:, None])
            if loop in channel_loops
            else one
            for j, loop in enumerate(CHANNEL_LOOPS)
        }
        plane = {loop: factors[i, j][None] for j, loop in enumerate(PLANE_LOOPS)}
        bounds.append(channels | plane)
    file, buffer, dram = bounds
    absent = [loop for loop in CHANNEL_LOOPS if loop not in channel_loops]
    dram_loops = [loop for loop in LOOPS if loop in orders[0]]
    weight_spad = WEIGHT_SPAD_ORDER if is_split else ""

    def slots(loops: Iterable[str], bound: dict[str, Values]) -> list[Slot]:
        return [(LOOPS.index(loop), bound[loop]) for loop in loops if loop not in absent]

    nests = LoopNests(
        dram=slots(dram_loops, dram),
        global_buffer=slots(RULES[dataflow].global_buffer_order, buffer),
        weight_spad=slots(weight_spad, file),
        inner=[one if loop in weight_spad else file[loop] for loop in LOOPS],
        spatial_x=[spatial[0, d][None] for d in range(len(LOOPS))],
        spatial_y=[spatial[1, d][None] for d in range(len(LOOPS))],
        stride=[steps[0] * one, steps[1] * one],
        dilation=[steps[2] * one, steps[3] * one],
    )
    return nests, dram_loops


def _canonical(fills: Values, totals: tf.Tensor) -> dict[frozenset[str], Values]:
    """Return the terms, a loop's three factors replaced by their product, which is known."""
    terms = []
    for monomial, coefficient in getattr(fills, "terms", {frozenset(): fills}).items():
        for j, loop in enumerate(CHANNEL_LOOPS):
            factors = {level + loop for level in _LEVELS}
            if factors <= monomial:
                monomial, coefficient = monomial - factors, coefficient * totals[j][None]
        terms.append((monomial, coefficient))
    return add_up(terms)


class Figures(NamedTuple):
    """What mappings cost, linear in their fills; points are DesignPoints.

    Figures are, for each pair of bandwidths, the words of buffer reads, buffer writes and
    DRAM, times the first of `cost_model.bandwidths`; then the energies.
    """

    weights: np.ndarray  # float32 [spreads, figures, 1 + FILLS], constants first
    words_per_cycle: np.ndarray  # float32 [3 x pairs of bandwidths], divisors of the words
    bandwidth_of: list[int]  # pair of bandwidths of each point
    energy_of: list[int]  # figure of each point's energy

    def take(self, rows: np.ndarray) -> Figures:
        """Return the figures of some spreads."""
        return self._replace(weights=self.weights[rows])


def figures_of(spreads: Spreads, dataflow: str, points: Sequence[DesignPoint]) -> Figures:
    """Return energies and bandwidth demands of the mappings of some spreads."""
    x, y, padded = (
        np.asarray(values.T, np.float64) for values in (spreads.x, spreads.y, spreads.padded_bounds)
    )
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
        accounting=points[0].machine.accounting,
    )
    hops = cost_model.wire_hops(counts, is_row_stationary=dataflow == "row_stationary")
    wires = hops[0] + hops[1] + hops[2]
    words = (counts.global_buffer_words_out, counts.global_buffer_words_in, counts.dram_accesses)
    figures: list[Polynomial] = []
    words_per_cycle: list[float] = []
    bandwidths: dict[tuple[float, ...], int] = {}
    bandwidth_of, energy_of = [], []
    for point in points:
        times, per_cycle = cost_model.bandwidths(point.machine)
        key = (*times, *per_cycle)
        if key not in bandwidths:
            bandwidths[key] = len(bandwidths)
            figures += [each * by for each, by in zip(words, times, strict=True)]
            words_per_cycle += per_cycle
        bandwidth_of.append(bandwidths[key])
    energies: dict[tuple[MachineConfig, int], int] = {}
    outside: dict[MachineConfig, Polynomial] = {}
    for point in points:
        # What bandwidths cost is time alone.
        machine = dataclasses.replace(
            point.machine, global_buffer_words_per_cycle=1.0, dram_words_per_cycle=None
        )
        if machine not in outside:
            mac_pj, buffer_pj, dram_pj = cost_model.energies_outside_files_pj(counts, machine)
            outside[machine] = buffer_pj + dram_pj + mac_pj
        if (machine, point.rf_words) not in energies:
            read_pj, write_pj, hop_pj = map(
                float, cost_model.register_file_figures_pj(np.asarray(point.rf_words), machine)
            )
            files_pj = cost_model.register_file_pj(counts, read_pj, write_pj)
            energies[machine, point.rf_words] = len(figures)
            figures.append(outside[machine] + files_pj + wires * hop_pj)
        energy_of.append(energies[machine, point.rf_words])
    monomials = [frozenset[str](), *(frozenset([name]) for name in FILLS)]
    weights = np.zeros((len(spreads), len(figures), len(monomials)), np.float32)
    for row, figure in enumerate(figures):
        for column, monomial in enumerate(monomials):
            weights[:, row, column] = np.asarray(figure.terms.get(monomial, 0.0))
    return Figures(
        weights,
        np.asarray(words_per_cycle, np.float32),
        bandwidth_of,
        energy_of,
    )


def least_fills(layer: Layer, spreads: Spreads) -> np.ndarray:
    """Return words that enter buffers under any mapping, at least, float64 [spreads, FILLS].

    Each buffer has to be given whatever its PEs use once. Of p positions and r taps, at any
    steps, at least p + r - 1 columns of inputs differ.
    """
    temporal, padded = (
        dict(zip(LOOPS, np.asarray(bounds.T, np.float64), strict=True))
        for bounds in (spreads.temporal_bounds, spreads.padded_bounds)
    )

    def product(bounds: dict[str, np.ndarray], loops: str) -> np.ndarray:
        return np.prod([bounds[loop] for loop in loops], axis=0)

    def inputs(bounds: dict[str, np.ndarray]) -> np.ndarray:
        columns, rows = bounds["P"] + bounds["R"] - 1, bounds["Q"] + bounds["S"] - 1
        return product(bounds, "NCG") * columns * rows

    least = {
        "weights": product(temporal, "KCRSG"),
        "inputs": inputs(temporal),
        "outputs": product(temporal, "NKPQG"),
        "buffer_weights": product(padded, "KCRSG"),
        "buffer_inputs": inputs(padded),
        "buffer_outputs": product(padded, "NKPQG"),
    }
    return np.stack([least[name] for name in FILLS], axis=1)
