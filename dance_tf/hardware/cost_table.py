"""Best-mapping cost of every (block, op) cell on every accelerator, cached on disk.

Latency and energy of a chain network are sums over its layers and area depends on the
accelerator alone, so this table makes the exact cost of any network of the space, one-hot
or mixed, a matrix product. Infeasible cells are infinite.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from dance_tf.config import HardwareConfig, MachineConfig
from dance_tf.errors import UserError
from dance_tf.hardware.accelerator import AcceleratorSpace
from dance_tf.hardware.mapper import LoopNestCostModel
from dance_tf.hardware.objective import EDAP
from dance_tf.hardware.workload import layer_key, to_workload
from dance_tf.protocols import CostModel, SearchSpace
from dance_tf.structs import Layer

__all__ = ["CostTable", "default_cache_dir", "load_or_build_table"]

_FORMAT = 1
_ARRAYS = (
    "latency_ms",
    "energy_mj",
    "fixed_latency_ms",
    "fixed_energy_mj",
    "area_mm2",
)


class CostTable:
    """Exact cost of every network of a space on every accelerator.

    Attributes:
        space: The network space.
        accelerators: The accelerator space, A rows.
        machine: What all accelerators share.
        content_hash: SHA-256 of everything that determines the numbers.
        latency_ms: float32 [D, O, A]; 0 for Zero and for ops that a block does not have.
        energy_mj: float32 [D, O, A].
        fixed_latency_ms: float32 [A], of the layers that every network has.
        fixed_energy_mj: float32 [A].
        area_mm2: float32 [A].
        num_cost_model_calls: How many (layer, accelerator) pairs were costed to build it.
    """

    def __init__(
        self,
        space: SearchSpace,
        accelerators: AcceleratorSpace,
        machine: MachineConfig,
        content_hash: str,
        arrays: dict[str, np.ndarray],
        num_cost_model_calls: int,
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
        self.num_cost_model_calls = num_cost_model_calls
        # One matrix [A, 2, 1 + D * O] for both metrics: column 0 is the fixed layers.
        cells = np.stack([self.latency_ms, self.energy_mj]).reshape(2, -1, len(accelerators))
        fixed = np.stack([self.fixed_latency_ms, self.fixed_energy_mj])[:, None]
        matrix = np.concatenate([fixed, cells], axis=1).transpose(2, 0, 1)
        finite = np.isfinite(matrix)
        self._matrix = tf.constant(np.where(finite, matrix, 0.0), tf.float32)
        self._infeasible = None if finite.all() else tf.constant(~finite, tf.float32)
        self._area = tf.constant(self.area_mm2)

    def expected_metrics(self, mixture_weights: Any) -> tf.Tensor:
        """Return the expected metrics on every accelerator.

        Args:
            mixture_weights: float32 [B, D, O]; one-hot rows give the exact metrics.
        Returns:
            float32 [B, A, 3] in the order of structs.METRICS; latency and energy are
            linear in the weights; infinite where an op with weight cannot run.
        """
        rows = self._rows(mixture_weights)
        metrics = tf.einsum("bc,amc->bam", rows, self._matrix)
        if self._infeasible is not None:
            blocked = tf.einsum("bc,amc->bam", rows, self._infeasible) > 0
            metrics = tf.where(blocked, tf.fill(tf.shape(metrics), np.float32(np.inf)), metrics)
        area = tf.broadcast_to(self._area[None, :, None], tf.shape(metrics[..., :1]))
        return tf.concat([metrics, area], axis=-1)

    def metrics_at(self, mixture_weights: Any, accelerator_index: Any) -> tf.Tensor:
        """Return the expected metrics, float32 [B, 3], each at one accelerator, int [B]."""
        rows = self._rows(mixture_weights)
        metrics = tf.einsum("bc,bmc->bm", rows, tf.gather(self._matrix, accelerator_index))
        if self._infeasible is not None:
            infeasible = tf.gather(self._infeasible, accelerator_index)
            blocked = tf.einsum("bc,bmc->bm", rows, infeasible) > 0
            metrics = tf.where(blocked, tf.fill(tf.shape(metrics), np.float32(np.inf)), metrics)
        return tf.concat([metrics, tf.gather(self._area, accelerator_index)[:, None]], axis=-1)

    def metrics_of(self, op_indices: Any) -> tf.Tensor:
        """Return the exact metrics, float32 [B, A, 3], of op indices, int [B, D]."""
        return self.expected_metrics(self.one_hot(op_indices))

    def one_hot(self, op_indices: Any) -> tf.Tensor:
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

    def latency_cycles(self, latency_ms: Any) -> Any:
        """Return cycles of the machine's clock."""
        return latency_ms * self.machine.cycles_per_ms

    def _rows(self, mixture_weights: Any) -> tf.Tensor:
        weights = tf.convert_to_tensor(mixture_weights, tf.float32)
        flat = tf.reshape(weights, [tf.shape(weights)[0], int(np.prod(self.latency_ms.shape[:2]))])
        return tf.concat([tf.ones_like(flat[:, :1]), flat], axis=1)


def default_cache_dir() -> pathlib.Path:
    """Return the folder of cached tables: XDG_CACHE_HOME or ~/.cache, and dance_tf in it."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base).expanduser() / "dance_tf"


def load_or_build_table(
    space: SearchSpace,
    hardware: HardwareConfig,
    *,
    cost_model: CostModel | None = None,
    cache_dir: str | os.PathLike | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CostTable:
    """Return the table of a space, from the cache where it has been built before.

    Args:
        space: The network space.
        hardware: Machine and accelerator space.
        cost_model: Any protocols.CostModel; None: the loop-nest model of the machine.
        cache_dir: Folder of cached tables; None: `default_cache_dir()`.
        on_progress: Called with (layers done, layers) while the table is built.
    Raises:
        UserError: If the cached file is corrupted, or some layer runs on no accelerator.
    """
    accelerators = AcceleratorSpace(hardware.accelerators)
    model = LoopNestCostModel(hardware.machine) if cost_model is None else cost_model
    cells = {
        (block, op): space.op_layers(block, name)
        for block in range(space.num_blocks)
        for op, name in enumerate(space.op_names)
        if space.op_mask[block, op]
    }
    content_hash = _content_hash(space, cells, hardware, model)
    folder = default_cache_dir() if cache_dir is None else pathlib.Path(cache_dir).expanduser()
    path = folder / f"table_{content_hash[:16]}.npz"
    if path.exists():
        arrays, num_calls = _read(path, content_hash, space, len(accelerators))
    else:
        arrays, num_calls = _build(space, cells, accelerators, hardware, model, on_progress)
        _write(path, arrays, content_hash, num_calls)
    return CostTable(space, accelerators, hardware.machine, content_hash, arrays, num_calls)


def _content_hash(
    space: SearchSpace,
    cells: dict[tuple[int, int], tuple[Layer, ...]],
    hardware: HardwareConfig,
    model: CostModel,
) -> str:
    content = {
        "format": _FORMAT,
        "op_names": list(space.op_names),
        "fixed": [layer_key(layer) for layer in space.fixed_layers()],
        "cells": [[key, [layer_key(layer) for layer in layers]] for key, layers in cells.items()],
        "accelerators": vars(hardware.accelerators),
        "clock_mhz": hardware.machine.clock_mhz,
        "model": model.fingerprint,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _build(
    space: SearchSpace,
    cells: dict[tuple[int, int], tuple[Layer, ...]],
    accelerators: AcceleratorSpace,
    hardware: HardwareConfig,
    model: CostModel,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, np.ndarray], int]:
    """Cost each different layer once and sum the layers of every cell."""
    fixed = space.fixed_layers()
    every = [*fixed, *(layer for layers in cells.values() for layer in layers)]
    different = list({layer_key(layer): layer for layer in every}.values())
    row = {layer_key(layer): index for index, layer in enumerate(different)}
    # Progress is an extra of our model; the protocol does not ask for it.
    extra = {"on_progress": on_progress} if isinstance(model, LoopNestCostModel) else {}
    cost = model(to_workload(different), accelerators.all(), **extra)
    latency_ms = np.asarray(cost.latency_cycles, np.float64) / hardware.machine.cycles_per_ms
    energy_mj = np.asarray(cost.energy_pj, np.float64) * 1e-9
    for layer, metrics in zip(different, latency_ms, strict=True):
        if not np.isfinite(metrics).any():
            raise UserError(f"layer {layer.name!r} {layer.dims} can run on no accelerator")

    def total(metrics: np.ndarray, layers: tuple[Layer, ...]) -> np.ndarray:
        return sum(
            (metrics[row[layer_key(layer)]] for layer in layers), np.zeros(len(accelerators))
        )

    shape = (space.num_blocks, len(space.op_names), len(accelerators))
    arrays = {
        "latency_ms": np.zeros(shape, np.float32),
        "energy_mj": np.zeros(shape, np.float32),
        "fixed_latency_ms": total(latency_ms, fixed).astype(np.float32),
        "fixed_energy_mj": total(energy_mj, fixed).astype(np.float32),
        "area_mm2": (np.asarray(cost.area_um2, np.float64) * 1e-6).astype(np.float32),
    }
    for (block, op), layers in cells.items():
        arrays["latency_ms"][block, op] = total(latency_ms, layers)
        arrays["energy_mj"][block, op] = total(energy_mj, layers)
    return arrays, len(different) * len(accelerators)


def _write(
    path: pathlib.Path, arrays: dict[str, np.ndarray], content_hash: str, num_calls: int
) -> None:
    """Write aside and rename, so that no reader ever sees half a table; a SHA-256 ends the file."""
    header = {"content_hash": content_hash, "calls": num_calls}
    buffer = io.BytesIO()
    named: dict[str, Any] = {
        **arrays,
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
    }
    np.savez(buffer, **named)
    body = buffer.getvalue()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".partial")
    except OSError as error:
        raise UserError(f"cannot write the table cache {path.parent}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body + hashlib.sha256(body).digest())
        os.replace(aside, path)
    except BaseException:
        pathlib.Path(aside).unlink(missing_ok=True)
        raise


def _read(
    path: pathlib.Path, content_hash: str, space: SearchSpace, num_accelerators: int
) -> tuple[dict[str, np.ndarray], int]:
    refusal = UserError(f"the cached cost table {path} is corrupted; delete it to build it anew")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the cached cost table {path}: {error.strerror}") from None
    body, digest = content[:-32], content[-32:]
    # The digest comes first: parsers of damaged archives raise all kinds of errors.
    if hashlib.sha256(body).digest() != digest:
        raise refusal
    with np.load(io.BytesIO(body), allow_pickle=False) as file:
        arrays = {name: file[name] for name in _ARRAYS}
        header = json.loads(file["header"].tobytes())
    shape = (space.num_blocks, len(space.op_names), num_accelerators)
    if header["content_hash"] != content_hash or arrays["latency_ms"].shape != shape:
        raise refusal
    return arrays, int(header["calls"])
