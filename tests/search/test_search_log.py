"""The log of a search, as TensorBoard reads it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import SearchConfig
from dance_tf.search.dance import DanceSearch
from dance_tf.search.search_log import SearchLog, heat_map
from dance_tf.structs import Accelerator
from tests.search.problems import ScoredSupernet, make_problem

CONFIG = SearchConfig(
    epochs=3, warmup_epochs=1, batch_size=16, arch_every=1, arch_learning_rate=0.05, log_every=6
)  # 6 steps an epoch: a record for each


def _events(folder):
    """Return (step, value) by tag of all event files, in the order written."""
    found = {}
    for file in sorted(folder.iterdir()):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value))
    return found


def _scalars(events, tag):
    return [(step, float(tf.make_ndarray(value.tensor))) for step, value in events[tag]]


def _images(events, tag):
    # An image summary holds width, height and the PNG files.
    return [(step, tf.io.decode_png(value.tensor.string_val[2])) for step, value in events[tag]]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    space = make_problem().space
    scores = np.random.RandomState(0).normal(size=(space.num_blocks, space.num_ops))
    problem = make_problem(supernet=ScoredSupernet(space, scores, seed=1))
    result = DanceSearch(CONFIG, seed=1, output_dir=str(folder)).search(problem)
    return result, _events(folder / "tensorboard"), space


def test_losses_costs_and_accelerators_are_those_of_the_history(searched):
    result, events, _ = searched
    steps = [record.step for record in result.history]
    assert steps == [6, 12, 18]
    for name in ("cross_entropy", "predicted_energy_mj", "exact_latency_ms", "zero_share"):
        values = [getattr(record, name) for record in result.history]
        assert _scalars(events, f"search/{name}") == [
            (step, pytest.approx(value)) for step, value in zip(steps, values, strict=True)
        ]
    # Not in warm-up, where there are none.
    assert [step for step, _ in events["search/lambda_2"]] == [12, 18]
    for name in ("pe_x", "pe_y", "rf_bytes"):
        values = [getattr(record.accelerator, name) for record in result.history]
        assert _scalars(events, f"accelerator/{name}") == list(zip(steps, values, strict=True))


def test_the_last_image_shows_the_mixture_at_the_end(searched):
    result, events, space = searched
    images = _images(events, "mixture_weights")
    assert [step for step, _ in images] == [6, 12, 18]
    logits = np.asarray([[-np.inf if v is None else v for v in row] for row in result.arch_logits])
    weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(images[-1][1], heat_map(weights, space.op_mask))
    assert not np.array_equal(images[0][1], images[-1][1])


def test_colours_of_the_heat_map():
    weights = np.asarray([[1.0, 0.0], [0.5, 0.5]])
    pixels = heat_map(weights, np.asarray([[True, False], [True, True]]))
    assert pixels.shape == (48, 48, 3) and pixels.dtype == np.uint8
    assert pixels[0, 0].tolist() == pixels[23, 23].tolist() == [253, 231, 37]
    assert pixels[0, 24].tolist() == [200, 200, 200]
    assert pixels[24, 0].tolist() == pixels[47, 47].tolist() == [33, 145, 140]


def test_the_accelerator_is_told_when_it_changes(searched, tmp_path):
    result, _, space = searched
    first, other = Accelerator(8, 8, 32, "row_stationary"), Accelerator(8, 9, 32, "row_stationary")
    log = SearchLog(tmp_path, space, lambda: space.op_mask / 7)
    for step, accelerator in enumerate((first, first, other, first)):
        log.write(dataclasses.replace(result.history[0], step=step, accelerator=accelerator))
    log.close()
    events = _events(tmp_path)
    texts = [(s, v.tensor.string_val[0].decode()) for s, v in events["accelerator/choice"]]
    assert [step for step, _ in texts] == [0, 2, 3]
    assert texts[1][1] == "8 x 9 PEs, 32 B per PE, row_stationary"
    assert _scalars(events, "accelerator/dataflow")[0] == (0, 2.0)
