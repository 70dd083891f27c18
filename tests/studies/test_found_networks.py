"""Networks read from the files of searches and of evolution."""

from __future__ import annotations

import json

import pytest

from dance_tf.errors import UserError
from studies.found_networks import networks_in, read_trained


def _point(objective, lambda_2, seed, error, op):
    search = {"objective": objective, "lambda_2": lambda_2, "seed": seed}
    return {"ops": [op], "search": search, "inherited_error": error}


SWEEP = {
    "points": [
        _point("EDAP", 0.0, 0, 0.1, "a"),
        _point("EDAP", 0.1, 1, 0.2, "b"),
        _point("latency", 0.1, 2, 0.3, "c"),
    ]
}
FRONT = {
    "objectives": {
        "EDAP": {"front": [{"ops": ["d"], "error": 0.1}, {"ops": ["e"], "error": 0.4}]},
        "latency": {"front": [{"ops": ["f"], "error": 0.2}]},
    }
}


@pytest.mark.parametrize(
    ("wanted", "of_sweep", "of_front"),
    [
        ({}, "a0 b1 c2", "d0 e0 f0"),
        ({"seed": 7}, "a0 b1 c2", "d7 e7 f7"),
        ({"objectives": ["latency"]}, "c2", "f0"),
        ({"lambdas": [0.1]}, "b1 c2", "d0 e0 f0"),
        ({"max_error": 0.2}, "a0 b1", "d0 f0"),
        ({"lambdas": [0.1], "objectives": ["EDAP"], "max_error": 0.1}, "", "d0"),
    ],
)
def test_only_what_is_wanted_is_returned_in_order(tmp_path, wanted, of_sweep, of_front):
    for data, expected in ((SWEEP, of_sweep), (FRONT, of_front)):
        path = tmp_path / "found.json"
        path.write_text(json.dumps(data), encoding="utf-8")
        found = networks_in(str(path), **wanted)
        assert " ".join(f"{network.ops[0]}{network.seed}" for network in found) == expected


@pytest.mark.parametrize("data", [{"objectives": 1}, {"points": [{}]}, {}, [], {"points": [[]]}])
def test_another_file_is_refused(tmp_path, data):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match="is not of pareto or exact_front"):
        networks_in(str(path))


TRAINED = {
    "config": {"space": {}, "data": {}, "seed": 0, "retrain": {"epochs": 3}},
    "networks": [{"ops": ["a"], "macs": 5, "is_spread": True, "accuracy": {"value": 0.5}}],
}


@pytest.mark.parametrize(
    "change",
    [
        {"networks": []},
        {"networks": [{"ops": ["a"]}]},
        {"networks": [TRAINED["networks"][0] | {"accuracy": {"value": "high"}}]},
        {"config": {}},
    ],
)
def test_only_a_file_of_trainings_is_read(tmp_path, change):
    path = tmp_path / "trained.json"
    path.write_text(json.dumps(TRAINED), encoding="utf-8")
    assert read_trained(str(path)) == TRAINED
    path.write_text(json.dumps(TRAINED | change), encoding="utf-8")
    with pytest.raises(UserError, match="is not of train_side_by_side"):
        read_trained(str(path))
