"""Retrainings on several devices and in several processes: those of one, but for rounding."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from dance_tf.errors import UserError
from dance_tf.run.replicas import Replicas
from tools import flags as common
from tools import retrain

GIVEN = ("--preset=tiny", "--ops=mbconv3_e3,mbconv5_e6", "--noexport")

#: One step an epoch, so that a line of the history is a step.
STEPS = ("--set=retrain.batch_size=1000", "--set=retrain.epochs=20")

PATIENCE_S = 600


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("--num_cpu_devices=2",), "", "goes with --distribute=mirrored"),
        (("--distribute=multiworker",), "", "needs TF_CONFIG, such as"),
        (("--distribute=multiworker",), '{"cluster": {}}', "needs TF_CONFIG, such as"),
    ],
)
def test_a_mistake_is_one_line(arguments, environment, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", environment)
    given = (*GIVEN, *arguments, f"--output_dir={tmp_path / 'run'}")
    assert common.call(retrain.main, retrain.FLAGS, ["retrain", *given]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_one_replica_is_no_strategy_and_takes_any_batch():
    replicas = Replicas()
    replicas.check(7, "retrain.batch_size")
    replicas.check_step(3)
    assert replicas.number == 1 and replicas.is_chief
    assert replicas.shared(1, 2) == (1, 2) and replicas.mean(lambda a: (a,), (5,)) == (5,)
    replicas.number = 2
    with pytest.raises(UserError, match=r"7 cannot be shared by 2 replicas.*retrain\.batch_size"):
        replicas.check(7, "retrain.batch_size")


def _start(folder: pathlib.Path, *arguments: str, task: int = 0, workers: tuple[str, ...] = ()):
    environment = dict(os.environ)
    if workers:
        config = {
            "cluster": {"worker": list(workers)},
            "task": {"type": "worker", "index": task},
        }
        environment["TF_CONFIG"] = json.dumps(config)
    with open(folder.with_suffix(f".{task}.log"), "ab") as log:
        tool = [sys.executable, "-m", "tools.retrain", *GIVEN, *arguments]
        return subprocess.Popen(
            [*tool, f"--output_dir={folder}"], stdout=log, stderr=log, env=environment
        )


def _history(folder: pathlib.Path) -> list[dict]:
    path = folder / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _losses(folder: pathlib.Path) -> list[float]:
    return [line["cross_entropy"] for line in _history(folder)]


def _free_addresses(num: int) -> tuple[str, ...]:
    sockets = [socket.socket() for _ in range(num)]
    for one in sockets:
        one.bind(("localhost", 0))
    found = tuple(f"localhost:{one.getsockname()[1]}" for one in sockets)
    for one in sockets:
        one.close()
    return found


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single") / "run"
    assert _start(folder, *STEPS).wait(PATIENCE_S) == 0
    assert len(_losses(folder)) == 20
    return folder


@pytest.mark.slow
def test_two_devices_train_as_one(single, tmp_path):
    folder = tmp_path / "run"
    two = ("--distribute=mirrored", "--num_cpu_devices=2")
    assert _start(folder, *STEPS, *two).wait(PATIENCE_S) == 0
    assert _losses(folder) == pytest.approx(_losses(single), rel=1e-4)


@pytest.mark.slow
def test_two_processes_train_as_one(single, tmp_path):
    folder, workers = tmp_path / "run", _free_addresses(2)
    both = [
        _start(folder, *STEPS, "--distribute=multiworker", task=task, workers=workers)
        for task in range(2)
    ]
    assert [process.wait(PATIENCE_S) for process in both] == [0, 0]
    assert _losses(folder) == pytest.approx(_losses(single), rel=1e-4)
    assert json.loads((folder / "retrain.json").read_text())["accuracy"]["split"] == "test"


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_other_in_a_minute_and_one_goes_on(lost, tmp_path):
    folder, workers = tmp_path / "run", _free_addresses(2)
    steps = ("--set=retrain.batch_size=100", "--set=retrain.epochs=40")
    both = [
        _start(folder, *steps, "--distribute=multiworker", task=task, workers=workers)
        for task in range(2)
    ]
    while len(_history(folder)) < 2:
        assert [process.poll() for process in both] == [None, None]
        time.sleep(0.1)
    both[lost].send_signal(signal.SIGKILL)
    began = time.monotonic()
    assert both[1 - lost].wait(PATIENCE_S) == 1
    assert time.monotonic() - began < 60
    log = folder.with_suffix(f".{1 - lost}.log").read_text().splitlines()
    assert "another process of this training was lost" in log[-1] and "--resume" in log[-1]
    before = _history(folder)
    resumed = [argument for argument in GIVEN if not argument.startswith("--ops")]
    tool = [sys.executable, "-m", "tools.retrain", *resumed, *steps, "--resume"]
    subprocess.run([*tool, f"--output_dir={folder}"], check=True, capture_output=True)
    after = _history(folder)
    assert after[:2] == before[:2] and [line["epoch"] for line in after] == list(range(1, 41))
