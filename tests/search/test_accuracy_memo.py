"""The memo of accuracies: nothing is measured twice, nothing torn or foreign is believed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dance_tf.config import ExperimentConfig
from dance_tf.errors import UserError
from dance_tf.search import accuracy_memo
from dance_tf.search.accuracy_memo import AccuracyMemo, supernet_memo
from dance_tf.supernet.inherited import InheritedAccuracy
from dance_tf.supernet.supernet import Supernet
from tests.search.problems import make_problem

IDENTITY = {"supernet_sha256": "ab", "num_images": 7}


def _third(op_indices):
    """An accuracy that decimals do not hold exactly."""
    return np.asarray(op_indices).sum(axis=1) / 30.0


def _refuse(op_indices):
    raise AssertionError(f"measured again: {op_indices}")


def test_asks_once_and_keeps_every_digit(tmp_path):
    path, networks = tmp_path / "new" / "memo.jsonl", [[1, 2], [3, 4], [1, 2]]
    with AccuracyMemo(path, _third, IDENTITY) as memo:
        np.testing.assert_array_equal(memo.accuracies(networks), _third(networks))
        assert (memo.num_measured, len(memo)) == (2, 2)
    with AccuracyMemo(path, _refuse, IDENTITY) as memo:
        np.testing.assert_array_equal(memo.accuracies(networks), _third(networks))
        assert (memo.num_measured, len(memo)) == (0, 2)
        with pytest.raises(AssertionError, match="measured again"):
            memo.accuracies([[1, 2], [0, 0]])
        assert len(memo) == 2


def test_a_file_cut_anywhere_loses_the_line_that_was_cut_alone(tmp_path):
    path, networks = tmp_path / "memo.jsonl", [[1, 2], [3, 4], [5, 6]]
    with AccuracyMemo(path, _third, IDENTITY) as memo:
        memo.accuracies(networks)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        num_whole = max(0, whole[:size].count(b"\n") - 1)
        with AccuracyMemo(path, _third, IDENTITY) as memo:
            assert len(memo) == num_whole, size
            memo.accuracies(networks)
            assert memo.num_measured == 3 - num_whole
        assert path.read_bytes() == whole, size


def test_a_line_is_there_as_soon_as_it_is_measured(tmp_path):
    path = tmp_path / "memo.jsonl"

    def measure(op_indices):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert json.loads(lines[0])["num_images"] == 7
        assert len(lines) == 1 + op_indices[0, 0]
        return _third(op_indices)

    with AccuracyMemo(path, measure, IDENTITY) as memo:
        memo.accuracies([[0, 0], [1, 0], [2, 0]])
        memo.accuracies([[3, 0]])


def test_another_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "memo.jsonl"
    with AccuracyMemo(path, _third, IDENTITY) as memo:
        memo.accuracies([[1, 2]])
    whole = path.read_bytes()
    with pytest.raises(UserError, match="another num_images: 7 instead of 8"):
        AccuracyMemo(path, _third, IDENTITY | {"num_images": 8})
    with pytest.raises(UserError, match="another supernet_sha256"):
        AccuracyMemo(path, _third, IDENTITY | {"supernet_sha256": "cd"})
    assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b'"accuracy"', b'"accurate"'))
    with pytest.raises(UserError, match="no op_indices and accuracy"):
        AccuracyMemo(path, _third, IDENTITY)
    path.write_bytes(whole.replace(b'{"op_indices"', b'"op_indices"') + whole)
    with pytest.raises(UserError, match="line 2"):
        AccuracyMemo(path, _third, IDENTITY)


def test_of_a_supernet(tmp_path, monkeypatch):
    problem, config = make_problem(), ExperimentConfig()
    supernet, data = Supernet(problem.space, 3), {"name": "tints"}
    record = {"weights_sha256": "ab", "data": data, "seed": 3}
    monkeypatch.setattr(accuracy_memo, "read_supernet_record", lambda *arguments: record)
    monkeypatch.setattr(accuracy_memo, "load_supernet", lambda *arguments: supernet)
    arguments = (tmp_path / "memo.jsonl", "folder", problem.space, problem.dataset, config)
    networks = problem.space.sample(3, 0)
    with supernet_memo(*arguments, num_images=999) as memo:
        expected = InheritedAccuracy(supernet, problem.dataset, 32)(networks)
        np.testing.assert_array_equal(memo.accuracies(networks), expected)
        assert memo.identity == {
            "schema_version": 1,
            "supernet_sha256": "ab",
            "data": data,
            "split": "architecture",
            "num_images": 32,
        }
    with supernet_memo(tmp_path / "t.jsonl", *arguments[1:], num_images=20, split="test") as memo:
        assert memo.identity["split"] == "test" and memo.identity["num_images"] == 20
        on_test = InheritedAccuracy(supernet, problem.dataset, 20, "test")(networks)
        np.testing.assert_array_equal(memo.accuracies(networks), on_test)
    with pytest.raises(UserError, match="another num_images"):
        supernet_memo(*arguments, num_images=20)
    with pytest.raises(UserError, match="0 held-out images"):
        supernet_memo(*arguments, num_images=0)
