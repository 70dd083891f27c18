"""Lines on stderr: progress and time left, the stages of a run, and the verbosity."""

from __future__ import annotations

import io

import numpy as np
import pytest

from dance_tf.run import terminal
from dance_tf.run.terminal import ProgressLine, Stages


class _Terminal(io.StringIO):
    def isatty(self):
        return True


class _Time:
    """A clock that is moved by hand."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return _Time()


def _run(clock, phase, steps_s, *, start_step=0, total=None, stream=None):
    """Report steps that take so many seconds each; return the lines."""
    stream = stream or io.StringIO()
    total = total or start_step + len(steps_s)
    line = ProgressLine(
        phase, total, start_step=start_step, stream=stream, clock=clock, interval_s=1e-9
    )
    for step, seconds in enumerate(steps_s, start=start_step + 1):
        clock.now_s += seconds
        line.update(step)
    return stream.getvalue().splitlines()


def test_progress_in_a_file_is_plain_lines_at_an_interval(clock):
    stream = io.StringIO()
    with ProgressLine("search", 100, stream=stream, clock=clock, interval_s=10.0) as line:
        for now_s, step, values in (
            (1.0, 10, {"loss": 1.23456}),
            (2.0, 20, {"loss": 1.1}),  # within the interval
            (11.5, 50, {"loss": np.float32(0.5), "predicted_edap": 2.0, "exact_edap": None}),
            (20.0, 100, {"loss": 0.25}),
            (21.0, 100, {}),  # the last step is shown once
        ):
            clock.now_s = now_s
            line.update(step, **values)
    assert stream.getvalue().splitlines() == [
        "search  10%  step 10/100  loss 1.235",
        "search  50%  0:14 left  step 50/100  3.81 steps/s  loss 0.5  predicted_edap 2",
        "search 100%  0:00 left  step 100/100  4.74 steps/s  loss 0.25  predicted_edap 2",
    ]


def test_progress_on_a_terminal_rewrites_one_line_that_shows_what_is_left(monkeypatch, clock):
    monkeypatch.setenv("COLUMNS", "40")
    stream = _Terminal()
    with ProgressLine("retrain", 4, stream=stream, clock=clock) as line:
        for step in (1, 2, 3):
            clock.now_s += 1.0
            line.update(step, loss=0.5, accuracy=0.25)
    text = stream.getvalue()
    assert text.count("\r") == 3 and text.count("\n") == 1 and text.endswith("\n")
    for part in text.split("\r")[1:]:
        assert len(part.split("\x1b[K")[0]) <= 39
    assert "0:01 left" in text.split("\r")[-1]


@pytest.mark.parametrize("compiling", [{1}, {1, 2}, {1, 5}, {1, 2, 40}])
def test_steps_that_compile_do_not_count(clock, compiling):
    steps_s = [30.0 if step in compiling else 0.1 for step in range(1, 61)]
    lines = _run(clock, "search", steps_s, total=160)
    assert not any("left" in line for line in lines[:2]), "nothing is known yet"
    for step in range(3, 61):
        left_s = (160 - step) * 0.1
        assert f"  0:{np.ceil(round(left_s, 6)):02.0f} left  " in lines[step - 1], step


def test_what_recurs_counts_even_if_it_is_slow(clock):
    # A checkpoint every tenth step, an architecture step every second one.
    steps_s = [0.1 + 0.2 * (n % 2) + 0.6 * (n % 10 == 0) for n in range(1, 101)]
    assert "  0:26 left  " in _run(clock, "search", steps_s, total=200)[-1]


def test_the_pace_follows_recent_steps(clock):
    assert "  0:10 left  " in _run(clock, "search", [5.0] * 300 + [0.1] * 120, total=520)[-1]


def test_a_resumed_run_counts_only_its_own_steps(clock):
    lines = _run(clock, "search", [1.0] * 10, start_step=900, total=1000)
    assert lines[-1] == "search  91%  1:30 left  step 910/1000  1 steps/s"


def test_waiting_for_another_is_time_too(clock):
    stream = io.StringIO()
    line = ProgressLine("table", 100, stream=stream, clock=clock, interval_s=1e-9)
    for step in (1, 2, 2, 2, 2, 3):  # four reports without progress, then one step
        clock.now_s += 1.0
        line.update(step)
    assert "  4:03 left  step 3/100" in stream.getvalue().splitlines()[-1]


def test_hours_and_no_steps(clock):
    lines = _run(clock, "a", [1.0] * 3, total=7203)
    assert lines[-1] == "a   0%  2:00:00 left  step 3/7203  1 steps/s"
    stream = io.StringIO()
    ProgressLine("b", 0, stream=stream, clock=clock).update(0)
    assert stream.getvalue() == "b   0%  step 0/1\n"


# Stages


def test_all_stages_are_named_as_they_begin_and_count_as_time_left(clock, capsys):
    with Stages("cost table", "warmup", "search", "retrain", "export") as stages:
        with terminal.progress("cost table"):
            pass  # Found in the cache: a stage that does not begin.
        stages.expect({"warmup": 100, "retrain": 50}, "weights")
        stages.expect({"search": 400}, "search")
        warmup = _run(clock, "warmup", [9.0] + [0.5] * 9, total=20)
        search = _run(clock, "search", [9.0] + [4.0] * 9, total=20)
        retrain = _run(clock, "retrain", [0.1] * 10, total=20)
        terminal.begin_stage("export")
    assert capsys.readouterr().err.splitlines() == [
        f"stage {n} of 5: {name}"
        for n, name in enumerate(("warmup", "search", "retrain", "export"), start=2)
    ]
    # 0.1 s for each unit of work: 40 s and 5 s to come; the search then takes twice as long,
    # which says nothing of what is like the warm-up.
    assert "  0:05 left, 0:50 in all + export  step 10/20" in warmup[-1]
    assert "  0:40 left, 0:45 in all + export  step 10/20" in search[-1]
    assert "  0:01 left + export  step 10/20" in retrain[-1]


def test_what_is_not_known_is_named_without_a_number(clock, capsys):
    with Stages("cost table", "search", "retrain", "export"):
        lines = _run(clock, "cost table", [1.0] * 5, total=10)
    assert lines[-1].startswith("cost table  50%  0:05 left + search, retrain, export  ")
    with Stages(*"abcdefg"):
        assert "0:05 left + 6 stages" in _run(clock, "a", [1.0] * 5, total=10)[-1]


def test_a_resumed_run_passes_over_stages_that_are_done(clock, capsys):
    with Stages("cost table", "search", "retrain") as stages:
        stages.expect({"search": 1, "retrain": 1})
        lines = _run(clock, "retrain", [1.0] * 4, start_step=6, total=20)
    assert "  0:10 left  step 10/20" in lines[-1]
    assert capsys.readouterr().err == "stage 3 of 3: retrain\n"


def test_stages_of_a_sweep_share_one_pace_and_hold_the_phases_inside_them(clock, capsys):
    with Stages("search a", "search b", "search c", "retraining 1") as stages:
        stages.expect({"search a": 0, "search b": 10, "search c": 10, "retraining 1": 5})
        stages.begin("search a")  # found finished
        stages.begin("search b")
        lines = _run(clock, "search", [1.0] * 4, total=8)
    assert "  0:04 left, 0:16 in all  step 4/8" in lines[-1]


def test_outside_of_stages_nothing_is_named(capsys):
    terminal.begin_stage("export")
    assert capsys.readouterr().err == ""


# How much is told


@pytest.mark.parametrize(
    ("level", "told"),
    [(1, "note warning line"), (0, "note warning line"), (-1, "warning"), (-2, "")],
)
def test_verbosity(monkeypatch, capsys, clock, level, told):
    monkeypatch.setattr(terminal, "_verbosity", 0)
    terminal.set_verbosity(level)
    terminal.note("a note")
    terminal.warn("of something")
    lines = _run(clock, "a", [1.0])
    assert ("a note\n" in (err := capsys.readouterr().err)) == ("note" in told)
    assert ("warning: of something\n" in err) == ("warning" in told)
    assert bool(lines) == ("line" in told)


def test_a_note_ends_the_line_that_is_being_rewritten(monkeypatch, clock):
    stream = _Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with ProgressLine("a", 2, clock=clock) as line:
        line.update(1)
        terminal.note("a note")
        clock.now_s += 1.0
        line.update(2)
    assert stream.getvalue() == ("\ra  50%  step 1/2\x1b[K\na note\n\ra 100%  step 2/2\x1b[K\n")
