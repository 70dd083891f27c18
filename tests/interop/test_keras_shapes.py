"""Shapes that Keras announces wrongly, and movement of data that TensorFlow does by products."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

from dance_tf.errors import UserError
from dance_tf.interop.keras_model import layers_of_keras_model


def functional(function, *shapes: tuple) -> keras.Model:
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], function(*inputs))


def macs_of(function, *shapes: tuple) -> list[int]:
    return [layer.macs for layer in layers_of_keras_model(functional(function, *shapes)).layers]


# --- what a call returns at inference holds, not what Keras announces --------------------


class Doubled(keras.Layer):
    """Twice as high and wide as it says."""

    def call(self, x):
        return ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class Flat(Doubled):
    """Of another rank than it says."""

    def call(self, x):
        return ops.reshape(x, (-1, 16, 3))


class Enlarged(kl.Conv2D):
    """A layer of Keras that says twice the size of what it computes."""

    def compute_output_spec(self, x):
        spec = super().compute_output_spec(x)
        size = [2 * side for side in spec.shape[1:3]]
        return keras.KerasTensor((spec.shape[0], *size, spec.shape[3]), spec.dtype)


@pytest.mark.parametrize(
    ("layers", "shape", "macs", "returned", "announced"),
    [
        ([Doubled(), kl.Conv2D(4, 1)], (4, 4, 3), 8 * 8 * 3 * 4, (1, 8, 8, 3), (1, 4, 4, 3)),
        ([Flat(), kl.Dense(5)], (4, 4, 3), 16 * 3 * 5, (1, 16, 3), (1, 4, 4, 3)),
        ([Enlarged(4, 3)], (6, 6, 2), 4 * 4 * 9 * 2 * 4, (1, 4, 4, 4), (1, 8, 8, 4)),
        # At inference it crops nothing that has the same proportions.
        ([kl.RandomCrop(12, 12), kl.Conv2D(4, 1)], (16, 16, 3), 16 * 16 * 12,
         (1, 16, 16, 3), (1, 12, 12, 3)),
    ],
)  # fmt: skip
def test_what_a_call_returns_is_costed_with_a_note(layers, shape, macs, returned, announced):
    model = keras.Sequential([keras.Input(shape), *layers])
    found = layers_of_keras_model(model)
    assert found.macs == macs
    (note,) = [note for note in found.notes if "announces" in note]
    assert repr(layers[0].name) in note and f"{returned}" in note and f"{announced}" in note


def test_it_is_what_predict_computes():
    model = keras.Sequential([keras.Input((16, 16, 3)), kl.RandomCrop(12, 12), kl.Conv2D(4, 1)])
    images = np.ones((1, 16, 16, 3), "float32")
    (layer,) = layers_of_keras_model(model).layers
    assert model.predict(images, verbose=0).shape == (1, layer.Q, layer.P, layer.K)


def test_another_number_of_outputs_than_announced_is_refused():
    class Two(Doubled):
        def call(self, x):
            return x, x

    with pytest.raises(UserError, match=r"'two' \(Two\) announces 1 outputs and returns 2"):
        layers_of_keras_model(functional(lambda x: kl.Dense(2)(Two(name="two")(x)), (4, 4, 3)))


@pytest.mark.parametrize(
    ("query", "steps", "options"),
    [
        (6, 6, {}),
        (6, 4, {}),
        (6, 4, {"output_shape": 7}),
        (6, 4, {"dropout": 0.1}),  # Keras takes another way with one
    ],
)
def test_values_of_another_depth_than_keys(query: int, steps: int, options: dict):
    attention = kl.MultiHeadAttention(2, 3, value_dim=5, **options)
    width = options.get("output_shape", 8)
    assert macs_of(lambda x, y: attention(x, y), (query, 8), (steps, 8)) == [
        query * 8 * 2 * 3,
        steps * 8 * 2 * 3,
        steps * 8 * 2 * 5,
        2 * query * steps * 3,
        2 * query * steps * 5,
        query * 2 * 5 * width,
    ]


def test_attention_of_another_depth_adds_up():
    attention = kl.MultiHeadAttention(2, 3, value_dim=5)
    assert sum(macs_of(lambda x: attention(x, x), (6, 8))) == 2112


def test_scores_that_are_returned_have_their_own_size():
    """Keras announces a square of them, whatever they are attended to."""
    attention = kl.MultiHeadAttention(2, 3, name="attention")

    def dense_on_scores(x, y):
        return kl.Dense(9)(attention(x, y, return_attention_scores=True)[1][..., :4])

    *_, last = macs_of(dense_on_scores, (6, 8), (4, 8))
    assert last == 2 * 6 * 4 * 9


def test_attention_as_an_operation_has_the_depth_of_its_values():
    model = functional(ops.dot_product_attention, (6, 2, 3), (4, 2, 3), (4, 2, 5))
    found = layers_of_keras_model(model)
    assert [layer.macs for layer in found.layers] == [2 * 6 * 4 * 3, 2 * 6 * 4 * 5]
    assert any("(1, 6, 2, 5)" in note for note in found.notes)


def test_attention_over_two_axes():
    attention = kl.MultiHeadAttention(2, 3, value_dim=5, attention_axes=(1, 2))
    rows = 4 * 3
    projections = [rows * 8 * 6, rows * 8 * 6, rows * 8 * 10]
    products = [2 * rows * rows * 3, 2 * rows * rows * 5]
    assert macs_of(lambda x: attention(x, x), (4, 3, 8)) == [*projections, *products, rows * 10 * 8]


# --- movement of data is not a product, whatever TensorFlow does it with ------------------


def test_patches_are_not_costed():
    def patches(x):
        return kl.Dense(10)(kl.Reshape((16, 108))(ops.image.extract_patches(x, 6)))

    found = layers_of_keras_model(functional(patches, (24, 24, 3)))
    assert found.macs == 16 * 108 * 10
    (entry,) = [e for e in found.not_costed if e.layer_class == "ExtractPatches"]
    assert entry.words_moved == 24 * 24 * 3 + 16 * 108


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: ops.image.extract_patches(x, 3, strides=1, padding="same"), (8, 8, 3)),
        (lambda x: ops.image.extract_patches(x, (2, 2, 2)), (4, 4, 4, 2)),
        (lambda x: ops.einsum("bij->bji", x), (6, 8)),
        (lambda x: ops.einsum("bij->bi", x), (6, 8)),
        (lambda x: ops.einsum("bii->bi", x), (6, 6)),
        (lambda x: ops.einsum("...ij->...ji", x), (3, 6, 8)),
        (lambda x: ops.einsum("bji", x), (6, 8)),
        (lambda x: ops.extract_sequences(x, 4, 2), (16,)),
        (lambda x: ops.image.resize(x, (5, 5), interpolation="bicubic"), (8, 8, 3)),
        (lambda x: ops.diagonal(x, axis1=1, axis2=2), (6, 6)),
        (lambda x: kl.UpSampling2D(2, interpolation="bilinear")(x), (8, 8, 3)),
        (lambda x: kl.AveragePooling2D(2)(x), (8, 8, 3)),
        (lambda x: kl.RandomSharpness(0.5)(x), (8, 8, 3)),
        (lambda x: kl.RandomPerspective()(x), (8, 8, 3)),
    ],
)
def test_movement_and_sums_are_not_costed(function, shape):
    """A layer behind it is costed at the right size, and nothing else is."""
    model = functional(lambda x: kl.Dense(2)(kl.Flatten()(function(x))), shape)
    (layer,) = layers_of_keras_model(model).layers
    returned = function(np.ones((1, *shape), "float32"))
    assert layer.macs == 2 * np.size(returned)


# --- products of other names --------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (lambda x: ops.inner(x, ops.ones((5, 4))), [(3, 4)], [3 * 4 * 5]),
        (lambda x: ops.inner(ops.inner(x, 2.0), x), [(3, 4)], [3 * 4 * 3]),
        (lambda x: ops.dot(ops.dot(x, 2.0), ops.ones((4, 5))), [(3, 4)], [3 * 4 * 5]),
        (lambda x: ops.vdot(x, x), [(3, 4)], [3 * 4]),
        (lambda x: ops.image.rgb_to_grayscale(x), [(8, 7, 3)], [8 * 7 * 3]),
        (lambda x, y: kl.AdditiveAttention()([x, y]), [(6, 8), (5, 8)], [6 * 5 * 8, 6 * 5 * 8]),
        (lambda x, y: kl.AdditiveAttention(use_scale=False)([x, y]), [(6, 8), (5, 8)], [6 * 5 * 8]),
        (lambda x, y, z: kl.AdditiveAttention()([x, y, z]), [(6, 8), (5, 7), (5, 8)],
         [6 * 5 * 8, 6 * 5 * 7]),
        (lambda x, y: kl.Attention(score_mode="concat", use_scale=True)([x, y]),
         [(6, 8), (5, 8)], [6 * 5 * 8]),
        (lambda x, y: kl.Attention(use_scale=True)([x, y]), [(6, 8), (5, 8)], [6 * 5 * 8] * 2),
    ],
)  # fmt: skip
def test_products_of_other_names(function, shapes, macs):
    assert macs_of(function, *shapes) == macs


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        # A sum over an axis of one operand and a diagonal are taken before the product.
        ("bij,bkl->bk", [(4, 5), (3, 6)], [3]),
        ("bii,bij->bj", [(4, 4), (4, 5)], [4 * 5]),
        ("bij,bjk", [(4, 5), (5, 6)], [4 * 5 * 6]),  # the output left out
        # Three operands and more are products of two, the cheapest first.
        ("bij,bjk,bkl->bil", [(4, 5), (5, 2), (2, 9)], [4 * 5 * 2, 4 * 2 * 9]),
        ("bij,bjk,bkl->bil", [(9, 2), (2, 5), (5, 4)], [2 * 5 * 4, 9 * 2 * 4]),
        ("...ij,...jk,...kl->...il", [(3, 4, 5), (3, 5, 2), (3, 2, 9)],
         [3 * 4 * 5 * 2, 3 * 4 * 2 * 9]),
        ("bij,bjk,bkl,bl->bi", [(4, 4), (4, 4), (4, 4), (4,)], [16, 16, 16]),
    ],
)  # fmt: skip
def test_einsums_are_products_of_two(equation, shapes, macs):
    assert macs_of(lambda *tensors: ops.einsum(equation, *tensors), *shapes) == macs


def test_a_subclass_of_an_attention_may_compute_anything():
    class Own(kl.AdditiveAttention):
        def _calculate_scores(self, query, key):
            return ops.matmul(query, ops.transpose(key, (0, 2, 1)))

    assert macs_of(lambda x, y: Own()([x, y]), (6, 8), (5, 8)) == [6 * 5 * 8] * 2
