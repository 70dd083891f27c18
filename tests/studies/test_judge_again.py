"""The example that judges networks on test images: what it reads and writes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dance_tf.presets import preset
from dance_tf.supernet.inherited import InheritedAccuracy
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.supernet import Supernet
from studies import judge_again
from tests.search.problems import tinted_images
from tools import flags as common

SWEEP = {
    "points": [
        {
            "ops": ops,
            "search": {"objective": "EDAP", "lambda_2": 0.1, "seed": 0},
            "inherited_error": 0.5,
        }
        for ops in (["mbconv3_e3", "zero"], ["mbconv5_e3", "mbconv3_e6"])
    ]
}
FRONT = {"objectives": {"EDAP": {"front": [{"ops": ["mbconv3_e3", "zero"], "error": 0.5}]}}}


@pytest.fixture
def run(supernet_dir, tmp_path):
    """Return a call of the example on an untrained supernet; it gives status and report."""
    for name, data in (("pareto", SWEEP), ("front", FRONT), ("other", {"objectives": 1})):
        (tmp_path / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")

    def call(*found: str):
        paths = {
            "supernet_dir": supernet_dir,
            "memo": tmp_path / "m.jsonl",
            "output": tmp_path / "j",
        }
        given = [f"--{name}={path}" for name, path in paths.items()]
        files = [f"--found={tmp_path / name}.json" for name in found]
        status = common.call(
            judge_again.main, judge_again.FLAGS, ["judge_again", *given, *files, "--num_images=9"]
        )
        return status, json.loads((tmp_path / "j").read_text()) if status == 0 else None

    return call


def test_each_network_is_judged_once_on_test_images(run):
    status, report = run("pareto", "front")
    assert status == 0
    assert report["supernet"]["split"] == "test" and report["supernet"]["num_images"] == 9
    space = make_space(preset("tiny").space)
    judge = InheritedAccuracy(Supernet(space, 3, "superkernel"), tinted_images(), 9, "test")
    assert len(report["networks"]) == 2
    for network in report["networks"]:
        row = [[space.op_names.index(op) for op in network["ops"]]]
        assert network["error"] == pytest.approx(1 - judge(np.asarray(row))[0])
    assert run("pareto", "front") == (0, report)


@pytest.mark.parametrize(
    ("found", "message"),
    [((), "--found is missing"), (("other",), "is not of pareto or exact_front")],
)
def test_a_mistake_is_one_line(run, capsys, found, message):
    assert run(*found) == (1, None)
    assert message in capsys.readouterr().err.splitlines()[-1]
