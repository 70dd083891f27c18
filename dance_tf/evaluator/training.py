"""Training of a neural evaluator on labels from the cost table.

First the cost estimation network is trained, then, with that one fixed, the hardware
generation network, which ranks the candidates by their predicted costs. `train_evaluator`
does the whole of it with checkpoints, then calibrates, assesses and saves the evaluator.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable

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
    draw_architectures,
    draw_batch,
    ever_best_accelerators,
)
from dance_tf.evaluator.domain import EvaluatorDomain, NetworkShapes, make_networks
from dance_tf.evaluator.networks import (
    CostEstimationNetwork,
    head_one_hot,
    objective_gaps,
    split_heads,
)
from dance_tf.evaluator.neural import MANIFEST, MEND, NeuralEvaluator
from dance_tf.evaluator.trust import calibrated_thresholds
from dance_tf.files import Json, read_json, write_json
from dance_tf.hardware.cost_table import CostTable
from dance_tf.run import terminal
from dance_tf.run.checkpoints import CheckpointFolder
from dance_tf.run.folder_lock import owned

__all__ = ["EvaluatorTrainer", "NetworkTraining", "train_evaluator"]

# Random examples that the whole table labels, to find the accelerators that are ever best.
_NUM_CANDIDATE_DRAWS = 262_144

# Steps between checkpoints, each with a check on examples kept apart; and between reports.
_CHECK_EVERY, _REPORT_EVERY = 1_000, 50

# Architectures of each kind on which the trained evaluator is assessed.
_NUM_ASSESSED = 2_000

# Weight of the coefficients' own errors beside the errors of their sums, the metrics. Errors
# of the terms of a sum cancel, and then leave the sum little to learn from.
_COEFFICIENT_WEIGHT = 40.0


class NetworkTraining:
    """Training of one network by Adam with a cosine rate; the examples follow a seed."""

    def __init__(
        self,
        network: keras.Model,
        loss_name: str,
        num_steps: int,
        config: EvaluatorConfig,
        draw: Callable[[np.random.Generator], tuple[np.ndarray | tf.Tensor, ...]],
        loss: Callable[..., tf.Tensor],
        seed: tuple[int, int],
    ) -> None:
        """Prepare the training.

        Args:
            network: Network to train.
            loss_name: Name of the loss in reports.
            num_steps: Number of steps, at the most.
            config: Learning rate, and checks without progress after which to stop.
            draw: Function that draws the arrays of a batch.
            loss: Function from such arrays to their loss.
            seed: Seed of the batches.
        """
        self.loss_name, self.num_steps = loss_name, num_steps
        self._patience = config.early_stop_checks
        self._draw, self._loss, self._seed = draw, loss, seed
        self._variables = list(network.trainable_variables)
        schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, num_steps)
        self.optimizer = keras.optimizers.Adam(schedule)
        self.optimizer.build(self._variables)
        # Variables, so that a checkpoint holds them: the least loss on the examples kept
        # apart, and how many checks ago it was.
        self._least = tf.Variable(np.float32(np.inf))
        self._checks_since = tf.Variable(0)
        self.checkpoint = tf.train.Checkpoint(
            network=network,
            optimizer=self.optimizer,
            least=self._least,
            checks_since=self._checks_since,
        )
        self._update = tf.function(self._take_step, autograph=False)
        self._evaluate = tf.function(loss, autograph=False)
        self._kept_apart: tuple[tf.Tensor, ...] | None = None

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.optimizer.iterations.numpy())

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done, or nothing was gained for long."""
        return self.step >= self.num_steps or int(self._checks_since) >= self._patience

    def batch(self, step: int) -> tuple[tf.Tensor, ...]:
        """Return the examples of a step; -1: those kept apart."""
        rng = np.random.default_rng([*self._seed, 1 + step])
        return tuple(tf.constant(array) for array in self._draw(rng))

    def train_step(self, batch: tuple[tf.Tensor, ...] | None = None) -> tf.Tensor:
        """Take one step on its batch, or on a given one; return the loss."""
        return self._update(*(self.batch(self.step) if batch is None else batch))

    def check(self) -> None:
        """Note whether the loss on the examples kept apart is the least so far."""
        if self._kept_apart is None:
            self._kept_apart = self.batch(-1)
        loss = self._evaluate(*self._kept_apart)
        is_least = bool(loss < self._least)
        self._least.assign(tf.minimum(loss, self._least))
        self._checks_since.assign(0 if is_least else self._checks_since + 1)

    def _take_step(self, *batch: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self._loss(*batch)
        self.optimizer.apply(tape.gradient(loss, self._variables), self._variables)
        return loss


class EvaluatorTrainer:
    """Both networks of an evaluator in training, one after the other.

    Loss of the estimation network: mean squared relative error of the metrics, and of its
    coefficients. As these depend on the accelerator alone, every accelerator of a batch is
    paired with every architecture of it; the candidates are in every batch.

    Loss of the generation network: cross-entropy of the exact best candidate, or of each
    of the four heads.
    """

    def __init__(
        self, table: CostTable, config: EvaluatorConfig, seed: int, candidates: np.ndarray
    ) -> None:
        """Make untrained networks.

        Args:
            table: Exact costs.
            config: Forms, sizes and training of the networks.
            seed: Seed of the initial weights and of the batches.
            candidates: Rows of the accelerators that may be generated, int32 [C].
        """
        self.config, self.table = config, table
        self.candidates = np.asarray(candidates, np.int32)
        self.domain = EvaluatorDomain.of_table(table)
        self.shapes = NetworkShapes.of(config, table, len(self.candidates))
        self.generator, self.estimator = make_networks(self.domain, self.shapes, seed)
        self.estimator.normalise(table)
        self._labels = CandidateTable(table, self.candidates)
        self._runnable = np.flatnonzero(can_run_everything(table)).astype(np.int32)
        self._heads = head_one_hot(table.accelerators.head_indices(), table.accelerators.head_sizes)
        self._candidate_heads = tf.gather(self._heads, self.candidates)
        self._candidate_costs: tuple[tf.Tensor, tf.Tensor] | None = None
        is_linear = isinstance(self.estimator, CostEstimationNetwork)
        if is_linear:
            self._targets = tf.constant(self.estimator.table_coefficients(table), tf.float32)
        self.stages = (
            NetworkTraining(
                self.estimator,
                "relative_error",
                config.estimator_steps,
                config,
                self._draw_pairs if is_linear else self._draw_examples,
                self._coefficient_loss if is_linear else self._metrics_loss,
                (seed, 1),
            ),
            NetworkTraining(
                self.generator,
                "cross_entropy",
                config.generator_steps,
                config,
                self._draw_choices,
                self._choice_loss,
                (seed, 2),
            ),
        )
        self.checkpoint = tf.train.Checkpoint(
            estimator=self.stages[0].checkpoint, generator=self.stages[1].checkpoint
        )

    def evaluator(self) -> NeuralEvaluator:
        """Return the networks as an evaluator; this freezes them."""
        if isinstance(self.estimator, CostEstimationNetwork):
            self.estimator.bound_errors(self.table)
        return NeuralEvaluator(
            self.generator,
            self.estimator,
            domain=self.domain,
            shapes=self.shapes,
            candidates=self.candidates,
        )

    # The estimation network

    def _draw_pairs(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw architectures [B / 2, D, O], and accelerators [~B] to pair each of them with."""
        num, space = self.config.batch_size, self.domain.space
        architectures = draw_architectures(space, -(-num // 2), self.config.soft_fraction, rng)
        others = rng.choice(self._runnable, size=max(num - len(self.candidates), num // 2))
        return architectures, np.concatenate([self.candidates, others]).astype(np.int32)

    def _coefficient_loss(self, architectures: tf.Tensor, accelerators: tf.Tensor) -> tf.Tensor:
        predicted = self.estimator.coefficients(tf.gather(self._heads, accelerators))
        exact = tf.gather(self._targets, accelerators)
        sums = zip(
            self.estimator.pairwise(architectures, predicted),
            self.estimator.pairwise(architectures, exact),
            strict=True,
        )
        error = tf.add_n([tf.reduce_mean(tf.square(ours / theirs - 1.0)) for ours, theirs in sums])
        own_error = tf.reduce_mean(tf.square(tf.math.log(predicted / exact)))
        return error + _COEFFICIENT_WEIGHT * own_error

    def _draw_examples(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Draw architectures, and one accelerator with its metrics for each."""
        batch = self._draw_batch(rng)
        accelerators = self.candidates[batch.best_index]
        if self.config.estimator_form == "plain":
            # Half of them are best ones, which an evaluator asks about.
            accelerators[1::2] = batch.accelerator_index[1::2]
        metrics = np.asarray(self.table.metrics_at(batch.mixture_weights, accelerators))
        return batch.mixture_weights, accelerators, metrics

    def _metrics_loss(
        self, architectures: tf.Tensor, accelerators: tf.Tensor, metrics: tf.Tensor
    ) -> tf.Tensor:
        predicted = self.estimator((architectures, tf.gather(self._heads, accelerators)))
        return tf.reduce_mean(tf.reduce_sum(tf.square(predicted / metrics - 1.0), axis=-1))

    # The generation network

    def _draw_batch(self, rng: np.random.Generator) -> LabelBatch:
        return draw_batch(
            self._labels,
            self._runnable,
            self.config.batch_size,
            self.config.soft_fraction,
            rng,
            is_edap=self.config.training_objectives == "edap",
        )

    def _draw_choices(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Draw architectures, objectives, and the position of the best among the candidates.

        For a ranked network the predicted costs of the candidates follow.
        """
        batch = self._draw_batch(rng)
        return batch.mixture_weights, batch.objective_vectors, batch.best_index, *self._costs()

    def _costs(self) -> tuple[tf.Tensor, ...]:
        """Return coefficients and areas of the candidates, computed once."""
        if self.config.generator_form != "ranked":
            return ()
        if self._candidate_costs is None:
            self._candidate_costs = self.estimator.costs(self._candidate_heads)
        return self._candidate_costs

    def _choice_loss(
        self, architectures: tf.Tensor, objectives: tf.Tensor, best: tf.Tensor, *costs: tf.Tensor
    ) -> tf.Tensor:
        if costs:
            metrics = self.estimator.pairwise_metrics(architectures, *costs)
            gaps = objective_gaps(objectives[:, None, :], metrics, self.domain.reference)
            logits = self.generator((architectures, objectives, gaps), training=True)
        else:
            logits = self.generator((architectures, objectives), training=True)
        if self.config.generator_form != "heads":
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(best, logits)
            return tf.reduce_mean(losses)
        sizes = self.domain.accelerators.head_sizes
        labels = split_heads(tf.gather(self._candidate_heads, best), sizes)
        by_head = [
            tf.nn.softmax_cross_entropy_with_logits(label, head)
            for label, head in zip(labels, split_heads(logits, sizes), strict=True)
        ]
        return tf.reduce_mean(tf.add_n(by_head))


def train_evaluator(
    table: CostTable,
    config: EvaluatorConfig,
    seed: int,
    output_dir: str,
    on_progress: Callable[..., None] | None = None,
    command: str | None = None,
) -> dict[str, Json]:
    """Train an evaluator, assess it and save it; an interrupted training goes on.

    Checkpoints lie in `output_dir`/checkpoints until the evaluator is saved. The seed
    determines the result; a resumed training gives that of an uninterrupted one.

    Args:
        table: Exact costs.
        config: Forms, sizes and training of the networks.
        seed: Seed of everything random.
        output_dir: Folder of the evaluator.
        on_progress: Function that is called with (step, total steps) of both networks
            together, and the losses by name.
        command: Command that gives this evaluator, for its manifest.
    Returns:
        Report of `evaluate_evaluator` about the result; also in its manifest.
    Raises:
        UserError: If the folder holds checkpoints of another training or unreadable ones,
            or the loss is no longer finite.
    """
    with owned(output_dir):
        return _train(table, config, seed, output_dir, on_progress, command)


def _train(
    table: CostTable,
    config: EvaluatorConfig,
    seed: int,
    output_dir: str,
    on_progress: Callable[..., None] | None,
    command: str | None,
) -> dict[str, Json]:
    folder = os.path.join(output_dir, "checkpoints")
    identity = {
        "config": dataclasses.asdict(dataclasses.replace(config, path=None)),
        "seed": seed,
        "content_hash": table.content_hash,
    }
    metrics = _finished(output_dir, identity)
    if metrics is not None:
        shutil.rmtree(folder, ignore_errors=True)  # A kill may have come before this.
        return metrics
    _claim(folder, identity)
    candidates = ever_best_accelerators(
        table,
        _NUM_CANDIDATE_DRAWS,
        config.soft_fraction,
        seed,
        is_edap=config.training_objectives == "edap",
    )
    trainer = EvaluatorTrainer(table, config, seed, candidates)
    checkpoints = CheckpointFolder(folder, trainer=trainer.checkpoint)
    checkpoints.restore()

    total = config.estimator_steps + config.generator_steps
    done = 0
    for stage in trainer.stages:
        while not stage.is_finished:
            loss = stage.train_step()
            step = stage.step
            if step % _REPORT_EVERY == 0 or step == stage.num_steps:
                value = float(loss)
                if not np.isfinite(value):
                    raise UserError(
                        f"the loss of the evaluator is not finite at step {done + step}:"
                        " lower evaluator.learning_rate"
                    )
                if on_progress is not None:
                    on_progress(done + step, total, **{stage.loss_name: value})
            if step % _CHECK_EVERY == 0:
                stage.check()
                checkpoints.save(done + step, {})
        done += stage.num_steps

    evaluator = trainer.evaluator()
    evaluator.thresholds = calibrated_thresholds(evaluator, seed)
    metrics = evaluate_evaluator(
        evaluator,
        table,
        _NUM_ASSESSED,
        seed + 1,
        softmin_temperature=config.softmin_temperature,
    )
    evaluator.save(output_dir, training={**identity, "command": command}, metrics=metrics)
    shutil.rmtree(folder)
    return metrics


def _finished(output_dir: str, identity: dict[str, Json]) -> dict[str, Json] | None:
    """Return the metrics of a finished training; None if there is none, or its files are lost."""
    path = os.path.join(output_dir, MANIFEST)
    if not os.path.exists(path):
        return None
    manifest = read_json(path)
    training = manifest.get("training") if isinstance(manifest, dict) else None
    if not isinstance(training, dict) or {n: training.get(n) for n in identity} != identity:
        raise UserError(
            f"{output_dir} holds an evaluator of another configuration, seed or cost table:"
            " choose another --output_dir"
        )
    lost = [n for n in manifest["files"] if not os.path.exists(os.path.join(output_dir, n))]
    if lost:
        terminal.warn(f"{output_dir} is finished but lacks {', '.join(lost)}: trained again")
        return None
    try:
        NeuralEvaluator.load(output_dir)
    except UserError as error:
        reason = str(error).removesuffix(f": {MEND}")
        raise UserError(f"{reason}: choose another --output_dir") from None
    terminal.note(f"{output_dir} is finished; nothing is left to do")
    return manifest["metrics"]


def _claim(folder: str, identity: dict[str, Json]) -> None:
    """Note the training that a folder's checkpoints belong to, or refuse those of another."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "training.json")
    if os.path.exists(path):
        if read_json(path) != identity:
            raise UserError(
                f"{folder} holds an unfinished training with another configuration, seed or"
                " cost table: give the same again, or name another --output_dir"
            )
        if os.path.exists(os.path.join(folder, "checkpoint")):
            raise UserError(
                f"{folder} holds an unfinished training of an earlier version of this program:"
                " finish it with that, or choose another --output_dir"
            )
        return
    write_json(path, identity)
