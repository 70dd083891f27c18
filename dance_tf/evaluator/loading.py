"""Choose the evaluator that a configuration asks for, and hold it to the cost table."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from dance_tf.config import EvaluatorConfig
from dance_tf.errors import UserError
from dance_tf.evaluator.domain import EvaluatorDomain
from dance_tf.evaluator.exact import ExactEvaluator
from dance_tf.evaluator.neural import MANIFEST, MEND, NeuralEvaluator
from dance_tf.paths import local_path

__all__ = ["load_evaluator", "shipped_path"]

_SHIPPED = pathlib.Path(__file__).resolve().parents[2] / "saved_models"


def shipped_path(space_name: str) -> str:
    """Return the folder where the pre-trained evaluator of a space is, if there is one."""
    return str(_SHIPPED / f"evaluator_{space_name}")


def load_evaluator(config: EvaluatorConfig, table: Any) -> ExactEvaluator | NeuralEvaluator:
    """Return the evaluator of a configuration, for the costs of a table.

    Args:
        config: kind; for a neural evaluator the folder, or None for the shipped one.
        table: hardware.cost_table.CostTable.
    Raises:
        UserError: If there is no such evaluator, if its files are damaged, or if it was
            trained for another network space, accelerator space, machine or table.
    """
    if config.kind == "exact":
        return ExactEvaluator(table, config.softmin_temperature)
    if config.path is None:
        path = shipped_path(table.space.name)
        if not os.path.isfile(os.path.join(path, MANIFEST)):
            raise UserError(f"no neural evaluator is shipped for space {table.space.name}: {MEND}")
    else:
        path = local_path(config.path, "evaluator.path")
    evaluator = NeuralEvaluator.load(path)
    mismatch = _mismatch(evaluator.domain, EvaluatorDomain.of_table(table))
    if mismatch:
        raise UserError(f"evaluator {path} was trained for another {mismatch}: {MEND}")
    return evaluator


def _mismatch(trained: EvaluatorDomain, asked: EvaluatorDomain) -> str | None:
    """Return the first thing in which two domains differ, widest first."""
    if trained.space.name != asked.space.name:
        return f"network space ({trained.space.name}, not {asked.space.name})"
    for what, ours, theirs in (
        ("network space", trained.space, asked.space),
        ("accelerator space", trained.accelerators.config, asked.accelerators.config),
        ("machine", trained.machine, asked.machine),
    ):
        if ours != theirs:
            fields = [f for f in vars(ours) if getattr(ours, f) != getattr(theirs, f)]
            return f"{what} ({', '.join(fields)} differ)"
    if trained.content_hash != asked.content_hash:
        return (
            f"cost table (content hash {trained.content_hash[:12]}, not {asked.content_hash[:12]})"
        )
    return None
