"""A run folder that is broken ends in one line that names the file."""

from __future__ import annotations

import json
import shutil

import pytest

from dance_tf.errors import UserError
from dance_tf.report.run_folder import read_run


def _change(path, **changes):
    data = json.loads(path.read_text("utf-8"))
    for name, value in changes.items():
        *parents, leaf = name.split("__")
        node = data
        for parent in parents:
            node = node[parent]
        if value is KeyError:
            del node[leaf]
        else:
            node[leaf] = value
    path.write_text(json.dumps(data), "utf-8")


def test_a_run_is_read(run_dir):
    run = read_run(run_dir)
    assert run.name == "first run" and run.info["seed"] == run.result["seed"] == 1
    assert run.is_space_known and run.space.num_classes == 10
    assert run.costs["exact_cost"] == run.result["exact_cost"]
    assert set(run.costs) >= {"predicted_cost", "evaluator_accelerator_exact_cost"}
    assert [record["phase"] for record in run.history].count("retrain") == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema_version": 99}, "schema_version is 99"),
        ({"architecture": KeyError}, "has no architecture"),
        ({"architecture": "mbconv3_e3"}, "has no architecture"),
        ({"architecture__ops": ["mbconv3_e3"]}, "2 blocks"),
        ({"architecture__ops": ["mbconv3_e3", "mbconv3_e9"]}, "unknown op"),
        ({"architecture__space": "cifar_mbconv"}, "not 'tiny_mbconv'"),
        ({"accelerator__pe_x": -1}, "pe_x is -1"),
        ({"accelerator": None}, "has no accelerator with pe_x"),
        ({"exact_cost__latency_ms": "fast"}, "latency_ms is 'fast', not a number"),
        ({"exact_cost__energy_mj": None}, "energy_mj is None"),
        ({"exact_cost": KeyError}, "no exact_cost"),
        ({"limits": {"max_latency_ms": -1, "max_energy_mj": None, "max_area_mm2": None}}, "is -1"),
        ({"limits": {"max_latency_ms": 1.0}}, "not the result of a search"),
        ({"objective__kind": "sum"}, "kind is 'sum'"),
        ({"objective__reference": {}}, "not the result of a search"),
    ],
)
def test_a_damaged_result_is_one_line(run_dir, changes, says):
    _change(run_dir / "result.json", **changes)
    with pytest.raises(UserError, match=says) as error:
        read_run(run_dir)
    assert str(run_dir / "result.json") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("result.json", '{"schema_version": 1, ', "not JSON"),
        ("result.json", "[]", "schema_version is None"),
        ("config.json", '{"space": {"nam": 1}}', "unknown field 'space.nam'"),
        ("config.json", "[]", "not a JSON object"),
        ("history.jsonl", "{}\nnonsense\n", "line 2"),
        ("history.jsonl", "[1]\n", "line 1"),
        ("run_info.json", "[]", "not a JSON object"),
        ("result.json", None, "--resume"),
        ("config.json", None, "not the folder of a run"),
    ],
)
def test_damaged_and_missing_files_are_one_line(run_dir, name, text, says):
    if text is None:
        (run_dir / name).unlink()
    else:
        (run_dir / name).write_text(text, "utf-8")
    with pytest.raises(UserError, match=says) as error:
        read_run(run_dir)
    assert str(run_dir) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_folder_is_one_line(run_dir):
    shutil.rmtree(run_dir)
    with pytest.raises(UserError, match="no such folder"):
        read_run(run_dir)


def test_a_config_of_another_version_is_read_as_far_as_it_is_shown(run_dir):
    before = read_run(run_dir).config.hardware
    _change(run_dir / "config.json", search={"epoks": 3}, evaluator__kind="none")
    assert read_run(run_dir).config.hardware == before


def test_a_run_of_before_may_not_know_its_classes(run_dir):
    _change(run_dir / "run_info.json", num_classes=KeyError)
    assert read_run(run_dir).is_space_known  # of the digits there are ten
    _change(run_dir / "config.json", data__dataset="cifar100")
    assert not read_run(run_dir).is_space_known
    _change(run_dir / "config.json", space__num_classes=100)
    assert read_run(run_dir).space.num_classes == 100
