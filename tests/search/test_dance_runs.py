"""A co-search repeats itself, resumes as if never interrupted, and says what it found."""

from __future__ import annotations

import dataclasses
import json
import os
import signal

import numpy as np
import pytest

from dance_tf.config import SearchConfig
from dance_tf.errors import Interrupted, UserError
from dance_tf.run import terminal
from dance_tf.run.surroundings import StopSignals
from dance_tf.search.dance import DanceSearch
from dance_tf.search.result import SearchResult
from dance_tf.supernet.supernet import build_network
from tests.search.problems import make_problem

pytestmark = pytest.mark.usefixtures("module_without_tracing")

CONFIG = SearchConfig(
    epochs=4,
    warmup_epochs=1,
    batch_size=48,
    arch_learning_rate=0.1,
    arch_every=1,
    lambda_2=0.1,
    lambda_2_warmup_epochs=1,
    log_every=1,
)  # 2 steps an epoch: 8, of which 6 have an architecture step


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
    assert result.num_weight_steps == 8 and result.num_architecture_steps == 6
    assert sum(result.op_counts.values()) == space.num_blocks
    logits = np.asarray(result.arch_logits, np.float64)
    assert np.isnan(logits).tolist() == (~space.op_mask).tolist()
    assert [r.step for r in result.history] == [*range(1, 9)]
    assert [r.phase for r in result.history] == ["warmup"] * 2 + ["search"] * 6
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
    for signum, last_step in ((signal.SIGTERM, 3), (signal.SIGINT, 5)):

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
        if record.step == 5:  # written to the history, later than the checkpoint of step 4
            raise MemoryError

    with pytest.raises(MemoryError):
        DanceSearch(CONFIG, seed=3, output_dir=str(tmp_path)).search(problem, die)
    with open(tmp_path / "history.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 6, "half')
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


def test_a_loss_that_is_not_finite_stops_with_the_step(problem, tmp_path):
    config = dataclasses.replace(CONFIG, epochs=20, weight_learning_rate=1e6)
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
    assert frame["step"].tolist() == [*range(1, 9)]
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
