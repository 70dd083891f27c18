"""Origin of a result: command, versions, commit, devices, seed, times."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys

from dance_tf.files import Json, write_json
from dance_tf.version import __version__

__all__ = ["collect", "machine", "now", "num_threads", "versions", "write"]

#: Distributions whose version can change a result.
PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-datasets", "ai-edge-litert")


def now() -> datetime.datetime:
    """Return the time, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)


def collect(
    seed: int | None,
    started: datetime.datetime,
    *,
    ended: datetime.datetime | None = None,
    is_deterministic: bool | None = None,
) -> dict[str, Json]:
    """Return all that has to be known to repeat a run, as JSON data.

    Args:
        seed: Seed of the run.
        started: Time of the beginning, from `now()`.
        ended: Time of the end; None while the run lasts.
        is_deterministic: True if op determinism was switched on (TensorFlow has a public
            switch but no public question); None if the run did not decide.
    """
    return {
        "command": shlex.join(sys.orig_argv),
        "working_directory": os.getcwd(),
        "versions": versions(),
        "git_commit": _git_commit(),
        "platform": platform.platform(),
        "num_cpus": _num_cpus(),
        "num_threads": num_threads(),
        "devices": _devices(),
        "seed": seed,
        "is_deterministic": is_deterministic,
        "started_at": started.isoformat(timespec="seconds"),
        "ended_at": None if ended is None else ended.isoformat(timespec="seconds"),
        "wall_time_s": None if ended is None else round((ended - started).total_seconds(), 3),
    }


def machine() -> dict[str, Json]:
    """Return the machine that times are measured on; None stands for what is not known."""
    try:
        memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        memory_gib = None
    return {
        "cpu": _cpu_model(),
        "num_cpus": _num_cpus(),
        "memory_gib": None if memory_gib is None else round(memory_gib, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def num_threads() -> int | None:
    """Return the number of threads that TensorFlow splits an operation among, on the CPU.

    A sum that is split otherwise is rounded otherwise, so a result depends on this number.
    """
    import tensorflow as tf  # late: importing this module stays cheap

    chosen = tf.config.threading.get_intra_op_parallelism_threads()
    if chosen == 0:  # The system chooses, unless the environment does.
        text = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
        chosen = int(text) if text.isdecimal() else 0
    return chosen or _num_cpus()


def versions() -> dict[str, str | None]:
    """Return the versions that can change a result, of Python, this package and others."""
    return {
        "python": platform.python_version(),
        "dance_tf": __version__,
        **_package_versions(),
    }


def write(path: str | os.PathLike, info: dict[str, Json]) -> None:
    """Write the data of `collect` as a JSON file."""
    write_json(path, info)


def _package_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _git_commit() -> str | None:
    """Return the commit of this source tree, with "-dirty" if tracked files differ from it.

    None where there is no git, and where the package is installed inside someone else's
    repository (a virtual environment in their checkout), whose commit says nothing of us.
    """
    folder = os.path.dirname(os.path.abspath(__file__))

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", os.path.basename(__file__)) is None:
        return None
    commit = git("rev-parse", "HEAD")
    is_dirty = commit and git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if is_dirty else commit


def _cpu_model() -> str | None:
    """Return the CPU's name; Linux has it in a file only."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line[:10] == "model name"]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine() or None


def _num_cpus() -> int | None:
    """Return the CPUs that this process may use, not those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _devices() -> list[dict[str, str]]:
    import tensorflow as tf  # late: importing this module stays cheap

    devices = []
    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device)
        name = details.get("device_name") or platform.processor() or platform.machine()
        devices.append({"type": device.device_type, "name": name})
    return devices
