"""Engines: tasks in this process, in others, and on Ray, where it is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import signal
import time

import pytest

from dance_tf.errors import Interrupted, UserError
from dance_tf.run.engine import HERE, NUM_RETRIES, Engine
from tests.run import engine_tasks as tasks

TWO = Engine(num_jobs=2, on_start=tasks.note_start)


def _results(engine, task, arguments):
    with engine, contextlib.closing(engine.run(task, arguments)) as found:
        return dict(found)


def test_processes_give_what_this_process_gives_and_are_others():
    arguments = [{"value": value} for value in (1.5, 0.1, 2.0)]
    here = _results(HERE, tasks.double, arguments)
    there = _results(TWO, tasks.double, arguments)
    assert [here[i]["doubled"] for i in range(3)] == [there[i]["doubled"] for i in range(3)]
    assert {here[i]["process"] for i in range(3)} == {os.getpid()}
    assert os.getpid() not in {there[i]["process"] for i in range(3)}
    assert all(there[i]["has_started"] for i in range(3)) and not here[0]["has_started"]


def test_a_mistake_of_the_user_comes_as_one_line():
    with pytest.raises(UserError, match=r"^no such thing$"):
        _results(TWO, tasks.refuse, ["no such thing", "no such thing"])


def test_a_task_that_is_asked_to_stop_stops_all():
    with pytest.raises(Interrupted) as caught:
        _results(TWO, tasks.stop, [int(signal.SIGTERM)])
    assert caught.value.signum == signal.SIGTERM


def test_a_lost_process_is_replaced_and_finished_tasks_are_not_done_again(tmp_path, capsys):
    arguments = [{"folder": str(tmp_path), "name": n, "num_kills": n == "b"} for n in "abcd"]
    assert _results(TWO, tasks.die, arguments) == dict(enumerate("abcd"))
    assert "a process was ended from outside" in capsys.readouterr().err
    begun = [path.name.partition(".")[0] for path in tmp_path.iterdir()]
    assert begun.count("b") == 2 and len(begun) <= 6  # the other process had one at the time


def test_processes_that_are_lost_again_and_again_end_in_one_line(tmp_path):
    argument = {"folder": str(tmp_path), "name": "a", "num_kills": 99}
    with pytest.raises(UserError, match=f"{NUM_RETRIES + 1} times in a row.*--jobs"):
        _results(TWO, tasks.die, [argument])


def test_what_runs_when_the_caller_stops_asking_is_ended(tmp_path):
    run = TWO.run(tasks.wait, [{"path": str(tmp_path / n), "seconds": s} for n, s in _WAITS])
    next(run)
    began = time.monotonic()
    run.close()
    assert time.monotonic() - began < 20
    process = int((tmp_path / "long").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


_WAITS = (("long", 600), ("short", 0))


def test_without_ray_one_line_names_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'dance_tf\[ray\]'"):
        Engine("ray")


@pytest.mark.slow
def test_ray_gives_the_same_and_survives_a_lost_process(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed (dance_tf[ray])")
    arguments = [{"folder": str(tmp_path), "name": n, "num_kills": n == "b"} for n in "abcd"]
    assert _results(Engine("ray", 2), tasks.die, arguments) == dict(enumerate("abcd"))
    assert len(list(pathlib.Path(tmp_path).glob("b.*"))) == 2
    with pytest.raises(UserError, match=r"^no such thing$"):
        _results(Engine("ray", 2), tasks.refuse, ["no such thing"])
