"""A supernet trained once: resumed, described, and what a search makes of it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from dance_tf.config import ExperimentConfig, SearchConfig
from dance_tf.errors import Interrupted, UserError
from dance_tf.run.surroundings import StopSignals
from dance_tf.search.dance import DanceSearch
from dance_tf.search.supernet_training import load_supernet, train_supernet
from dance_tf.supernet.supernet import Supernet
from tests.search.problems import make_problem, tinted_images

CONFIG = ExperimentConfig(
    search=SearchConfig(
        supernet="superkernel",
        epochs=2,
        warmup_epochs=1,
        batch_size=32,
        weight_learning_rate=0.1,
        arch_every=1,
        log_every=1,
    ),
    seed=4,
)  # 3 steps an epoch


class _StopAtOnce(StopSignals):
    """A signal that came before the first step."""

    def __init__(self):
        super().__init__()
        self.requested = 15


def _weights(supernet):
    return [v.numpy() for v in supernet.variables if v is not supernet.arch_logits]


def _load(folder, config=CONFIG, space=None, dataset=None):
    problem = make_problem()
    return load_supernet(str(folder), space or problem.space, dataset or problem.dataset, config)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training that was stopped after its first step and resumed, and its record."""
    problem, folder = make_problem(), tmp_path_factory.mktemp("trained")
    arguments = (problem.space, problem.dataset, CONFIG, str(folder))
    with pytest.raises(Interrupted):
        train_supernet(*arguments, stop=_StopAtOnce())
    with pytest.raises(UserError, match=r"no supernet\.json"):
        _load(folder)
    return folder, train_supernet(*arguments, is_resuming=True)


def test_a_resumed_training_is_the_uninterrupted_one(trained, tmp_path):
    folder, record = trained
    problem = make_problem()
    whole = train_supernet(problem.space, problem.dataset, CONFIG, str(tmp_path))
    for resumed, expected in zip(_weights(_load(folder)), _weights(_load(tmp_path)), strict=True):
        np.testing.assert_array_equal(resumed, expected)
    fresh = _weights(Supernet(problem.space, CONFIG.seed, "superkernel"))
    assert any(
        not np.array_equal(a, b) for a, b in zip(_weights(_load(folder)), fresh, strict=True)
    )
    assert record["accuracy"] == whole["accuracy"]
    assert record["num_steps"] == 6 and record["seed"] == 4
    lines = [(path / "history.jsonl").read_text() for path in (folder, tmp_path)]
    assert lines[0] == lines[1]
    assert [json.loads(line)["step"] for line in lines[0].splitlines()] == [3, 6]


def test_a_search_starts_from_it_and_leaves_out_the_warm_up(trained):
    folder, _ = trained
    supernet = _load(folder)
    before = _weights(supernet)
    logits = supernet.arch_logits.numpy()
    np.testing.assert_array_equal(logits, Supernet(supernet.space, 4).arch_logits.numpy())
    records = []
    result = DanceSearch(CONFIG.search, seed=4).search(
        make_problem(supernet=supernet, is_warm=True), records.append
    )
    assert [(record.step, record.phase) for record in records] == [(s, "search") for s in (4, 5, 6)]
    assert result.num_weight_steps == result.num_architecture_steps == 3
    assert any(not np.array_equal(a, b) for a, b in zip(_weights(supernet), before, strict=True))
    assert not np.array_equal(supernet.arch_logits.numpy(), logits)


def test_frozen_weights_stay_and_the_architecture_moves(trained):
    supernet = _load(trained[0])
    weights = [v.numpy() for v in supernet.network_weights]
    logits = supernet.arch_logits.numpy()
    config = dataclasses.replace(
        CONFIG.search, supernet_dir=str(trained[0]), supernet_weights="frozen"
    )
    result = DanceSearch(config, seed=4).search(make_problem(supernet=supernet, is_warm=True))
    assert result.num_weight_steps == 0 and result.num_architecture_steps == 3
    assert [record.cross_entropy for record in result.history] == 3 * [None]
    assert None not in [record.architecture_cross_entropy for record in result.history]
    for after, before in zip(supernet.network_weights, weights, strict=True):
        np.testing.assert_array_equal(after.numpy(), before)
    assert not np.array_equal(supernet.arch_logits.numpy(), logits)


def test_an_untrained_supernet_is_not_frozen():
    with pytest.raises(UserError, match=r"frozen needs search\.supernet_dir"):
        SearchConfig(supernet_weights="frozen")


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("kind", {"config": "proxyless"}),
        ("space", {"space": {"head_channels": 48}}),
        ("space", {"space": {"op_names": ("mbconv3_e3", "zero")}}),
        ("data", {"dataset": (90, 38, 40)}),
        ("data", {"sha256": "of other files"}),
    ],
)
def test_another_space_kind_or_other_images_are_refused_in_one_line(trained, what, changes):
    config, problem = CONFIG, make_problem()
    space, dataset = problem.space, problem.dataset
    if "config" in changes:
        search = dataclasses.replace(CONFIG.search, supernet=changes["config"])
        config = dataclasses.replace(CONFIG, search=search)
    if "space" in changes:
        space = dataclasses.replace(space, **changes["space"])
    if "dataset" in changes:
        dataset = tinted_images(sizes=changes["dataset"])
    if "sha256" in changes:
        dataset.content_sha256 = changes["sha256"]
    with pytest.raises(UserError, match=f"another {what}: ") as raised:
        _load(trained[0], config, space, dataset)
    assert "\n" not in str(raised.value)


def test_altered_weights_are_refused(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained[0], folder)
    (step,) = os.listdir(folder / "weights")
    (data,) = (folder / "weights" / step).glob("tensors.data*")
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(bytes(content))
    with pytest.raises(UserError, match="checksum"):
        _load(folder)
    record = json.loads((folder / "supernet.json").read_text())
    shutil.rmtree(folder / "weights")
    shutil.copytree(trained[0] / "weights", folder / "weights")
    (folder / "supernet.json").write_text(json.dumps(record | {"weights_sha256": "0"}))
    with pytest.raises(UserError, match=r"not those that supernet\.json is of"):
        _load(folder)
