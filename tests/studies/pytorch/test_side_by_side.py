"""Training side by side in PyTorch takes the steps of retraining in TensorFlow."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import RetrainConfig, SpaceConfig
from dance_tf.supernet.sgd import RowSGD
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.supernet import build_network
from studies.image_file import Images

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.nn import functional  # noqa: E402

from studies.pytorch import side_by_side, side_by_side_training  # noqa: E402
from studies.pytorch.torch_depthwise import depthwise_conv  # noqa: E402

SPACE = make_space(SpaceConfig(name="cifar_mbconv_small"))
# Zero at two blocks; kernels and expansions of all kinds, alike and different.
NETWORKS = np.asarray(
    [[1, 6, 2, 3, 0, 1, 4, 6, 0], [2, 4, 6, 4, 2, 0, 2, 4, 3], [5, 5, 1, 5, 5, 2, 2, 5, 3]],
    np.int32,
)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def _in_torch(network: keras.Model) -> np.ndarray:
    """Return the trainable weights of a Keras network as side_by_side lays them out."""
    arrays = []
    for variable in network.trainable_variables:
        array = variable.numpy()
        if variable.name == "kernel":
            is_depthwise = array.ndim == 4 and "depthwise" in variable.path
            array = array.transpose(
                {2: (1, 0), 4: (2, 3, 0, 1) if is_depthwise else (3, 2, 0, 1)}[array.ndim]
            )
        arrays.append(array.reshape(-1))
    return np.concatenate(arrays)


def _step(networks, images, labels, rate, decay):
    which = torch.zeros(networks.num_networks, dtype=torch.long)
    logits = networks.logits(torch.as_tensor(images).movedim(3, 1)[None], which, True)
    losses = [functional.cross_entropy(one, torch.as_tensor(labels)) for one in logits]
    (gradient,) = torch.autograd.grad(sum(losses), networks.weights)
    networks.update(gradient, torch.tensor(rate), decay)
    return [loss.item() for loss in losses]


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    return random.random((8, 16, 16, 3)).astype(np.float32), random.integers(0, 10, 8)


@pytest.mark.parametrize("row", range(3))
def test_a_step_is_that_of_retraining(row, batch):
    images, labels = batch
    network = build_network(SPACE, SPACE.from_indices(NETWORKS[row]), seed=3, is_for_training=True)
    optimizer = RowSGD(0.1, weight_decay=4e-3)
    optimizer.build(network.trainable_variables)
    one = side_by_side.SideBySide(SPACE, NETWORKS[row : row + 1], [0], "cpu")
    with torch.no_grad():
        one.weights.copy_(torch.as_tensor(_in_torch(network)))
    # Steps are small: where an activation is next to a corner, rounding chooses the side.
    for _ in range(2):
        weights = [variable.value for variable in network.trainable_variables]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                keras.losses.sparse_categorical_crossentropy(
                    labels, network(images, training=True), from_logits=True
                )
            )
        optimizer.learning_rate = 1e-3
        optimizer.apply(tape.gradient(loss, weights), network.trainable_variables)
        assert _step(one, images, labels, 1e-3, 4e-3) == pytest.approx([float(loss)], rel=1e-5)
        np.testing.assert_allclose(one.weights.detach(), _in_torch(network), atol=2e-5)
    which = torch.zeros(1, dtype=torch.long)
    inputs = torch.as_tensor(images).movedim(3, 1)[None]
    np.testing.assert_allclose(
        one.logits(inputs, which, False).detach()[0],
        network(images, training=False),
        atol=1e-3,
    )


def test_networks_do_not_notice_each_other(batch):
    together = side_by_side.SideBySide(SPACE, NETWORKS, [5, 6, 5], "cpu")
    alone = [
        side_by_side.SideBySide(SPACE, NETWORKS[row : row + 1], [seed], "cpu")
        for row, seed in enumerate((5, 6, 5))
    ]
    for _ in range(2):
        losses = _step(together, *batch, 0.01, 4e-5)
        assert losses == pytest.approx(
            [_step(one, *batch, 0.01, 4e-5)[0] for one in alone], rel=1e-5
        )


def test_weights_are_drawn_as_for_retraining():
    many = side_by_side.SideBySide(SPACE, NETWORKS[2:].repeat(40, axis=0), range(40), "cpu")
    network = build_network(SPACE, SPACE.from_indices(NETWORKS[2]), seed=3)
    parts = iter(many.weights.detach().split(many._sizes))
    for variable in network.trainable_variables:
        values, size = next(parts).numpy(), int(np.prod(variable.shape))
        assert len(values) == 40 * size
        if variable.name != "kernel":
            assert (values == variable.numpy()[0]).all()
            continue
        deviation = 0.01 if len(variable.shape) == 2 else None
        if deviation is None:
            height, width, _, last = variable.shape
            deviation = np.sqrt(2 / (height * width * last))
        assert values.std() == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize(
    ("size", "taps", "stride"), [(4, 3, 1), (4, 7, 1), (8, 3, 2), (8, 5, 2), (16, 7, 2), (5, 3, 2)]
)
def test_depthwise_gradients(size, taps, stride):
    torch.manual_seed(0)
    images = torch.randn(3, 4, size, size, requires_grad=True)
    kernel = torch.randn(4, 1, taps, taps, requires_grad=True)
    output_size = (-(-size // stride),) * 2
    outputs = depthwise_conv(images, kernel, stride, output_size)
    expected = tf.nn.depthwise_conv2d(
        images.detach().numpy().transpose(0, 2, 3, 1),
        kernel.detach().numpy().transpose(2, 3, 0, 1),
        (1, stride, stride, 1),
        "SAME",
    )
    np.testing.assert_allclose(
        outputs.detach().numpy(), expected.numpy().transpose(0, 3, 1, 2), atol=1e-5
    )
    towards = torch.randn_like(outputs)
    found = torch.autograd.grad(outputs, (images, kernel), towards)
    missing = (output_size[0] - 1) * stride + taps - size
    pads = [missing // 2, missing - missing // 2] * 2
    plain = functional.conv2d(functional.pad(images, pads), kernel, stride=stride, groups=4)
    for own, other in zip(
        found, torch.autograd.grad(plain, (images, kernel), towards), strict=True
    ):
        np.testing.assert_allclose(own, other, atol=2e-5)


def test_the_schedule_is_that_of_retraining():
    schedule = keras.optimizers.schedules.CosineDecay(
        0.1 / 50, 1000 - 50, warmup_target=0.1, warmup_steps=50
    )
    for step in (0, 1, 17, 49, 50, 51, 500, 999):
        assert side_by_side_training.learning_rate(step, 1000, 0.1) == pytest.approx(
            float(schedule(step)), abs=1e-7
        )


def _images(num, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, num).astype(np.int32)
    images = random.integers(0, 100, (num, 16, 16, 3)) + 15 * labels[:, None, None, None]
    images = images.astype(np.uint8)
    return Images(images, labels, images[:50], labels[:50], 10, 2, True)


def test_batches_are_shuffled_shifted_and_mirrored_by_seed_and_epoch():
    images = _images(40)
    images.train[:] = np.arange(40 * 256).reshape(40, 16, 16, 1) // 41 + 1
    config = RetrainConfig(batch_size=10)
    batches = side_by_side_training._Batches(images, [0, 7], config, "cpu")
    assert batches.steps_per_epoch == 4
    seen = []
    for epoch in (0, 1, 0):
        batches.draw(epoch)
        steps = [batches.batch(torch.tensor([step])) for step in range(4)]
        seen.append([torch.cat([step[i] for step in steps], 1) for i in (0, 1)])
    assert (seen[0][0] == seen[2][0]).all() and (seen[0][1] == seen[2][1]).all()
    assert not (seen[0][0] == seen[1][0]).all()
    for place in (0, 1):
        drawn = batches._drawn[:, place].numpy()
        assert sorted(drawn[0]) == list(range(40))
        for position, (image, down, right, is_mirrored) in enumerate(drawn.T):
            padded = np.pad(images.train[image], ((2, 2), (2, 2), (0, 0)))
            crop = padded[down : down + 16, right : right + 16]
            crop = crop[:, ::-1] if is_mirrored else crop
            np.testing.assert_allclose(
                seen[0][0][place, position].movedim(0, 2), crop / 255.0, atol=1e-6
            )
            assert seen[0][1][place, position] == images.train_labels[image]
    assert not (seen[0][0][0] == seen[0][0][1]).all()


def test_training_learns_and_repeats():
    config = RetrainConfig(epochs=3, batch_size=32, learning_rate=0.05)
    epochs = []

    def train():
        return side_by_side_training.train(
            SPACE,
            NETWORKS[:2],
            [0, 1],
            _images(128),
            config,
            device="cpu",
            on_epoch=lambda *done: epochs.append(done),
        )

    first, second = train(), train()
    assert first == second
    assert epochs[:3] == [(1, 3), (2, 3), (3, 3)]
    for one in first:
        assert one.train_accuracy > 0.2 and np.isfinite(one.cross_entropy)


def test_a_loss_that_is_not_finite_is_told():
    config = RetrainConfig(epochs=1, batch_size=32, learning_rate=1e6)
    with pytest.raises(FloatingPointError, match="not finite in epoch 1"):
        side_by_side_training.train(
            SPACE, NETWORKS[:1], [0], _images(64), config, device="cpu", on_epoch=print
        )
