"""A tool of this folder run in a process of its own, timed as a user would time it."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from dance_tf.errors import UserError
from dance_tf.files import Json, parse_json

__all__ = ["ONE_CORE", "FreshRun", "run_fresh", "say"]

#: Holds TensorFlow to one thread, which it reads as it starts.
ONE_CORE = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}


class FreshRun(NamedTuple):
    """JSON that a tool printed in a process of its own, and what the process took."""

    output: dict[str, Json]
    wall_s: float
    cpu_s: float  # of all its threads
    peak_memory_mb: float  # resident


def run_fresh(
    tool: str, *arguments: str, environment: Mapping[str, str] = MappingProxyType({})
) -> FreshRun:
    """Run a tool in a new process, with more in its environment; its stderr is ours.

    Raises:
        UserError: If it fails; its own line then stands above ours.
    """
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", f"tools.{tool}", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).resolve().parents[1],
        env={**os.environ, **environment},
    ) as process:
        text = process.stdout.read() if process.stdout else ""
        # Of this child alone, which getrusage(RUSAGE_CHILDREN) does not tell.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.perf_counter() - began
    if process.returncode:
        raise UserError(f"{tool} {' '.join(arguments)} ended with status {process.returncode}")
    say(f"{tool} {' '.join(arguments)}", wall_s)
    unit = 1 if sys.platform == "darwin" else 1024
    return FreshRun(
        output=parse_json(text, tool),
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_memory_mb=usage.ru_maxrss * unit / 1e6,
    )


def say(what: str, seconds: float) -> None:
    """Print what has been measured, on stderr."""
    print(f"benchmark: {what}: {seconds:.3f} s", file=sys.stderr, flush=True)
