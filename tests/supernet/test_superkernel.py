"""The shared-weight supernet: slices, masks, what a step moves, and what gates feel."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import SpaceConfig
from dance_tf.supernet.op_names import op_kernel_expansion
from dance_tf.supernet.sgd import RowSGD
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.supernet import Supernet

SPACE = make_space(SpaceConfig(name="tiny_mbconv"))
ZERO = SPACE.op_names.index("zero")
LARGEST = SPACE.op_names.index("mbconv7_e6")


def _batch(num, seed=0):
    random = np.random.RandomState(seed)
    images = random.rand(num, 8, 8, 3).astype(np.float32)
    return tf.constant(images), tf.constant(random.randint(0, 10, num))


class _Trainer:
    def __init__(self, seed=0):
        self.supernet = Supernet(SPACE, seed, "superkernel")
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
            loss = _loss(labels, self.supernet.call_path(images, op_indices, None, True))
        self.optimizer.apply(tape.gradient(loss, values), self.weights)
        return loss

    @tf.function
    def gate_gradient(self, images, labels, gates, op_indices):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(gates)
            loss = _loss(labels, self.supernet.call_path(images, op_indices, gates, True))
        return loss, tape.gradient(loss, gates)

    @tf.function
    def infer(self, images, op_indices, gates=None):
        return self.supernet.call_path(images, op_indices, gates)


def _loss(labels, logits):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def _paths():
    """Every op at each block, and Zero."""
    return [*zip(range(6), [*range(1, 6), ZERO], strict=True), (LARGEST, LARGEST)]


@pytest.fixture(scope="module")
def trained():
    trainer = _Trainer()
    paths = SPACE.sample(40, 0)
    trainer.losses = [
        float(trainer.weight_step(*_batch(16, step % 4), tf.constant(path)))
        for step, path in enumerate(paths)
    ]
    return trainer


def test_training_lowers_the_loss_in_one_trace(trained):
    assert np.mean(trained.losses[-10:]) < 0.9 * np.mean(trained.losses[:10])
    assert trained.num_traces == 1


def test_every_op_is_a_slice_of_the_largest(trained):
    """Kernels are the centre, channels the first ones."""
    for block in range(SPACE.num_blocks):
        networks = {}
        for op in range(6):
            path = [0, 0]
            path[block] = op
            networks[op] = trained.supernet.inherited_network(SPACE.from_indices(path))
        prefix = f"block{block}_mbconv7_e6"
        whole = {
            part: networks[LARGEST].get_layer(f"{prefix}_{part}").get_weights()[0]
            for part in ("expand", "depthwise", "project")
        }
        affine = networks[LARGEST].get_layer(f"{prefix}_depthwise_bn").get_weights()[:2]
        for op in range(6):
            kernel, expansion = op_kernel_expansion(SPACE.op_names[op])
            margin, channels = (7 - kernel) // 2, expansion * SPACE.blocks[block].in_channels
            inner = slice(margin, margin + kernel)
            prefix = f"block{block}_{SPACE.op_names[op]}"

            def weights(part, prefix=prefix, network=networks[op]):
                return network.get_layer(f"{prefix}_{part}").get_weights()

            np.testing.assert_array_equal(weights("expand")[0], whole["expand"][..., :channels])
            np.testing.assert_array_equal(
                weights("depthwise")[0], whole["depthwise"][inner, inner, :channels]
            )
            np.testing.assert_array_equal(weights("project")[0], whole["project"][:, :, :channels])
            for own, shared in zip(weights("depthwise_bn")[:2], affine, strict=True):
                np.testing.assert_array_equal(own, shared[:channels])


def test_a_path_with_gates_and_without_is_the_network_of_inherited_weights(trained):
    images, _ = _batch(8, seed=9)
    for path in _paths():
        network = trained.supernet.inherited_network(SPACE.from_indices(path))
        indices = tf.constant(path)
        sliced = trained.infer(images, indices)
        masked = trained.infer(images, indices, tf.one_hot(path, SPACE.num_ops))
        np.testing.assert_allclose(sliced, network(images), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(masked, sliced, rtol=1e-4, atol=1e-5)


def test_gates_move_the_statistics_that_the_path_moves(trained):
    images, _ = _batch(8, seed=4)
    statistics = [v for v in trained.supernet.non_trainable_variables if "logits" not in v.path]
    before = [v.numpy() for v in statistics]

    def moved(path, gates):
        trained.supernet.call_path(images, path, gates, True)
        after = [v.numpy() for v in statistics]
        for variable, old in zip(statistics, before, strict=True):
            variable.assign(old)
        return after

    for path in ((0, 3), (LARGEST, ZERO)):
        by_slices = moved(path, None)
        by_masks = moved(path, tf.one_hot(path, SPACE.num_ops))
        for variable, old, a, b in zip(statistics, before, by_slices, by_masks, strict=True):
            if variable.name != "statistics":
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
                continue
            block = 0 if "block0" in variable.path else 1
            for row in range(SPACE.num_ops - 1):
                assert np.array_equal(a[row], old[row]) == (row != path[block])
                np.testing.assert_allclose(a[row], b[row], rtol=1e-4, atol=1e-5)


def test_a_weight_step_moves_the_sampled_slices_only(trained):
    path = (SPACE.op_names.index("mbconv5_e3"), ZERO)
    blocks = [w for w in trained.weights if w.name == "packed"]
    slots = [m for m in trained.optimizer.momentums if "packed" in m.path]
    assert len(slots) == len(blocks) == 2
    before = [v.numpy() for v in (*blocks, *slots)]
    trained.weight_step(*_batch(16, 77), tf.constant(path))
    after = [v.numpy() for v in (*blocks, *slots)]
    size = sum(
        layer.C * layer.K * layer.R * layer.S + 2 * layer.K
        for layer in SPACE.op_layers(0, "mbconv5_e3")
    )
    for index, num_moved in enumerate((size, 0, size, 0)):
        assert np.count_nonzero(after[index] != before[index]) == pytest.approx(num_moved, rel=0.02)
        assert np.count_nonzero(after[index] != before[index]) <= num_moved


def test_one_step_gives_every_gate_its_gradient(trained):
    """Against finite differences of the gates, which the kinks of ReLU6 blur."""
    batch = _batch(32, 3)
    for path in ((1, 2), (4, 5)):
        indices = tf.constant(path)
        one_hot = tf.one_hot(path, SPACE.num_ops)
        _, gradient = trained.gate_gradient(*batch, one_hot, indices)
        live = SPACE.op_mask & (np.arange(SPACE.num_ops) != ZERO)
        assert np.array_equal(gradient.numpy() != 0, live)
        slopes = np.zeros(one_hot.shape)
        for d, o in np.argwhere(live):
            nudge = np.zeros(one_hot.shape, np.float32)
            nudge[d, o] = 1e-3
            ends = [trained.gate_gradient(*batch, one_hot + s * nudge, indices)[0] for s in (1, -1)]
            slopes[d, o] = float(ends[0] - ends[1]) / 2e-3
        np.testing.assert_allclose(gradient, slopes, atol=0.1 * np.abs(slopes).max())
        assert np.corrcoef(gradient.numpy()[live], slopes[live])[0, 1] > 0.98


def test_zero_gets_a_gradient_beside_the_op_that_it_replaces(trained):
    """Through the softmax, what one logit gains the others lose."""
    images, labels = _batch(16, 5)
    felt = np.zeros((SPACE.num_blocks, SPACE.num_ops), bool)
    num_zero = 0

    @tf.function
    def logit_gradient(seed):
        supernet = trained.supernet
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(supernet.arch_logits.value)
            op_indices, gates = supernet.sample_gates(seed)
            loss = _loss(labels, supernet.call_path(images, op_indices, gates, True))
        return op_indices, tape.gradient(loss, supernet.arch_logits.value)

    for step in range(12):
        op_indices, gradient = logit_gradient(tf.constant([step, 1]))
        assert np.isfinite(gradient).all()
        felt |= gradient.numpy() != 0
        num_zero += int(op_indices[1] == ZERO)
        if op_indices[1] == ZERO:
            assert gradient[1, ZERO] != 0
    assert num_zero and np.array_equal(felt, SPACE.op_mask)


def test_soft_gates_blend_neighbouring_ops(trained):
    """Half of two ops lies between them where the two differ in one ring only."""
    images, _ = _batch(8, 6)
    small, large = (SPACE.op_names.index(f"mbconv{k}_e6") for k in (5, 7))
    path = tf.constant([small, ZERO])
    ends = [tf.one_hot([o, ZERO], SPACE.num_ops) for o in (small, large)]
    # Both under the statistics of one op, since a mixture has none of its own.
    first, last, half = (
        trained.infer(images, path, gates) for gates in (*ends, 0.5 * (ends[0] + ends[1]))
    )
    middle = 0.5 * (first + last)
    assert tf.norm(half - middle) < 0.25 * tf.norm(first - last)


def test_an_op_that_a_block_lacks_poisons_the_logits(trained):
    images, _ = _batch(2)
    path = tf.constant([ZERO, 0])
    assert np.isnan(trained.infer(images, path)).all()
    assert np.isnan(trained.infer(images, path, tf.one_hot(path, SPACE.num_ops))).all()


def test_weights_are_those_of_one_largest_op_per_block():
    shared = Supernet(SPACE, 0, "superkernel")
    num_block_weights = sum(
        int(np.prod(w.shape)) for w in shared.network_weights if w.name == "packed"
    )
    expected = sum(
        layer.C * layer.K * layer.R * layer.S + 2 * layer.K
        for d in range(SPACE.num_blocks)
        for layer in SPACE.op_layers(d, "mbconv7_e6")
    )
    assert num_block_weights == expected
    for weight in shared.network_weights:
        if weight.name == "packed":
            assert weight.shape == shared.is_kernel(weight).shape


def test_another_supernet_has_no_such_name():
    with pytest.raises(KeyError):
        Supernet(SPACE, 0, "one_shot")
