"""Train the neural evaluator on labels from the table: one loop for both networks."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dance_tf.config import EvaluatorConfig
from dance_tf.errors import UserError
from dance_tf.evaluator.assessment import evaluate_evaluator
from dance_tf.evaluator.dataset import (
    CandidateTable,
    LabelBatch,
    can_run_everything,
    draw_batch,
    ever_best_accelerators,
)
from dance_tf.evaluator.networks import head_one_hot, split_heads
from dance_tf.evaluator.neural import EvaluatorDomain, NeuralEvaluator, make_networks
from dance_tf.strict_json import read_json, write_json

__all__ = ["EvaluatorTrainer", "evaluate_evaluator", "train_evaluator"]

# Random examples that the whole table labels, to find the accelerators that are ever best.
_NUM_CANDIDATE_DRAWS = 65_536

_CHECKPOINT_EVERY = 2_000
_REPORT_EVERY = 50
_NUM_ASSESSED = 2_000


class EvaluatorTrainer:
    """Both networks, their optimizer and the training step.

    Loss of the generation network: cross-entropy of the four heads, and of their joint
    distribution over the candidates, from which the evaluator chooses. Loss of the
    estimation network: mean squared relative error of each metric. As its coefficients
    depend on the accelerator alone, every accelerator of a batch is paired with every
    architecture of it.
    """

    def __init__(self, table: Any, config: EvaluatorConfig, seed: int, candidates: Any) -> None:
        """Make untrained networks.

        Args:
            table: hardware.cost_table.CostTable.
            config: Shape and training.
            seed: Of the initial weights and of the batches.
            candidates: Rows of the accelerators that may be generated, int32 [C].
        """
        self.config, self.seed = config, seed
        self.domain = EvaluatorDomain.of_table(table)
        self.candidates = np.asarray(candidates, np.int32)
        self._labels = CandidateTable(table, self.candidates)
        self._runnable = np.flatnonzero(can_run_everything(table)).astype(np.int32)
        self._head_indices = table.accelerators.head_indices()
        self.generator, self.estimator = make_networks(
            self.domain,
            cell_mask=table.latency_ms.max(axis=-1) > 0,
            num_blocks=config.num_blocks,
            generator_units=config.generator_units,
            estimator_units=config.estimator_units,
            seed=seed,
        )
        self.estimator.normalise(table)
        targets = self.estimator.table_coefficients(table).astype(np.float32)
        self._targets = tf.constant(targets)
        self._variables = [
            *self.generator.trainable_variables,
            *self.estimator.trainable_variables,
        ]
        schedule = keras.optimizers.schedules.CosineDecay(
            config.learning_rate, config.training_steps
        )
        self.optimizer = keras.optimizers.Adam(schedule)
        self.optimizer.build(self._variables)
        self._compiled = tf.function(self._update)

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.optimizer.iterations.numpy())

    def draw(self) -> LabelBatch:
        """Return the batch of the next step."""
        rng = np.random.default_rng([self.seed, 1 + self.step])
        config = self.config
        return draw_batch(
            self._labels, self._runnable, config.batch_size, config.soft_fraction, rng
        )

    def train_step(self, batch: LabelBatch | None = None) -> dict[str, tf.Tensor]:
        """Take one step on the next batch, or on a given one; return its losses."""
        batch = self.draw() if batch is None else batch
        best = self.candidates[batch.best_index]
        # Half of the estimator's accelerators are best ones: those are what it is asked about.
        pairs = np.concatenate([best[::2], batch.accelerator_index[::2]])
        return self._compiled(
            tf.constant(batch.mixture_weights),
            tf.constant(batch.objective_vectors),
            tf.constant(batch.best_index),
            tf.constant(pairs),
        )

    def evaluator(self) -> NeuralEvaluator:
        """Return the networks as an evaluator; this freezes them."""
        return NeuralEvaluator(
            self.generator, self.estimator, domain=self.domain, candidates=self.candidates
        )

    def _update(
        self, mixtures: tf.Tensor, objectives: tf.Tensor, choice: tf.Tensor, pairs: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            losses = {
                **self._generator_losses(mixtures, objectives, choice),
                "relative_error": self._estimator_loss(mixtures, pairs),
            }
            total = tf.add_n(list(losses.values()))
        self.optimizer.apply(tape.gradient(total, self._variables), self._variables)
        return losses

    def _generator_losses(
        self, mixtures: tf.Tensor, objectives: tf.Tensor, choice: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        sizes = self.domain.accelerators.head_sizes
        candidate_heads = head_one_hot(self._head_indices[self.candidates], sizes)
        logits = self.generator((mixtures, objectives), training=True)
        labels = split_heads(tf.gather(candidate_heads, choice), sizes)
        heads = [
            tf.nn.softmax_cross_entropy_with_logits(label, head)
            for label, head in zip(labels, split_heads(logits, sizes), strict=True)
        ]
        scores = tf.matmul(logits, candidate_heads, transpose_b=True)
        joint = tf.nn.sparse_softmax_cross_entropy_with_logits(choice, scores)
        return {
            "heads": tf.reduce_mean(tf.add_n(heads)),
            "joint": tf.reduce_mean(joint),
        }

    def _estimator_loss(self, mixtures: tf.Tensor, pairs: tf.Tensor) -> tf.Tensor:
        """Return the summed squared relative errors, averaged over all pairs of the batch."""
        heads = head_one_hot(
            tf.gather(self._head_indices, pairs), self.domain.accelerators.head_sizes
        )
        predicted = self.estimator.pairwise(mixtures, self.estimator.coefficients(heads))
        exact = self.estimator.pairwise(mixtures, tf.gather(self._targets, pairs))
        return tf.reduce_mean(tf.reduce_sum(tf.square(predicted / exact - 1.0), axis=-1))


def train_evaluator(
    table: Any,
    config: EvaluatorConfig,
    seed: int,
    output_dir: str,
    on_progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Train an evaluator, assess it and save it; an interrupted training goes on.

    Checkpoints lie in `output_dir`/checkpoints until the evaluator is saved. The seed
    determines the result; a resumed training gives that of an uninterrupted one.

    Args:
        table: hardware.cost_table.CostTable.
        config: Shape and training.
        seed: Of everything random.
        output_dir: Folder of the evaluator.
        on_progress: Called with (step, total steps) and the losses by name.
    Returns:
        What `evaluate_evaluator` says of the result; also in its manifest.
    Raises:
        UserError: If the folder holds checkpoints of another training or unreadable ones,
            or the loss is no longer finite.
    """
    folder = os.path.join(output_dir, "checkpoints")
    identity = {
        "config": dataclasses.asdict(dataclasses.replace(config, path=None)),
        "seed": seed,
        "content_hash": table.content_hash,
    }
    _claim(folder, identity)
    candidates = ever_best_accelerators(table, _NUM_CANDIDATE_DRAWS, config.soft_fraction, seed)
    trainer = EvaluatorTrainer(table, config, seed, candidates)
    checkpoint = tf.train.Checkpoint(
        generator=trainer.generator, estimator=trainer.estimator, optimizer=trainer.optimizer
    )
    manager = tf.train.CheckpointManager(checkpoint, folder, max_to_keep=2)
    if manager.latest_checkpoint:
        try:
            checkpoint.restore(manager.latest_checkpoint).assert_consumed()
        except (tf.errors.OpError, AssertionError, LookupError, ValueError) as error:
            raise UserError(
                f"cannot read checkpoint {manager.latest_checkpoint}"
                f" ({type(error).__name__}): delete {folder} to start anew"
            ) from None

    total = config.training_steps
    while trainer.step < total:
        losses = trainer.train_step()
        step = trainer.step
        if step % _REPORT_EVERY == 0 or step == total:
            values = {name: float(loss) for name, loss in losses.items()}
            if not np.isfinite(list(values.values())).all():
                raise UserError(
                    f"the loss of the evaluator is not finite at step {step}:"
                    " lower evaluator.learning_rate"
                )
            if on_progress is not None:
                on_progress(step, total, **values)
        if step % _CHECKPOINT_EVERY == 0 and step < total:
            manager.save(checkpoint_number=step)

    evaluator = trainer.evaluator()
    metrics = evaluate_evaluator(
        evaluator,
        table,
        _NUM_ASSESSED,
        seed + 1,
        softmin_temperature=config.softmin_temperature,
    )
    evaluator.save(output_dir, training=identity, metrics=metrics)
    shutil.rmtree(folder)
    return metrics


def _claim(folder: str, identity: dict[str, Any]) -> None:
    """Note whose checkpoints a folder holds, or find that they are ours."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "training.json")
    if os.path.exists(path):
        if read_json(path) != identity:
            raise UserError(
                f"{folder} holds an unfinished training with another configuration, seed or"
                " cost table: delete it, or choose another --output_dir"
            )
        return
    write_json(path, identity)
