"""Whole Keras models: one entry per call, nothing dropped, nothing counted twice."""

from __future__ import annotations

import math
import threading

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

from dance_tf.errors import UserError
from dance_tf.interop.keras_model import layers_of_keras_model


def image_model(*layers: keras.Layer, shape: tuple = (8, 8, 3), name: str = "net") -> keras.Model:
    return keras.Sequential([keras.Input(shape, name="images"), *layers], name=name)


def by_name(workload) -> dict:
    return {entry.name: entry for entry in workload.not_costed}


# Field reports


def test_groups_divide_the_input_channels():
    found = layers_of_keras_model(image_model(kl.Conv2D(9, 3, groups=3), shape=(8, 8, 6)))
    assert (found.macs, found.num_parameters) == (5832, 162 + 9)


@pytest.mark.parametrize(
    ("layer", "shape", "size", "macs", "parameters"),
    [
        (kl.Conv2D(8, 3, strides=2, padding="same"), (7, 7, 3), 4, 3456, 224),
        (kl.Conv2D(8, 3, strides=2, padding="same"), (8, 8, 3), 4, 3456, 224),
        (
            kl.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2),
            (9, 9, 4),
            5,
            1800,
            80,
        ),
    ],
)
def test_output_sizes_are_rounded_as_keras_rounds(layer, shape, size, macs, parameters):
    found = layers_of_keras_model(image_model(layer, shape=shape))
    assert (found.macs, found.num_parameters) == (macs, parameters)
    assert found.layers[0].P == found.layers[0].Q == size


def test_a_nested_model_that_is_called_twice_is_two_entries():
    inner = keras.Sequential([kl.Conv2D(8, 3, strides=2, padding="same", name="conv")], name="in")
    a, b = keras.Input((16, 16, 3)), keras.Input((16, 16, 3))
    found = layers_of_keras_model(keras.Model([a, b], kl.Add()([inner(a), inner(b)])))
    assert [layer.macs for layer in found.layers] == [13824, 13824]
    assert [layer.name for layer in found.layers] == ["in/conv", "in@2/conv"]
    assert (found.macs, found.num_parameters) == (27648, 224)


@pytest.mark.parametrize(("shape", "units", "macs"), [((8, 8, 16), 10, 10240), ((5, 12), 7, 420)])
def test_dense_counts_all_rows(shape, units, macs):
    assert layers_of_keras_model(image_model(kl.Dense(units), shape=shape)).macs == macs


def _open_model() -> keras.Model:
    return image_model(kl.Conv2D(8, 3, padding="same"), shape=(None, None, 3))


def test_open_sizes_are_refused_until_they_are_given():
    with pytest.raises(UserError) as raised:
        layers_of_keras_model(_open_model())
    text = str(raised.value)
    assert "'net'" in text and "'images'" in text
    assert "axis 1 and 2 (height and width)" in text and "input_shape" in text
    found = layers_of_keras_model(_open_model(), (32, 32, 3))
    assert found.macs == 221184
    assert any("batch" in note and "1" in note for note in found.notes)


def test_open_sizes_are_known_inside_a_model_that_knows_them():
    images = keras.Input((32, 32, 3))
    assert layers_of_keras_model(keras.Model(images, _open_model()(images))).macs == 221184


# One entry per call


def test_shared_layers_are_costed_at_every_size_that_they_see():
    shared = kl.Conv2D(4, 3, padding="same", name="shared")
    a, b = keras.Input((8, 8, 3)), keras.Input((5, 6, 3))
    found = layers_of_keras_model(keras.Model([a, b], [shared(a), shared(b)]))
    assert [layer.name for layer in found.layers] == ["shared", "shared@2"]
    assert {(layer.P, layer.Q) for layer in found.layers} == {(8, 8), (6, 5)}
    assert found.num_parameters == 112


def test_models_nested_in_nested_models():
    block = keras.Sequential([kl.Conv2D(3, 3, padding="same", name="conv")], name="block")
    images = keras.Input((8, 8, 3))
    middle = keras.Model(images, block(block(images)), name="middle")
    outer = keras.Input((8, 8, 3))
    found = layers_of_keras_model(keras.Model(outer, middle(middle(outer)) + middle(outer)))
    names = [layer.name for layer in found.layers]
    assert len(names) == len(set(names)) == 6
    assert names[0] == "middle/block/conv" and names[3] == "middle@2/block@2/conv"
    assert found.macs == 6 * 64 * 81 and found.num_parameters == 84


def test_layers_are_in_the_order_in_which_they_run():
    images = keras.Input((8, 8, 3))
    left = kl.Conv2D(4, 1, name="left")(images)
    right = kl.Conv2D(4, 1, name="right_b")(kl.Conv2D(2, 1, name="right_a")(images))
    last = kl.Conv2D(1, 1, name="last")(kl.Concatenate()([left, right]))
    names = [layer.name for layer in layers_of_keras_model(keras.Model(images, last)).layers]
    assert sorted(names[:3]) == ["left", "right_a", "right_b"] and names[3] == "last"
    assert names.index("right_a") < names.index("right_b")


def test_inputs_and_outputs_by_name():
    a, b = keras.Input((8,), name="a"), keras.Input((5, 6), name="b")
    model = keras.Model({"a": a, "b": b}, {"x": kl.Dense(3)(a), "y": kl.Dense(2)(b)})
    found = layers_of_keras_model(model)
    assert sorted(layer.macs for layer in found.layers) == [24, 60]
    assert layers_of_keras_model(model, [(8,), (5, 6)]).macs == 84


def test_operators_and_functions_between_layers_are_calls():
    images = keras.Input((8, 8, 4))
    x = kl.Conv2D(4, 1)(images)
    x = ops.relu(x) * 2.0 + images
    rows = ops.reshape(x, (-1, 64, 4))
    found = layers_of_keras_model(keras.Model(images, rows @ ops.transpose(rows, (0, 2, 1))))
    assert [layer.macs for layer in found.layers] == [64 * 16, 64 * 64 * 4]
    assert {"Relu", "Multiply", "Add", "Transpose"} <= {n.layer_class for n in found.not_costed}
    # Operations that only hand on are no entries.
    assert "Reshape" not in {n.layer_class for n in found.not_costed}


# What is not costed, and its share of the data


def test_every_call_is_a_layer_or_in_the_list():
    model = image_model(
        kl.Rescaling(1 / 255, name="scale"),
        kl.Conv2D(4, 3, name="conv"),
        kl.ReLU(name="relu"),
        kl.ZeroPadding2D(1, name="pad"),
        kl.MaxPooling2D(2, name="pool"),
        kl.Dropout(0.5, name="drop"),
        kl.Flatten(name="flat"),
        kl.LayerNormalization(name="norm"),
        kl.Dense(10, activation="softmax", name="dense"),
    )
    found = layers_of_keras_model(model)
    entries = by_name(found)
    costed = [layer.name for layer in found.layers]
    assert sorted([*costed, *entries]) == sorted(layer.name for layer in model.layers)
    words = {name: entry.words_moved for name, entry in entries.items()}
    assert words == {
        "scale": 192 + 192,
        "relu": 144 + 144,
        "pad": 144 + 256,
        "pool": 256 + 64,
        "drop": 0,
        "flat": 0,
        "norm": 64 + 64 + 128,
    }
    costed_words = (192 + 144 + 112) + (64 + 10 + 650)
    assert found.words_moved == sum(words.values()) + costed_words
    shares = sum(entry.share_of_data_moved for entry in entries.values())
    assert shares == pytest.approx(1 - costed_words / found.words_moved)


class TestFolding:
    """A batch normalisation whose scale the weights before it can take moves no data."""

    @staticmethod
    def folded(model) -> dict:
        entries = by_name(layers_of_keras_model(model))
        norms = {n: e for n, e in entries.items() if e.layer_class == "BatchNormalization"}
        assert all((e.words_moved == 0) == (e.folded_into is not None) for e in norms.values())
        return {name: entry.folded_into for name, entry in norms.items()}

    @pytest.mark.parametrize(
        "layer",
        [
            kl.Conv2D(4, 3, name="w"),
            kl.DepthwiseConv2D(3, name="w"),
            kl.SeparableConv2D(4, 3, name="w"),
            kl.Conv2DTranspose(4, 3, name="w"),
            kl.Dense(4, name="w"),
            kl.Conv2D(4, 3, activation="linear", use_bias=False, name="w"),
        ],
    )
    def test_behind_a_layer_with_weights(self, layer):
        assert self.folded(image_model(layer, kl.BatchNormalization(name="n"))) == {"n": "w"}

    def test_across_what_hands_on(self):
        layers = [kl.Conv2D(4, 3, name="w"), kl.Dropout(0.5), kl.BatchNormalization(name="n")]
        assert self.folded(image_model(*layers)) == {"n": "w"}

    def test_in_a_nested_model(self):
        inner = keras.Sequential([kl.BatchNormalization(name="n")], name="inner")
        assert self.folded(image_model(kl.Conv2D(4, 3, name="w"), inner)) == {"inner/n": "w"}

    @pytest.mark.parametrize(
        "layers",
        [
            [kl.BatchNormalization(name="n"), kl.Dense(3)],
            [kl.Conv2D(4, 3, activation="relu"), kl.BatchNormalization(name="n")],
            [kl.Conv2D(4, 3), kl.ReLU(), kl.BatchNormalization(name="n")],
            [kl.Conv2D(4, 3), kl.MaxPooling2D(), kl.BatchNormalization(name="n")],
            [kl.Conv2D(4, 3), kl.Flatten(), kl.BatchNormalization(name="n")],
            [kl.Conv2D(4, 3), kl.BatchNormalization(axis=1, name="n")],
        ],
    )
    def test_not_elsewhere(self, layers):
        assert self.folded(image_model(*layers)) == {"n": None}

    def test_not_where_something_else_reads_the_output(self):
        images = keras.Input((8, 8, 3))
        x = kl.Conv2D(3, 1)(images)
        norm = kl.BatchNormalization(name="n")(x)
        assert self.folded(keras.Model(images, norm + x)) == {"n": None}
        assert self.folded(keras.Model(images, [norm, x])) == {"n": None}

    def test_weights_that_are_used_twice_take_one_normalisation(self):
        conv, norm = kl.Conv2D(3, 1, name="w"), kl.BatchNormalization(name="n")
        a, b = keras.Input((8, 8, 3)), keras.Input((4, 4, 3))
        both = keras.Model([a, b], [norm(conv(a)), norm(conv(b))])
        assert self.folded(both) == {"n": "w", "n@2": "w@2"}
        other = kl.BatchNormalization(name="m")
        apart = keras.Model([a, b], [norm(conv(a)), other(conv(b))])
        assert self.folded(apart) == {"n": None, "m": None}
        once = keras.Model([a, b], [norm(conv(a)), kl.ReLU()(conv(b))])
        assert self.folded(once) == {"n": None}


# Models and layers of a user's own


class Block(keras.Layer):
    """A layer with layers in it, built when it is first called."""

    def __init__(self, **options):
        super().__init__(**options)
        self.conv = kl.Conv2D(4, 3, name="conv")
        self.rest = keras.Sequential([kl.BatchNormalization(), kl.ReLU()], name="rest")

    def call(self, x):
        return self.rest(self.conv(x))


class Projection(keras.Layer):
    """A layer with weights of its own and a product in keras.ops."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 5))

    def call(self, x):
        return ops.relu(x @ self.matrix)


class Gate(keras.Layer):
    """A layer with weights and no product."""

    def build(self, shape):
        self.gamma = self.add_weight(shape=shape[-1:])

    def call(self, x):
        return x * ops.sigmoid(x) * self.gamma


class Plain(keras.Layer):
    """A product where nobody can see into it."""

    def call(self, x):
        import tensorflow as tf

        return tf.matmul(x, x, transpose_b=True)


class Network(keras.Model):
    """A model that is no graph."""

    def __init__(self):
        super().__init__(name="own")
        self.block, self.head = Block(name="block"), kl.Dense(2, name="head")

    def call(self, x):
        return self.head(ops.mean(self.block(x), axis=(1, 2)))


def test_layers_of_ones_own_are_looked_into():
    model = image_model(Block(name="block"), Projection(name="projection"), Gate(name="gate"))
    found = layers_of_keras_model(model)
    assert [(layer.name, layer.macs) for layer in found.layers] == [
        ("block/conv", 36 * 108),
        ("projection/matmul", 36 * 20),
    ]
    entries = by_name(found)
    assert entries["gate"].layer_class == "Gate"
    assert entries["gate"].words_moved == 2 * 180 + 5
    (norm,) = (e for e in entries.values() if e.layer_class == "BatchNormalization")
    assert norm.name.startswith("block/rest/") and norm.folded_into == "block/conv"
    assert found.num_parameters == model.count_params()


def test_a_product_that_cannot_be_seen_is_refused_by_name():
    with pytest.raises(UserError) as raised:
        layers_of_keras_model(image_model(kl.Dense(3), Plain(name="secret"), name="net"))
    assert "layer 'secret' (Plain) cannot be costed" in str(raised.value)
    assert "MatMul" in str(raised.value)


def test_a_subclass_with_a_call_of_its_own_is_not_taken_for_its_parent():
    class Twice(kl.Dense):
        def call(self, inputs):
            return super().call(inputs) + ops.matmul(inputs, self.kernel)

    class Same(kl.Dense):
        pass

    assert layers_of_keras_model(image_model(Twice(4), shape=(3,))).macs == 2 * 12
    assert layers_of_keras_model(image_model(Same(4), shape=(3,))).macs == 12


def test_a_model_that_is_no_graph():
    with pytest.raises(UserError, match="'own' does not say what its inputs are"):
        layers_of_keras_model(Network())
    model = Network()
    found = layers_of_keras_model(model, (8, 8, 3))
    assert [layer.name for layer in found.layers] == ["block/conv", "head"]
    assert found.macs == 36 * 108 + 8
    # Its weights are there afterwards, and any batch runs.
    assert model(np.ones((3, 8, 8, 3), "float32")).shape == (3, 2)
    assert found.num_parameters == model.count_params() == 112 + 16 + 10


def test_a_sequential_model_without_input():
    model = keras.Sequential([kl.Conv2D(4, 3), kl.Dense(2)])
    assert layers_of_keras_model(model, (8, 8, 3)).macs == 36 * (108 + 8)
    assert model(np.ones((3, 8, 8, 3), "float32")).shape == (3, 6, 6, 2)


def test_models_of_mixed_precision():
    layers = [
        kl.Conv2D(4, 3, dtype="mixed_float16", name="w"),
        kl.BatchNormalization(dtype="mixed_float16", name="n"),
        kl.Dense(2),
    ]
    found = layers_of_keras_model(image_model(*layers))
    assert found.macs == 36 * (108 + 8)
    assert by_name(found)["n"].folded_into == "w"


def test_embeddings_and_masks():
    tokens = keras.Input((6,), dtype="int32")
    x = kl.Embedding(50, 8, mask_zero=True, name="embedding")(tokens)
    found = layers_of_keras_model(keras.Model(tokens, kl.MultiHeadAttention(2, 4)(x, x)))
    assert found.macs == 4 * 6 * 64 + 2 * 2 * 36 * 4
    assert by_name(found)["embedding"].layer_class == "Embedding"


# The model is left as it was


def test_a_model_is_not_changed():
    model = image_model(kl.Conv2D(4, 3), kl.BatchNormalization(), kl.Dropout(0.5), kl.Dense(2))
    images = np.random.default_rng(0).random((2, 8, 8, 3), "float32")
    before = model(images).numpy()
    weights = [weight.numpy() for weight in model.weights]
    original = keras.Operation.__dict__["symbolic_call"], keras.Layer.symbolic_call
    first, second = layers_of_keras_model(model), layers_of_keras_model(model)
    assert first == second
    assert (keras.Operation.__dict__["symbolic_call"], keras.Layer.symbolic_call) == original
    np.testing.assert_array_equal(model(images), before)
    for weight, value in zip(model.weights, weights, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert model.output_shape == (None, 6, 6, 2)
    assert keras.config.is_traceback_filtering_enabled()


def test_everything_is_put_back_after_an_error():
    original = keras.Operation.__dict__["symbolic_call"]
    with pytest.raises(UserError):
        layers_of_keras_model(image_model(kl.LSTM(2), shape=(4, 5)))
    assert keras.Operation.__dict__["symbolic_call"] is original
    assert keras.config.is_traceback_filtering_enabled()


def test_models_may_be_read_in_several_threads():
    found = {}

    def read(size: int) -> None:
        model = image_model(kl.Conv2D(4, 3), kl.Dense(2), shape=(size, size, 3))
        found[size] = layers_of_keras_model(model).macs

    threads = [threading.Thread(target=read, args=(size,)) for size in (5, 6, 7, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {size: (size - 2) ** 2 * 116 for size in (5, 6, 7, 8)}


# Mistakes


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((32, 32), "cannot be (32, 32) behind the batch"),
        ((32, 32, 4), "cannot be (32, 32, 4)"),
        ((1, 32, 32, 3), "cannot be (1, 32, 32, 3)"),
        ((32, 0, 3), "0 is not a positive integer"),
        ((32, -1, 3), "-1 is not a positive integer"),
        ((32, 2.5, 3), "2.5 is not a positive integer"),
        ((32, None, 3), "None is not a positive integer"),
        ([(32, 32, 3), (32, 32, 3)], "has 1 inputs; input_shape gives 2"),
    ],
)
def test_shapes_that_do_not_fit_are_one_line(shape, message):
    with pytest.raises(UserError) as raised:
        layers_of_keras_model(_open_model(), shape)
    assert message in str(raised.value)


def test_sizes_that_a_model_cannot_take_are_one_line():
    model = image_model(kl.Conv2D(4, 5), shape=(None, None, 3))
    with pytest.raises(UserError, match=r"'net' cannot be run .*\[1, 3, 3, 3\]") as raised:
        layers_of_keras_model(model, (3, 3, 3))
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="cannot be"):
        layers_of_keras_model(image_model(kl.Dense(2)), (9, 9, 3))


def test_models_without_layers_are_refused():
    with pytest.raises(UserError, match="has no layer that multiplies"):
        layers_of_keras_model(image_model(kl.ReLU()))
    with pytest.raises(UserError, match="not a Keras model but a Dense"):
        layers_of_keras_model(kl.Dense(3))


def test_one_axis_that_is_open_is_named():
    model = image_model(kl.Dense(3), shape=(None, 16))
    with pytest.raises(UserError, match=r"axis 1 \(length\)"):
        layers_of_keras_model(model)
    assert layers_of_keras_model(model, (7, 16)).macs == 7 * 48
    inputs = keras.Input((4, None, 3))
    with pytest.raises(UserError, match="axis 2: give"):
        layers_of_keras_model(keras.Model(inputs, kl.Dense(2)(inputs)))


def test_sizes_that_only_data_tells_are_refused():
    class Compressed(keras.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.boolean_mask(x, x[:, 0] > 0)

        def compute_output_shape(self, shape):
            return (None, *shape[1:])

    with pytest.raises(UserError, match="of unknown size"):
        layers_of_keras_model(image_model(Compressed(), kl.Dense(2), shape=(4,)))


def test_words_are_elements_read_and_written():
    found = layers_of_keras_model(image_model(kl.Conv2D(4, 3), kl.ReLU()))
    assert found.words_moved == (192 + 144 + 112) + 2 * 144
    (relu,) = found.not_costed
    assert relu.share_of_data_moved == 288 / found.words_moved
    assert math.prod(found.layers[0].dims) == found.macs
