"""Best-mapping cost of every (block, op) cell on every accelerator, kept on disk.

Latency and energy of a chain network are sums over its layers and area depends on the
accelerator alone, so this table makes the exact cost of any network of the space, one-hot
or mixed, a matrix product. Infeasible cells are infinite. Numbers are stored in float32,
added in float64 and rounded once.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from dance_tf.config import HardwareConfig, MachineConfig
from dance_tf.errors import UserError
from dance_tf.files import Json, local_path
from dance_tf.hardware.accelerator import AcceleratorSpace
from dance_tf.hardware.layer_costs import (
    LayerCosts,
    check_layers,
    cost_layers,
    describe_layer,
    has_details,
)
from dance_tf.hardware.layers import layer_key, space_layers
from dance_tf.hardware.loopnest.mapper import LoopNestCostModel
from dance_tf.hardware.measured import MeasuredCostModel
from dance_tf.hardware.objective import EDAP
from dance_tf.hardware.table_store import build_in_parts, read_arrays
from dance_tf.hardware.technology import technology_of
from dance_tf.protocols import CostModel, SearchSpace
from dance_tf.structs import Array, Layer

__all__ = [
    "CostTable",
    "cost_source",
    "default_cache_dir",
    "load_or_build_table",
    "make_cost_model",
]


def make_cost_model(hardware: HardwareConfig) -> LoopNestCostModel | MeasuredCostModel:
    """Return the cost model that a configuration asks for; a protocols.CostModel.

    Raises:
        UserError: If the technology or the measured table cannot be used.
    """
    if hardware.measured_csv is not None:
        return MeasuredCostModel(hardware.measured_csv, hardware.machine)
    return LoopNestCostModel(hardware.machine)


def cost_source(hardware: HardwareConfig) -> dict[str, Json]:
    """Return what a record of a result says of its costs.

    `kind` is "loop_nest" or "measured", `name` that of the technology or the path of the
    measured table, `sha256` the hash of what it says.

    Raises:
        UserError: If the technology or the measured table cannot be used.
    """
    if hardware.measured_csv is not None:
        model = MeasuredCostModel(hardware.measured_csv, hardware.machine)
        return {
            "kind": "measured",
            "name": hardware.measured_csv,
            "sha256": model.sha256,
        }
    return {
        "kind": "loop_nest",
        "name": hardware.machine.technology,
        "sha256": technology_of(hardware.machine).sha256,
    }


_FORMAT = 2

# Layers per part of a build: what a killed build loses at most.
_PART = 2

# Cells of a table by (block, op).
_Cells = dict[tuple[int, int], tuple[Layer, ...]]


class CostTable:
    """Exact cost of every network of a space on every accelerator.

    `load_or_build_table` makes one.

    >>> from dance_tf import load_or_build_table, make_space
    >>> from dance_tf.config import AcceleratorSpaceConfig, HardwareConfig, SpaceConfig
    >>> accelerators = AcceleratorSpaceConfig((8,), (8,), (64,), ("row_stationary",))
    >>> space = make_space(SpaceConfig("tiny_mbconv"))
    >>> table = load_or_build_table(space, HardwareConfig(accelerators=accelerators))
    >>> latency_ms, energy_mj, area_mm2 = table.metrics_of(space.sample(1, seed=0))[0, 0].numpy()
    >>> print(f"{latency_ms:.3f} ms, {energy_mj:.4f} mJ, {area_mm2:.2f} mm2")
    0.027 ms, 0.0057 mJ, 0.82 mm2

    Attributes:
        space: The network space.
        accelerators: The accelerator space, A rows.
        machine: Memories, clock and technology that all accelerators share.
        content_hash: SHA-256 of everything that determines the numbers.
        latency_ms: float32 [D, O, A]; 0 for Zero and for ops that a block does not have.
        energy_mj: float32 [D, O, A].
        fixed_latency_ms: float32 [A], of the layers that every network has.
        fixed_energy_mj: float32 [A].
        area_mm2: float32 [A].
        layers: LayerCosts of the different layers in float32, in the order of
            `layer_rows`; None in a table that was not made from layers.
        layer_rows: Row in `layers` by layers.layer_key.
        num_cost_model_calls: Number of (layer, accelerator) pairs that were costed to build it.
        was_built: Whether this process built it, rather than finding it on disk.
    """

    def __init__(
        self,
        space: SearchSpace,
        accelerators: AcceleratorSpace,
        machine: MachineConfig,
        content_hash: str,
        arrays: Mapping[str, np.ndarray],
        num_cost_model_calls: int,
        *,
        was_built: bool = False,
        layers: LayerCosts | None = None,
        layer_rows: Mapping[tuple[int, ...], int] | None = None,
    ) -> None:
        self.space = space
        self.accelerators = accelerators
        self.machine = machine
        self.content_hash = content_hash
        self.latency_ms = arrays["latency_ms"]
        self.energy_mj = arrays["energy_mj"]
        self.fixed_latency_ms = arrays["fixed_latency_ms"]
        self.fixed_energy_mj = arrays["fixed_energy_mj"]
        self.area_mm2 = arrays["area_mm2"]
        self.layers = layers
        self.layer_rows = dict(layer_rows or {})
        self.num_cost_model_calls = num_cost_model_calls
        self.was_built = was_built
        # One matrix [A, 2, 1 + D * O] for both metrics, in the order of `columns`.
        matrix = np.stack(self.columns(), axis=1).transpose(2, 1, 0).astype(np.float64)
        finite = np.isfinite(matrix)
        self._matrix = tf.constant(np.where(finite, matrix, 0.0))
        self._infeasible = None if finite.all() else tf.constant(~finite, tf.float64)
        self._area = tf.constant(np.asarray(self.area_mm2, np.float32))

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Return latency_ms and energy_mj, float32 [1 + D * O, A]; row 0 is the fixed layers."""
        fixed = (self.fixed_latency_ms, self.fixed_energy_mj)
        cells = (self.latency_ms, self.energy_mj)
        latency_ms, energy_mj = (
            np.concatenate([always[None], cell.reshape(-1, len(self.accelerators))])
            for always, cell in zip(fixed, cells, strict=True)
        )
        return latency_ms, energy_mj

    def as_weights(self, mixture_weights: Array) -> tf.Tensor:
        """Return mixture weights as a tensor, float32 [B, D, O].

        Raises:
            ValueError: If they are of another shape.
        """
        weights = tf.convert_to_tensor(mixture_weights, tf.float32)
        num_blocks, num_ops, _ = self.latency_ms.shape
        if not weights.shape.is_compatible_with((None, num_blocks, num_ops)):
            raise ValueError(
                f"mixture weights have shape {tuple(weights.shape)},"
                f" not [B, {num_blocks}, {num_ops}]"
            )
        return weights

    def expected_metrics(self, mixture_weights: Array) -> tf.Tensor:
        """Return the expected metrics on every accelerator.

        Args:
            mixture_weights: float32 [B, D, O]; one-hot rows give the exact metrics.
        Returns:
            float32 [B, A, 3] in the order of structs.METRICS; latency and energy are
            linear in the weights; infinite where an op with weight cannot run.
        """
        rows = self._rows(mixture_weights)
        sums = tf.einsum("bc,amc->bam", rows, self._matrix)
        blocked = None
        if self._infeasible is not None:
            blocked = tf.einsum("bc,amc->bam", rows, self._infeasible) > 0
        sums = _rounded(sums, blocked)
        area = tf.broadcast_to(self._area[None, :, None], tf.shape(sums[..., :1]))
        return tf.concat([sums, area], axis=-1)

    def metrics_at(self, mixture_weights: Array, accelerator_index: Array) -> tf.Tensor:
        """Return the expected metrics, float32 [B, 3], each at one accelerator, int [B]."""
        rows = self._rows(mixture_weights)
        sums = tf.einsum("bc,bmc->bm", rows, tf.gather(self._matrix, accelerator_index))
        blocked = None
        if self._infeasible is not None:
            infeasible = tf.gather(self._infeasible, accelerator_index)
            blocked = tf.einsum("bc,bmc->bm", rows, infeasible) > 0
        area = tf.gather(self._area, accelerator_index)[:, None]
        return tf.concat([_rounded(sums, blocked), area], axis=-1)

    def metrics_of(self, op_indices: Array) -> tf.Tensor:
        """Return the exact metrics, float32 [B, A, 3], of op indices, int [B, D]."""
        return self.expected_metrics(self.one_hot(op_indices))

    def one_hot(self, op_indices: Array) -> tf.Tensor:
        """Return op indices, int [B, D], as mixture weights, float32 [B, D, O]."""
        return tf.one_hot(op_indices, len(self.space.op_names), dtype=tf.float32)

    @functools.cached_property
    def reference(self) -> np.ndarray:
        """Metrics that normalise objectives: the uniform mixture on its EDAP-best accelerator."""
        mask = np.asarray(self.space.op_mask, np.float32)
        uniform = mask / mask.sum(axis=1, keepdims=True)
        with tf.init_scope():  # a value, even where it is first asked for inside a tf.function
            metrics = self.expected_metrics(uniform[None])[0]
            return metrics.numpy()[int(tf.argmin(EDAP(metrics, np.ones(3, np.float32))))]

    def latency_cycles(self, latency_ms: float) -> float:
        """Return cycles of the machine's clock."""
        return latency_ms * self.machine.cycles_per_ms

    def layer_costs(self, layers: Sequence[Layer], accelerator_index: int) -> list[dict[str, Json]]:
        """Return the cost of layers of the space on one accelerator, as plain JSON data.

        Args:
            layers: Layers of the space, such as `space.layers(architecture)`.
            accelerator_index: Row of the accelerator space.
        Returns:
            An entry per layer; see layer_costs.describe_layer.
        Raises:
            UserError: If a layer is not in the table or cannot run on the accelerator.
        """
        accelerator, entries = self.accelerators.decode(accelerator_index), []
        for layer in layers:
            row = self.layer_rows.get(layer_key(layer))
            if row is None or self.layers is None:
                raise UserError(f"layer {layer.name!r} {layer.dims} is not in the cost table")
            position = (row, accelerator_index)
            entries.append(describe_layer(layer, self.layers, position, accelerator, self.machine))
        return entries

    def _rows(self, mixture_weights: Array) -> tf.Tensor:
        """Return what multiplies the rows of `columns`, float64 [B, 1 + D * O]."""
        weights = tf.cast(self.as_weights(mixture_weights), tf.float64)
        num_cells = self.latency_ms.shape[0] * self.latency_ms.shape[1]
        flat = tf.reshape(weights, [tf.shape(weights)[0], num_cells])
        return tf.concat([tf.ones_like(flat[:, :1]), flat], axis=1)


def _rounded(sums: tf.Tensor, blocked: tf.Tensor | None) -> tf.Tensor:
    """Return sums in float32, infinite where `blocked`; gradients pass where they are not."""
    sums = tf.cast(sums, tf.float32)
    if blocked is None:
        return sums
    return tf.where(blocked, tf.fill(tf.shape(sums), np.float32(np.inf)), sums)


def default_cache_dir() -> pathlib.Path:
    """Return the folder of cached tables: XDG_CACHE_HOME or ~/.cache, and dance_tf in it."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(local_path(base, "the default of --cache_dir,"), "dance_tf")


def load_or_build_table(
    space: SearchSpace,
    hardware: HardwareConfig,
    *,
    cost_model: CostModel | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CostTable:
    """Return the table of a space, from the cache where it has been built before.

    A build that was killed goes on from its finished layers, and processes that want the
    same table wait for the one that builds it.

    >>> import dance_tf
    >>> from dance_tf.structs import Cost
    >>> class OneMacPerCycle:  # a cost model of one's own; None takes the loop-nest model
    ...     fingerprint = "one MAC per PE and cycle, 1 pJ each"
    ...     def __call__(self, layers, accelerators):
    ...         num_pes = accelerators.pe_x * accelerators.pe_y
    ...         macs = np.array([[layer.macs] for layer in layers])
    ...         return Cost(macs / num_pes, np.repeat(macs, len(num_pes), 1), num_pes * 1e3)
    >>> config = dance_tf.preset("tiny")
    >>> space = dance_tf.make_space(config.space)
    >>> table = load_or_build_table(space, config.hardware, cost_model=OneMacPerCycle())
    >>> networks = space.sample(2, seed=0)
    >>> table.metrics_of(networks).shape  # networks, accelerators, METRICS
    TensorShape([2, 54, 3])

    Args:
        space: The network space.
        hardware: Machine and accelerator space.
        cost_model: Source of the costs; None: the one that `hardware` asks for.
        cache_dir: Folder of cached tables; None: `default_cache_dir()`.
        on_progress: Called with (layers done, layers) while the table is built.
    Raises:
        UserError: If a cached file is corrupted, if some layer runs on no accelerator, or
            if the folder cannot be written.
    """
    accelerators = AcceleratorSpace(hardware.accelerators)
    model = make_cost_model(hardware) if cost_model is None else cost_model
    cells: _Cells = {
        (block, op): space.op_layers(block, name)
        for block in range(space.num_blocks)
        for op, name in enumerate(space.op_names)
        if space.op_mask[block, op]
    }
    content = _content(space, cells, hardware, model)
    content_hash = _content_hash(content)
    facts = {"content_hash": content_hash, "content": content}
    if cache_dir is None:
        cache_dir = default_cache_dir()
    folder = pathlib.Path(local_path(cache_dir, "--cache_dir"))
    path = folder / f"table_{content_hash[:16]}"

    different = space_layers(space)
    layer_rows = {layer_key(layer): row for row, layer in enumerate(different)}

    def compute(part: int) -> dict[str, np.ndarray]:
        layers = different[part * _PART : (part + 1) * _PART]
        costs, area_um2 = cost_layers(model, layers, accelerators.all())
        arrays = {name: array for name, array in costs._asdict().items() if array is not None}
        return {**arrays, "area_um2": area_um2}

    def report(num_parts_done: int) -> None:
        if on_progress is not None:
            on_progress(min(num_parts_done * _PART, len(different)), len(different))

    arrays, was_built = read_arrays(path, facts), False
    if arrays is None:
        check_layers(model, different, accelerators.all())
        was_built = build_in_parts(
            path,
            facts,
            num_parts=-(-len(different) // _PART),
            compute=compute,
            assemble=lambda parts: _assemble(parts, space, cells, layer_rows, hardware.machine),
            on_progress=report,
        )
        arrays = read_arrays(path, facts)
    if arrays is None:
        raise UserError(f"the cached cost table {path} has just been deleted: try again")
    of_layers = LayerCosts._make(arrays.get(f"layer_{name}") for name in LayerCosts._fields)
    return CostTable(
        space,
        accelerators,
        hardware.machine,
        content_hash,
        arrays,
        len(different) * len(accelerators),
        was_built=was_built,
        layers=of_layers,
        layer_rows=layer_rows,
    )


def _content(
    space: SearchSpace, cells: _Cells, hardware: HardwareConfig, model: CostModel
) -> dict[str, Json]:
    """Return everything that determines a table, as JSON data."""
    return {
        "format": _FORMAT,
        "op_names": list(space.op_names),
        "fixed": [layer_key(layer) for layer in space.fixed_layers()],
        "cells": [[key, [layer_key(layer) for layer in layers]] for key, layers in cells.items()],
        "accelerators": vars(hardware.accelerators),
        "clock_mhz": hardware.machine.clock_mhz,
        "model": model.fingerprint,
        "has_details": has_details(model),
    }


def _content_hash(content: Mapping[str, Json]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _assemble(
    parts: Sequence[Mapping[str, np.ndarray]],
    space: SearchSpace,
    cells: _Cells,
    layer_rows: Mapping[tuple[int, ...], int],
    machine: MachineConfig,
) -> dict[str, np.ndarray]:
    """Sum the layers of every cell, in float64, and round everything to float32."""
    names = [name for name in LayerCosts._fields if name in parts[0]]
    costs = {name: np.concatenate([part[name] for part in parts]) for name in names}
    area_mm2 = np.asarray(parts[0]["area_um2"]) * 1e-6
    metrics = {
        "latency_ms": costs["latency_cycles"] / machine.cycles_per_ms,
        "energy_mj": costs["energy_pj"] * 1e-9,
    }
    arrays: dict[str, np.ndarray] = {"area_mm2": area_mm2.astype(np.float32)}
    for name, of_layer in metrics.items():

        def total(layers: Sequence[Layer], of_layer: np.ndarray = of_layer) -> np.ndarray:
            nothing = np.zeros(len(area_mm2))
            return sum((of_layer[layer_rows[layer_key(layer)]] for layer in layers), nothing)

        shape = (space.num_blocks, len(space.op_names), len(area_mm2))
        arrays[name] = np.zeros(shape, np.float32)
        for cell, layers in cells.items():
            arrays[name][cell] = total(layers)
        arrays[f"fixed_{name}"] = total(space.fixed_layers()).astype(np.float32)
    for name, values in costs.items():
        is_code = values.dtype == np.int8
        arrays[f"layer_{name}"] = values if is_code else values.astype(np.float32)
    return arrays
