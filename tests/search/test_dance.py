"""The co-search finds known optima, repeats itself, and resumes as if never interrupted."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal

import numpy as np
import pytest

from dance_tf.config import SearchConfig
from dance_tf.errors import Interrupted, UserError
from dance_tf.hardware.cost_table import load_or_build_table
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.presets import preset
from dance_tf.run import terminal
from dance_tf.run.surroundings import StopSignals
from dance_tf.search.dance import DanceSearch
from dance_tf.search.problem import make_objective
from dance_tf.search.result import SearchResult
from dance_tf.supernet.search_space import make_space
from dance_tf.supernet.supernet import build_network
from tests.search.problems import ScoredSupernet, Unlabelled, make_problem, shuffled_table

CONFIG = SearchConfig(
    epochs=4,
    warmup_epochs=1,
    batch_size=16,
    arch_learning_rate=0.05,
    arch_every=1,
    lambda_2=0.1,
    lambda_2_warmup_epochs=1,
    log_every=4,
)  # 6 steps an epoch: 24, of which 18 have an architecture step
NETWORKS = np.asarray(list(itertools.product(range(6), range(7))), np.int32)


@pytest.fixture(scope="module")
def problem():
    return make_problem()


@pytest.fixture(scope="module")
def uninterrupted(problem, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("uninterrupted"))
    return DanceSearch(CONFIG, seed=3, output_dir=folder).search(problem), folder


def _read(folder, name):
    with open(os.path.join(folder, name), "rb") as file:
        return file.read()


def _without_times(result):
    return dataclasses.replace(result, times={})


def _assert_finds_the_optimum(seed, is_scored=False, table=None, **changes):
    """Search a problem of 42 networks whose costs and losses are all known."""
    config = dataclasses.replace(
        CONFIG,
        batch_size=32,
        lambda_2=0.5,
        arch_paths=8,
        log_every=999,
        max_zero_share=1.0,  # the optimum may be Zero
        **changes,
    )
    objective, table = make_objective(config), table or shuffled_table(seed)
    scores = np.random.RandomState(seed).normal(size=(2, 7)) * is_scored
    supernet = ScoredSupernet(table.space, scores, seed)
    problem = make_problem(table, supernet=supernet, dataset=Unlabelled())
    found = DanceSearch(config, seed=seed).search(problem)

    vectors = np.tile(objective.vector, (len(NETWORKS), 1))
    best = best_accelerators(table, table.one_hot(NETWORKS), vectors)
    totals = supernet.cross_entropy(NETWORKS) + config.lambda_2 * best.value.numpy()
    optimum = int(np.argmin(totals))
    assert np.sort(totals)[1] - totals[optimum] > 0.02  # a clear one
    assert found.architecture == table.space.from_indices(NETWORKS[optimum])
    assert found.accelerator == table.accelerators.decode(int(best.accelerator_index[optimum]))
    assert found.exact_cost.objective == pytest.approx(float(best.value[optimum]), rel=1e-5)
    # The exact evaluator is exact at one-hot.
    assert found.predicted_cost.objective == pytest.approx(found.exact_cost.objective, rel=1e-5)


@pytest.mark.parametrize(
    "objective",
    [
        {"objective": "EDAP"},
        {"objective": "linear", "lambda_latency": 1, "lambda_energy": 0, "lambda_area": 0},
        {"objective": "linear", "lambda_latency": 0.2, "lambda_energy": 1, "lambda_area": 0.5},
        {"objective": "product", "lambda_latency": 2, "lambda_energy": 0.5, "lambda_area": 0.5},
        {"objective": "energy"},
    ],
    ids=["EDAP", "latency alone", "linear", "product", "energy"],
)
def test_by_cost_alone_it_finds_the_cheapest_network(objective):
    _assert_finds_the_optimum(1, epochs=60, arch_learning_rate=0.1, **objective)


def test_between_accuracy_and_cost_it_finds_the_optimum():
    _assert_finds_the_optimum(3, True, epochs=200, arch_learning_rate=0.05)


@pytest.fixture(scope="module")
def tiny_table(tmp_path_factory):
    """The cost model's own table of the tiny preset, not a made-up one."""
    config = preset("tiny")
    folder = tmp_path_factory.mktemp("tables")
    return load_or_build_table(make_space(config.space), config.hardware, cache_dir=folder)


@pytest.mark.parametrize("seed", range(2))
def test_on_the_tiny_space_it_finds_what_enumeration_finds(tiny_table, seed):
    _assert_finds_the_optimum(seed, False, tiny_table, epochs=60, arch_learning_rate=0.1)
    _assert_finds_the_optimum(seed, True, tiny_table, epochs=200, arch_learning_rate=0.05)


def test_the_result_says_what_was_found(uninterrupted, problem):
    result, folder = uninterrupted
    space, table = problem.space, problem.table
    indices = space.to_indices(result.architecture)[None]
    metrics = table.metrics_of(indices).numpy()[0]
    row = table.accelerators.encode(result.accelerator)
    assert result.exact_cost.latency_ms == pytest.approx(metrics[row, 0])
    assert result.exact_cost.latency_cycles == round(
        result.exact_cost.latency_ms * table.machine.clock_mhz * 1e3
    )
    assert result.exact_cost.edap_ms_mj_mm2 == pytest.approx(np.prod(metrics[row]))
    assert np.prod(metrics, axis=-1).min() == pytest.approx(np.prod(metrics[row]), rel=1e-5)
    assert result.num_weight_steps == 24 and result.num_architecture_steps == 18
    assert sum(result.op_counts.values()) == space.num_blocks
    logits = np.asarray(result.arch_logits, np.float64)
    assert np.isnan(logits).tolist() == (~space.op_mask).tolist()
    assert [r.step for r in result.history] == [4, 8, 12, 16, 20, 24]
    assert [r.phase for r in result.history] == ["warmup", *["search"] * 5]
    first, last = result.history[0], result.history[-1]
    assert first.architecture_cross_entropy is first.lambda_2 is first.objective is None
    assert np.allclose(first.mixture_entropy, [np.log(6), np.log(7)], atol=1e-4)
    assert last.ops == result.architecture.ops and last.lambda_2 == pytest.approx(0.1)
    assert np.mean(last.mixture_entropy) < np.mean(first.mixture_entropy) - 0.01
    assert os.listdir(os.path.join(folder, "tensorboard"))


def test_same_seed_same_run(uninterrupted, problem, tmp_path):
    result, folder = uninterrupted
    again = DanceSearch(CONFIG, seed=3, output_dir=str(tmp_path)).search(problem)
    assert _without_times(again) == _without_times(result)
    assert _read(tmp_path, "history.jsonl") == _read(folder, "history.jsonl")


def test_interrupted_and_resumed_it_ends_as_uninterrupted(
    uninterrupted, problem, tmp_path, monkeypatch
):
    result, folder = uninterrupted
    update = terminal.ProgressLine.update
    for signum, last_step in ((signal.SIGTERM, 3), (signal.SIGINT, 16)):

        def interrupt(self, step, signum=signum, last_step=last_step, **values):
            update(self, step, **values)
            if step == last_step:
                os.kill(os.getpid(), signum)

        monkeypatch.setattr(terminal.ProgressLine, "update", interrupt)
        search = DanceSearch(
            CONFIG, seed=3, output_dir=str(tmp_path), is_resuming=last_step > 3, stop=StopSignals()
        )
        with pytest.raises(Interrupted) as caught, search._stop:
            search.search(problem)
        assert caught.value.signum == signum
        assert f"step_{last_step:08d}" in os.listdir(tmp_path / "checkpoints")
    monkeypatch.undo()
    resumed = DanceSearch(CONFIG, seed=3, output_dir=str(tmp_path), is_resuming=True)
    assert _without_times(resumed.search(problem)) == _without_times(result)
    assert _read(tmp_path, "history.jsonl") == _read(folder, "history.jsonl")
    # Nothing is left to do, and the same is found again.
    assert _without_times(resumed.search(problem)) == _without_times(result)


def test_killed_between_checkpoints_it_repeats_the_lost_steps(uninterrupted, problem, tmp_path):
    result, folder = uninterrupted

    def die(record):
        if record.step == 16:  # written to the history, later than the checkpoint of step 12
            raise MemoryError

    with pytest.raises(MemoryError):
        DanceSearch(CONFIG, seed=3, output_dir=str(tmp_path)).search(problem, die)
    with open(tmp_path / "history.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 20, "half')
    resumed = DanceSearch(CONFIG, seed=3, output_dir=str(tmp_path), is_resuming=True)
    assert _without_times(resumed.search(problem)) == _without_times(result)
    assert _read(tmp_path, "history.jsonl") == _read(folder, "history.jsonl")


def test_zero_is_counted_and_a_larger_lambda_2_costs_less(problem):
    cheap, free = (
        DanceSearch(
            dataclasses.replace(CONFIG, lambda_2=value, lambda_2_backoff=1.0), seed=1
        ).search(problem)
        for value in (50.0, 0.0)
    )
    assert cheap.exact_cost.objective < free.exact_cost.objective
    assert cheap.zero_share == 1.0 and cheap.op_counts["zero"] == 1
    assert "100% of the skippable blocks" in cheap.warnings[-1]
    assert cheap.history[-1].zero_share == 1.0
    assert set(free.op_counts) == set(problem.space.op_names)
    assert bool(free.warnings) == (free.zero_share > CONFIG.max_zero_share)
    network = build_network(problem.space, cheap.architecture)
    assert network(np.zeros([2, 8, 8, 3], np.float32)).shape == (2, 10)
    assert any(len(layer.get_weights()) for layer in network.layers)


def test_a_loss_that_is_not_finite_stops_with_the_step(without_tracing, problem, tmp_path):
    config = dataclasses.replace(CONFIG, weight_learning_rate=1e6, log_every=1)
    with pytest.raises(UserError, match=r"stopped at step \d+: .* is (nan|inf)") as caught:
        DanceSearch(config, output_dir=str(tmp_path)).search(problem)
    assert "\n" not in str(caught.value) and "search.weight_learning_rate" in str(caught.value)
    for line in _read(tmp_path, "history.jsonl").decode().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_result_survives_saving_and_becomes_a_frame(uninterrupted):
    result, folder = uninterrupted
    path = result.save(folder)
    data = json.loads(_read(folder, "result.json"), parse_constant=pytest.fail)
    assert data["schema_version"] == 1 and data["accuracy"] is None
    assert data["accuracy_reason"] == "the network was not retrained"
    assert "history" not in data
    loaded = SearchResult.load(folder)
    assert loaded == SearchResult.load(path) == result
    frame = loaded.to_frame()
    assert frame["step"].tolist() == [4, 8, 12, 16, 20, 24]
    assert frame["exact_latency_ms"].dtype == np.float64
    assert frame["ops_1"].iloc[-1] == result.architecture.ops[1]
    assert frame["accelerator_pe_x"].iloc[-1] == result.history[-1].accelerator.pe_x

    data["schema_version"] = 99
    bad = os.path.join(folder, "other.json")
    for content, says in (
        (json.dumps(data), "schema_version is 99"),
        (json.dumps({"schema_version": 1}), "not the result of a search"),
        ('{"schema_version": NaN}', "not a number"),
    ):
        with open(bad, "w", encoding="utf-8") as file:
            file.write(content)
        with pytest.raises(UserError, match=says):
            SearchResult.load(bad)
