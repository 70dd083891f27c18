"""Flags that say where a tool's independent tasks run, and the engine that they make."""

from __future__ import annotations

import json
import os

from absl import flags

from dance_tf.errors import UserError
from dance_tf.run.engine import Engine

from .flags import load_tensorflow

__all__ = ["define_engine", "engine_of", "task_of_environment"]


def define_engine(values: flags.FlagValues, *, num_jobs: int = 1) -> None:
    """Define --engine, --jobs, --ray_address, --cpus_per_task and --gpus_per_task.

    Args:
        values: The tool's flags.
        num_jobs: Default of --jobs on this machine.
    """
    flags.DEFINE_enum(
        "engine",
        "local",
        ["local", "ray"],
        "Where independent tasks run: in processes of this machine, or on Ray (dance_tf[ray]).",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "jobs",
        num_jobs,
        "Tasks at the same time; 0: one per core of this machine, or as many as Ray has room for,"
        " which is Ray's default.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_string(
        "ray_address",
        None,
        "Cluster of Ray to join: host:port, ray://host:port, or auto for the one on this machine."
        " Without it Ray is started here, for this command.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "cpus_per_task", 1.0, "CPUs of a task on Ray.", lower_bound=0.0, flag_values=values
    )
    flags.DEFINE_float(
        "gpus_per_task", 0.0, "GPUs of a task on Ray.", lower_bound=0.0, flag_values=values
    )


def engine_of(values: flags.FlagValues) -> Engine:
    """Return the engine that parsed flags ask for.

    Raises:
        UserError: If flags of Ray come without it.
    """
    kind, num_jobs = str(values["engine"].value), int(values["jobs"].value or 0)
    of_ray = ("ray_address", "cpus_per_task", "gpus_per_task")
    if kind == "local":
        for name in of_ray:
            if values[name].present:
                raise UserError(f"--{name} goes with --engine=ray")
        return Engine(num_jobs=num_jobs or os.cpu_count() or 1, on_start=load_tensorflow)
    if not values["jobs"].present:
        num_jobs = 0
    address, cpus, gpus = (values[name].value for name in of_ray)
    return Engine(kind, num_jobs, address, float(cpus or 0), float(gpus or 0), load_tensorflow)


def task_of_environment() -> int:
    """Return the number of this process among the workers of TF_CONFIG; 0 is the chief.

    Raises:
        UserError: If TF_CONFIG is missing or does not say.
    """
    try:
        config = json.loads(os.environ.get("TF_CONFIG", ""))
        workers, task = config["cluster"]["worker"], config["task"]
        if task["type"] == "worker" and 0 <= int(task["index"]) < len(workers):
            return int(task["index"])
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(
        '--distribute=multiworker needs TF_CONFIG, such as {"cluster": {"worker": ["host1:2222",'
        ' "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
    )
