"""train_evaluator and evaluate_evaluator, on a made-up table of the tiny space."""

from __future__ import annotations

import json

import pytest

from dance_tf.evaluator import training
from dance_tf.hardware import cost_table
from tests.evaluator.fake_table import make_fake_table
from tools import evaluate_evaluator, train_evaluator
from tools import flags as common

TINY = ("--preset=tiny", "--set=evaluator.kind=neural")
SHORT = (
    *(f"--set=evaluator.{name}_units=16" for name in ("generator", "estimator")),
    "--set=evaluator.estimator_steps=12",
    "--set=evaluator.generator_steps=8",
    "--set=evaluator.batch_size=16",
)


@pytest.fixture(autouse=True)
def _fake_table(monkeypatch):
    def load(_space, hardware, **_):
        return make_fake_table(hardware=hardware)

    monkeypatch.setattr(cost_table, "load_or_build_table", load)
    monkeypatch.setattr(training, "_NUM_CANDIDATE_DRAWS", 1024)
    monkeypatch.setattr(training, "_NUM_ASSESSED", 32)


@pytest.fixture
def call(capfd):
    def run(tool, *arguments: str) -> tuple[int, str, str]:
        status = common.call(tool.main, tool.FLAGS, [tool.__name__, *arguments])
        return status, *capfd.readouterr()

    return run


def test_trains_then_evaluates(call, tmp_path):
    folder = tmp_path / "an evaluator"
    status, out, progress = call(
        train_evaluator,
        *TINY,
        *SHORT,
        "--seed=5",
        f"--output_dir={folder}",
        f"--log_dir={tmp_path / 'log'}",
    )
    assert status == 0, progress
    printed = json.loads(out)
    assert printed.pop("output_dir") == str(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["metrics"] == printed and manifest["training"]["seed"] == 5
    assert "\ntrain evaluator" in progress and "step 20/20" in progress
    flags = " ".join([TINY[0], *TINY[1:], *SHORT, "--seed=5", "--output_dir=DIR"])
    assert manifest["training"]["command"] == f"python -m tools.train_evaluator {flags}"
    assert list((tmp_path / "log").iterdir())

    arguments = (f"--path={folder}", "--num_architectures=16", "--seed=1")
    status, out, error = call(evaluate_evaluator, *TINY, *arguments)
    assert status == 0, error
    report = json.loads(out)
    assert (report["evaluator"], report["num_architectures"]) == ("neural", 16)
    assert report["one_hot"]["objectives"]["edap"]["regret"]["mean"] >= 0
    by_config = (f"--set=evaluator.path={folder}", "--num_architectures=16", "--seed=1")
    assert json.loads(call(evaluate_evaluator, *TINY, *by_config)[1]) == report


def test_evaluates_the_exact_one(call):
    status, out, _ = call(evaluate_evaluator, "--preset=tiny", "--num_architectures=16")
    report = json.loads(out)
    assert status == 0 and report["evaluator"] == "exact"
    assert report["soft"]["gradient_cosine"]["soft_minimum"]["p1"] == pytest.approx(1.0, abs=1e-6)


def test_space_is_short_for_its_field(call, monkeypatch):
    asked = []
    monkeypatch.setattr(
        cost_table,
        "load_or_build_table",
        lambda space, *a, **k: asked.append(space.name) or make_fake_table(),
    )
    status, _, _ = call(
        evaluate_evaluator, "--evaluator=exact", "--space=tiny_mbconv", "--num_architectures=2"
    )
    assert (status, asked) == (0, ["tiny_mbconv"])


@pytest.mark.parametrize(
    ("tool", "arguments", "status", "says"),
    [
        (train_evaluator, (), 1, "--output_dir is missing"),
        (train_evaluator, ("--trainig_steps=3",), 2, "trainig_steps"),
        (train_evaluator, ("--set=evaluator.unit=3", "--output_dir=x"), 1, "no field 'unit'"),
        (evaluate_evaluator, ("--num_architectures=0",), 2, "num_architectures"),
        (evaluate_evaluator, (*TINY, "--path=/no/such"), 1, "/no/such/manifest.json: no such file"),
        (evaluate_evaluator, TINY, 1, "no neural evaluator is shipped for space tiny_mbconv"),
    ],
)
def test_a_mistake_is_one_line(call, tmp_path, monkeypatch, tool, arguments, status, says):
    monkeypatch.chdir(tmp_path)
    returned, out, error = call(tool, *arguments)
    assert returned == status
    assert out == "" and says in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
