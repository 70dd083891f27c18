"""Time of one sweep in one process, in two, and on Ray, and whether all find the same.

Twelve searches of the `tiny` preset on a supernet that is trained first, without retrainings.
The load of the machine is noted, for other programs on it make the wall time say little; the
processors' seconds of Ray's own processes are not those of the command and are left out.

python -m studies.engines --work_dir=runs/engines --output=runs/engines.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

from dance_tf.files import Json, read_json, write_json
from dance_tf.run import run_info

#: What is not the same in two runs.
_TIMES = ("times",)

_SWEEP = (
    *("--preset=tiny", "--objectives=EDAP,latency", "--lambdas=0.03,0.1,1", "--num_seeds=2"),
    *("--num_images=300", "--verbosity=-1"),
)

ENGINES = {
    "jobs_1": ("--jobs=1",),
    "jobs_2": ("--jobs=2",),
    "ray_2": ("--engine=ray", "--jobs=2"),
}


def main() -> None:
    """Run the sweeps that are not there yet, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work_dir", required=True, help="Folder of the sweeps.")
    parser.add_argument("--output", required=True, help="JSON file to write.")
    options = parser.parse_args()
    folder = pathlib.Path(options.work_dir)
    supernet, cache = folder / "supernet", folder / "cache"
    if not (supernet / "supernet.json").exists():
        _run("train_supernet", "--preset=tiny", f"--output_dir={supernet}")
        _run("build_cost_table", "--preset=tiny", f"--cache_dir={cache}")
    given = (*_SWEEP, f"--supernet_dir={supernet}", f"--cache_dir={cache}")
    sweeps: dict[str, Json] = {}
    for name, flags in ENGINES.items():
        if name.startswith("ray") and importlib.util.find_spec("ray") is None:
            continue
        load = os.getloadavg()[0]
        times = _run("pareto", *given, *flags, f"--output_dir={folder / name}")
        found = {str(p.relative_to(folder / name)): _content(p) for p in _files(folder / name)}
        if name == "jobs_1":
            first = found
        sweeps[name] = {
            **times,
            "load_before": round(load, 2),
            "load_after": round(os.getloadavg()[0], 2),
            "num_files": len(found),
            "is_equal": found == first,
        }
    record = {"machine": run_info.machine(), "num_searches": 12, "sweeps": sweeps}
    write_json(options.output, record)
    print(json.dumps(record, indent=2))


def _run(tool: str, *arguments: str) -> dict[str, float]:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", f"tools.{tool}", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(time.monotonic() - began, 1), "cpu_s": round(cpu_s, 1)}


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    patterns = ("pareto.json", "pareto.svg", "accuracies.jsonl", "searches/*/*.json*")
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def _content(path: pathlib.Path) -> object:
    if path.suffix != ".json":
        return path.read_bytes()
    return {key: value for key, value in read_json(path).items() if key not in _TIMES}


if __name__ == "__main__":
    main()
