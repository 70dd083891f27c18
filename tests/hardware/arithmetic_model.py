"""Cost models of someone's own, by arithmetic: exact in float32, infeasible on demand."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from dance_tf.structs import Cost

__all__ = ["ArithmeticModel", "DetailedModel"]


class ArithmeticModel:
    """Totals only, as a measured table has them; counts its calls."""

    def __init__(self, *, scale: float = 1.0, infeasible_kernel: int | None = None) -> None:
        self.scale, self.infeasible_kernel, self.num_calls = scale, infeasible_kernel, 0

    @property
    def fingerprint(self) -> str:
        return json.dumps([self.scale, self.infeasible_kernel])

    def __call__(self, layers, accelerators):
        self.num_calls += 1
        macs = np.asarray([layer.macs for layer in layers], np.float64)[:, None]
        pes = np.asarray(accelerators.pe_x * accelerators.pe_y, np.float64)
        cycles = self.scale * macs * 1024 / pes
        # A large filter does not run on the last dataflow.
        kernel = np.asarray([layer.S for layer in layers])[:, None]
        is_blocked = (kernel == self.infeasible_kernel) & (np.asarray(accelerators.dataflow) == 2)
        cycles = np.where(is_blocked, np.inf, cycles)
        energy = np.where(is_blocked, np.inf, macs * 1e3 + cycles)
        return Cost(latency_cycles=cycles, energy_pj=energy, area_um2=pes * 2e3)


class _Detailed(NamedTuple):
    latency_cycles: Any
    compute_cycles: Any
    energy_by_component_pj: Any
    bound_by: Any
    area_um2: Any


class DetailedModel(ArithmeticModel):
    """The same totals with their parts, as the loop-nest model has them."""

    def detailed(self, layers, accelerators):
        cost = self(layers, accelerators)
        shares = np.asarray([0.5, 0.25, 0.125, 0.0625, 0.0625])[:, None, None]
        can_run = np.isfinite(cost.latency_cycles)
        row = np.arange(len(layers))[:, None]
        return _Detailed(
            latency_cycles=cost.latency_cycles,
            compute_cycles=cost.latency_cycles / 2,
            energy_by_component_pj=shares * cost.energy_pj,
            bound_by=np.where(can_run, row % 4, -1),
            area_um2=cost.area_um2,
        )
