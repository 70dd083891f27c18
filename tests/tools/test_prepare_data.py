"""The tool that prepares data sets, up to where a network would be needed."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from tests.data import toy_datasets
from tools import flags as common
from tools import prepare_data


def _call(*arguments: str) -> int:
    return common.call(prepare_data.main, prepare_data.FLAGS, ["prepare_data", *arguments])


def test_it_prints_where_the_data_set_is(tmp_path: pathlib.Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TFDS_DATA_DIR", "not this")
    assert toy_datasets.ToyColours.name == "toy_colours"
    for _ in range(2):
        assert _call("--dataset=toy_colours", "--data_dir=~/my data/tfds") == 0
        assert json.loads(capsys.readouterr().out) == {
            "dataset": "toy_colours",
            "data_dir": f"{tmp_path}/home/my data/tfds",
            "folder": f"{tmp_path}/home/my data/tfds/toy_colours/1.0.0",
            "num_images": {"train": 60, "test": 20},
        }
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 1, "give one of --dataset"),
        (["--dataset=digits"], 1, "nothing to prepare"),
        (["--dataset=cifr10"], 1, "did you mean 'cifar10'"),
        (["--dataset=my_own_images"], 1, "--data=my_module.MyBuilder"),
        (["--dataset=cifar10:99.0.0"], 1, "cifar10:99.0.0"),
        (["--dataset=./images"], 1, "named by --data="),
        (["--dataset=cifar10", "--data=my.Own"], 1, "give one of"),
        (["--data=./images"], 1, "need no preparation"),
        (["--data=no_module.Own"], 1, "no builder class"),
        (["--data=os.path.join"], 1, "no subclass"),
        (["--datset=cifar10"], 2, "dataset"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, monkeypatch, capsys, arguments, status, message):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert _call(*arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert "tools.prepare_data" not in captured.err  # which was just run
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_tensorflow():
    code = "import sys; from tools import prepare_data; sys.exit('tensorflow' in sys.modules)"
    repo = pathlib.Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=repo, check=False).returncode == 0
