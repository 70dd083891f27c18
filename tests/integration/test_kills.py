"""Tools that are killed at random moments, resumed, and end in the uninterrupted result.

A process of a tool costs more to start than to run here, so each is forked from a server
that has imported all and has run nothing, and TensorFlow runs without tracing.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from dance_tf.files import read_json
from dance_tf.run import reporting
from tools import flags as common

NUM_KILLS = 20

#: No run here takes as long, s.
PATIENCE_S = 600

#: What is not the same in two runs.
TIMES = ("times", "train_s", "training_time_s")

#: Two steps an epoch, and a checkpoint after each epoch.
QUICK = ("--preset=tiny", "--set=search.epochs=6", "--set=search.batch_size=500")

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "tensorflow",
        "keras",
        "dance_tf.report.page",
        "dance_tf.search.sweep.plot",
        "dance_tf.search.pipeline",
        "dance_tf.search.sweep.sweep",
        "tests.integration.test_kills",
    ]
)


class Moment(NamedTuple):
    """When to kill: `delay_s` after file event number `first`, and never after number `last`."""

    first: int
    last: int
    delay_s: float


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "arguments", "compared"),
    [
        (
            "search",
            (*QUICK, "--set=retrain.epochs=2", "--set=retrain.batch_size=500", "--noexport"),
            ("result.json", "history.jsonl", "accelerator.json"),
        ),
        ("train_supernet", QUICK, ("supernet.json", "history.jsonl")),
    ],
)
def test_killed_at_random_moments_it_ends_in_the_uninterrupted_result(
    tool, arguments, compared, tmp_path
):
    if tool == "search":
        arguments = (*arguments, f"--cache_dir={tmp_path / 'cache'}")
    check_kills(tool, arguments, compared, tmp_path)


@pytest.mark.slow
def test_a_killed_sweep_ends_in_the_uninterrupted_front(tmp_path):
    supernet = tmp_path / "supernet"
    process = _Process("train_supernet", (*QUICK, f"--output_dir={supernet}"), supernet)
    assert process.end() == 0, process.log()
    (tmp_path / "sweeps").mkdir()
    arguments = (
        *QUICK,
        "--set=retrain.epochs=2",
        "--set=retrain.batch_size=500",
        f"--supernet_dir={supernet}",
        f"--cache_dir={tmp_path / 'cache'}",
        "--objectives=EDAP,latency",
        "--lambdas=0,0.5",
        "--num_images=100",
        "--num_retrained=2",
    )
    compared = (
        "pareto.json",
        "pareto.svg",
        "accuracies.jsonl",
        "searches/*/*.json*",
        "retrained/*/*.json*",
    )
    check_kills("pareto", arguments, compared, tmp_path / "sweeps")


def check_kills(tool, arguments, compared, folder: Path, seed=0) -> None:
    """Run a tool twice, once to its end and once with kills, and compare what is left.

    Args:
        tool: Name of a module in tools/ with --output_dir and --resume.
        arguments: Its other arguments.
        compared: Patterns of the files that have to be the same, times aside.
        folder: Empty folder.
        seed: Of the moments.
    """
    whole, killed = folder / "whole", folder / "killed"
    process, trace = _Process(tool, (*arguments, f"--output_dir={whole}"), whole), []
    assert process.end() == 0, process.log()
    trace = json.loads(process.trace.read_text())
    order: dict[str, int] = {}
    for index, (_, name) in enumerate(trace):
        order.setdefault(name, index)
    options = [f"--output_dir={killed}"]
    for moment in _moments([at_s for at_s, _ in trace], seed):
        process = _Process(tool, (*arguments, *options), killed, order, moment)
        assert process.end() == -signal.SIGKILL, f"{moment}: {process.log()}"
        _read_all(killed)
        options = [f"--output_dir={killed}", "--resume"]
    process = _Process(tool, (*arguments, *options), killed)
    assert process.end() == 0, process.log()
    names = sorted(p.relative_to(whole) for pattern in compared for p in whole.glob(pattern))
    assert len(names) >= len(compared)
    for name in names:
        assert _without_times(killed / name) == _without_times(whole / name), name
    assert not list(killed.rglob("*.partial"))


def _moments(times_s: list[float], seed: int) -> list[Moment]:
    """Draw when to kill: half at file events, half at times of the uninterrupted run."""
    draw, last = random.Random(seed), len(times_s) - 1
    indices = draw.sample(range(last), NUM_KILLS // 2)
    drawn = [(times_s[index], index, 0.0) for index in indices]
    while len(drawn) < NUM_KILLS:
        at_s = draw.uniform(times_s[0], times_s[last])
        index = sum(event_s <= at_s for event_s in times_s) - 1
        drawn.append((at_s, index, at_s - times_s[index]))
    drawn.sort()
    ends = [index for _, index, _ in drawn[1:]] + [last]
    return [
        Moment(i, max(i, end), delay_s) for (_, i, delay_s), end in zip(drawn, ends, strict=True)
    ]


class _Process:
    """A tool in a process of its own, which may be killed at a moment."""

    def __init__(self, tool, arguments, output_dir, order=None, moment=None) -> None:
        self._log_path = output_dir.with_suffix(".log")
        self.trace = output_dir.with_suffix(".trace.json")
        self._moment = moment
        self._reached, reached = SERVER.Pipe(duplex=False)
        files = (str(output_dir), str(self._log_path), str(self.trace))
        self._process = SERVER.Process(
            target=_run_tool, args=(tool, arguments, *files, order, moment, reached)
        )

    def end(self) -> int | None:
        """Return the exit status, the negative signal of one that was killed."""
        self._process.start()
        if self._moment and self._moment.delay_s:
            ends = [self._reached, self._process.sentinel]
            multiprocessing.connection.wait(ends, PATIENCE_S)
            time.sleep(self._moment.delay_s)
            self._process.kill()
        self._process.join(PATIENCE_S)
        return self._process.exitcode

    def log(self) -> str:
        return self._log_path.read_text()[-3000:]


def _run_tool(tool, arguments, output_dir, log_path, trace_path, order, moment, reached):
    """Run a tool in this process; note its file events, or be killed at one of them."""
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    began, trace = time.monotonic(), []

    def see(event, details):
        name = _file_event(event, details, output_dir)
        if name is None:
            return
        if moment is None:
            trace.append((time.monotonic() - began, name))
            return
        index = order.get(name, -1)
        if index >= moment.last or (index >= moment.first and not moment.delay_s):
            os.kill(os.getpid(), signal.SIGKILL)
        if index >= moment.first:
            reached.send(index)

    sys.addaudithook(see)
    module = importlib.import_module(f"tools.{tool}")
    status = common.call(module.main, module.FLAGS, [tool, *arguments])
    if moment is None:
        Path(trace_path).write_text(json.dumps(trace))
    sys.stdout.flush()
    sys.exit(status)


def _file_event(event: str, details: tuple, folder: str) -> str | None:
    """Return the name of an event that changes a file in the folder; None for others.

    Python raises the event before the change.
    """
    if event not in ("open", "os.mkdir", "os.rename", "os.remove", "shutil.rmtree"):
        return None
    path = str(details[0])
    if path != folder and not path.startswith(folder + os.sep):
        return None
    if event == "open" and not details[2] & (os.O_WRONLY | os.O_RDWR):
        return None
    return f"{event} {path.removeprefix(folder)}".replace(f".{os.getpid()}.", ".pid.")


def _read_all(folder: Path) -> None:
    """Read every file that a run would read; one half-written is an error."""
    for path in folder.rglob("*.json"):
        if not any(part.startswith(".partial") for part in path.parts):  # which nobody reads
            read_json(path)
    for path in folder.rglob("*.jsonl"):
        reporting.read_history(path)  # which passes over a torn last line


def _without_times(path: Path):
    if path.suffix != ".json":
        return path.read_bytes()
    data = read_json(path)
    return {name: value for name, value in data.items() if name not in TIMES}
