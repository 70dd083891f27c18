"""Labelled architectures for the training of an evaluator, drawn anew at each step.

An example is an architecture (one-hot, or a mixture such as a search passes through), an
objective, and the best accelerator under it; beside these, random accelerators for the
cost estimation network. The oracle labels a batch in milliseconds, so nothing is stored
and nothing is seen twice. Batch `step` of a seed is always the same.

Only few accelerators are ever best. Many draws find them with the whole table, and the
batches are then labelled among them alone, a hundred times faster.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from dance_tf.errors import UserError
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.objective import EDAP, random_objectives
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.protocols import SearchSpace

__all__ = [
    "OBJECTIVE_KINDS",
    "CandidateTable",
    "LabelBatch",
    "can_run_everything",
    "draw_architectures",
    "draw_batch",
    "draw_objectives",
    "ever_best_accelerators",
    "sample_biased",
    "sample_mixtures",
    "sample_one_hot",
]

#: Families of objectives that the evaluator is trained on and judged by.
OBJECTIVE_KINDS = ("edap", "random_products", "random_linear", "single_metrics")

# Concentration of the Dirichlet mixtures, drawn log-uniformly: near one-hot to near uniform.
_CONCENTRATIONS = (0.02, 50.0)

# Concentration of an architecture's shares of ops in `sample_biased`.
_BIAS = 0.3


class LabelBatch(NamedTuple):
    """One batch of labelled architectures."""

    mixture_weights: np.ndarray  # float32 [B, D, O]
    objective_vectors: np.ndarray  # float32 [B, 4]
    best_index: np.ndarray  # int32 [B], exact best accelerator
    accelerator_index: np.ndarray  # int32 [B], drawn uniformly


def sample_one_hot(space: SearchSpace, num: int, rng: np.random.Generator) -> np.ndarray:
    """Draw architectures as one-hot weights, float32 [num, D, O], uniform over the space."""
    op_indices = space.sample(num, int(rng.integers(2**31)))
    return np.eye(space.num_ops, dtype=np.float32)[op_indices]


def sample_biased(space: SearchSpace, num: int, rng: np.random.Generator) -> np.ndarray:
    """Draw architectures as one-hot weights, float32 [num, D, O], each of which prefers some ops.

    Architectures drawn uniformly use every op about equally often; biased ones differ, down
    to architectures of one op, or of hardly anything but Zero.
    """
    shares = rng.dirichlet(np.full(space.num_ops, _BIAS), size=num)[:, None, :]
    scores = np.log(shares + 1e-30) + rng.gumbel(size=(num, *space.op_mask.shape))
    op_indices = np.where(space.op_mask, scores, -np.inf).argmax(axis=-1)
    return np.eye(space.num_ops, dtype=np.float32)[op_indices]


def sample_mixtures(space: SearchSpace, num: int, rng: np.random.Generator) -> np.ndarray:
    """Draw mixtures, float32 [num, D, O], from near one-hot to near uniform.

    Each architecture has a Dirichlet concentration and each of its blocks one around it,
    as a search decides blocks one after the other. Forbidden ops are exactly 0.
    """
    low, high = np.log(_CONCENTRATIONS)
    logs = rng.uniform(low, high, size=(num, 1, 1)) + rng.normal(size=(num, space.num_blocks, 1))
    concentration = np.broadcast_to(np.exp(np.clip(logs, low, high)), (num, *space.op_mask.shape))
    # A Gamma variate as log Gamma(a + 1) + log(U) / a: small concentrations do not underflow.
    log_gamma = np.log(rng.standard_gamma(concentration + 1.0))
    log_gamma += np.log1p(-rng.random(concentration.shape)) / concentration
    log_gamma = np.where(space.op_mask, log_gamma, -np.inf)
    weights = np.exp(log_gamma - log_gamma.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def draw_objectives(kind: str, num: int, rng: np.random.Generator) -> np.ndarray:
    """Draw objective vectors, float32 [num, 4], of one of OBJECTIVE_KINDS."""
    if kind == "edap":
        return np.tile(EDAP.vector, (num, 1))
    if kind == "single_metrics":
        is_linear = rng.integers(0, 2, size=(num, 1))
        weights = np.eye(3)[rng.integers(0, 3, size=num)]
    else:
        is_linear = np.full((num, 1), {"random_products": 0, "random_linear": 1}[kind])
        weights = rng.dirichlet(np.ones(3), size=num) * np.where(is_linear, 1.0, 3.0)
    return np.concatenate([is_linear, weights], axis=1).astype(np.float32)


class CandidateTable:
    """Part of a cost table that belongs to some accelerators, among which the oracle chooses."""

    def __init__(self, table: CostTable, rows: np.ndarray) -> None:
        """Take a part of a table.

        Args:
            table: Exact costs.
            rows: Accelerators, int32 [C], which must be able to run every cell.
        """
        self.space, self.reference = table.space, table.reference
        self.rows = np.asarray(rows, np.int32)
        num_cells = self.space.num_blocks * self.space.num_ops

        def take(cells: np.ndarray) -> tf.Tensor:
            return tf.constant(cells.reshape(num_cells, -1)[:, self.rows])

        self._cells = (take(table.latency_ms), take(table.energy_mj))
        self._fixed = (table.fixed_latency_ms[self.rows], table.fixed_energy_mj[self.rows])
        self._area_mm2 = table.area_mm2[self.rows]

    def expected_metrics(self, mixture_weights: ArrayLike) -> tf.Tensor:
        """Return the expected metrics, float32 [B, C, 3], of mixture weights [B, D, O]."""
        flat = tf.reshape(mixture_weights, [-1, self._cells[0].shape[0]])
        sums = [tf.matmul(flat, c) + f for c, f in zip(self._cells, self._fixed, strict=True)]
        return tf.stack([*sums, tf.broadcast_to(self._area_mm2, tf.shape(sums[0]))], axis=-1)


def can_run_everything(table: CostTable) -> np.ndarray:
    """Return which accelerators can run every cell of a table, bool [A]."""
    return np.isfinite(table.latency_ms).all(axis=(0, 1)) & np.isfinite(table.fixed_latency_ms)


def draw_architectures(
    space: SearchSpace, num: int, soft_fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw architectures, float32 [num, D, O]: mixtures, then one-hot ones, half of them biased."""
    num_soft = round(num * soft_fraction)
    num_biased = (num - num_soft) // 2
    return np.concatenate(
        [
            sample_mixtures(space, num_soft, rng),
            sample_biased(space, num_biased, rng),
            sample_one_hot(space, num - num_soft - num_biased, rng),
        ]
    )


def draw_batch(
    table: CostTable | CandidateTable,
    accelerators: np.ndarray,
    num: int,
    soft_fraction: float,
    rng: np.random.Generator,
    *,
    is_edap: bool = False,
) -> LabelBatch:
    """Draw and label one batch.

    Args:
        table: Exact costs, of the candidates alone or of all accelerators.
        accelerators: Rows of the accelerator space to draw the random ones from.
        num: Number of examples, B.
        soft_fraction: Share of the architectures that are mixtures.
        rng: Source of everything random in the batch.
        is_edap: Whether every objective is EDAP, in place of random ones.
    """
    mixtures = draw_architectures(table.space, num, soft_fraction, rng)
    objectives = draw_objectives("edap", num, rng) if is_edap else random_objectives(num, rng)
    drawn = rng.choice(accelerators, size=num).astype(np.int32)
    best = best_accelerators(table, mixtures, objectives).accelerator_index.numpy()
    return LabelBatch(mixtures, objectives, best, drawn)


def ever_best_accelerators(
    table: CostTable,
    num: int,
    soft_fraction: float,
    seed: int,
    *,
    is_edap: bool = False,
    chunk: int = 512,
) -> np.ndarray:
    """Return the accelerators that are best for any of `num` random draws, int32 [C], sorted.

    Accelerators that cannot run some cell are left out: a mixture could not use them.

    Args:
        table: Exact costs.
        num: Number of examples to draw, rounded up to whole chunks.
        soft_fraction: Share of the architectures that are mixtures.
        seed: Seed of the draws.
        is_edap: Whether every objective is EDAP, in place of random ones.
        chunk: Examples that are labelled at once.
    Raises:
        UserError: If no accelerator is left.
    """
    num_accelerators = len(table.accelerators)
    seen = np.zeros(num_accelerators, bool)
    rng = np.random.default_rng([seed, 0])
    for _ in range(-(-num // chunk)):
        batch = draw_batch(
            table, np.arange(num_accelerators), chunk, soft_fraction, rng, is_edap=is_edap
        )
        seen[batch.best_index] = True
    rows = np.flatnonzero(seen & can_run_everything(table)).astype(np.int32)
    if not len(rows):
        raise UserError(
            f"no accelerator of the space can run every candidate op of {table.space.name}:"
            " widen hardware.accelerators, or use --evaluator=exact"
        )
    return rows
