"""The exact evaluator on spaces of every op that ships: one-hot costs and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import AcceleratorSpaceConfig, HardwareConfig
from dance_tf.evaluator.exact import ExactEvaluator
from dance_tf.hardware.cost_table import load_or_build_table, make_cost_model
from dance_tf.hardware.objective import EDAP
from tests.own_spaces import SPACES

HARDWARE = HardwareConfig(accelerators=AcceleratorSpaceConfig((8, 12), (8,), (32, 64)))


@pytest.fixture(scope="module", params=SPACES)
def table(request, cache_dir):
    return load_or_build_table(SPACES[request.param], HARDWARE, cache_dir=str(cache_dir))


def test_a_one_hot_mixture_costs_the_layers_of_its_network(table):
    space, evaluator = table.space, ExactEvaluator(table)
    model = make_cost_model(HARDWARE)
    paths = space.sample(20, seed=0)
    evaluation = evaluator.evaluate(table.one_hot(paths), np.tile(EDAP.vector, (20, 1)))
    rows = evaluation.accelerator_index.numpy()
    for path, row, metrics in zip(paths, rows, evaluation.metrics.numpy(), strict=True):
        layers = space.layers(space.from_indices(path))
        cost = model(layers, table.accelerators.all())
        energy_mj = np.asarray(cost.energy_pj)[:, row].sum() / 1e9
        assert metrics[1] == pytest.approx(energy_mj, rel=1e-4)


def test_the_gradient_feels_every_op(table):
    space, evaluator = table.space, ExactEvaluator(table)
    logits = tf.constant(np.random.RandomState(0).normal(size=space.op_mask.shape), tf.float32)

    def cost(values):
        mixture = tf.nn.softmax(tf.where(space.op_mask, values, -np.inf))
        metrics = evaluator.evaluate(mixture[None], EDAP.vector[None]).metrics
        return EDAP(metrics, table.reference)[0]

    with tf.GradientTape() as tape:
        tape.watch(logits)
        total = cost(logits)
    gradient = tape.gradient(total, logits).numpy()
    assert np.array_equal(gradient != 0, space.op_mask)
    for d, o in np.argwhere(space.op_mask)[::3]:
        nudge = np.zeros(logits.shape, np.float32)
        nudge[d, o] = 0.02
        slope = float(cost(logits + nudge) - cost(logits - nudge)) / 0.04
        assert gradient[d, o] == pytest.approx(slope, rel=0.05, abs=2e-3)
