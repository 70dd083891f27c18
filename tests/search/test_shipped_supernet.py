"""The supernet that comes with the repository is of its space and whole."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import override
from dance_tf.presets import preset
from dance_tf.search.supernet_training import load_supernet
from dance_tf.supernet.space_files import make_space

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "saved_models/supernet_cifar_mbconv_small"


class _Cifar10:
    """Facts that a supernet asks of its images before it sees one."""

    name = "cifar10"

    @staticmethod
    def num_images(split):
        return {"train": 40_000, "architecture": 10_000}[split]


@pytest.fixture(scope="module")
def supernet():
    config = override(preset("cifar10_small"), ["search.supernet=superkernel", "seed=3"])
    return load_supernet(str(FOLDER), make_space(config.space), _Cifar10(), config)


def test_it_is_trained_and_runs_every_network(supernet):
    space = supernet.space
    images = tf.constant(np.random.RandomState(0).rand(4, 16, 16, 3), tf.float32)
    for path in space.sample(3, 0):
        assert np.isfinite(supernet.call_path(images, path).numpy()).all()
    lines = (FOLDER / "history.jsonl").read_text().splitlines()
    record = json.loads((FOLDER / "supernet.json").read_text())
    assert json.loads(lines[-1])["step"] == record["num_steps"]
    assert min(record["accuracy"]["values"]) > 0.6
    assert sum(file.stat().st_size for file in FOLDER.rglob("*")) < 5e6


def test_its_architecture_parameters_are_those_of_the_seed(supernet):
    logits = supernet.arch_logits.numpy()
    supernet.reset_architecture(3)
    np.testing.assert_array_equal(supernet.arch_logits.numpy(), logits)
    supernet.reset_architecture(4)
    assert not np.array_equal(supernet.arch_logits.numpy(), logits)
