"""One step moves what it should and nothing else; draws depend on seed and step alone."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import ARCH_GRADIENTS, SearchConfig
from dance_tf.errors import UserError
from dance_tf.hardware.objective import EDAP
from dance_tf.search.steps import CoSearchSteps, SearchPlan, batches, stateless_seed
from dance_tf.structs import Evaluation
from dance_tf.supernet.supernet import Supernet
from tests.search.problems import make_problem, tinted_images

CONFIG = SearchConfig(epochs=4, warmup_epochs=1, batch_size=8, arch_every=5)


class _Trainable:
    """An evaluator with a variable that the search must leave alone."""

    kind = "neural"

    def __init__(self):
        self.weight = tf.Variable([0.5])

    def evaluate(self, mixture_weights, objective_vectors):
        metrics = self.weight * tf.reduce_sum(mixture_weights**2, axis=(1, 2)) + tf.ones([1, 3])
        return Evaluation(metrics, tf.zeros([1], tf.int32))


def _steps(supernet, evaluator, config=CONFIG):
    return CoSearchSteps(
        supernet=supernet,
        evaluator=evaluator,
        objective=EDAP,
        reference=np.ones(3),
        config=config,
        total_steps=10,
    )


@pytest.fixture(scope="module")
def images():
    return tinted_images()


def test_draws_are_functions_of_their_arguments():
    arguments = itertools.product((0, 1, 2**31 - 1), ("train", "weight_path"), (0, 1, 10**6))
    seeds = [tuple(stateless_seed(*a)) for a in arguments]
    assert len(set(seeds)) == len(seeds)
    assert stateless_seed(7, "train", 3).dtype == np.int32
    assert tuple(stateless_seed(7, "train", 3)) == tuple(stateless_seed(7, "train", 3))


class _Empty:
    """Images of which there are none, whatever their number is said to be."""

    name, num_classes, image_shape = "hollow", 2, (8, 8, 3)

    def num_images(self, split):
        return 16

    def split(self, split, batch_size, seed=None):
        return tf.data.Dataset.from_tensor_slices((np.zeros((0, 8, 8, 8, 3)), np.zeros((0, 8))))


def test_images_that_are_not_there_are_not_waited_for():
    with pytest.raises(UserError, match="hollow: its train split says 16 images"):
        next(batches(_Empty(), "train", batch_size=8, seed=0))
    with pytest.raises(UserError, match="hollow: its train split"):
        for _ in batches(_Empty(), "train", batch_size=8, seed=0, start=1):  # After a resumption.
            pass


def test_work_counts_the_images_that_pass(images):
    def work(**changes):
        config = dataclasses.replace(CONFIG, **changes)
        return SearchPlan.of(config, images).work(config)

    base = work()
    steps = {name: base[name] for name in ("warmup", "search")}
    # Three epochs follow one of warm-up, with architecture steps besides.
    assert 0 < 3 * steps["warmup"] < steps["search"]
    more = [work(arch_gradient=name)["search"] for name in ("one_path", "two_path")]
    paths = [work(arch_paths=number)["search"] for number in (3, 6)]
    assert more == paths, "a path forward and backward is as much as three forward"
    frozen = work(supernet_weights="frozen", supernet_dir="weights")
    assert frozen == {"warmup": 0, "search": steps["search"] - 3 * steps["warmup"]}


def test_batches_go_on_where_they_stopped(images):
    def take(start, num):
        found = batches(images, "architecture", batch_size=8, seed=3, start=start)
        return [(x.numpy(), y.numpy()) for x, y in itertools.islice(found, num)]

    whole, later = take(0, 9), take(6, 3)  # four batches in a pass
    for (x, y), (expected_x, expected_y) in zip(later, whole[6:], strict=True):
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_array_equal(y, expected_y)
    assert not np.array_equal(whole[0][0], whole[4][0])


def test_plan_counts(images):
    plan = SearchPlan.of(CONFIG, images)
    assert (plan.steps_per_epoch, plan.warmup_steps, plan.total_steps) == (12, 12, 48)
    moves = [step for step in range(1, 49) if plan.has_architecture_step(step)]
    assert moves == [17, 22, 27, 32, 37, 42, 47] and plan.num_architecture_steps(48) == 7
    assert [plan.phase(s) for s in (1, 12, 13)] == ["warmup", "warmup", "search"]
    assert [plan.epoch(s) for s in (1, 12, 13, 48)] == [1, 1, 2, 4]
    large = SearchPlan.of(dataclasses.replace(CONFIG, batch_size=999, arch_every=1), images)
    assert (large.train_batch_size, large.architecture_batch_size) == (96, 32)
    assert large.steps_per_epoch == 1


def test_a_plan_without_architecture_step_is_refused(images):
    with pytest.raises(UserError, match=r"arch_every \(99\).*36 steps"):
        SearchPlan.of(dataclasses.replace(CONFIG, arch_every=99), images)
    with pytest.raises(UserError, match="architecture split is empty"):
        SearchPlan.of(CONFIG, tinted_images((96, 0, 8)))


@pytest.mark.parametrize("gradient", ARCH_GRADIENTS)
def test_each_step_moves_its_own_variables_only(images, gradient):
    supernet, evaluator = Supernet(make_problem().space, 0), _Trainable()
    config = dataclasses.replace(CONFIG, arch_gradient=gradient, arch_learning_rate=0.01)
    steps = _steps(supernet, evaluator, config)

    def state():
        weights = [w.numpy().copy() for w in supernet.network_weights]
        return weights, supernet.arch_logits.numpy().copy(), evaluator.weight.numpy().copy()

    batch = next(iter(images.split("train", batch_size=8, seed=0)))
    before = state()
    steps.weight_step(*batch, tf.constant([0, 6]))
    after = state()
    assert any((a != b).any() for a, b in zip(before[0], after[0], strict=True))
    np.testing.assert_array_equal(before[1], after[1])

    steps.architecture_step(*batch, tf.constant([1, 2]), tf.constant(0.5))
    last = state()
    for a, b in zip(after[0], last[0], strict=True):
        np.testing.assert_array_equal(a, b)
    moved = last[1] != after[1]
    assert not moved[~supernet.space.op_mask].any()
    if gradient == "two_path":
        assert moved.sum(axis=1).tolist() == [2, 2]
    else:
        assert moved[supernet.space.op_mask].all()
    np.testing.assert_array_equal(last[2], before[2])


def test_the_warm_up_may_have_a_learning_rate_of_its_own():
    """Two cosines from their peaks to 0, as in ProxylessNAS; else one over all steps."""
    config = dataclasses.replace(CONFIG, weight_learning_rate=0.02, warmup_learning_rate=0.05)
    supernet = Supernet(make_problem().space, 0)

    def rates(config, warmup_steps):
        optimizer = CoSearchSteps(
            supernet=supernet,
            evaluator=None,
            objective=EDAP,
            reference=np.ones(3),
            config=config,
            total_steps=12,
            warmup_steps=warmup_steps,
        ).weight_optimizer
        found = []
        for step in (0, 2, 4, 8, 12):
            optimizer.iterations.assign(step)
            found.append(float(optimizer.learning_rate))
        return found

    assert rates(config, 4) == pytest.approx([0.05, 0.025, 0.02, 0.01, 0.0], abs=1e-7)
    one = [0.01 * (1 + np.cos(np.pi * step / 12)) for step in (0, 2, 4, 8, 12)]
    assert rates(config, 0) == pytest.approx(one, abs=1e-7)
    plain = dataclasses.replace(config, warmup_learning_rate=None)
    assert rates(plain, 4) == pytest.approx(one, abs=1e-7)
    with pytest.raises(UserError, match="warmup_learning_rate is 0"):
        dataclasses.replace(config, warmup_learning_rate=0.0)
