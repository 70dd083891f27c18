"""Choice of the evaluator that a configuration asks for, checked against the cost table."""

from __future__ import annotations

import dataclasses
import os

from dance_tf.config import EvaluatorConfig, HardwareConfig
from dance_tf.errors import UserError
from dance_tf.evaluator.exact import ExactEvaluator
from dance_tf.evaluator.neural import MANIFEST, MEND, NeuralEvaluator
from dance_tf.files import local_path
from dance_tf.hardware.cost_table import CostTable
from dance_tf.protocols import SearchSpace
from dance_tf.run import installation

__all__ = ["check_evaluator", "load_evaluator", "shipped_path"]


def shipped_path(space_name: str) -> str:
    """Return the folder where the pre-trained evaluator of a space is, if there is one."""
    return str(installation.folder("saved_models") / f"evaluator_{space_name}")


def check_evaluator(
    config: EvaluatorConfig, space: SearchSpace, hardware: HardwareConfig
) -> str | None:
    """Check whether the evaluator of a configuration fits, before any cost is computed.

    Args:
        config: Kind, and for a neural evaluator the folder, or None for the shipped one.
        space: Network space of the run.
        hardware: Accelerator space and machine of the run.
    Returns:
        Reason why the exact evaluator will stand in for the shipped one; None if it will
        not.
    Raises:
        UserError: If an evaluator that was named does not exist or does not fit.
    """
    if config.kind == "exact":
        return None
    source = hardware.measured_csv if config.path is None else None
    problem = _problem(config, space, hardware)
    if problem is None and source is not None:
        problem = f"the shipped evaluator knows the cost model, not the costs in {source}"
    return _refuse_if_named(config, problem)


def load_evaluator(config: EvaluatorConfig, table: CostTable) -> ExactEvaluator | NeuralEvaluator:
    """Return the evaluator of a configuration, for the costs of a table.

    Where none was named (kind "auto", no path) and the shipped one does not fit, the exact
    evaluator stands in, and its `reason` says why.

    Args:
        config: Kind, and for a neural evaluator the folder, or None for the shipped one.
        table: Exact costs, which the evaluator has to fit.
    Raises:
        UserError: If there is no such evaluator, if its files are damaged, or if it was
            trained for another network space, accelerator space, machine or table.

    >>> from dance_tf import load_or_build_table, make_space
    >>> from dance_tf.config import AcceleratorSpaceConfig, HardwareConfig, SpaceConfig
    >>> accelerators = AcceleratorSpaceConfig((8,), (8,), (64,), ("row_stationary",))
    >>> space = make_space(SpaceConfig("tiny_mbconv"))
    >>> table = load_or_build_table(space, HardwareConfig(accelerators=accelerators))
    >>> load_evaluator(EvaluatorConfig(kind="auto"), table).reason
    'no neural evaluator is shipped for space tiny_mbconv'
    """
    reason = None
    if config.kind != "exact":
        hardware = HardwareConfig(table.machine, table.accelerators.config)
        problem = _problem(config, table.space, hardware, table.content_hash)
        reason = _refuse_if_named(config, problem)
        if reason is None:
            return NeuralEvaluator.load(_path(config, table.space))
    return ExactEvaluator(table, config.softmin_temperature, reason)


def _path(config: EvaluatorConfig, space: SearchSpace) -> str:
    if config.path is None:
        return shipped_path(space.name)
    return local_path(config.path, "evaluator.path")


def _refuse_if_named(config: EvaluatorConfig, problem: str | None) -> str | None:
    if problem and (config.kind == "neural" or config.path is not None):
        raise UserError(f"{problem}: {MEND}")
    return problem


def _problem(
    config: EvaluatorConfig,
    space: SearchSpace,
    hardware: HardwareConfig,
    content_hash: str | None = None,
) -> str | None:
    """Return the widest reason why a neural evaluator does not fit, or None."""
    path = _path(config, space)
    if config.path is None and not os.path.isfile(os.path.join(path, MANIFEST)):
        return f"no neural evaluator is shipped for space {space.name}"
    trained = NeuralEvaluator.read_domain(path)
    if trained.space.name != space.name:
        mismatch = f"network space ({trained.space.name}, not {space.name})"
        return f"evaluator {path} was trained for another {mismatch}"
    for what, ours, theirs in (
        ("network space", trained.space, space),
        ("accelerator space", trained.accelerators.config, hardware.accelerators),
        ("machine", trained.machine, hardware.machine),
    ):
        # Ops of a user's own are recorded by their layers, which the table's hash covers.
        names = [field.name for field in dataclasses.fields(ours) if field.name != "own_ops"]
        fields = [name for name in names if getattr(ours, name) != getattr(theirs, name)]
        if fields:
            return f"evaluator {path} was trained for another {what} ({', '.join(fields)} differ)"
    if content_hash not in (None, trained.content_hash):
        return (
            f"evaluator {path} was trained for another cost table (content hash"
            f" {trained.content_hash[:12]}, not {content_hash[:12]})"
        )
    return None
