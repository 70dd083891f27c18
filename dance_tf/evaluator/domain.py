"""What an evaluator speaks about: the spaces, the machine, and the table of its labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dance_tf.config import AcceleratorSpaceConfig, EvaluatorConfig, MachineConfig
from dance_tf.evaluator.networks import (
    CostEstimationNetwork,
    HardwareGenerationNetwork,
    PlainCostEstimationNetwork,
)
from dance_tf.hardware.accelerator import AcceleratorSpace
from dance_tf.hardware.objective import objective_values
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.supernet.search_space import Block, NetworkSpace

__all__ = [
    "Answers",
    "EvaluatorDomain",
    "NetworkShapes",
    "collect_answers",
    "in_chunks",
    "make_networks",
    "relative_errors",
]


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


# Rows that go through the networks and the oracle at once: what they need stays in the caches.
_CHUNK = 512


class Answers(NamedTuple):
    """Answers to B queries, each an architecture under an objective."""

    best_index: np.ndarray  # int32 [B], exact best accelerator
    generated_index: np.ndarray  # int32 [B], the evaluator's
    regret: np.ndarray  # float64 [B], exact objective at the generated one / optimum - 1
    errors: np.ndarray  # float64 [B, 3], relative, of the metrics of the generated one


def in_chunks(
    measure: Callable[..., tuple[Any, ...]], *rows: np.ndarray, size: int = _CHUNK
) -> list[np.ndarray]:
    """Return what `measure` gives for arrays [B, ...], called with at most `size` rows.

    Args:
        measure: Takes a part of each of `rows`; returns arrays [b, ...].
        *rows: Arrays of the same length.
        size: Rows of a call.
    """
    starts = range(0, len(rows[0]), size)
    parts = [measure(*(array[start : start + size] for array in rows)) for start in starts]
    return [np.concatenate([np.asarray(x) for x in field]) for field in zip(*parts, strict=True)]


def relative_errors(predicted: Any, exact: Any) -> np.ndarray:
    """Return |predicted / exact - 1|, float64 [B, 3], of metrics."""
    return np.abs(np.asarray(predicted, np.float64) / np.asarray(exact, np.float64) - 1.0)


def collect_answers(
    evaluator: Any, table: Any, mixture_weights: np.ndarray, objective_vectors: np.ndarray
) -> Answers:
    """Ask an evaluator and the table.

    Args:
        evaluator: Neural or exact.
        table: hardware.cost_table.CostTable.
        mixture_weights: float32 [B, D, O].
        objective_vectors: float32 [B, 4].
    """

    def ask(weights: np.ndarray, vectors: np.ndarray) -> tuple[Any, ...]:
        best, _, optimum = best_accelerators(table, weights, vectors)
        evaluation = evaluator.evaluate(weights, vectors)
        exact_metrics = table.metrics_at(weights, evaluation.accelerator_index)
        value = np.asarray(objective_values(vectors, exact_metrics, table.reference), np.float64)
        # The oracle may give a tie to the accelerator that is 2e-6 worse: no negative regret.
        regret = np.maximum(value / np.asarray(optimum, np.float64) - 1.0, 0.0)
        errors = relative_errors(evaluation.metrics, exact_metrics)
        return best, evaluation.accelerator_index, regret, errors

    return Answers(*in_chunks(ask, mixture_weights, objective_vectors))
