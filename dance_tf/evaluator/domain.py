"""Spaces, machine and cost table an evaluator was trained on, and networks of their shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from dance_tf.config import AcceleratorSpaceConfig, EvaluatorConfig, MachineConfig
from dance_tf.errors import UserError
from dance_tf.evaluator.networks import (
    CostEstimationNetwork,
    HardwareGenerationNetwork,
    PlainCostEstimationNetwork,
)
from dance_tf.files import Json
from dance_tf.hardware.accelerator import AcceleratorSpace
from dance_tf.hardware.cost_table import CostTable
from dance_tf.supernet.search_space import Block, NetworkSpace
from dance_tf.supernet.space_record import space_from_json, space_to_json

__all__ = ["EvaluatorDomain", "NetworkShapes", "make_networks"]


@dataclasses.dataclass(frozen=True)
class EvaluatorDomain:
    """Spaces, machine and cost table that an evaluator was trained on."""

    space: NetworkSpace
    accelerators: AcceleratorSpace
    machine: MachineConfig
    content_hash: str  # of the table
    reference: tuple[float, float, float]  # metrics that normalise objectives

    @classmethod
    def of_table(cls, table: CostTable) -> EvaluatorDomain:
        """Return the domain of a cost table."""
        if not isinstance(table.space, NetworkSpace):
            raise UserError(f"space {table.space.name!r} is no NetworkSpace: not saved")
        latency, energy, area = (float(value) for value in table.reference)
        return cls(
            table.space,
            table.accelerators,
            table.machine,
            table.content_hash,
            (latency, energy, area),
        )

    def to_json(self) -> dict[str, Json]:
        """Return the domain as JSON data."""
        return {
            "space": space_to_json(self.space),
            "accelerators": dataclasses.asdict(self.accelerators),
            "machine": dataclasses.asdict(self.machine),
            "content_hash": self.content_hash,
            "reference": list(self.reference),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> EvaluatorDomain:
        """Return the domain of `to_json`, or of an older evaluator.

        Raises:
            UserError: If the space is none.
        """
        space = data["space"]
        if "schema_version" in space:
            read = space_from_json(space, "space")
        else:  # written before spaces were records of their own
            blocks = tuple(Block(**block) for block in space["blocks"])
            read = NetworkSpace(**space | {"blocks": blocks, "op_names": tuple(space["op_names"])})
        accelerators = {k: tuple(v) for k, v in data["accelerators"]["config"].items()}
        return cls(
            read,
            AcceleratorSpace(AcceleratorSpaceConfig(**accelerators)),
            MachineConfig(**data["machine"]),
            data["content_hash"],
            tuple(data["reference"]),
        )


@dataclasses.dataclass(frozen=True)
class NetworkShapes:
    """Forms and sizes of the two networks of a domain; the fields are those of JSON."""

    num_candidates: int
    cell_mask: tuple[tuple[int, ...], ...]  # [D, O], 1 for a cell that costs anything
    generator_form: str = "ranked"  # as in config.EvaluatorConfig
    estimator_form: str = "linear"
    num_blocks: int = 5
    generator_units: int = 128
    estimator_units: int = 128

    @classmethod
    def of(cls, config: EvaluatorConfig, table: CostTable, num_candidates: int) -> NetworkShapes:
        """Return the shapes that a configuration asks for."""
        has_cost = (table.latency_ms.max(axis=-1) > 0).astype(int)
        return cls(
            num_candidates,
            tuple(map(tuple, has_cost.tolist())),
            config.generator_form,
            config.estimator_form,
            config.num_blocks,
            config.generator_units,
            config.estimator_units,
        )


def make_networks(
    domain: EvaluatorDomain, shapes: NetworkShapes, seed: int = 0
) -> tuple[HardwareGenerationNetwork, CostEstimationNetwork | PlainCostEstimationNetwork]:
    """Return untrained networks: hardware generation, cost estimation.

    Args:
        domain: Spaces and machine that the networks are for.
        shapes: Forms and sizes of the networks.
        seed: Seed of the initial weights.
    """
    head_sizes = domain.accelerators.head_sizes
    num_cells = domain.space.num_blocks * domain.space.num_ops
    is_by_head = shapes.generator_form == "heads"
    generator = HardwareGenerationNetwork(
        num_cells=num_cells,
        num_outputs=sum(head_sizes) if is_by_head else shapes.num_candidates,
        is_ranked=shapes.generator_form == "ranked",
        num_blocks=shapes.num_blocks,
        units=shapes.generator_units,
        seed=2 * seed,
    )
    trunk = {"num_blocks": shapes.num_blocks, "units": shapes.estimator_units, "seed": 2 * seed + 1}
    if shapes.estimator_form == "linear":
        cell_mask = np.asarray(shapes.cell_mask, bool)
        return generator, CostEstimationNetwork(cell_mask=cell_mask, head_sizes=head_sizes, **trunk)
    is_forwarded = shapes.estimator_form == "plain"
    return generator, PlainCostEstimationNetwork(
        num_cells=num_cells, head_sizes=head_sizes, is_forwarded=is_forwarded, **trunk
    )
