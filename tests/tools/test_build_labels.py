"""The tool that writes the label data set."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from tests.evaluator.fake_table import make_fake_table
from tools import build_labels
from tools import flags as common


@pytest.fixture
def call(monkeypatch):
    """Return a function that runs the tool on the made-up table."""
    table = make_fake_table()
    monkeypatch.setattr("dance_tf.hardware.cost_table.load_or_build_table", lambda *_, **__: table)

    def run(*arguments: str) -> int:
        arguments = ("--num_architectures=40", "--num_accelerators_each=3", *arguments)
        return common.call(build_labels.main, build_labels.FLAGS, ["build_labels", *arguments])

    return run


def test_it_writes_once_and_prints_the_same_again(call, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    results = []
    for _ in range(2):
        assert call("--data_dir=~/my data", "--seed=5") == 0
        captured = capsys.readouterr()
        results.append(json.loads(captured.out))
        warnings = [line for line in captured.err.splitlines() if "warning" in line]
        assert warnings == [f"warning: {w}" for w in results[-1]["warnings"]]
    first, again = results
    assert first["was_built"] and not again["was_built"]
    assert first["wall_s"] > 0 and first["cpu_s"] > 0
    for result in results:
        del result["was_built"], result["wall_s"], result["cpu_s"]
    assert first == again
    assert first["folder"].startswith(f"{tmp_path}/home/my data/dance_labels/tiny_mbconv_")
    assert first["seed"] == 5 and first["statistics"]["num_pairs"] == 120
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_nowrite_counts_the_same_and_writes_nothing(call, tmp_path, capsys):
    assert call("--nowrite", f"--data_dir={tmp_path}/none") == 0
    counted = json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []
    assert call(f"--data_dir={tmp_path}") == 0
    written = json.loads(capsys.readouterr().out)
    assert counted["statistics"] == written["statistics"]


@pytest.mark.parametrize(
    ("argument", "status", "message"),
    [
        ("--num_architectures=2", 2, "num_architectures"),
        ("--num_accelerators_each=0", 2, "num_accelerators_each"),
        ("--set=space.name=cifar", 1, "unknown space 'cifar'"),
        ("--data_dir=gs://labels", 1, "not a local one"),
    ],
)
def test_mistakes_end_in_one_line(call, capsys, argument, status, message):
    assert call(argument) == status
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert message in captured.err


def test_help_needs_no_tensorflow():
    code = "import sys; from tools import build_labels; sys.exit('tensorflow' in sys.modules)"
    repo = pathlib.Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=repo, check=False).returncode == 0
