"""Problem of a search: space, costs and images; the objective and the limits of a config."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from dance_tf.config import SearchConfig
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.objective import Limits, Objective
from dance_tf.protocols import Evaluator, ImageDataset
from dance_tf.supernet.search_space import NetworkSpace
from dance_tf.supernet.supernet import Supernet

__all__ = ["Lambda2Schedule", "SearchProblem", "limits_of", "make_objective"]


class SearchProblem(NamedTuple):
    """Networks to search, their costs, and the images to train and judge them on.

    >>> from dance_tf import ExactEvaluator, load_images, load_or_build_table, make_space
    >>> from dance_tf.config import AcceleratorSpaceConfig, DataConfig, HardwareConfig, SpaceConfig
    >>> accelerators = AcceleratorSpaceConfig((8,), (8,), (64,), ("row_stationary",))
    >>> space = make_space(SpaceConfig("tiny_mbconv"))
    >>> table = load_or_build_table(space, HardwareConfig(accelerators=accelerators))
    >>> images = load_images(DataConfig("digits"), input_size=space.input_size)
    >>> problem = SearchProblem(space, table, ExactEvaluator(table), images)
    >>> problem.space.num_architectures, problem.dataset.num_images("train")
    (42, 1151)
    """

    space: NetworkSpace
    table: CostTable  # exact costs of the space's networks
    evaluator: Evaluator  # costs that steer the search
    dataset: ImageDataset
    supernet: Supernet | None = None  # None: the search makes one of its seed
    is_warm: bool = False  # whether `supernet` is trained: the search leaves out its warm-up


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


def limits_of(config: SearchConfig) -> Limits | None:
    """Return the limits that a config gives; None if it gives none."""
    limits = Limits(config.max_latency_ms, config.max_energy_mj, config.max_area_mm2)
    return None if limits == Limits() else limits


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
