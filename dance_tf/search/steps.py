"""The two steps of the co-search, the plan that says when each runs, and their random streams.

Weight step:        w     <- w     - SGD (d/dw     CE_train(w, path))
Architecture step:  alpha <- alpha - Adam(d/dalpha [CE_architecture(w, paths(alpha))
                                      + lambda_2 * objective(evaluator(softmax(alpha)))])

Source: DANCE (2020), L = L_CE + lambda_1 ||w|| + lambda_2 Cost_HW; optimizers and the
alternation from ProxylessNAS (2019).

arch_gradients.py has the estimators of d CE_architecture / d alpha.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf

from dance_tf.config import SearchConfig
from dance_tf.errors import UserError
from dance_tf.hardware.objective import Objective
from dance_tf.protocols import Evaluator, ImageDataset
from dance_tf.search.arch_gradients import cross_entropy, estimate, keep_totals
from dance_tf.search.problem import limits_of
from dance_tf.supernet.sgd import RowSGD
from dance_tf.supernet.supernet import Supernet

__all__ = ["Batches", "CoSearchSteps", "SearchPlan", "batches", "stateless_seed"]

#: Images, float32 [B, H, W, C] in 0..1, and labels, int32 [B].
Batches: TypeAlias = Iterator[tuple[tf.Tensor, tf.Tensor]]

#: Names of the random streams; a position is never reused for something else.
_STREAMS = ("train", "architecture", "weight_path", "architecture_path")

#: Passes of an architecture step over its batch; score_function has one forward for each path.
_ARCHITECTURE_PASSES = {"straight_through": 3, "one_path": 3, "two_path": 6}


def stateless_seed(seed: int, stream: str, index: int) -> np.ndarray:
    """Return the seed, int32 [2], of one draw; a function of its arguments alone."""
    words = np.random.SeedSequence([seed, _STREAMS.index(stream), index]).generate_state(2)
    return words.view(np.int32)


def batches(
    dataset: ImageDataset, split: str, *, batch_size: int, seed: int, start: int = 0
) -> Batches:
    """Yield batches without end, from batch number `start` of the run.

    Pass p over the split is shuffled and augmented by (seed, split, p), so a resumed
    run sees what the uninterrupted one would have seen.

    Raises:
        UserError: If a whole pass gives no batch: the next ones would not either.
    """
    number, skip = divmod(start, dataset.num_images(split) // batch_size)
    while True:
        pass_seed = int(stateless_seed(seed, split, number)[0]) & 0x7FFFFFFF
        is_empty = skip == 0
        for batch in dataset.split(split, batch_size=batch_size, seed=pass_seed).skip(skip):
            is_empty = False
            yield batch
        if is_empty:
            raise UserError(
                f"{dataset.name}: its {split} split says {dataset.num_images(split)} images and"
                f" gives no batch of {batch_size}"
            )
        number, skip = number + 1, 0


@dataclasses.dataclass(frozen=True)
class SearchPlan:
    """Schedule of a search: which step is followed by which. Steps count weight steps done."""

    train_batch_size: int
    architecture_batch_size: int
    steps_per_epoch: int
    warmup_steps: int
    total_steps: int
    arch_every: int

    @classmethod
    def of(cls, config: SearchConfig, dataset: ImageDataset) -> SearchPlan:
        """Build the plan of a config on a data set.

        Raises:
            UserError: If a split is empty or the plan has no architecture step.
        """
        sizes = {name: dataset.num_images(name) for name in ("train", "architecture")}
        for name, size in sizes.items():
            if size == 0:
                raise UserError(f"{dataset.name}: its {name} split is empty")
        batch_size = min(config.batch_size, sizes["train"])
        steps_per_epoch = sizes["train"] // batch_size
        plan = cls(
            train_batch_size=batch_size,
            architecture_batch_size=min(config.batch_size, sizes["architecture"]),
            steps_per_epoch=steps_per_epoch,
            warmup_steps=config.warmup_epochs * steps_per_epoch,
            total_steps=config.epochs * steps_per_epoch,
            arch_every=config.arch_every,
        )
        if plan.num_architecture_steps(plan.total_steps) == 0:
            raise UserError(
                f"search.arch_every ({config.arch_every}) is more than the"
                f" {plan.total_steps - plan.warmup_steps} steps after the warm-up:"
                " the architecture would never move"
            )
        return plan

    def work(self, config: SearchConfig) -> dict[str, float]:
        """Return the work of each phase, in images taken forward through a network.

        A pass backward counts as two forward.
        """
        weight_step = 0 if config.supernet_weights == "frozen" else 3 * self.train_batch_size
        passes = _ARCHITECTURE_PASSES.get(config.arch_gradient, config.arch_paths)
        architecture_steps = self.num_architecture_steps(self.total_steps)
        return {
            "warmup": weight_step * self.warmup_steps,
            "search": weight_step * (self.total_steps - self.warmup_steps)
            + passes * self.architecture_batch_size * architecture_steps,
        }

    def num_architecture_steps(self, step: int) -> int:
        """Return how many architecture steps belong to the first `step` weight steps."""
        return max(0, step - self.warmup_steps) // self.arch_every

    def has_architecture_step(self, step: int) -> bool:
        """Whether an architecture step follows weight step number `step`, from 1."""
        return self.num_architecture_steps(step) > self.num_architecture_steps(step - 1)

    def phase(self, step: int) -> str:
        """Return the phase of weight step number `step`, from 1."""
        return "warmup" if step <= self.warmup_steps else "search"

    def epoch(self, step: int) -> int:
        """Return the epoch, from 1, of weight step number `step`, from 1."""
        return -(-step // self.steps_per_epoch)


class CoSearchSteps:
    """Weight step and architecture step on one supernet; each leaves the other's variables alone.

    Args:
        supernet: Supernet to train.
        evaluator: Predicted cost of architectures, none of whose variables is trained; None
            where no architecture step is taken.
        objective: Objective of metrics that are normalised by `reference`.
        reference: Metrics at which the objective is 1, float32 [3].
        config: Learning rates, smoothing, temperature, a penalty for exceeding limits.
        total_steps: Length of the cosine of the weights' learning rate, in weight steps.
        warmup_steps: Length of the warm-up, which has a cosine of its own where the config
            has a learning rate for it.
    """

    def __init__(
        self,
        *,
        supernet: Supernet,
        evaluator: Evaluator | None,
        objective: Objective,
        reference: np.ndarray,
        config: SearchConfig,
        total_steps: int,
        warmup_steps: int = 0,
    ) -> None:
        self._supernet, self._evaluator = supernet, evaluator
        self._objective, self._reference = objective, tf.constant(reference, tf.float32)
        self._objective_vectors = tf.constant(objective.vector[None])
        self._config = config
        limits = limits_of(config)
        self._limits = None if limits is None else limits.vector
        is_penalised = limits is not None and config.limits == "penalty"
        self._penalty = config.limit_penalty if is_penalised else 0.0
        self.weight_optimizer = RowSGD(
            _learning_rate(config, warmup_steps, total_steps),
            weight_decay=config.weight_decay,
            is_kernel=supernet.is_kernel,
        )
        self.arch_optimizer = keras.optimizers.Adam(
            config.arch_learning_rate, beta_1=0.0, beta_2=0.999
        )
        self.weight_optimizer.build(supernet.network_weights)
        self.arch_optimizer.build([supernet.arch_logits])
        self._fresh = [variable.numpy() for variable in self.arch_optimizer.variables]

    def sample_path(self, seed: np.ndarray, is_uniform: bool) -> tf.Tensor:
        """Draw op indices, int32 [D]: uniform in the warm-up, from the mixture afterwards."""
        if is_uniform:
            return self._supernet.sample_uniform(seed)
        return self._supernet.sample_gates(seed, self._config.gumbel_temperature)[0]

    def restart_architecture(self, arch_logits: np.ndarray) -> None:
        """Set the architecture parameters, [D, O], and let their optimizer forget its past."""
        self._supernet.arch_logits.assign(arch_logits)
        for variable, value in zip(self.arch_optimizer.variables, self._fresh, strict=True):
            variable.assign(value)

    @tf.function(autograph=False, reduce_retracing=True)
    def weight_step(
        self, images: tf.Tensor, labels: tf.Tensor, op_indices: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Train the weights of one path; return its cross-entropy and accuracy on the batch."""
        weights = self._supernet.network_weights
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([w.value for w in weights])
            logits = self._supernet.call_path(images, op_indices, None, training=True)
            loss = cross_entropy(labels, logits, self._config.label_smoothing)
        self.weight_optimizer.apply(tape.gradient(loss, [w.value for w in weights]), weights)
        hits = tf.equal(tf.argmax(logits, axis=-1, output_type=labels.dtype), labels)
        return loss, tf.reduce_mean(tf.cast(hits, tf.float32))

    @tf.function(autograph=False, reduce_retracing=True)
    def architecture_step(
        self, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, lambda_2: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Train the logits; return cross-entropy and the predicted objective of the mixture."""
        arch_logits = self._supernet.arch_logits
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(arch_logits.value)
            assert self._evaluator is not None, "an architecture step asks for its cost"
            found = estimate(self._supernet, self._config, images, labels, seed)
            evaluation = self._evaluator.evaluate(
                found.mixture_weights[None], self._objective_vectors
            )
            cost = self._objective(evaluation.metrics[0], self._reference)
            loss = found.surrogate + lambda_2 * cost
            if self._penalty:
                excess = evaluation.metrics[0] / self._limits - 1.0
                loss += self._penalty * tf.reduce_sum(tf.nn.relu(excess))
        before = tf.identity(arch_logits.value)
        self.arch_optimizer.apply([tape.gradient(loss, arch_logits.value)], [arch_logits])
        if found.pair is not None:
            arch_logits.assign(keep_totals(before, arch_logits.value, found.pair))
        return found.cross_entropy, cost


class _WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A cosine to 0 over the warm-up, then another one over the rest, as in ProxylessNAS."""

    def __init__(self, config: SearchConfig, warmup_steps: int, total_steps: int) -> None:
        cosine = keras.optimizers.schedules.CosineDecay
        self._warmup_steps = warmup_steps
        self._warmup = cosine(config.warmup_learning_rate, warmup_steps)
        self._search = cosine(config.weight_learning_rate, total_steps - warmup_steps)

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        """Return the learning rate after `step` steps."""
        is_warmup = step < self._warmup_steps
        return tf.where(is_warmup, self._warmup(step), self._search(step - self._warmup_steps))


def _learning_rate(
    config: SearchConfig, warmup_steps: int, total_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return the schedule of the weights' learning rate."""
    if config.warmup_learning_rate is None or not warmup_steps:
        return keras.optimizers.schedules.CosineDecay(config.weight_learning_rate, total_steps)
    return _WarmupCosine(config, warmup_steps, total_steps)
