"""Retraining: it learns, repeats itself, survives an interruption, and stops on nonsense."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal

import numpy as np
import pytest

from dance_tf.config import RetrainConfig, SpaceConfig
from dance_tf.data.images import ArrayImages, Augmentation
from dance_tf.errors import Interrupted, UserError
from dance_tf.files import read_json
from dance_tf.run.surroundings import StopSignals
from dance_tf.search.retrain import measure_accuracy, retrain
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.supernet import Supernet, build_network

SPACE = make_space(SpaceConfig(name="tiny_mbconv", num_classes=4))
ARCHITECTURE = SPACE.from_indices([0, 2])
CONFIG = RetrainConfig(epochs=3, batch_size=8, learning_rate=0.1)
STEPS_PER_EPOCH = (96 + 32) // 8


def _dataset(sizes=(96, 32, 40), size=8):
    """Noisy images of four classes: more red, more green, more blue, or none of them."""
    random = np.random.RandomState(0)
    splits = {}
    for name, num in zip(("train", "architecture", "test"), sizes, strict=True):
        labels = random.randint(0, 4, num)
        tint = 90 * np.eye(4, 3, dtype=int)[labels][:, None, None]
        images = random.randint(0, 160, (num, size, size, 3)) + tint
        splits[name] = (images.astype(np.uint8), labels.astype(np.int32))
    return ArrayImages(
        splits,
        name="tints",
        num_classes=4,
        augmentation=Augmentation(pad=1, use_flip=False),
        split_sources={},
    )


@pytest.fixture(scope="module")
def dataset():
    return _dataset()


@pytest.fixture(scope="module")
def few():
    """Images of three steps an epoch."""
    return _dataset((16, 8, 8))


@pytest.fixture(scope="module")
def uninterrupted(dataset, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("uninterrupted"))
    return retrain(SPACE, ARCHITECTURE, dataset, CONFIG, 5, folder), folder


def _lines(folder):
    with open(f"{folder}/history.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _assert_same(result, expected):
    assert result.history == expected.history
    assert result.accuracy == expected.accuracy
    for a, b in zip(result.network.get_weights(), expected.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_learns_and_names_the_split(uninterrupted, dataset):
    result, _ = uninterrupted
    assert result.accuracy.split == "test" and result.accuracy.num_images == 40
    assert result.accuracy.value >= 0.9
    assert measure_accuracy(result.network, dataset) == result.accuracy
    untrained = build_network(SPACE, ARCHITECTURE, seed=5)
    assert measure_accuracy(untrained, dataset).value < 0.6
    assert result.history[-1].cross_entropy < result.history[0].cross_entropy


def test_it_is_tested_along_the_way_and_its_answers_are_kept(uninterrupted):
    result, folder = uninterrupted
    measured = [r.test_accuracy for r in result.history if r.test_accuracy is not None]
    assert 1 <= len(measured) < len(result.history) and measured[-1] == result.accuracy.value
    assert [line["test_accuracy"] for line in _lines(folder)] == [
        record.test_accuracy for record in result.history
    ]
    kept = read_json(f"{folder}/predictions.json")
    right = sum(count for label, answer, count in kept["confusion"] if label == answer)
    assert right == round(result.accuracy.value * 40) and kept["num_classes"] == 4


def test_the_network_is_of_stock_layers(uninterrupted):
    kinds = {type(layer).__module__.split(".")[0] for layer in uninterrupted[0].network.layers}
    assert kinds == {"keras"}


def test_history_has_a_line_for_each_epoch(uninterrupted):
    result, folder = uninterrupted
    assert [record.epoch for record in result.history] == [1, 2, 3]
    # Both splits of training images are used.
    assert [record.step for record in result.history] == [STEPS_PER_EPOCH * e for e in (1, 2, 3)]
    assert _lines(folder) == [dataclasses.asdict(record) for record in result.history]


def test_same_seed_same_network(uninterrupted, dataset):
    _assert_same(retrain(SPACE, ARCHITECTURE, dataset, CONFIG, 5, None), uninterrupted[0])


def test_another_seed_is_another_network_and_its_checkpoint_does_not_count(
    without_tracing, few, tmp_path
):
    config = dataclasses.replace(CONFIG, epochs=1)
    other = retrain(SPACE, ARCHITECTURE, few, config, 6, str(tmp_path))
    # Without resume an earlier run's checkpoint does not count.
    new = retrain(SPACE, ARCHITECTURE, few, config, 5, str(tmp_path))
    assert other.history[0].cross_entropy != new.history[0].cross_entropy
    resumed = retrain(SPACE, ARCHITECTURE, few, config, 5, str(tmp_path), resume=True)
    _assert_same(resumed, new)
    assert len(_lines(tmp_path)) == 1


class _StopAfter:
    """A stop that is asked for after some looks at it; the loop looks once a step."""

    def __init__(self, num_steps):
        self._num_left = num_steps
        self.deferred = contextlib.nullcontext

    @property
    def requested(self):
        self._num_left -= 1
        return signal.SIGTERM if self._num_left <= 0 else None


def test_interrupted_and_resumed_it_ends_the_same(uninterrupted, dataset, tmp_path):
    arguments = (SPACE, ARCHITECTURE, dataset, CONFIG, 5, str(tmp_path))
    (tmp_path / "history.jsonl").write_text('{"phase": "search", "step": 400}\n')
    lines = []

    def kill(record):
        lines.append(record)
        signal.raise_signal(signal.SIGTERM)

    with StopSignals() as stop, pytest.raises(Interrupted) as interrupted:
        retrain(*arguments, stop=stop, on_progress=kill)
    assert interrupted.value.signum == signal.SIGTERM
    assert [record.epoch for record in lines] == [1]
    with pytest.raises(Interrupted):  # and again, in the middle of the second epoch
        retrain(*arguments, resume=True, stop=_StopAfter(3), on_progress=lines.append)
    assert [record.epoch for record in lines] == [1]
    _assert_same(retrain(*arguments, resume=True, on_progress=lines.append), uninterrupted[0])
    assert [record.epoch for record in lines] == [1, 2, 3]
    # The search's lines stay in front of those of the retraining.
    assert _lines(tmp_path)[0] == {"phase": "search", "step": 400}
    assert _lines(tmp_path)[1:] == _lines(uninterrupted[1])
    # A run that is complete is not done again.
    _assert_same(retrain(*arguments, resume=True, on_progress=lines.append), uninterrupted[0])
    assert len(lines) == 3


def test_a_loss_that_is_no_number_stops_with_its_step(without_tracing, dataset):
    config = dataclasses.replace(CONFIG, learning_rate=1e6)
    with pytest.raises(UserError, match=r"stopped at step \d+: the loss is .*learning_rate"):
        retrain(SPACE, ARCHITECTURE, dataset, config, 5, None)


def test_images_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=r"tints has 4 classes of inputs \(16, 16, 3\)"):
        retrain(SPACE, ARCHITECTURE, _dataset(size=16), CONFIG, 0, str(folder))
    assert not folder.exists()


def test_a_held_out_split_smaller_than_a_batch_is_no_obstacle(without_tracing):
    small = _dataset(sizes=(20, 3, 5))
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=64)
    result = retrain(SPACE, ARCHITECTURE, small, config, 0, None)
    assert result.history[-1].step == 1  # one batch, of the 20
    assert result.accuracy.num_images == 5


def test_inherited_weights_are_where_the_training_starts(without_tracing, few, tmp_path):
    supernet = Supernet(SPACE, 3, "superkernel")
    inherited = supernet.inherited_network(ARCHITECTURE)
    config = dataclasses.replace(CONFIG, epochs=1, initial_weights="inherited")
    still = dataclasses.replace(config, learning_rate=1e-12)
    result = retrain(SPACE, ARCHITECTURE, few, still, 5, None, supernet=supernet)
    for variable, start in zip(
        result.network.trainable_variables, inherited.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(variable.numpy(), start.numpy(), rtol=1e-6, atol=1e-9)
    # From there the seed decides, and a resumed run goes on from its checkpoint instead.
    arguments = (SPACE, ARCHITECTURE, few, config, 5)
    whole = retrain(*arguments, None, supernet=supernet)
    with pytest.raises(Interrupted):
        retrain(*arguments, str(tmp_path), supernet=supernet, stop=_StopAfter(2))
    _assert_same(retrain(*arguments, str(tmp_path), supernet=supernet, resume=True), whole)


def test_without_a_supernet_nothing_is_inherited(dataset, tmp_path):
    config = dataclasses.replace(CONFIG, initial_weights="inherited")
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=r"search\.supernet_dir"):
        retrain(SPACE, ARCHITECTURE, dataset, config, 5, str(folder))
    assert not folder.exists()


def test_images_that_are_not_there_are_not_waited_for(dataset, tmp_path, monkeypatch):
    split = dataset.split
    monkeypatch.setattr(dataset, "split", lambda *args, **more: split(*args, **more).take(0))
    with pytest.raises(UserError, match="tints: its splits give no batch"):
        retrain(SPACE, ARCHITECTURE, dataset, CONFIG, 5, str(tmp_path / "run"))
