"""The supernet: what a path runs and moves, what the logits feel, how paths are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import SpaceConfig
from dance_tf.supernet.sgd import RowSGD
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.supernet import Supernet, build_network, derive

SPACE = make_space(SpaceConfig(name="tiny_mbconv"))
ZERO = SPACE.op_names.index("zero")


def _batch(num, seed=0):
    random = np.random.RandomState(seed)
    images = random.rand(num, 8, 8, 3).astype(np.float32)
    return tf.constant(images), tf.constant(random.randint(0, 10, num))


class _Trainer:
    """A supernet with its steps, each traced once."""

    def __init__(self, seed=0):
        self.supernet = Supernet(SPACE, seed)
        self.weights = self.supernet.network_weights
        self.optimizer = RowSGD(0.1, weight_decay=1e-2, is_kernel=self.supernet.is_kernel)
        self.optimizer.build(self.weights)
        self.num_traces = 0

    @tf.function
    def weight_step(self, images, labels, op_indices):
        self.num_traces += 1
        values = [w.value for w in self.weights]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss = self._loss(labels, self.supernet.call_path(images, op_indices, None, True))
        self.optimizer.apply(tape.gradient(loss, values), self.weights)
        return loss

    @tf.function
    def logit_gradient(self, images, labels, seed):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.supernet.arch_logits.value)
            op_indices, gates = self.supernet.sample_gates(seed)
            loss = self._loss(labels, self.supernet.call_path(images, op_indices, gates, True))
        return op_indices, tape.gradient(loss, self.supernet.arch_logits.value)

    @tf.function
    def infer(self, images, op_indices, gates):
        return self.supernet.call_path(images, op_indices, gates)

    @staticmethod
    def _loss(labels, logits):
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return tf.reduce_mean(losses)

    def train(self, num_steps, seed=0):
        paths = SPACE.sample(100, seed)[:num_steps]
        return [
            float(self.weight_step(*_batch(16, step), tf.constant(path)))
            for step, path in enumerate(paths)
        ]


@pytest.fixture(scope="module")
def trained():
    trainer = _Trainer()
    trainer.losses = trainer.train(30)
    return trainer


def test_one_hot_gates_equal_the_network_of_inherited_weights(trained):
    images, _ = _batch(8, seed=9)
    for indices in [*SPACE.sample(4, seed=5), [1, ZERO]]:
        network = trained.supernet.inherited_network(SPACE.from_indices(indices))
        gates = tf.one_hot(indices, SPACE.num_ops)
        logits = trained.infer(images, tf.constant(indices, tf.int32), gates)
        np.testing.assert_allclose(logits, network(images), rtol=1e-4, atol=1e-5)


def test_zero_is_the_identity(trained):
    images, _ = _batch(4)
    path = tf.constant([2, ZERO])
    gates = tf.one_hot(path, SPACE.num_ops)
    off = gates * tf.constant([[1.0], [0.0]])
    expected = trained.infer(images, path, gates)
    np.testing.assert_array_equal(trained.infer(images, path, off), expected)
    # Closing the gate of any op of a skippable block leaves the identity too.
    closed = trained.infer(images, tf.constant([2, 1]), tf.one_hot([2, 1], SPACE.num_ops) * off)
    np.testing.assert_allclose(closed, expected, rtol=1e-5, atol=1e-6)


def test_an_op_that_a_block_lacks_poisons_the_logits(trained):
    images, _ = _batch(2)
    path = tf.constant([ZERO, 0])
    logits = trained.infer(images, path, tf.one_hot(path, SPACE.num_ops))
    assert np.isnan(logits).all()


def test_a_weight_step_moves_the_sampled_ops_only(trained):
    path = [4, 1]
    # Momentum is not zero anywhere by now: every op has been trained.
    for slot in trained.optimizer.momentums:
        if slot.shape.rank == 2 and slot.shape[0] == SPACE.num_ops:
            assert np.all(np.any(slot.numpy()[:-1] != 0, axis=1))
    variables = [*trained.supernet.variables, *trained.optimizer.momentums]
    before = [v.numpy() for v in variables]
    trained.weight_step(*_batch(16, 77), tf.constant(path))
    num_rows = 0
    for variable, old in zip(variables, before, strict=True):
        new = variable.numpy()
        if variable is trained.supernet.arch_logits:
            assert np.array_equal(new, old)
        elif "block" in variable.path:
            block = 0 if "block0" in variable.path else 1
            for row in range(SPACE.num_ops):
                assert np.array_equal(new[row], old[row]) != (row == path[block]), variable.path
                num_rows += 1
        else:
            assert not np.array_equal(new, old), variable.path
    # Weights, moving statistics and momentum of two blocks.
    assert num_rows == 3 * 2 * SPACE.num_ops


def test_all_paths_share_one_trace(trained):
    assert trained.num_traces == 1


def test_the_logits_are_no_network_weight(trained):
    supernet = trained.supernet
    assert all(w is not supernet.arch_logits for w in supernet.network_weights)
    assert any(v is supernet.arch_logits for v in supernet.variables)  # so checkpoints hold it


def test_every_live_logit_gets_a_finite_gradient(trained):
    felt = np.zeros((SPACE.num_blocks, SPACE.num_ops), bool)
    weights = [w.numpy() for w in trained.weights]
    for step in range(30):
        op_indices, gradient = trained.logit_gradient(*_batch(16, step), tf.constant([step, 3]))
        assert np.isfinite(gradient).all()
        # Softmax: what one logit gains the others lose.
        np.testing.assert_allclose(tf.reduce_sum(gradient, axis=1), [0.0, 0.0], atol=1e-5)
        assert SPACE.op_mask[range(SPACE.num_blocks), op_indices].all()
        felt |= gradient.numpy() != 0
    assert np.array_equal(felt, SPACE.op_mask)
    for weight, old in zip(trained.weights, weights, strict=True):
        assert np.array_equal(weight.numpy(), old)


def test_gate_gradient_is_the_product_of_output_and_upstream_gradient(trained):
    """Against finite differences of the gate itself."""
    images, labels = _batch(16, 3)
    path = tf.constant([1, 2])
    one_hot = tf.one_hot(path, SPACE.num_ops)

    def loss(gates):
        return trained._loss(labels, trained.infer(images, path, gates))

    with tf.GradientTape() as tape:
        tape.watch(one_hot)
        value = loss(one_hot)
    gradient = tape.gradient(value, one_hot).numpy()
    assert np.array_equal(gradient != 0, one_hot.numpy() == 1)
    for d, o in enumerate(path.numpy()):
        nudge = np.zeros_like(gradient)
        nudge[d, o] = 3e-3
        slope = float(loss(one_hot + nudge) - loss(one_hot - nudge)) / 6e-3
        assert gradient[d, o] == pytest.approx(slope, rel=0.1, abs=2e-4)


def test_a_sampled_zero_gives_its_block_no_gradient(trained):
    """Its output is 0 whatever the gate: no gradient is the true one, not a lost one."""
    images, labels = _batch(16, 3)
    for step in range(40):
        op_indices, gradient = trained.logit_gradient(images, labels, tf.constant([step, 8]))
        if op_indices[1] == ZERO:
            assert not np.any(gradient[1])
            return
    raise AssertionError("zero was never sampled")


def test_mixture_weights_are_a_masked_softmax():
    supernet = Supernet(SPACE, 0)
    logits = np.random.RandomState(0).randn(2, 7).astype(np.float32)
    logits[~SPACE.op_mask] = 1e3  # must not matter
    supernet.arch_logits.assign(logits)
    with tf.GradientTape() as tape:
        tape.watch(supernet.arch_logits.value)
        weights = supernet.mixture_weights()
        value = tf.reduce_sum(weights * tf.range(14.0)[:, None][: SPACE.num_ops, 0])
    expected = np.where(SPACE.op_mask, np.exp(np.where(SPACE.op_mask, logits, 0.0)), 0.0)
    np.testing.assert_allclose(weights, expected / expected.sum(1, keepdims=True), rtol=1e-5)
    assert np.array_equal(weights.numpy() == 0, ~SPACE.op_mask)
    gradient = tape.gradient(value, supernet.arch_logits.value).numpy()
    assert np.isfinite(gradient).all() and np.array_equal(gradient != 0, SPACE.op_mask)


def test_sampled_paths_follow_the_mixture_at_any_temperature():
    supernet = Supernet(SPACE, 0)
    supernet.arch_logits.assign(np.random.RandomState(1).randn(2, 7))
    num = 4000
    seeds = tf.stack([tf.range(num), tf.ones(num, tf.int32)], axis=1)
    for temperature in (0.2, 5.0):
        draw = tf.function(lambda seed, t=temperature: supernet.sample_gates(seed, t))
        paths, gates = tf.map_fn(draw, seeds, fn_output_signature=(tf.int32, tf.float32))
        one_hot = tf.one_hot(paths, SPACE.num_ops)
        np.testing.assert_allclose(gates, one_hot, atol=1e-6)
        shares = tf.reduce_mean(one_hot, axis=0)
        assert np.all(shares.numpy()[~SPACE.op_mask] == 0)
        np.testing.assert_allclose(shares, supernet.mixture_weights(), atol=0.035)


def test_uniform_paths_are_uniform_over_what_a_block_has():
    supernet = Supernet(SPACE, 0)
    supernet.arch_logits.assign(np.full((2, 7), 5.0) * np.arange(7))  # must not matter
    num = 4000
    seeds = tf.stack([tf.range(num), tf.zeros(num, tf.int32)], axis=1)
    paths = tf.map_fn(tf.function(supernet.sample_uniform), seeds)
    shares = tf.reduce_mean(tf.one_hot(paths, SPACE.num_ops), axis=0).numpy()
    expected = SPACE.op_mask / SPACE.op_mask.sum(axis=1, keepdims=True)
    assert np.all(shares[~SPACE.op_mask] == 0)
    np.testing.assert_allclose(shares, expected, atol=0.03)


def test_same_seed_same_training_and_another_seed_another(trained):
    again = _Trainer(0)
    assert again.train(6) == trained.losses[:6]
    other = Supernet(SPACE, 1)
    assert not np.array_equal(other.arch_logits, Supernet(SPACE, 0).arch_logits)
    kernels = [w for w in other.network_weights if np.any(other.is_kernel(w))]
    fresh = {w.path: w.numpy() for w in Supernet(SPACE, 0).network_weights}
    assert all(not np.array_equal(w.numpy(), fresh[w.path]) for w in kernels)


def test_draws_are_functions_of_their_seed():
    supernet = Supernet(SPACE, 0)
    many = [supernet.sample_gates([i, 0])[0].numpy().tolist() for i in range(8)]
    assert many == [supernet.sample_gates([i, 0])[0].numpy().tolist() for i in range(8)]
    assert len({tuple(path) for path in many}) > 1


def test_a_new_supernet_holds_the_initial_weights_of_its_networks():
    architecture = SPACE.from_indices([3, 5])
    inherited = Supernet(SPACE, 7).inherited_network(architecture)
    alone = build_network(SPACE, architecture, seed=7)
    for a, b in zip(inherited.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_derive_takes_the_largest_allowed_logit():
    supernet = Supernet(SPACE, 0)
    logits = np.zeros((2, 7), np.float32)
    logits[0, ZERO], logits[0, 4], logits[1, ZERO] = 9.0, 1.0, 2.0
    supernet.arch_logits.assign(logits)
    assert derive(supernet).ops == ("mbconv7_e3", "zero")
    # All Zero where it may be, the network still has weighted layers in a chain.
    assert len(SPACE.layers(derive(supernet))) == 5 + 3
    images, _ = _batch(2)
    expected = supernet.call_path(images, [4, ZERO])
    np.testing.assert_allclose(supernet(images), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["proxyless", "superkernel"])
def test_a_checkpoint_holds_weights_and_statistics(tmp_path, kind):
    saved, other = Supernet(SPACE, 0, kind), Supernet(SPACE, 1, kind)
    for index, variable in enumerate(saved.variables):
        variable.assign(variable.value + 0.01 * (index + 1))
    path = tf.train.Checkpoint(supernet=saved).write(str(tmp_path / "tensors"))
    tf.train.Checkpoint(supernet=other).read(path).assert_consumed()
    for a, b in zip(saved.variables, other.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_only_kernels_decay():
    supernet = Supernet(SPACE, 0)
    num_decaying = 0
    for weight in supernet.network_weights:
        decays = np.broadcast_to(supernet.is_kernel(weight), weight.shape)
        num_decaying += int(decays.sum())
        if weight.name in ("gamma", "beta", "bias"):
            assert not decays.any()
    layers = [*SPACE.fixed_layers()]
    for d in range(SPACE.num_blocks):
        layers += [layer for op in SPACE.op_names for layer in SPACE.op_layers(d, op)]
    assert num_decaying == sum(layer.K * layer.C * layer.R * layer.S for layer in layers)
