"""Keras layers and operations become layers with the multiply-accumulates that they do."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

from dance_tf.errors import UserError
from dance_tf.interop.keras_model import layers_of_keras_model

# What no image of the tests has otherwise, so that sides cannot be mixed up.
HEIGHT, WIDTH = 11, 9


def sequential(*layers: keras.Layer, shape: tuple) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *layers])


def functional(function, *shapes: tuple) -> keras.Model:
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], function(*inputs))


def only_layer(model: keras.Model):
    (layer,) = layers_of_keras_model(model).layers
    return layer


def counted_by_ones(model: keras.Model) -> float:
    """Return the sum of the outputs where all inputs and weights are 1: the products summed."""
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape) if "bias" in weight.path else np.ones(weight.shape))
    inputs = [np.ones((1, *t.shape[1:]), "float32") for t in model.inputs]
    return float(np.sum(model(inputs if len(inputs) > 1 else inputs[0])))


# Convolutions: every kind, padding, data format, stride or dilation, groups


def _image(channels: int, rank: int, data_format: str) -> tuple:
    sides = (HEIGHT, WIDTH)[2 - rank :]
    return (channels, *sides) if data_format == "channels_first" else (*sides, channels)


_STEPS = [{}, {"strides": 2}, {"dilation_rate": 2}, {"strides": 3}]
_STEPS_2D = [{"strides": (2, 1)}, {"strides": (1, 2)}, {"dilation_rate": (3, 1)}]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("padding", ["valid", "same", "causal"])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("rank", [1, 2])
def test_convolutions(rank: int, groups: int, padding: str, data_format: str):
    if rank == 2 and padding == "causal":
        pytest.skip("Keras has causal padding for one dimension only")
    layer_class = kl.Conv2D if rank == 2 else kl.Conv1D
    for kernel in ((3, 5)[-rank:], (1, 2)[-rank:]):
        # Keras refuses a dilation of one axis beside a stride of another.
        for steps in _STEPS + _STEPS_2D * (rank == 2):
            keras_layer = layer_class(
                12, kernel, padding=padding, data_format=data_format, groups=groups, **steps
            )
            model = sequential(keras_layer, shape=_image(6, rank, data_format))
            layer = only_layer(model)
            # Keras's own: weights times the positions of the output.
            size = keras_layer.compute_output_shape((1, *_image(6, rank, data_format)))
            size = size[2:] if data_format == "channels_first" else size[1:-1]
            assert layer.macs == math.prod(keras_layer.kernel.shape) * math.prod(size)
            assert layer.kind == "conv" and layer.groups == groups
            assert layer.dims[:3] == (1, 12, 6 // groups)
            assert (layer.Q, layer.P)[-rank:] == size
            assert (layer.S, layer.R)[-rank:] == kernel
            assert layer.stride[::-1][-rank:] == keras_layer.strides
            assert layer.dilation[::-1][-rank:] == keras_layer.dilation_rate
            if rank == 1:
                assert (layer.Q, layer.S, layer.stride[1], layer.dilation[1]) == (1, 1, 1, 1)
            if padding == "valid":
                # Padding is folded in: what the input needs is never more than it has.
                width = (layer.P - 1) * layer.stride[0] + (layer.R - 1) * layer.dilation[0] + 1
                assert width <= WIDTH


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("rank", [1, 2])
def test_depthwise_convolutions(rank: int, multiplier: int, padding: str, data_format: str):
    layer_class = kl.DepthwiseConv2D if rank == 2 else kl.DepthwiseConv1D
    for steps in _STEPS:
        keras_layer = layer_class(
            3, padding=padding, data_format=data_format, depth_multiplier=multiplier, **steps
        )
        shape = _image(6, rank, data_format)
        layer = only_layer(sequential(keras_layer, shape=shape))
        size = keras_layer.compute_output_shape((1, *shape))
        size = size[2:] if data_format == "channels_first" else size[1:-1]
        assert layer.macs == math.prod(keras_layer.kernel.shape) * math.prod(size)
        assert (layer.K, layer.C, layer.num_groups) == (6 * multiplier, 1, 6)
        assert layer.kind == ("depthwise" if multiplier == 1 else "conv")


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("rank", [1, 2])
def test_separable_convolutions_are_two_layers(rank: int, data_format: str):
    layer_class = kl.SeparableConv2D if rank == 2 else kl.SeparableConv1D
    shape = _image(6, rank, data_format)
    keras_layer = layer_class(
        5, 3, strides=2, depth_multiplier=2, data_format=data_format, name="separable"
    )
    first, second = layers_of_keras_model(sequential(keras_layer, shape=shape)).layers
    assert (first.name, second.name) == ("separable/depthwise", "separable/pointwise")
    positions = 5 * 4 if rank == 2 else 4
    assert first.macs == 12 * 3**rank * positions and first.groups == 6
    assert second.macs == 12 * 5 * positions
    assert (second.C, second.K, second.R, second.S, second.stride) == (12, 5, 1, 1, (1, 1))
    assert (first.P, first.Q) == (second.P, second.Q)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("rank", [1, 2])
def test_transposed_convolutions_are_their_products(rank: int, stride: int, padding: str):
    layer_class = kl.Conv2DTranspose if rank == 2 else kl.Conv1DTranspose
    shape = _image(4, rank, "channels_last")
    layer = only_layer(sequential(layer_class(6, 3, stride, padding=padding), shape=shape))
    positions = math.prod(shape[:-1])
    assert layer.macs == positions * 4 * 6 * 3**rank
    assert layer.dims[3:] == (WIDTH, HEIGHT if rank == 2 else 1, 1, 1)


def test_as_many_groups_as_channels_are_depthwise():
    layer = only_layer(sequential(kl.Conv2D(6, 3, groups=6), shape=(8, 8, 6)))
    same = only_layer(sequential(kl.DepthwiseConv2D(3), shape=(8, 8, 6)))
    assert layer.kind == same.kind == "depthwise"
    assert (layer.loop_bounds, layer.groups) == (same.loop_bounds, 1)
    assert only_layer(sequential(kl.DepthwiseConv2D(3), shape=(8, 8, 1))).macs == 36 * 9


# Dense layers and products


@pytest.mark.parametrize("shape", [(12,), (5, 12), (8, 7, 12), (2, 3, 4, 12)])
def test_dense_on_any_rank(shape: tuple):
    layer = only_layer(sequential(kl.Dense(7), shape=shape))
    rows = math.prod(shape[:-1])
    assert (layer.macs, layer.K, layer.C, layer.P * layer.Q) == (rows * 84, 7, 12, rows)


def test_the_axes_of_images_stay_where_they_are():
    layer = only_layer(sequential(kl.Dense(7), shape=(HEIGHT, WIDTH, 3)))
    assert (layer.N, layer.P, layer.Q) == (1, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("equation", "output_shape", "groups"),
    [
        ("abc,cd->abd", (None, 9), 1),
        ("abc,cde->abde", (None, 2, 5), 1),
        ("abc,bcd->abd", (6, 9), 6),
        ("...x,xy->...y", (9,), 1),
        ("abc,bd->adc", (9, 8), 1),
        ("abc,bc->abc", (6, 8), 48),
    ],
)
def test_einsum_dense(equation: str, output_shape: tuple, groups: int):
    model = sequential(kl.EinsumDense(equation, output_shape), shape=(6, 8))
    layer = only_layer(model)
    assert layer.macs == counted_by_ones(model)
    assert layer.num_groups == groups


def _heads(x):
    return ops.reshape(x, (-1, 6, 4, 2))


#: Models of one linear operation without padding, by what they are.
LINEAR = {
    "grouped": lambda: sequential(kl.Conv2D(9, 3, groups=3), shape=(8, 8, 6)),
    "strided": lambda: sequential(kl.Conv2D(4, (2, 3), strides=(3, 2)), shape=(9, 8, 3)),
    "dilated": lambda: sequential(kl.Conv2D(4, 3, dilation_rate=2), shape=(9, 8, 3)),
    "length": lambda: sequential(kl.Conv1D(4, 3), shape=(9, 3)),
    "depthwise": lambda: sequential(kl.DepthwiseConv2D(3), shape=(8, 7, 6)),
    "multiplied": lambda: sequential(kl.DepthwiseConv2D(3, depth_multiplier=4), shape=(8, 7, 2)),
    "transposed": lambda: sequential(kl.Conv2DTranspose(5, 3, strides=2), shape=(4, 3, 2)),
    "overlapping": lambda: sequential(kl.Conv2DTranspose(5, (4, 3)), shape=(4, 3, 2)),
    "transposed_length": lambda: sequential(kl.Conv1DTranspose(5, 3, strides=3), shape=(4, 3)),
    "dense": lambda: sequential(kl.Dense(7), shape=(5, 12)),
    "matmul": lambda: functional(lambda x, y: x @ y, (5, 6), (6, 4)),
    "matmul_weights": lambda: functional(lambda x: ops.matmul(x, ops.ones((6, 4))), (5, 6)),
    "matmul_left": lambda: functional(lambda x: ops.matmul(ops.ones((3, 5)), x), (5, 6)),
    "matmul_stacks": lambda: functional(
        lambda x, y: ops.matmul(x, ops.transpose(y, (0, 1, 3, 2))), (3, 5, 6), (3, 4, 6)
    ),
    "matmul_repeated": lambda: functional(lambda x, y: ops.matmul(x, y), (3, 5, 6), (1, 6, 4)),
    "matmul_vector": lambda: functional(lambda x: ops.matmul(x, ops.ones((6,))), (5, 6)),
    "dot": lambda: functional(lambda x: ops.dot(x, ops.ones((7, 6, 2))), (5, 6)),
    "dot_vector": lambda: functional(lambda x: ops.dot(x, ops.ones((6,))), (5, 6)),
    "tensordot": lambda: functional(lambda x: ops.tensordot(x, ops.ones((6, 5, 2)), 1), (5, 6)),
    "tensordot_axes": lambda: functional(
        lambda x: ops.tensordot(x, ops.ones((6, 5, 2)), [[1, 2], [1, 0]]), (5, 6)
    ),
    "einsum": lambda: functional(
        lambda x, y: ops.einsum("bthd,bshd->bhts", x, y), (5, 2, 3), (7, 2, 3)
    ),
    "einsum_outer": lambda: functional(lambda x, y: ops.einsum("bi,bj->bij", x, y), (5,), (7,)),
    "einsum_rest": lambda: functional(
        lambda x: ops.einsum("...i,ij->...j", x, ops.ones((6, 3))), (4, 5, 6)
    ),
    "dot_layer": lambda: functional(lambda x, y: kl.Dot(axes=2)([x, y]), (5, 6), (4, 6)),
    "conv_op": lambda: functional(
        lambda x: ops.conv(x, ops.ones((3, 2, 4, 6)), strides=2), (9, 8, 4)
    ),
    "depthwise_op": lambda: functional(
        lambda x: ops.depthwise_conv(x, ops.ones((3, 2, 4, 3))), (9, 8, 4)
    ),
    "time_distributed": lambda: sequential(kl.TimeDistributed(kl.Dense(3)), shape=(4, 5)),
    "time_distributed_image": lambda: sequential(
        kl.TimeDistributed(kl.Conv2D(3, 2)), shape=(2, 5, 4, 2)
    ),
    "reversed_embedding": lambda: functional(
        lambda x: kl.ReversibleEmbedding(9, 5)(x, reverse=True), (4, 5)
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_macs_are_the_products_that_are_summed(name: str):
    """All ones in, all ones as weights: the sum of what comes out is the number of products."""
    if name == "reversed_embedding" and not hasattr(kl, "ReversibleEmbedding"):
        pytest.skip("this Keras has no ReversibleEmbedding")
    model = LINEAR[name]()
    assert layers_of_keras_model(model).macs == counted_by_ones(model)


def test_transposed_operation():
    # Keras cannot run the model that it builds here, so nothing is counted with ones.
    model = functional(lambda x: ops.conv_transpose(x, ops.ones((3, 2, 6, 4)), 2), (5, 4, 4))
    assert only_layer(model).macs == 20 * 6 * 24


def test_separable_operation_is_two_layers():
    model = functional(
        lambda x: ops.separable_conv(x, ops.ones((3, 3, 4, 2)), ops.ones((1, 1, 8, 5))), (8, 8, 4)
    )
    assert [layer.macs for layer in layers_of_keras_model(model).layers] == [36 * 72, 36 * 40]


# Attention


@pytest.mark.parametrize("dropout", [0.0, 0.1])  # Keras takes another way with one
def test_attention_has_its_projections_and_both_products(dropout: float):
    attention = kl.MultiHeadAttention(2, 4, value_dim=4, dropout=dropout, name="attention")
    model = functional(lambda x, y: attention(x, y), (6, 8), (5, 8))
    layers = layers_of_keras_model(model).layers
    assert [layer.macs for layer in layers] == [
        6 * 8 * 8,  # query
        5 * 8 * 8,  # key
        5 * 8 * 8,  # value
        2 * 6 * 5 * 4,  # query x key
        2 * 6 * 5 * 4,  # scores x value
        6 * 8 * 8,  # output
    ]
    assert [layer.groups for layer in layers] == [1, 1, 1, 2, 2, 1]
    assert all(layer.name.startswith("attention/") for layer in layers)
    assert (layers[3].K, layers[3].C, layers[3].P * layers[3].Q) == (2 * 5, 4, 6)


def test_grouped_query_attention():
    attention = kl.GroupQueryAttention(4, num_query_heads=6, num_key_value_heads=2)
    layers = layers_of_keras_model(functional(lambda x: attention(x, x), (7, 8))).layers
    projections = [7 * 8 * 24, 7 * 8 * 8, 7 * 8 * 8]
    assert [layer.macs for layer in layers] == [*projections, *[6 * 49 * 4] * 2, 7 * 24 * 8]


def test_attention_with_shared_keys_as_an_operation():
    model = functional(
        lambda q, k: ops.dot_product_attention(_heads(q), ops.reshape(k, (-1, 5, 2, 2)), k_of(k)),
        (6, 8),
        (5, 4),
    )
    first, second = layers_of_keras_model(model).layers
    assert first.macs == second.macs == 4 * 6 * 5 * 2
    assert first.groups == second.groups == 2


def k_of(k):
    return ops.reshape(k, (-1, 5, 2, 2))


def test_plain_attention():
    model = functional(lambda x, y: kl.Attention()([x, y]), (6, 8), (5, 8))
    assert [layer.macs for layer in layers_of_keras_model(model).layers] == [6 * 5 * 8] * 2


def test_batches_are_kept():
    for layers, macs in (([kl.Conv2D(4, 3)], 36 * 108), ([kl.Dense(4)], 64 * 12)):
        model = keras.Sequential([keras.Input(batch_shape=(5, 8, 8, 3)), *layers])
        layer = only_layer(model)
        assert (layer.N, layer.macs) == (5, 5 * macs)


# What cannot be expressed is named


@pytest.mark.parametrize(
    ("layers", "shape", "named"),
    [
        ([kl.LSTM(3, name="memory")], (4, 5), "layer 'memory' (LSTM)"),
        ([kl.GRU(3, name="memory")], (4, 5), "layer 'memory' (GRU)"),
        ([kl.SimpleRNN(3, unroll=True, name="memory")], (4, 5), "'memory' (SimpleRNN)"),
        ([kl.Bidirectional(kl.LSTM(3), name="both")], (4, 5), "layer 'both/forward_lstm"),
        ([kl.ConvLSTM2D(3, 3, name="memory")], (2, 5, 5, 2), "layer 'memory' (ConvLSTM2D)"),
        ([kl.Conv3D(3, 3, name="volume")], (5, 5, 5, 2), "layer 'volume' (Conv3D)"),
        ([kl.Conv3DTranspose(3, 3, name="up")], (5, 5, 5, 2), "layer 'up' (Conv3DTranspose)"),
        ([kl.Dense(3), kl.LSTM(3, name="a"), kl.Dense(2)], (4, 5), "layer 'a' (LSTM)"),
    ],
)
def test_a_layer_that_cannot_be_expressed_is_named(layers, shape, named):
    with pytest.raises(UserError) as raised:
        layers_of_keras_model(keras.Sequential([keras.Input(shape), *layers], name="net"))
    assert named in str(raised.value) and "model 'net'" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: ops.correlate(x[0, 0], x[0, 1]), "'correlate' (Correlate)"),
        (lambda x: ops.average(x, axis=1, weights=ops.ones((4,))), "'average' (Average)"),
        (lambda x: ops.rfft(x)[0], "'rfft' (RFFT)"),
        (lambda x: ops.linalg.inv(x), "'inv' (Inv)"),
    ],
)
def test_an_operation_that_cannot_be_expressed_is_named(function, named):
    with pytest.raises(UserError, match="cannot be costed") as raised:
        layers_of_keras_model(functional(function, (4, 4)))
    assert named in str(raised.value)


def test_all_that_cannot_be_expressed_are_named_in_one_line():
    stack = [kl.LSTM(3, return_sequences=True, name=f"lstm_{i}") for i in range(7)]
    with pytest.raises(UserError) as raised:
        layers_of_keras_model(sequential(*stack, shape=(4, 5)))
    text = str(raised.value)
    assert all(f"'lstm_{i}'" in text for i in range(5)) and "and 2 more" in text
