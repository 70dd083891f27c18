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

from dance_tf import terminal
from dance_tf.checkpoints import CheckpointFolder
from dance_tf.config import EvaluatorConfig
from dance_tf.errors import UserError
from dance_tf.evaluator.assessment import evaluate_evaluator
from dance_tf.evaluator.dataset import ever_best_accelerators
from dance_tf.evaluator.neural import MANIFEST, MEND, NeuralEvaluator
from dance_tf.evaluator.trainers import EvaluatorTrainer
from dance_tf.evaluator.trust import calibrated_thresholds
from dance_tf.folder_lock import owned
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
    with owned(output_dir):
        return _train(table, config, seed, output_dir, on_progress, command)


def _train(
    table: Any,
    config: EvaluatorConfig,
    seed: int,
    output_dir: str,
    on_progress: Callable[..., None] | None,
    command: str | None,
) -> dict[str, Any]:
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


def _finished(output_dir: str, identity: dict[str, Any]) -> dict[str, Any] | None:
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
        if os.path.exists(os.path.join(folder, "checkpoint")):
            raise UserError(
                f"{folder} holds an unfinished training of an earlier version of this program:"
                " finish it with that, or choose another --output_dir"
            )
        return
    write_json(path, identity)
