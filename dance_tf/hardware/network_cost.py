"""Cost of layers that run one after the other, on every accelerator of a space at once."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dance_tf.hardware.accelerator import AcceleratorSpace, accelerator_to_json
from dance_tf.hardware.layer_costs import cost_layers
from dance_tf.hardware.layers import layer_key
from dance_tf.hardware.objective import EDAP, Limits, Objective
from dance_tf.hardware.oracle import pareto_front, rank_accelerators
from dance_tf.protocols import CostModel
from dance_tf.structs import METRICS, Layer

__all__ = ["NetworkCost", "network_cost"]

# Layers between two reports of progress.
_PART = 8


@dataclasses.dataclass(frozen=True)
class NetworkCost:
    """Exact cost of one network on every accelerator; infinite where it cannot run.

    Attributes:
        accelerators: The accelerator space, A rows.
        latency_cycles: float64 [A].
        energy_pj: float64 [A].
        metrics: float64 [A, 3], in the order of structs.METRICS.
    """

    accelerators: AcceleratorSpace
    latency_cycles: np.ndarray
    energy_pj: np.ndarray
    metrics: np.ndarray

    @property
    def reference(self) -> np.ndarray:
        """Metrics that normalise objectives, [3]: of the network on its EDAP-best accelerator."""
        return self.metrics[rank_accelerators(self.metrics, EDAP, np.ones(3))[0]]

    def best(
        self, objective: Objective = EDAP, limits: Limits | None = None, top_k: int = 1
    ) -> list[dict[str, Any]]:
        """Return the best accelerators with their metrics, best first, as plain JSON data.

        Raises:
            UserError: If the network runs nowhere, or nowhere within the limits.
        """
        rows = rank_accelerators(self.metrics, objective, self.reference, limits, top_k)
        return self._entries(rows, objective)

    def pareto(self, objective: Objective = EDAP) -> list[dict[str, Any]]:
        """Return the accelerators that no other beats in all three metrics, fastest first."""
        return self._entries(pareto_front(self.metrics), objective)

    def _entries(self, rows: np.ndarray, objective: Objective) -> list[dict[str, Any]]:
        values = np.asarray(objective(self.metrics[rows], self.reference)).tolist()
        return [
            {
                **accelerator_to_json(self.accelerators.decode(row)),
                **dict(zip(METRICS, self.metrics[row].tolist(), strict=True)),
                "latency_cycles": float(self.latency_cycles[row]),
                "energy_pj": float(self.energy_pj[row]),
                "area_um2": float(self.metrics[row, 2] * 1e6),
                "objective": value,
            }
            for row, value in zip(rows.tolist(), values, strict=True)
        ]


def network_cost(
    layers: Sequence[Layer],
    accelerators: AcceleratorSpace,
    model: CostModel,
    cycles_per_ms: float,
    on_progress: Callable[[int, int], None] | None = None,
) -> NetworkCost:
    """Return the cost of a network on every accelerator.

    Args:
        layers: At least one; those of equal shape are costed once.
        accelerators: The accelerator space.
        model: Where the costs come from.
        cycles_per_ms: Of the machine's clock.
        on_progress: Called with (layers done, layers of different shape) now and then.
    Raises:
        UserError: If a layer runs on no accelerator.
    """
    different = {layer_key(layer): layer for layer in layers}
    times = Counter(map(layer_key, layers))
    cycles, energy_pj = np.zeros(len(accelerators)), np.zeros(len(accelerators))
    area_um2 = np.zeros(len(accelerators))
    keys, rows = list(different), accelerators.all()
    for start in range(0, len(keys), _PART):
        part = keys[start : start + _PART]
        costs, area_um2 = cost_layers(model, [different[key] for key in part], rows)
        weights = np.asarray([times[key] for key in part], np.float64)
        cycles += weights @ costs.latency_cycles
        energy_pj += weights @ costs.energy_pj
        if on_progress is not None and len(keys) > _PART:
            on_progress(start + len(part), len(keys))
    metrics = np.stack([cycles / cycles_per_ms, energy_pj * 1e-9, area_um2 * 1e-6], axis=1)
    return NetworkCost(accelerators, cycles, energy_pj, metrics)
