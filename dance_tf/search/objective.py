"""What the co-search minimises: the objective that a config names, and its weight over time."""

from __future__ import annotations

import dataclasses

from dance_tf.config import SearchConfig
from dance_tf.hardware.objective import Objective

__all__ = ["Lambda2Schedule", "make_objective"]


def make_objective(config: SearchConfig) -> Objective:
    """Return the objective that the config names.

    EDAP is the product of the three metrics. `linear` is their sum with the weights
    search.lambda_latency, lambda_energy and lambda_area, `product` their product with these
    as powers. `latency`, `energy` and `area` are sums in which the named metric counts four
    times as much as each other one; to ask for it alone, give `linear` with the other
    weights 0. For area alone the accelerator is always the smallest of the space.

    All are of metrics normalised by the cost table's reference, so that lambda_2 keeps
    its meaning when the space or the machine changes.

    Raises:
        UserError: If weights are given to an objective that has its own.
    """
    return Objective(*config.objective_terms())


@dataclasses.dataclass(frozen=True)
class Lambda2Schedule:
    """Raise lambda_2 linearly from 0, then hold it.

    A full hardware cost on untrained weights drives every block to Zero, because the
    cross-entropy cannot yet tell the candidate ops apart.

    Args:
        weight: Value after the warm-up.
        warmup_steps: Weight steps over which it is raised; 0 starts at `weight`.
    """

    weight: float
    warmup_steps: int = 0

    def __call__(self, step: int) -> float:
        """Return lambda_2 at a weight step counted from the end of the weight warm-up."""
        if self.warmup_steps == 0:
            return self.weight
        return self.weight * min(1.0, max(0, step) / self.warmup_steps)
