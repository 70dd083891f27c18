"""Samples of controllers, and that rewards teach them."""

from __future__ import annotations

import keras
import numpy as np

from dance_tf.search.strategies.controllers import Controller, MovingBaseline

CHOICES = np.array([[True, True, True], [False, True, True], [True, False, False]])


def _controller(seed: int = 0) -> Controller:
    return Controller(CHOICES, seed, keras.optimizers.Adam(0.05), num_units=8, num_layers=1)


def test_samples_are_values_that_the_decisions_have():
    sampled = _controller().sample(200)
    assert sampled.shape == (200, 3)
    for decision, row in enumerate(CHOICES):
        assert set(sampled[:, decision].tolist()) == set(np.flatnonzero(row).tolist())


def test_samples_are_fixed_by_the_seed():
    np.testing.assert_array_equal(_controller(3).sample(20), _controller(3).sample(20))
    assert (_controller(3).sample(20) != _controller(4).sample(20)).any()


def test_given_decisions_are_kept():
    given = np.tile([2, -1, 0], (50, 1))
    sampled = _controller().sample(50, given)
    assert (sampled[:, 0] == 2).all() and len(set(sampled[:, 1].tolist())) == 2


def test_learns_what_is_rewarded():
    controller, baseline = _controller(), MovingBaseline(0.9)
    for _ in range(40):
        sampled = controller.sample(5)
        rewards = (sampled[:, 0] == 1) + 1.0 * (sampled[:, 1] == 2)
        controller.learn(sampled, baseline.advantages(rewards))
    sampled = controller.sample(100)
    assert (sampled[:, 0] == 1).mean() > 0.8 and (sampled[:, 1] == 2).mean() > 0.8


def test_decisions_without_advantage_are_not_learnt_from():
    """The classifier of a later decision has no gradient where only the first one counts."""
    controller = _controller()
    before = controller.sample(400, np.tile([0, -1, 0], (400, 1)))[:, 1].mean()
    for _ in range(30):
        sampled = controller.sample(5)
        controller.learn(sampled, np.array([[1.0, 0.0, 0.0]]) * (sampled[:, :1] == 0))
    after = controller.sample(400)
    assert (after[:, 0] == 0).mean() > 0.8
    assert abs(after[:, 1].mean() - before) < 0.2


def test_baseline_is_a_mean_then_a_moving_mean():
    baseline = MovingBaseline(decay=0.9, num_first=4)
    assert abs(baseline.advantages(np.array([1.0, 3.0])).sum()) < 1e-6
    scale = np.std([1.0, 3.0, 2.0, 6.0])
    advantages = baseline.advantages(np.array([2.0, 6.0]))  # the mean so far is 2
    np.testing.assert_allclose(advantages, np.array([0.0, 4.0]).clip(max=3 * scale) / scale, 1e-4)
