"""Train the neural evaluator on labels from the table.

First the cost estimation network, then, with that one as it is, the hardware generation
network, which ranks the candidates by what the first says of them.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from dance_tf.config import EvaluatorConfig
from dance_tf.errors import UserError
from dance_tf.evaluator.assessment import evaluate_evaluator
from dance_tf.evaluator.dataset import ever_best_accelerators
from dance_tf.evaluator.trainers import EvaluatorTrainer
from dance_tf.evaluator.trust import calibrated_thresholds
from dance_tf.paths import pattern_free
from dance_tf.strict_json import read_json, write_json

__all__ = ["train_evaluator"]

# Random examples that the whole table labels, to find the accelerators that are ever best.
_NUM_CANDIDATE_DRAWS = 262_144

_CHECK_EVERY = 1_000  # steps between checks on examples kept apart, and checkpoints
_REPORT_EVERY = 50
_NUM_ASSESSED = 2_000


def train_evaluator(
    table: Any,
    config: EvaluatorConfig,
    seed: int,
    output_dir: str,
    on_progress: Callable[..., None] | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Train an evaluator, assess it and save it; an interrupted training goes on.

    Checkpoints lie in `output_dir`/checkpoints until the evaluator is saved. The seed
    determines the result; a resumed training gives that of an uninterrupted one.

    Args:
        table: hardware.cost_table.CostTable.
        config: Shape and training.
        seed: Of everything random.
        output_dir: Folder of the evaluator.
        on_progress: Called with (step, total steps) of both networks together, and the
            losses by name.
        command: What to note in the manifest as the command that gives this evaluator.
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
    candidates = ever_best_accelerators(
        table,
        _NUM_CANDIDATE_DRAWS,
        config.soft_fraction,
        seed,
        is_edap=config.training_objectives == "edap",
    )
    trainer = EvaluatorTrainer(table, config, seed, candidates)
    with pattern_free(folder) as plain:
        manager = tf.train.CheckpointManager(trainer.checkpoint, plain, max_to_keep=2)
        _restore(trainer, manager.latest_checkpoint, folder)
        _train(trainer, config, manager, on_progress)

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


def _restore(trainer: EvaluatorTrainer, checkpoint: str | None, folder: str) -> None:
    if checkpoint is None:
        return
    try:
        trainer.checkpoint.restore(checkpoint).assert_consumed()
    except (tf.errors.OpError, AssertionError, LookupError, ValueError) as error:
        raise UserError(
            f"cannot read checkpoint {os.path.join(folder, os.path.basename(checkpoint))}"
            f" ({type(error).__name__}): move {folder} away to start anew, or name another"
            " --output_dir"
        ) from None


def _train(
    trainer: EvaluatorTrainer,
    config: EvaluatorConfig,
    manager: tf.train.CheckpointManager,
    on_progress: Callable[..., None] | None,
) -> None:
    """Train both networks from where they are to their end."""
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
                manager.save(checkpoint_number=done + step)
        done += stage.num_steps


def _claim(folder: str, identity: dict[str, Any]) -> None:
    """Note whose checkpoints a folder holds, or find that they are ours."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "training.json")
    if os.path.exists(path):
        if read_json(path) != identity:
            raise UserError(
                f"{folder} holds an unfinished training with another configuration, seed or"
                " cost table: give the same again, or name another --output_dir"
            )
        return
    write_json(path, identity)
