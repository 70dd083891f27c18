"""Run information names everything that is needed to repeat a run."""

import datetime
import os
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf

from dance_tf.files import read_json
from dance_tf.run import run_info


def test_collected_information_is_complete_and_strict_json(tmp_path):
    started = run_info.now()
    ended = started + datetime.timedelta(seconds=90.5)
    info = run_info.collect(7, started, ended=ended, is_deterministic=True)
    run_info.write(tmp_path / "run_info.json", info)
    assert read_json(tmp_path / "run_info.json") == info
    assert info["seed"] == 7 and info["is_deterministic"] is True
    assert info["wall_time_s"] == 90.5
    assert datetime.datetime.fromisoformat(info["started_at"]).tzinfo is not None
    assert info["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert info["versions"]["tensorflow"] and info["versions"]["keras"]
    assert {"type", "name"} == set(info["devices"][0])
    assert "CPU" in [device["type"] for device in info["devices"]]
    assert 1 <= info["num_cpus"] <= os.cpu_count()
    assert os.path.basename(sys.orig_argv[0]) in info["command"]


def test_a_run_under_way_has_no_end():
    info = run_info.collect(None, run_info.now())
    assert info["ended_at"] is None and info["wall_time_s"] is None


@pytest.mark.parametrize(
    ("chosen", "environment", "expected"),
    [(3, "2", 3), (0, "2", 2), (0, "0", None), (0, "", None), (0, None, None)],
)
def test_the_number_of_threads_is_what_tensorflow_takes(monkeypatch, chosen, environment, expected):
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: chosen)
    if environment is None:
        monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    else:
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", environment)
    info = run_info.collect(None, run_info.now())
    assert info["num_threads"] == (expected or info["num_cpus"])


def test_the_machine_has_a_name_cores_and_memory():
    machine = run_info.machine()
    assert machine["cpu"] and machine["system"]
    assert 1 <= machine["num_cpus"] <= os.cpu_count()
    assert 0.1 < machine["memory_gib"] < 1e6


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit_is_ours_or_none(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", tmp_path, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    module = tmp_path / "run_info.py"
    module.write_text("first\n")
    monkeypatch.setattr(run_info, "__file__", str(module))
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "theirs")
    assert run_info._git_commit() is None  # installed in someone else's repository
    git("add", "run_info.py")
    git("commit", "-q", "-m", "ours")
    commit = git("rev-parse", "HEAD")
    assert run_info._git_commit() == commit
    module.write_text("second\n")
    assert run_info._git_commit() == f"{commit}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert run_info._git_commit() is None
