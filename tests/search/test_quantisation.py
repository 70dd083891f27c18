"""Accuracy in 8-bit words: measured, judged by, and recovered by a fine-tune."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from dance_tf.config import DataConfig, HardwareConfig, MachineConfig, RetrainConfig, SpaceConfig
from dance_tf.data.datasets import load_images
from dance_tf.export.networks import load_network
from dance_tf.export.tflite import TFLiteClassifier
from dance_tf.search import quantisation
from dance_tf.search.predictions import accuracy_of, infer
from dance_tf.search.quantisation import (
    finish,
    inherited_int8_accuracies,
    judged_accuracy,
    may_have_8_bits,
    word_bits_of,
)
from dance_tf.search.result import Accuracy, Int8Accuracy
from dance_tf.search.retrain import RetrainResult, fine_tune, retrain
from dance_tf.structs import Accelerator
from dance_tf.supernet.inherited import InheritedAccuracy
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.supernet import Supernet, build_network
from tests.search.problems import tinted_images

SPACE = make_space(SpaceConfig(name="tiny_mbconv"))
ARCHITECTURE = SPACE.from_indices([0, 6])
CONFIG = RetrainConfig(
    epochs=6, batch_size=32, learning_rate=0.1, label_smoothing=0.0, quantisation_epochs=3
)
SLOWER = dataclasses.replace(CONFIG, learning_rate=0.003)


@pytest.fixture(scope="module")
def digits():
    return load_images(DataConfig("digits"), input_size=SPACE.input_size)


@pytest.fixture(scope="module")
def trained(digits):
    return retrain(SPACE, ARCHITECTURE, digits, CONFIG, 0, None)


def _with_large_channel(network, factor):
    """The same function, of which one channel between two convolutions is larger by a factor."""
    copy = build_network(SPACE, ARCHITECTURE)
    copy.set_weights(network.get_weights())
    normalisation = copy.get_layer("block0_mbconv3_e3_project_bn")
    gamma, beta, *statistics = normalisation.get_weights()
    gamma[0] *= factor
    beta[0] *= factor
    normalisation.set_weights([gamma, beta, *statistics])
    head = copy.get_layer("head")
    (kernel,) = head.get_weights()
    kernel[:, :, 0] /= factor
    head.set_weights([kernel])
    return copy


@pytest.fixture(scope="module")
def fragile(trained, digits):
    """A retrained network that loses by post-training quantisation."""
    network = _with_large_channel(trained.network, 100.0)
    accuracy = accuracy_of(infer(network), digits, "test")
    assert accuracy.value == pytest.approx(trained.accuracy.value, abs=0.003)
    return RetrainResult(network, accuracy, (), 0.0)


def _finish(trained, dataset, config, folder, **more):
    return finish(SPACE, ARCHITECTURE, trained, dataset, config, 0, folder, **more)


def test_the_fine_tune_recovers_what_8_bits_lose_and_both_are_told(fragile, digits, tmp_path):
    exports = tmp_path / "exports"
    found = _finish(fragile, digits, SLOWER, str(tmp_path), exports=str(exports))
    int8 = found.int8_accuracy
    assert int8.float_value - int8.post_training_value > 0.02
    assert int8.value == int8.fine_tuned_value > int8.post_training_value + 0.01
    assert int8.points_lost == pytest.approx(100 * (int8.float_value - int8.value))
    # The words of the accelerator decide by which one a run is judged.
    assert found.accuracy == fragile.accuracy
    assert judged_accuracy(fragile.accuracy, int8, 8).value == int8.value
    # The int8 file is of the fine-tuned network, the other files of the retrained one.
    classifier = TFLiteClassifier(exports / "network_int8.tflite")
    assert accuracy_of(classifier.predict, digits, "test").value == int8.value
    kept = load_network(str(exports / "network.keras"))
    for own, other in zip(kept.get_weights(), fragile.network.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)
    assert sorted(p.name for p in exports.iterdir()) == [
        *("export.json", "network.keras", "network.tflite", "network_int8.tflite", "saved_model")
    ]
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").open()]
    assert [(line["phase"], line["epoch"]) for line in lines] == [
        ("quantisation", e) for e in (1, 2, 3)
    ]
    # Keras with the errors of 8-bit words is about as accurate as the file.
    assert lines[-1]["test_accuracy"] == pytest.approx(int8.value, abs=0.02)


def test_a_network_that_loses_little_is_left_alone(trained, digits, monkeypatch):
    monkeypatch.setattr(quantisation, "MAX_LOSS", 1.0)
    found = _finish(trained, digits, CONFIG, None, word_bits=8)
    assert found.int8_accuracy.fine_tuned_value is None and found.exports is None
    assert found.int8_accuracy.value == found.int8_accuracy.post_training_value
    assert found.accuracy.value == found.int8_accuracy.value


def test_nothing_is_measured_that_nothing_asks_for(trained, digits):
    config = dataclasses.replace(CONFIG, quantisation_epochs=0)
    found = _finish(trained, digits, config, None)
    assert found == (trained.accuracy, None, None)


def test_a_fine_tune_goes_on_from_its_checkpoint(fragile, digits, tmp_path):
    arguments = (SPACE, ARCHITECTURE, fragile.network, digits, SLOWER, 0)
    whole = fine_tune(*arguments, str(tmp_path))
    again = fine_tune(*arguments, str(tmp_path), resume=True)
    for own, other in zip(again.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)
    names = [v.name for v in whole.variables]
    for name, own, other in zip(
        names, whole.get_weights(), fragile.network.get_weights(), strict=True
    ):
        assert np.array_equal(own, other) == name.startswith("moving_"), name


def test_inherited_weights_are_judged_in_8_bits_beside_float():
    dataset, supernet = tinted_images(), Supernet(SPACE, 0, "superkernel")
    rows = [[0, 6], [1, 0]]
    in_float = InheritedAccuracy(supernet, dataset, 32)(rows)
    found = inherited_int8_accuracies(supernet, dataset, rows, 32)
    assert [a.float_value for a in found] == in_float.tolist()
    assert {(a.split, a.num_images) for a in found} == {("architecture", 32)}
    network = InheritedAccuracy(supernet, dataset, 32).network(rows[0])
    assert accuracy_of(infer(network), dataset, "architecture").value == in_float[0]


def test_words_of_16_bits_are_judged_in_float():
    accuracy = Accuracy("test", 0.9, 100)
    int8 = Int8Accuracy("test", 0.8, 100, 0.9, 0.8)
    assert judged_accuracy(accuracy, int8, 16) == accuracy
    assert judged_accuracy(accuracy, int8, 8) == Accuracy("test", 0.8, 100)


def test_words_are_the_accelerators_own_or_the_machines():
    accelerator = Accelerator(8, 8, 64, "row_stationary")
    for bits in (8, 16):
        hardware = HardwareConfig(machine=MachineConfig(word_bits=bits))
        assert word_bits_of(hardware, accelerator) == bits
        assert may_have_8_bits(hardware) == (bits == 8)
