"""The example that compares rankings: which networks, which numbers, and going on."""

from __future__ import annotations

import json
import types

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import SpaceConfig, config_to_json
from dance_tf.presets import preset
from dance_tf.search import accuracy_memo, pipeline, retrain, supernet_training
from dance_tf.search.result import Accuracy
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.supernet import Supernet
from studies import rank_accuracy
from tests.search.problems import tinted_images
from tools import flags as common

SMALL = make_space(SpaceConfig(name="cifar_mbconv_small"))


def test_networks_are_spread_evenly_without_the_extremes():
    networks = rank_accuracy.spread_networks(SMALL, 16, 3)
    sizes = np.log(rank_accuracy.num_macs(SMALL, networks))
    drawn = np.log(rank_accuracy.num_macs(SMALL, SMALL.sample(4096, 3)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    share = (np.sort(sizes) - low) / (high - low) * 16
    assert (share.astype(int) == range(16)).all()
    assert (np.argsort(sizes) != range(16)).any()
    np.testing.assert_array_equal(networks, rank_accuracy.spread_networks(SMALL, 16, 3))
    layers = [SMALL.layers(SMALL.from_indices(row)) for row in networks[:2]]
    assert [sum(layer.macs for layer in some) for some in layers] == [
        round(size) for size in np.exp(sizes[:2])
    ]
    assert (networks != rank_accuracy.spread_networks(SMALL, 16, 4)).any()


def test_a_small_space_gives_different_networks_too():
    space = make_space(SpaceConfig(name="tiny_mbconv"))
    networks = rank_accuracy.spread_networks(space, 30, 0)
    assert len(set(map(tuple, networks.tolist()))) == 30


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(rank_accuracy, "_NUM_RESAMPLES", 60)


def test_correlation_is_of_ranks_and_its_interval_holds_it():
    random = np.random.RandomState(0)
    trained = random.rand(20)
    exact = rank_accuracy.correlation(trained**3, trained, 0)
    for name in ("spearman", "kendall"):
        assert [exact[name]["value"], exact[name]["low"]] == pytest.approx([1.0, 1.0])
    noisy = rank_accuracy.correlation(trained + 0.2 * random.randn(20), trained, 0)
    for name in ("spearman", "kendall"):
        assert -0.5 < noisy[name]["low"] < noisy[name]["value"] < noisy[name]["high"] < 1.0
        assert noisy[name]["high"] - noisy[name]["low"] > 0.1
    # Three pairs of six are in the other order: tau = (3 - 3) / 6.
    four = rank_accuracy.correlation([1, 2, 3, 4], [2, 4, 1, 3], 0)
    assert four["kendall"]["value"] == pytest.approx(0.0)
    assert four["num_networks"] == 4


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Return a call of the example; trainings and supernets are made up.

    A network's accuracy grows with its MACs; the first supernet knows that, the second
    believes the contrary.
    """
    config = preset("tiny")
    space, dataset = make_space(config.space), tinted_images()
    records = {}
    for name, kind in (("good", "proxyless"), ("bad", "superkernel")):
        folder = tmp_path / name
        folder.mkdir()
        record = {"kind": kind, "weights_sha256": name * 4, "data": {}, "epochs": 5, "train_s": 1.5}
        records[str(folder)] = record
        (folder / "supernet.json").write_text(json.dumps(record), encoding="utf-8")
        (folder / "config.json").write_text(json.dumps(config_to_json(config)), encoding="utf-8")

    def macs(architecture):
        return sum(layer.macs for layer in space.layers(architecture))

    def measure(supernet, *arguments):
        sign = 1 if supernet.kind == "proxyless" else -1
        return lambda rows: [0.5 + sign * 1e-8 * macs(space.from_indices(row)) for row in rows]

    trained = []

    def train(space, architecture, dataset, config, seed, output_dir, *, resume, stop):
        assert resume
        trained.append(output_dir)
        if len(trained) == 3:
            raise KeyboardInterrupt
        value = 0.1 + 1e-8 * macs(architecture)
        return types.SimpleNamespace(accuracy=Accuracy("test", value, 40), elapsed_s=2.0)

    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    monkeypatch.setattr(pipeline, "load_space_and_images", lambda c: (space, dataset))
    for module in (supernet_training, accuracy_memo):
        monkeypatch.setattr(module, "read_supernet_record", lambda path, *rest: records[path])
    monkeypatch.setattr(
        accuracy_memo,
        "load_supernet",
        lambda path, space, dataset, config: Supernet(space, 0, config.search.supernet),
    )
    monkeypatch.setattr(accuracy_memo, "InheritedAccuracy", measure)
    monkeypatch.setattr(retrain, "retrain", train)

    def call(*names: str, arguments: tuple[str, ...] = ()) -> tuple[int, dict]:
        output = tmp_path / "rank.json"
        given = [f"--supernet_dir={tmp_path / name}" for name in names]
        given += [f"--work_dir={tmp_path}/work", f"--output={output}", "--num_networks=6"]
        given += ["--num_images=9", *arguments]
        status = common.call(rank_accuracy.main, rank_accuracy.FLAGS, ["rank_accuracy", *given])
        return status, json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}

    call.trained = trained
    return call


def test_goes_on_after_an_interruption_and_takes_another_supernet(run, capsys):
    status, report = run("good")
    assert status == 130
    assert len(report["networks"]) == 2
    assert report["rank_correlation"]["good"]["all"]["num_networks"] == 2
    status, report = run("good")
    assert status == 0
    # The third was begun twice, in one folder; the first two were not begun again.
    assert len(run.trained) == 7 and run.trained[2] == run.trained[3]
    assert len(set(run.trained)) == 6
    status, report = run("good", "bad")
    assert (status, len(run.trained)) == (0, 7)
    assert [report["supernets"][name]["kind"] for name in ("good", "bad")] == [
        "proxyless",
        "superkernel",
    ]
    for name, expected in (("good", 1.0), ("bad", -1.0), ("macs", 1.0)):
        found = report["rank_correlation"][name]
        assert found["all"]["num_networks"] == 6
        assert found["costlier half"]["num_networks"] == 3
        for part in found.values():
            for name in ("spearman", "kendall"):
                assert part[name]["value"] == pytest.approx(expected)
    accuracies = [network["accuracy"]["value"] for network in report["networks"]]
    macs = [network["macs"] for network in report["networks"]]
    np.testing.assert_allclose(accuracies, 0.1 + 1e-8 * np.asarray(macs))
    table = capsys.readouterr().out.splitlines()[-8:]
    assert table[0].split()[:2] == ["supernet", "networks"]
    assert table[4].split() == ["bad", "all", *["-1"] * 6]


def test_mistakes_are_one_line(run, capsys):
    run("good")
    capsys.readouterr()
    for names, arguments, words in (
        ((), (), "--supernet_dir: name one folder"),
        (("good", "good"), (), "a name of its own"),
        (("good",), ("--num_networks=7",), "of another configuration"),
        (("good",), ("--set=retrain.epochs=9",), "of another configuration"),
        (("good",), ("--set=retrain.initial_weights=inherited",), "trainings from scratch"),
        (("good",), ("--work_dir=",), "--work_dir is missing"),
    ):
        status, _ = run(*names, arguments=arguments)
        err = capsys.readouterr().err
        assert (status, err.count("\n")) == (1, 1), err
        assert words in err


def test_trainings_side_by_side_are_taken_over(run, tmp_path, capsys):
    space = make_space(preset("tiny").space)
    rows = [
        {
            "ops": space.from_indices(row).ops,
            "macs": int(macs),
            "accuracy": {"value": 0.1 + 1e-8 * macs},
            "is_spread": position < 4,
        }
        for position, (row, macs) in enumerate(
            (row, rank_accuracy.num_macs(space, row[None])[0])
            for row in rank_accuracy.spread_networks(space, 7, 1)
        )
    ]
    config = json.loads(json.dumps(rank_accuracy.training_settings(preset("tiny"))))
    config["retrain"]["epochs"] = 99
    path = tmp_path / "trained.json"
    path.write_text(json.dumps({"config": config, "networks": rows}), encoding="utf-8")
    status, report = run("good", "bad", arguments=(f"--trained={path}",))
    assert (status, run.trained) == (0, [])
    assert report["config"]["retrain"]["epochs"] == 99
    for name, expected in (("good", 1.0), ("bad", -1.0)):
        parts = report["rank_correlation"][name]
        sizes = {part: found["num_networks"] for part, found in parts.items()}
        assert sizes == {"all": 7, "costlier half": 4, "spread over the sizes": 4}
        for found in parts.values():
            assert found["spearman"]["value"] == pytest.approx(expected)
    config["data"]["dataset"] = "other"
    path.write_text(json.dumps({"config": config, "networks": rows}), encoding="utf-8")
    assert run("good", arguments=(f"--trained={path}",))[0] == 1
    assert "of another space or data set" in capsys.readouterr().err
