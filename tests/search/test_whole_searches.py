"""Whole searches: no network is empty, a seed gives one result, more weight of cost costs less."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import SearchConfig, SpaceConfig
from dance_tf.files import read_json
from dance_tf.search.dance import DanceSearch
from dance_tf.supernet.space_files import SPACES, make_space
from dance_tf.supernet.supernet import build_network
from tests.search.problems import ScoredSupernet, Unlabelled, make_problem, shuffled_table

#: A warm-up step and two others.
CONFIG = SearchConfig(
    epochs=3, warmup_epochs=1, batch_size=96, arch_every=1, log_every=1, lambda_2=0.3
)


@pytest.mark.parametrize("name", sorted(SPACES))
def test_the_emptiest_network_of_each_space_is_whole(name):
    """Nothing wherever that is allowed leaves a connected network with weights."""
    space = make_space(SpaceConfig(name=name))
    architecture = space.from_indices(np.argmax(space.skip_mask, axis=1).tolist())
    assert len(space.layers(architecture)) >= 3
    network = build_network(space, architecture, seed=0)
    images = tf.Variable(
        np.random.RandomState(0).rand(1, *network.input_shape[1:]), dtype="float32"
    )
    with tf.GradientTape() as tape:
        logits = network(images)
        loss = tf.reduce_sum(logits[:, 0])
    assert logits.shape == (1, space.num_classes)
    gradients = tape.gradient(loss, [images, *network.trainable_variables])
    assert np.any(gradients[0].numpy())  # The images reach the logits.
    assert all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"supernet": "superkernel", "arch_gradient": "straight_through"},
        {"objective": "linear", "max_latency_ms": 1e6, "limits": "gradient"},
    ],
    ids=["default", "shared_weights", "limits"],
)
def test_a_seed_gives_one_search_and_another_seed_another(without_tracing, tmp_path, changes):
    """Logits, costs and the log of losses are equal, whatever way of searching."""
    config, runs = dataclasses.replace(CONFIG, **changes), []
    for number, seed in enumerate((5, 5, 6)):
        folder = tmp_path / str(number)
        result = DanceSearch(config, seed=seed, output_dir=str(folder)).search(make_problem())
        log = (folder / "history.jsonl").read_bytes()
        runs.append((dataclasses.replace(result, times={}), log))
    first, again, other = runs
    assert again == first
    assert other[0].arch_logits != first[0].arch_logits and other[1] != first[1]
    assert first[0].seed == 5 and other[0].seed == 6


@pytest.mark.slow
def test_a_seed_gives_one_search_in_any_process(tmp_path):
    """Nothing depends on the order of sets, which is another in each process."""
    arguments = ["--preset=tiny", "--set=search.batch_size=500", "--noretrain"]
    arguments.append(f"--cache_dir={tmp_path / 'cache'}")
    folders = [tmp_path / name for name in ("a", "b")]
    for hash_seed, folder in zip("12", folders, strict=True):
        subprocess.run(
            [sys.executable, "-m", "tools.search", *arguments, f"--output_dir={folder}"],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
        )
    for name in ("history.jsonl", "accelerator.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    results = [read_json(folder / "result.json") for folder in folders]
    for result in results:
        del result["times"]
    assert results[0] == results[1]
    assert results[0]["is_deterministic"] is True and results[0]["versions"]["tensorflow"]
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("objective", ["EDAP", "latency", "energy", "area"])
def test_a_larger_weight_of_cost_never_costs_more(objective):
    table, costs = shuffled_table(7), []
    scores = np.random.RandomState(7).normal(size=(2, 7))
    for lambda_2 in (0.0, 1.0, 30.0):
        config = dataclasses.replace(
            CONFIG,
            epochs=20,
            batch_size=32,
            log_every=999,
            arch_learning_rate=0.2,
            objective=objective,
            lambda_2=lambda_2,
            lambda_2_backoff=1.0,
        )
        supernet = ScoredSupernet(table.space, scores, 7)
        problem = make_problem(table, supernet=supernet, dataset=Unlabelled())
        costs.append(DanceSearch(config, seed=7).search(problem).exact_cost.objective)
    assert costs[0] >= costs[1] >= costs[2] and costs[0] > costs[2]
