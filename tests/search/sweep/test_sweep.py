"""Sweeps of searches over one supernet: planned, interrupted, resumed, extended."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import keras
import numpy as np
import pytest

from dance_tf.config import ExperimentConfig, RetrainConfig, SearchConfig
from dance_tf.errors import Interrupted, UserError
from dance_tf.run.surroundings import StopSignals
from dance_tf.search.result import SearchResult
from dance_tf.search.supernet_training import load_supernet, train_supernet
from dance_tf.search.sweep.sweep import plan_sweep, run_sweep
from dance_tf.structs import Architecture
from tests.search.problems import make_problem

pytestmark = pytest.mark.usefixtures("module_without_tracing")

BASE = ExperimentConfig(
    search=SearchConfig(
        supernet="superkernel", epochs=2, warmup_epochs=1, batch_size=32, arch_every=1, log_every=1
    ),
    retrain=RetrainConfig(epochs=1, batch_size=32),
)
SEARCHES = plan_sweep(["EDAP", "linear"], [0.0, 0.5], 1)
RETRAINED = 1


class _StopAfter(StopSignals):
    """A signal that comes after a number of looks for one."""

    def __init__(self, num_looks):
        self._num_left = num_looks
        super().__init__()

    @property
    def requested(self):
        self._num_left -= 1
        return 15 if self._num_left < 0 else None

    @requested.setter
    def requested(self, value):
        pass


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    problem, folder = make_problem(), tmp_path_factory.mktemp("supernet")
    train_supernet(problem.space, problem.dataset, BASE, str(folder))
    search = dataclasses.replace(BASE.search, supernet_dir=str(folder), supernet_weights="frozen")
    return dataclasses.replace(BASE, search=search)


def _run(config, output_dir, searches=SEARCHES, stop=None, num_retrained=RETRAINED):
    problem = make_problem()
    supernet = load_supernet(config.search.supernet_dir, problem.space, problem.dataset, config)
    problem = problem._replace(supernet=supernet, is_warm=True)
    output_dir.mkdir(exist_ok=True)
    return run_sweep(
        searches,
        config,
        problem,
        str(output_dir),
        num_images=20,
        num_retrained=num_retrained,
        stop=stop,
    )


def _by_name(found):
    return sorted(found["points"], key=lambda point: list(point["search"].values()))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, _run(config, folder)


def test_each_search_is_a_point_and_the_file_is_what_was_returned(whole):
    folder, found = whole
    assert json.loads((folder / "pareto.json").read_text()) == found
    assert [p["search"] for p in found["points"]] == [dataclasses.asdict(s) for s in SEARCHES]
    assert found["num_images"] == 20 and found["num_searches"] == {"planned": 4, "done": 4}
    for search, point in zip(SEARCHES, found["points"], strict=True):
        result = SearchResult.load(str(folder / "searches" / search.name))
        assert result.architecture.ops == tuple(point["ops"])
        assert result.exact_cost.edap_ms_mj_mm2 == point["edap_ms_mj_mm2"]
        assert result.num_weight_steps == 0
        assert not (folder / "searches" / search.name / "checkpoints").exists()


def test_without_cost_one_network_is_searched_for_all_objectives(whole):
    folder, found = whole
    first, second = found["points"][:2]
    assert first["search"]["lambda_2"] == second["search"]["lambda_2"] == 0
    assert first["ops"] == second["ops"]
    results = [SearchResult.load(str(folder / "searches" / s.name)) for s in SEARCHES[:2]]
    assert [result.num_architecture_steps for result in results] == [3, 0]
    assert [result.objective["name"] for result in results] == ["EDAP", "linear"]


def test_the_best_is_retrained(whole):
    folder, found = whole
    retrained, *others = [p for p in found["points"] if p["retrained_error"] is not None]
    assert found["retrained"]["num_points"] == 1 + len(others)
    same = [p for p in found["points"] if p["ops"] == retrained["ops"]]
    assert [retrained, *others] == same, "a training is of all searches that found the network"
    (path,) = (folder / "retrained").glob("*_seed0/retrain.json")
    record = json.loads(path.read_text())
    assert record["architecture"]["ops"] == retrained["ops"]
    assert record["accuracy"]["value"] == pytest.approx(1 - retrained["retrained_error"])
    assert (path.parent / "network.keras").exists()


def test_what_is_retrained_may_start_from_the_weights_of_the_supernet(config, tmp_path):
    still = RetrainConfig(epochs=1, learning_rate=1e-12, initial_weights="inherited")
    found = _run(dataclasses.replace(config, retrain=still), tmp_path, SEARCHES[:1])
    problem = make_problem()
    supernet = load_supernet(config.search.supernet_dir, problem.space, problem.dataset, config)
    (path,) = tmp_path.glob("retrained/*/network.keras")
    ops = tuple(found["points"][0]["ops"])
    inherited = supernet.inherited_network(Architecture(problem.space.name, ops))
    trained = keras.saving.load_model(path)
    for a, b in zip(trained.trainable_variables, inherited.trainable_variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6, atol=1e-9)


def test_an_interrupted_sweep_ends_as_the_uninterrupted_one(whole, config, tmp_path):
    for num_looks in (1, 7):  # in the first search, then in a later one
        with pytest.raises(Interrupted):
            _run(config, tmp_path, stop=_StopAfter(num_looks))
    so_far = json.loads((tmp_path / "pareto.json").read_text())
    assert 0 < so_far["num_searches"]["done"] <= 4
    assert _run(config, tmp_path) == whole[1]


def test_a_finished_sweep_is_extended(whole, config, tmp_path):
    folder = tmp_path / "more"
    shutil.copytree(whole[0], folder)
    before = (folder / "searches" / SEARCHES[0].name / "result.json").stat().st_mtime_ns
    more = (*SEARCHES, *plan_sweep(["EDAP"], [2.0], 1))
    found = _run(config, folder, more)
    assert found["points"][:4] == whole[1]["points"] and len(found["points"]) == 5
    after = (folder / "searches" / SEARCHES[0].name / "result.json").stat().st_mtime_ns
    assert after == before


def test_a_network_that_a_finished_sweep_has_lost_is_trained_again_or_named(
    whole, config, tmp_path, capsys
):
    folder = tmp_path / "lost"
    shutil.copytree(whole[0], folder)
    (network,) = folder.glob("retrained/*/network.keras")
    (folder / "searches" / SEARCHES[0].name / "history.jsonl").unlink()
    (folder / "searches" / SEARCHES[0].name / "config.json").unlink()
    network.unlink()
    assert _by_name(_run(config, folder, num_retrained=0)) == _by_name(whole[1])
    error = capsys.readouterr().err
    assert f"{network.parent} lacks network.keras; a larger --num_retrained" in error
    assert f"{SEARCHES[0].name} is finished but lacks history.jsonl" in error
    assert (folder / "searches" / SEARCHES[0].name / "config.json").exists()
    assert _run(config, folder) == whole[1]
    error = capsys.readouterr().err
    assert "lacks network.keras: trained again" in error and "larger" not in error
    assert network.exists() and not (network.parent / "checkpoints").exists()


def test_what_a_folder_holds_of_earlier_sweeps_stays_and_comes_first(whole, config, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(whole[0], folder)
    other = plan_sweep(["linear"], [2.0], 1)
    found = _run(config, folder, other, num_retrained=1)
    points = {point["search"]["lambda_2"]: point for point in found["points"]}
    assert found["num_searches"] == {"planned": 5, "done": 5}
    assert found["num_retrained"] == {"planned": 1, "done": 1}
    assert found["points"][4] == points[2.0], "the last is of this call"
    assert points[2.0]["retrained_error"] is not None, "and so is what it retrains"
    assert _by_name(found)[:4] == _by_name(whole[1])
    assert _by_name(_run(config, folder, num_retrained=0)) == _by_name(found)


def test_a_search_that_was_renamed_is_refused(whole, config, tmp_path):
    folder = tmp_path / "renamed"
    shutil.copytree(whole[0], folder)
    (folder / "searches" / SEARCHES[0].name).rename(folder / "searches" / "EDAP_mine")
    with pytest.raises(UserError, match="EDAP_mine holds the search EDAP_lambda0_seed0"):
        _run(config, folder)


def test_a_sweep_of_other_weights_is_refused(whole, config, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(whole[0], folder)
    data = json.loads((folder / "pareto.json").read_text())
    (folder / "pareto.json").write_text(json.dumps(data | {"supernet_sha256": "0"}))
    with pytest.raises(UserError, match="supernet_sha256") as raised:
        _run(config, folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("objectives", "lambdas", "num_seeds", "what"),
    [
        (["EDAP"], [-0.1], 1, "-0.1"),
        (["EDAP"], [math.nan], 1, "nan"),
        (["EDAP"], [math.inf], 1, "inf"),
        ([], [0.1], 1, "needs"),
        (["EDAP"], [], 1, "needs"),
        (["EDAP", "EDAP"], [0.1], 1, "must differ"),
        (["EDAP"], [0.1, 0.10000000001], 1, "must differ"),
    ],
)
def test_what_is_no_sweep_is_refused(objectives, lambdas, num_seeds, what):
    with pytest.raises(UserError, match=what):
        plan_sweep(objectives, lambdas, num_seeds)


def test_seeds_come_one_after_the_other():
    searches = plan_sweep(["EDAP", "linear"], [0.0, 1.0], 2, first_seed=5)
    assert [s.seed for s in searches] == 4 * [5] + 4 * [6]
    assert len({s.name for s in searches}) == 8
