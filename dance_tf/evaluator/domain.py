"""What an evaluator speaks about: the spaces, the machine, and the table of its labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dance_tf.config import AcceleratorSpaceConfig, MachineConfig
from dance_tf.hardware.accelerator import AcceleratorSpace
from dance_tf.supernet.search_space import Block, NetworkSpace

__all__ = ["EvaluatorDomain"]


@dataclasses.dataclass(frozen=True)
class EvaluatorDomain:
    """What an evaluator speaks about; equal to the table's it was trained on."""

    space: NetworkSpace
    accelerators: AcceleratorSpace
    machine: MachineConfig
    content_hash: str  # of the table
    reference: tuple[float, float, float]  # metrics that normalise objectives

    @classmethod
    def of_table(cls, table: Any) -> EvaluatorDomain:
        """Return the domain of a hardware.cost_table.CostTable."""
        latency, energy, area = (float(value) for value in table.reference)
        return cls(
            table.space,
            table.accelerators,
            table.machine,
            table.content_hash,
            (latency, energy, area),
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EvaluatorDomain:
        """Build from what `dataclasses.asdict` gave, by way of JSON."""
        space = dict(data["space"])
        space["blocks"] = tuple(Block(**block) for block in space["blocks"])
        space["op_names"] = tuple(space["op_names"])
        accelerators = {k: tuple(v) for k, v in data["accelerators"]["config"].items()}
        return cls(
            NetworkSpace(**space),
            AcceleratorSpace(AcceleratorSpaceConfig(**accelerators)),
            MachineConfig(**data["machine"]),
            data["content_hash"],
            tuple(data["reference"]),
        )
