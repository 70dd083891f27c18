"""The example that trains networks side by side: which, in what order, and going on."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from dance_tf.presets import preset
from dance_tf.search import pipeline
from dance_tf.supernet.space_files import make_space
from studies import image_file
from studies.pytorch import train_side_by_side
from studies.rank_accuracy import spread_networks
from tests.search.problems import tinted_images
from tools import flags as common

FIRST, SECOND, THIRD = (("mbconv3_e3", op) for op in ("zero", "mbconv5_e3", "mbconv7_e6"))


def _point(ops, seed):
    search = {"objective": "EDAP", "lambda_2": 0.1, "seed": seed}
    return {"ops": ops, "search": search, "inherited_error": 0.5}


SWEEP = {"points": [_point(FIRST, 3), _point(SECOND, 4), _point(FIRST, 5)]}
FRONT = {"objectives": {"EDAP": {"front": [{"ops": ops, "error": 0.2} for ops in (THIRD, SECOND)]}}}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Return a call of the example; it gives status and report. Trainings are made up."""
    for name, data in (("sweep", SWEEP), ("front", FRONT)):
        (tmp_path / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    space = make_space(preset("tiny").space)
    monkeypatch.setattr(pipeline, "load_space_and_images", lambda c: (space, tinted_images()))

    def call(*arguments: str):
        command = ["--preset=tiny", f"--images={tmp_path}/images.npz"]
        command += [f"--output={tmp_path}/out.json", *arguments]
        command += [f"--found={tmp_path}/{name}.json" for name in ("sweep", "front")]
        status = common.call(train_side_by_side.main, train_side_by_side.FLAGS, ["side", *command])
        path = tmp_path / "out.json"
        return status, json.loads(path.read_text()) if path.exists() else None

    return call


@pytest.fixture
def made_up(monkeypatch):
    """Replace trainings; return the groups that were trained together."""
    together = []

    def train(networks, space, images, config):
        together.append([(network.ops, network.seed) for network in networks])
        return [{"ops": network.ops, "seed": network.seed} for network in networks]

    monkeypatch.setattr(train_side_by_side, "_trained", train)
    return together


def test_each_network_is_trained_once_with_the_seed_that_found_it_first(run, made_up):
    status, report = run("--num_together=2", "--seed=9")
    assert status == 0
    assert made_up == [[(FIRST, 3), (SECOND, 4)], [(THIRD, 9)]]
    assert [tuple(row["ops"]) for row in report["networks"]] == [FIRST, SECOND, THIRD]
    assert report["config"]["seed"] == 9 and "data_dir" not in report["config"]["data"]
    made_up.clear()
    assert run("--num_together=2", "--seed=9") == (0, report) and made_up == []
    status, report = run("--seed=9", "--num_spread=4")
    spread = {
        make_space(preset("tiny").space).from_indices(row).ops
        for row in spread_networks(make_space(preset("tiny").space), 4, 9)
    }
    assert {ops for ops, _ in made_up[0]} == spread - {FIRST, SECOND, THIRD}
    assert all(row["is_spread"] == (tuple(row["ops"]) in spread) for row in report["networks"][3:])


def test_an_output_of_other_trainings_is_refused(run, made_up, capsys):
    assert run()[0] == 0
    assert run("--set=retrain.epochs=77")[0] == 1
    assert "is of another configuration" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--images=",), "--images is missing"),
        (("--lambdas=much",), "--lambdas: 'much' is not a number"),
    ],
)
def test_a_mistake_is_one_line(run, capsys, arguments, message):
    assert run(*arguments) == (1, None)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_what_is_missing_is_named(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run() == (1, None)
    assert "PyTorch is not installed" in capsys.readouterr().err.splitlines()[-1]


def test_images_are_those_of_the_data_set(monkeypatch, tmp_path):
    config, dataset = preset("tiny"), tinted_images()
    loads = []

    def load(config):
        loads.append(config)
        return make_space(config.space), dataset

    monkeypatch.setattr(pipeline, "load_space_and_images", load)
    path = str(tmp_path / "images.npz")
    made, read = (image_file.read_or_make(config, path) for _ in range(2))
    assert len(loads) == 1
    for one, other in zip(made, read, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (made.num_classes, made.pad, made.use_flip) == (
        dataset.num_classes,
        dataset.augmentation.pad,
        dataset.augmentation.use_flip,
    )
    splits = {"train": ("train", "architecture"), "test": ("test",)}
    for name, own in splits.items():
        images, labels = (getattr(made, name), getattr(made, f"{name}_labels"))
        expected = [dataset.split(split, batch_size=7) for split in own]
        batches = [batch for split in expected for batch in split]
        assert images.dtype == np.uint8
        np.testing.assert_allclose(
            images / 255.0, np.concatenate([batch.numpy() for batch, _ in batches]), atol=1e-6
        )
        np.testing.assert_array_equal(labels, np.concatenate([b.numpy() for _, b in batches]))
    assert [file.name for file in tmp_path.iterdir()] == ["images.npz"]


def test_a_file_of_other_images_is_refused(monkeypatch, tmp_path):
    config = preset("tiny")
    path = tmp_path / "images.npz"
    monkeypatch.setattr(
        pipeline, "load_space_and_images", lambda c: (make_space(c.space), tinted_images())
    )
    image_file.read_or_make(config, str(path))
    with pytest.raises(image_file.UserError, match=r"is of .*, not of"):
        image_file.read_or_make(preset("cifar10_small"), str(path))
    path.write_bytes(b"PK")
    with pytest.raises(image_file.UserError, match="is no file of images"):
        image_file.read_or_make(config, str(path))
