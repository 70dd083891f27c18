"""A space that a user writes, on the command line of every tool that takes one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dance_tf.export.tflite import TFLiteClassifier
from dance_tf.files import read_json
from tools import evaluate_cost, pareto, search, space, train_evaluator, train_supernet
from tools import flags as common

SPACE = {
    "schema_version": 1,
    "name": "wide",
    "input_shape": [4, 8, 3],
    "activation": "relu",
    "stem": {"channels": 4},
    "stages": [{"blocks": 1, "channels": 8, "stride": 2}, {"blocks": 1, "channels": 8}],
    "ops": ["conv3", "residual3", "mbconv3_e2", "zero"],
}
NETWORK = "residual3,conv3"


def _call(tool, *arguments):
    name = tool.__name__.rpartition(".")[2]
    return common.call(tool.main, tool.FLAGS, [name, *map(str, arguments)])


@pytest.fixture(scope="module")
def quick(tmp_path_factory, cache_dir):
    path = tmp_path_factory.mktemp("space") / "wide.json"
    path.write_text(json.dumps(SPACE), encoding="utf-8")
    return (f"--space={path}", "--preset=tiny", f"--cache_dir={cache_dir}")


@pytest.fixture(scope="module")
def evaluator_dir(quick, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluator")
    short = [f"--set=evaluator.{name}=50" for name in ("estimator_steps", "generator_steps")]
    assert _call(train_evaluator, *quick, *short, f"--output_dir={folder}") == 0
    return folder


@pytest.fixture(scope="module")
def supernet_dir(quick, tmp_path_factory):
    folder = tmp_path_factory.mktemp("supernet")
    flags = ("--supernet=superkernel", "--set=search.batch_size=500", f"--output_dir={folder}")
    assert _call(train_supernet, *quick[:2], *flags) == 0
    return folder


def test_a_search_by_the_exact_evaluator_leaves_exports(quick, tmp_path):
    folder = tmp_path / "run"
    assert _call(search, *quick, "--supernet=proxyless", f"--output_dir={folder}") == 0
    result = read_json(folder / "result.json")
    assert result["architecture"]["space"] == "wide" and result["evaluator"] == "exact"
    network = TFLiteClassifier(str(folder / "exports" / "network.tflite"))
    assert network.predict(np.zeros((1, 4, 8, 3), np.float32)).shape == (1, 10)
    assert "relu" in read_json(folder / "space.json")["activation"]
    assert (folder / "report.html").exists()


def test_a_neural_evaluator_is_trained_and_searches(quick, evaluator_dir, tmp_path):
    folder = tmp_path / "run"
    flags = ("--supernet=superkernel", f"--set=evaluator.path={evaluator_dir}")
    flags = (*flags, "--evaluator=neural", "--noretrain", f"--output_dir={folder}")
    assert _call(search, *quick, *flags) == 0
    assert read_json(folder / "result.json")["evaluator"] == "neural"


def test_a_sweep_goes_over_the_space(quick, supernet_dir, tmp_path):
    folder = tmp_path / "sweep"
    flags = ("--supernet=superkernel", f"--supernet_dir={supernet_dir}", "--lambdas=0.1")
    flags = (*flags, "--objectives=EDAP", "--set=search.batch_size=500", f"--output_dir={folder}")
    assert _call(pareto, *quick, *flags) == 0
    assert list(folder.glob("**/result.json"))


def test_a_network_of_the_space_is_costed(quick, capsys):
    own = quick[0].replace("--space=", "--set=space.name=")
    flags = (own, quick[1], f"--architecture={NETWORK}", "--best_accelerator")
    assert _call(evaluate_cost, *flags) == 0
    assert "residual3" in capsys.readouterr().out


def test_the_space_is_printed_and_summed_up(quick, capsys):
    path = quick[0].removeprefix("--space=")
    assert _call(space, f"--name={path}", "--check") == 0
    assert json.loads(capsys.readouterr().out)["num_networks"] == 3 * 4


@pytest.mark.parametrize("tool", [search, train_evaluator, evaluate_cost, space])
def test_a_file_that_is_no_space_is_one_line(tool, tmp_path, capsys):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**SPACE, "ops": ["conv2"]}), encoding="utf-8")
    flags = [f"--name={path}"]
    if tool is evaluate_cost:
        flags = ["--preset=tiny", f"--set=space.name={path}", f"--architecture={NETWORK}"]
    elif tool is not space:
        flags = ["--preset=tiny", f"--space={path}", f"--output_dir={tmp_path}/out"]
    assert _call(tool, *flags) == 1
    assert "unknown op 'conv2'" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
