"""Forms and sizes of the evaluator's two networks, as data from which they are made."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dance_tf.config import EvaluatorConfig
from dance_tf.evaluator.domain import EvaluatorDomain
from dance_tf.evaluator.estimators import CostEstimationNetwork, PlainCostEstimationNetwork
from dance_tf.evaluator.networks import HardwareGenerationNetwork

__all__ = ["NetworkShapes", "make_networks"]


@dataclasses.dataclass(frozen=True)
class NetworkShapes:
    """What must be known to make the networks of a domain; the fields are those of JSON."""

    num_candidates: int
    cell_mask: tuple[tuple[int, ...], ...]  # [D, O], 1 for a cell that costs anything
    generator_form: str = "ranked"  # as in config.EvaluatorConfig
    estimator_form: str = "linear"
    num_blocks: int = 5
    generator_units: int = 128
    estimator_units: int = 128

    @classmethod
    def of(cls, config: EvaluatorConfig, table: Any, num_candidates: int) -> NetworkShapes:
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
        domain: What they shall speak about.
        shapes: Their forms and sizes.
        seed: Of the initial weights.
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
