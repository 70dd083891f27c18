"""The best mapping of every (layer, accelerator), exhaustive within the mapspace.

The counts of a mapping do not depend on the array's sides, only on the sides that it
uses and on the register file that it needs. So each mapping is evaluated once, the
best of each spread and register-file size is kept, and the best of an accelerator is
the best of the spreads that its sides allow.

Ties go to the first mapping in the order of enumeration, so results are repeatable.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.hardware import cost_model
from dance_tf.hardware.access_counts import count_accesses
from dance_tf.hardware.mapping import SHARED_LEVELS, Level, Mapping, MappingBatch
from dance_tf.hardware.mapspace import RULES, MappingTable, Spread, enumerate_mappings, spreads
from dance_tf.hardware.technology import technology
from dance_tf.structs import DATAFLOWS, DIMENSIONS, Accelerator, Accelerators, Cost, Layer, Workload

__all__ = ["MODEL_VERSION", "BestMapping", "LoopNestCostModel", "best_mapping"]

#: Part of the key of cached tables; raise it whenever the model's numbers change.
MODEL_VERSION = 1

# Mappings per call of the compiled function: small enough for the caches.
_CHUNK = 16_384
_NUM_SLOTS = 12  # 5 of DRAM, 7 of the global buffer


class BestMapping(NamedTuple):
    """The best mapping of one layer on one accelerator."""

    mapping: Mapping
    padded_layer: Layer  # what the mapping multiplies out to
    cycles: float
    energy_pj: float


@dataclasses.dataclass(frozen=True)
class LoopNestCostModel:
    """Cost of layers under their best mappings; a protocols.CostModel.

    The best mapping minimises `machine.mapping_objective` per layer and accelerator.
    """

    machine: MachineConfig = dataclasses.field(default_factory=MachineConfig)

    def __post_init__(self) -> None:
        technology(self.machine.technology).global_buffer_area_um2(self.machine.global_buffer_kib)
        if self.machine.rf_mode != "shared":
            raise UserError("the mapspaces are for rf_mode = shared; split files need a mapping")

    @property
    def fingerprint(self) -> str:
        """Everything that determines the numbers, as text."""
        tech = dataclasses.asdict(technology(self.machine.technology))
        return json.dumps(
            {
                "model": MODEL_VERSION,
                "rule": "strip",
                "machine": dataclasses.asdict(self.machine),
                "technology": tech,
            },
            sort_keys=True,
        )

    def __call__(
        self,
        workload: Workload,
        accelerators: Accelerators,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Cost:
        """Return the cost of every layer on every accelerator.

        Args:
            workload: Layers, fields [L, ...]. Rows of zeros cost nothing.
            accelerators: Fields [A].
            on_progress: Called with (layers done, layers) after each layer.
        Returns:
            latency_cycles and energy_pj, float64 [L, A], infinite where a layer cannot
            run; area_um2, float64 [A].
        """
        dims = np.asarray(workload.dims)
        shape = (len(dims), len(np.asarray(accelerators.pe_x)))
        cycles, energy = np.zeros(shape), np.zeros(shape)
        for index in range(len(dims)):
            if dims[index].any():
                layer = _layer_of_row(workload, index)
                for code, dataflow in enumerate(DATAFLOWS):
                    rows = np.flatnonzero(np.asarray(accelerators.dataflow) == code)
                    if rows.size:
                        part = Accelerators(*(np.asarray(f)[rows] for f in accelerators))
                        winners = _search(layer, dataflow, part, self.machine)
                        cycles[index, rows] = winners.cycles
                        energy[index, rows] = winners.energy_pj
            if on_progress is not None:
                on_progress(index + 1, len(dims))
        area = cost_model.accelerator_area_um2(
            accelerators.pe_x,
            accelerators.pe_y,
            self.machine.rf_words(np.asarray(accelerators.rf_bytes)),
            self.machine,
        )
        return Cost(latency_cycles=cycles, energy_pj=energy, area_um2=area)


def best_mapping(layer: Layer, accelerator: Accelerator, machine: MachineConfig) -> BestMapping:
    """Return the best mapping of one layer on one accelerator.

    Raises:
        UserError: If the accelerator cannot run the layer.
    """
    single = Accelerators(
        pe_x=np.asarray([accelerator.pe_x]),
        pe_y=np.asarray([accelerator.pe_y]),
        rf_bytes=np.asarray([accelerator.rf_bytes]),
        dataflow=np.asarray([DATAFLOWS.index(accelerator.dataflow)]),
    )
    winners = _search(layer, accelerator.dataflow, single, machine)
    if not np.isfinite(winners.cycles[0]):
        raise UserError(
            f"layer {layer.name!r} cannot run on {accelerator.pe_x}x{accelerator.pe_y}"
            f" {accelerator.dataflow} with {accelerator.rf_bytes} B: no mapping fits"
        )
    spread, table, column = winners.source[0]
    return BestMapping(
        mapping=_as_mapping(accelerator.dataflow, spread, table, column),
        padded_layer=dataclasses.replace(
            layer, **dict(zip(DIMENSIONS, spread.padded_dims, strict=True))
        ),
        cycles=float(winners.cycles[0]),
        energy_pj=float(winners.energy_pj[0]),
    )


class _Winners(NamedTuple):
    cycles: np.ndarray  # [A]
    energy_pj: np.ndarray  # [A]
    source: list  # [A] of (Spread, MappingTable, column), or None


class _Figures(NamedTuple):
    """What decides between mappings, float64 [M]."""

    cycles: np.ndarray
    fixed_pj: np.ndarray  # energy that does not depend on the register file's size
    rf_accesses: np.ndarray
    wire_hops: np.ndarray


def _search(
    layer: Layer, dataflow: str, accelerators: Accelerators, machine: MachineConfig
) -> _Winners:
    """Find the best mapping of a layer on every accelerator of one dataflow."""
    pe_x, pe_y = np.asarray(accelerators.pe_x), np.asarray(accelerators.pe_y)
    rf_words = machine.rf_words(np.asarray(accelerators.rf_bytes))
    sizes = np.unique(rf_words)
    tech = technology(machine.technology)
    rf_pj = tech.register_file_pj(sizes)
    hop_pj = machine.word_bits * tech.wire_pj_per_bit_mm.value * tech.pe_pitch_mm(sizes)
    all_spreads = spreads(layer, dataflow, np.unique(pe_x).tolist(), np.unique(pe_y).tolist())
    tables = [
        enumerate_mappings(
            layer,
            dataflow,
            spread,
            max_rf_words=int(sizes[-1]),
            global_buffer_words=machine.global_buffer_words,
        )
        for spread in all_spreads
    ]
    figures = _evaluate(layer, dataflow, all_spreads, tables, machine)
    ends = np.cumsum([len(table) for table in tables], dtype=np.int64)

    num = len(pe_x)
    best = np.full(num, np.inf)
    winners = _Winners(np.full(num, np.inf), np.full(num, np.inf), [None] * num)
    for spread, table, end in zip(all_spreads, tables, ends, strict=True):
        if not len(table):
            continue
        part = _Figures(*(f[end - len(table) : end] for f in figures))
        fits_array = np.isin(pe_x, list(spread.pe_x)) & np.isin(pe_y, list(spread.pe_y))
        for size, file_pj, wire_pj in zip(sizes, rf_pj, hop_pj, strict=True):
            rows = np.flatnonzero(fits_array & (rf_words == size))
            if not rows.size:
                continue
            energy = part.fixed_pj + file_pj * part.rf_accesses + wire_pj * part.wire_hops
            score = _score(part.cycles, energy, machine.mapping_objective)
            score = np.where(table.rf_words <= size, score, np.inf)
            column = int(np.argmin(score))
            better = rows[score[column] < best[rows]]
            best[better] = score[column]
            winners.cycles[better] = part.cycles[column]
            winners.energy_pj[better] = energy[column]
            for row in better:
                winners.source[row] = (spread, table, column)
    return winners


def _score(cycles: np.ndarray, energy_pj: np.ndarray, objective: str) -> np.ndarray:
    """Return what the best mapping minimises; equal latencies are decided by energy."""
    if objective == "edp":
        return cycles * energy_pj
    if objective == "energy":
        return energy_pj
    # Cycles are whole numbers, so a fraction below one only breaks ties. 1 J bounds it.
    return cycles + energy_pj / (energy_pj + 1e12)


def _evaluate(
    layer: Layer,
    dataflow: str,
    all_spreads: Sequence[Spread],
    tables: Sequence[MappingTable],
    machine: MachineConfig,
) -> _Figures:
    """Evaluate all mappings of all spreads, in chunks of one compiled function."""
    total = sum(len(table) for table in tables)
    if not total:
        return _Figures(*(np.zeros(0) for _ in range(4)))
    order = [DIMENSIONS.index(name) for name in RULES[dataflow].global_buffer_order]
    slots = tables[0].dram_bound.shape[0]
    padding = -total % _CHUNK
    width = total + padding
    bound = np.ones((_NUM_SLOTS, width), np.int32)
    dim = np.zeros((_NUM_SLOTS, width), np.int32)
    factors = np.ones((3, 7, width), np.int32)
    bound[:slots, :total] = np.concatenate([t.dram_bound for t in tables], axis=1)
    dim[:slots, :total] = np.concatenate([t.dram_dim for t in tables], axis=1)
    bound[-7:, :total] = np.concatenate([t.global_buffer for t in tables], axis=1)
    dim[-7:] = np.asarray(order)[:, None]
    lengths = [len(table) for table in tables]
    factors[0, :, :total] = np.repeat(np.asarray([s.x for s in all_spreads]).T, lengths, axis=1)
    factors[1, :, :total] = np.repeat(np.asarray([s.y for s in all_spreads]).T, lengths, axis=1)
    factors[2, :, :total] = np.concatenate([t.register_file for t in tables], axis=1)
    constants = (
        np.asarray([*layer.stride, *layer.dilation], np.int32),
        np.asarray([layer.kind == "depthwise", dataflow == "row_stationary"]),
    )
    # Objective and clock are applied to what the kernel returns: no reason to compile anew.
    kernel = _kernel(dataclasses.replace(machine, mapping_objective="edp", clock_mhz=1.0))
    parts = [
        kernel(
            bound[:, start : start + _CHUNK],
            dim[:, start : start + _CHUNK],
            factors[:, :, start : start + _CHUNK],
            *constants,
        ).numpy()
        for start in range(0, width, _CHUNK)
    ]
    return _Figures(*np.concatenate(parts, axis=1)[:, :total].astype(np.float64))


@functools.lru_cache(maxsize=8)
def _kernel(machine: MachineConfig) -> Any:
    """Return the compiled evaluation of one chunk; one compilation for all layers."""
    tech = technology(machine.technology)
    read_pj, write_pj = tech.global_buffer_pj(machine.global_buffer_kib, machine.accounting)

    def total(accesses: Any) -> Any:
        return tf.reduce_sum(accesses, axis=0)

    @tf.function(
        jit_compile=True,
        input_signature=(
            tf.TensorSpec([_NUM_SLOTS, _CHUNK], tf.int32),
            tf.TensorSpec([_NUM_SLOTS, _CHUNK], tf.int32),
            tf.TensorSpec([3, 7, _CHUNK], tf.int32),
            tf.TensorSpec([4], tf.int32),
            tf.TensorSpec([2], tf.bool),
        ),
    )
    def evaluate(bound: Any, dim: Any, factors: Any, steps: Any, kind: Any) -> Any:
        batch = MappingBatch(
            bound=bound,
            dim=dim,
            spatial_x=factors[0],
            spatial_y=factors[1],
            inner=factors[2],
            stride=tf.broadcast_to(steps[:2, None], [2, _CHUNK]),
            dilation=tf.broadcast_to(steps[2:, None], [2, _CHUNK]),
            is_depthwise=tf.broadcast_to(kind[0], [_CHUNK]),
        )
        counts = count_accesses(
            batch,
            num_dram_slots=_NUM_SLOTS - 7,
            accounting=machine.accounting,
            dtype=tf.float32,
        )
        fixed_pj = (
            tech.mac_pj.value * counts.macs
            + read_pj * total(counts.global_buffer_reads)
            + write_pj * total(counts.global_buffer_fills + counts.global_buffer_updates)
            + tech.dram_pj.value * total(counts.dram_accesses)
        )
        cycles = tf.reduce_max(cost_model.cycle_terms(counts, machine), axis=0)
        hops = total(cost_model.wire_hops(counts, is_row_stationary=kind[1]))
        return tf.stack([cycles, fixed_pj, total(counts.rf_accesses), hops])

    return evaluate


def _as_mapping(dataflow: str, spread: Spread, table: MappingTable, column: int) -> Mapping:
    def loops(names: Sequence[str], bounds: Any) -> tuple[tuple[str, int], ...]:
        return tuple((n, int(b)) for n, b in zip(names, bounds, strict=True) if b > 1)

    dram_names = [DIMENSIONS[dim] for dim in table.dram_dim[:, column]]
    shared = Level(
        "global_buffer",
        loops(RULES[dataflow].global_buffer_order, table.global_buffer[:, column]),
        loops(DIMENSIONS, spread.x),
        loops(DIMENSIONS, spread.y),
    )
    return Mapping(
        (
            Level(SHARED_LEVELS[0], loops(dram_names, table.dram_bound[:, column])),
            shared,
            Level(SHARED_LEVELS[2], loops(DIMENSIONS, table.register_file[:, column])),
        )
    )


def _layer_of_row(workload: Workload, index: int) -> Layer:
    dims: Any = zip(DIMENSIONS, np.asarray(workload.dims)[index].tolist(), strict=True)
    stride, dilation = np.asarray(workload.stride)[index], np.asarray(workload.dilation)[index]
    return Layer(
        name=f"layer {index}",
        kind="depthwise" if np.asarray(workload.is_depthwise)[index] else "conv",
        **dict(dims),
        stride=(int(stride[0]), int(stride[1])),
        dilation=(int(dilation[0]), int(dilation[1])),
    )
