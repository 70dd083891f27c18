"""Where the costs of a configuration come from: the loop-nest model, or a measured table."""

from __future__ import annotations

from typing import Any

from dance_tf.config import HardwareConfig
from dance_tf.hardware.mapper import LoopNestCostModel
from dance_tf.hardware.measured import MeasuredCostModel
from dance_tf.hardware.technology import technology_of

__all__ = ["cost_source", "make_cost_model"]


def make_cost_model(hardware: HardwareConfig) -> LoopNestCostModel | MeasuredCostModel:
    """Return the cost model that a configuration asks for; a protocols.CostModel.

    Raises:
        UserError: If the technology or the measured table cannot be used.
    """
    if hardware.measured_csv is not None:
        return MeasuredCostModel(hardware.measured_csv, hardware.machine)
    return LoopNestCostModel(hardware.machine)


def cost_source(hardware: HardwareConfig) -> dict[str, Any]:
    """Return what a record of a result says of its costs.

    `kind` is "loop_nest" or "measured", `name` that of the technology or the path of the
    measured table, `sha256` the hash of what it says.

    Raises:
        UserError: As `make_cost_model`.
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
