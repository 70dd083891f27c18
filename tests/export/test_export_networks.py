"""Networks of all kinds export, or are refused by the name of what does not."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from dance_tf.errors import UserError
from dance_tf.export import description, networks, preparation, signatures, tflite
from dance_tf.export.evaluator import save_signatures
from dance_tf.export.serving import ServedModel


def _images(num=8, size=8, seed=0):
    return np.random.default_rng(seed).random((num, size, size, 3)).astype(np.float32)


def _classifier(begin, shape=(8, 8, 3), dtype=None):
    """A small network behind what `begin` makes of its input."""
    inputs = keras.Input(shape, dtype=dtype)
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(begin(inputs))
    return keras.Model(inputs, layers.Dense(3, name="top")(layers.Flatten()(x)))


# The range that a network takes


def _nested(inputs):
    inner = keras.Input((8, 8, 3))
    scaled = layers.Rescaling(1 / 127.5, offset=-1)(inner)
    return keras.Model(inner, layers.RandomFlip()(scaled), name="prepare")(inputs)


def _in_sequence(inputs):
    return keras.Sequential([layers.Rescaling(1 / 255), layers.RandomFlip()])(inputs)


def _normalised(low, high):
    layer = layers.Normalization()
    layer.adapt(low + (high - low) * _images(100))
    return layer


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (layers.Rescaling(1 / 255), (0, 255)),
        (layers.Rescaling(2.0, offset=-1.0), (0, 1)),
        (layers.Rescaling(0.5, offset=0.5), (-1, 1)),
        (lambda x: layers.Rescaling(1 / 255)(layers.Resizing(4, 4)(x)), (0, 255)),
        (
            lambda x: layers.Normalization(mean=0.5, variance=0.04)(layers.Rescaling(1 / 255)(x)),
            None,
        ),
        (_nested, (0, 255)),
        (_in_sequence, (0, 255)),
        (lambda x: x / 255.0, (0, 255)),
        (lambda x: (x - 127.5) / 127.5, (0, 255)),
        (_normalised(0, 255), (0, 255)),
        (_normalised(100, 110), (0, 255)),
        (_normalised(0, 1), (0, 1)),
        (lambda x: x, "unknown"),
        (layers.ZeroPadding2D(1), "unknown"),
        (layers.ReLU(), "unknown"),
        (layers.BatchNormalization(), "unknown"),
    ],
)
def test_range_that_a_network_declares(begin, expected):
    declared = preparation.declared_range(_classifier(begin))
    if expected == "unknown":
        assert declared is None
    else:
        assert declared[:2] == (expected or (0, 255))


@pytest.mark.parametrize(("dtype", "low"), [("uint8", 0), ("int32", 0), ("int8", -128)])
def test_integer_inputs_declare_the_range_of_images(dtype, low):
    model = _classifier(layers.Rescaling(1 / 255), dtype=dtype)
    assert preparation.declared_range(model)[:2] == (low, low + 255)


@pytest.mark.parametrize("begin", [layers.Rescaling(1 / 255), _nested, _normalised(0, 255)])
def test_images_that_are_scaled_already_are_refused(tmp_path, begin):
    with pytest.raises(UserError, match=r"takes 0 to 255 .*not scaled yet") as error:
        networks.export_network(
            _classifier(begin), str(tmp_path / "x"), calibration_images=_images()
        )
    assert "\n" not in str(error.value) and os.listdir(tmp_path) == []


def test_raw_images_where_scaled_ones_are_wanted_are_refused(tmp_path):
    model = _classifier(layers.Rescaling(2.0, offset=-1.0))
    with pytest.raises(UserError, match="takes 0 to 1"):
        networks.export_network(model, str(tmp_path), calibration_images=255 * _images())


def test_fractions_are_not_cut_for_an_integer_input():
    specs = {"images": tf.TensorSpec([None, 8, 8, 3], tf.uint8)}
    with pytest.raises(UserError, match="whole numbers of uint8"):
        signatures.arrays_by_name(_images(), specs, "images")
    whole = np.rint(255 * _images())
    assert signatures.arrays_by_name(whole, specs, "images")["images"].dtype == np.uint8


# Types


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "float64"])
def test_other_precision_becomes_float32_with_the_same_weights(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inner = keras.Sequential([layers.Conv2D(4, 3, name="inner"), layers.ReLU()], name="part")
        model = _classifier(lambda x: layers.TimeDistributed(layers.Dense(3))(inner(x)))
    finally:
        keras.config.set_dtype_policy(before)
    rebuilt, policies = preparation.in_float32(model)
    assert policies == (policy,)
    assert {v.dtype for v in rebuilt.weights} == {"float32"}
    assert {layer.compute_dtype for layer in rebuilt.layers} == {"float32"}
    assert rebuilt(_images()).dtype == tf.float32
    for new, old in zip(rebuilt.weights, model.weights, strict=True):
        np.testing.assert_array_equal(new.numpy(), np.asarray(old.numpy(), np.float32))
    again, none = preparation.in_float32(rebuilt)
    assert again is rebuilt and none == ()


def test_quantised_weights_are_refused_by_layer_and_policy(tmp_path):
    model = _classifier(lambda x: x)
    model.quantize("int8")
    with pytest.raises(UserError, match="layer 'top' has the dtype policy 'int8_from_float32'"):
        networks.export_network(model, str(tmp_path / "x"), calibration_images=_images())
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def many_kinds(tmp_path_factory):
    """(folder, report) of a network in mixed precision with two outputs, one per pixel."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((8, 8, 3))
        x = layers.Conv2D(4, 3, padding="same", name="first")(inputs)
        x = layers.LayerNormalization(name="normal")(layers.ELU(name="elu")(x))
        pixels = layers.Conv2D(5, 1, name="pixels")(x)
        model = keras.Model(inputs, [pixels, layers.Dense(3)(layers.Flatten()(x))])
    finally:
        keras.config.set_dtype_policy(before)
    folder = tmp_path_factory.mktemp("kinds")
    labels = np.arange(30) % 3
    report = networks.export_network(
        model, str(folder), calibration_images=_images(30), test_labels=labels
    )
    return folder, report


def test_outputs_are_compared_each(many_kinds):
    folder, report = many_kinds
    assert report["dtype_policies"] == ["mixed_bfloat16"]
    names = ["pixels", "output_1"]  # Keras has numbered the layer of the second
    assert list(report["outputs"]) == names
    for key in ("saved_model", "keras", "tflite", "tflite_int8"):
        outputs = report[key]["outputs"]
        assert list(outputs) == names
        largest = max(output["max_difference"] for output in outputs.values())
        assert report[key]["max_difference"] == largest
        assert "test_accuracy" not in outputs["pixels"]  # labels are one per image
        assert report[key]["test_accuracy"] == outputs["output_1"]["test_accuracy"]
    classifier = tflite.TFLiteClassifier(folder / "network_int8.tflite")
    assert classifier.predict_outputs(_images(2))["pixels"].shape == (2, 8, 8, 5)
    with pytest.raises(UserError, match="2 outputs; use predict_outputs"):
        classifier.predict(_images(2))


def test_what_stays_in_float_is_listed_by_layer(many_kinds, tmp_path, monkeypatch):
    folder, report = many_kinds
    operations = report["tflite_int8"]["float_operations"]
    assert ("ELU", "elu") in [(o["operation"], o["layer"]) for o in operations]
    assert {o["layer"] for o in operations} == {"elu", "normal"}
    assert {o["dtype"] for o in operations} == {"float32"}
    contents = [(folder / n).read_bytes() for n in ("network.tflite", "network_int8.tflite")]
    monkeypatch.setattr(networks, "convert_to_tflite", lambda *_, **__: contents.pop(0))
    with pytest.raises(UserError, match="not all int8: ELU of layer 'elu'"):
        networks.export_network(
            networks.load_network(str(folder / "network.keras")),
            str(tmp_path / "x"),
            calibration_images=_images(30),
            use_strict_int8=True,
        )
    assert os.listdir(tmp_path) == []


def test_layers_are_told_from_scopes_that_tracing_has_numbered():
    names = {"conv2d", "conv2d_1", "part"}
    assert signatures.layer_of("functional_1/conv2d_1/BiasAdd", names) == "conv2d"
    assert signatures.layer_of("functional_1/conv2d_1_1/BiasAdd", names) == "conv2d_1"
    assert signatures.layer_of("functional_1/part_1/conv2d_2/Relu", names) == "part/conv2d"
    assert signatures.layer_of("StatefulPartitionedCall:0", names) is None


def test_what_the_converter_cannot_hold_is_one_line_with_the_layer(tmp_path, capfd):
    inputs = keras.Input((8, 8, 3))
    x = layers.LSTM(4, name="memory")(layers.Reshape((8, 24))(inputs))
    model = keras.Model(inputs, layers.Dense(3)(x))
    capfd.readouterr()
    with pytest.raises(UserError, match=r"layer 'memory'.*unroll=True") as error:
        networks.export_network(model, str(tmp_path / "x"), calibration_images=_images())
    assert "\n" not in str(error.value) and os.listdir(tmp_path) == []
    assert "loc(" not in capfd.readouterr().err


# XLA


def _grouped(groups, filters=8, strides=1, **arguments):
    return layers.Conv2D(filters, 3, groups=groups, strides=strides, **arguments)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: _grouped(2, activation="relu")(x),
        lambda x: _grouped(4, 8)(x),  # depthwise with two filters a channel
        lambda x: _grouped(4, 8, strides=(1, 2), padding="same")(x),
        lambda x: _grouped(4, 4, dilation_rate=2)(x),
        lambda x: keras.Sequential([_grouped(2), layers.ReLU()])(x),
        lambda x: layers.Conv3D(4, 2, groups=2)(layers.Reshape((3, 3, 4, 4))(x)),
    ],
)
def test_grouped_convolutions_are_saved_without_xla(tmp_path, make):
    inputs = keras.Input((8, 8, 3))
    x = layers.Flatten()(make(layers.Conv2D(4, 3)(inputs)))
    model = keras.Model(inputs, layers.Dense(3)(x))
    signatures.export_saved_model(model, str(tmp_path / "saved"))
    assert b"_conv_xla" not in (tmp_path / "saved" / "saved_model.pb").read_bytes()
    served = ServedModel(tmp_path / "saved")(images=_images())["logits"]
    np.testing.assert_allclose(served, model(_images()), rtol=1e-4, atol=1e-5)
    # The network itself is as it was.
    assert not [layer for layer in model.layers if "convolution_op" in vars(layer)]


@pytest.mark.parametrize("kind", ["own", "Conv1D"])
def test_what_must_be_compiled_is_refused_by_layer(tmp_path, kind):
    class Own(layers.Layer):
        def call(self, x):
            return keras.ops.conv(x, tf.ones((3, 3, 1, 3)))

    def conv_1d(x):
        return layers.Conv1D(6, 3, groups=3, name="mine")(layers.Reshape((64, 3))(x))

    layer = Own(name="mine") if kind == "own" else conv_1d
    inputs = keras.Input((8, 8, 3))
    outputs = layers.Dense(3)(layers.Flatten()(layer(inputs)))
    with pytest.raises(UserError, match=r"layer 'mine' computes with .*XLA must compile") as error:
        networks.export_network(
            keras.Model(inputs, outputs), str(tmp_path / "x"), calibration_images=_images()
        )
    assert "\n" not in str(error.value) and os.listdir(tmp_path) == []


def test_signatures_of_evaluators_are_checked_too(tmp_path):
    compiled = tf.function(lambda x: x + 1, jit_compile=True)
    outer = tf.function(lambda x: {"y": compiled(x)}, input_signature=[tf.TensorSpec([None])])
    with pytest.raises(UserError, match="XLA must compile"):
        save_signatures({"serving_default": outer.get_concrete_function()}, str(tmp_path / "x"))


# Accuracy


def _compared(num=100):
    """What a network that is always right is compared with, and its logits."""
    labels = np.arange(num) % 10
    logits = np.eye(10, dtype=np.float32)[labels]
    own = description.accuracies_of({"logits": logits}, num, labels)
    return description.Compared({"logits": logits}, num, labels, own), logits


def test_a_format_that_has_lost_its_accuracy_is_refused():
    against, logits = _compared()
    half_wrong = np.where((np.arange(100) < 60)[:, None], np.roll(logits, 1, axis=1), logits)
    with pytest.raises(UserError, match=r"tflite_int8 is right on 40.0% .*Keras on 100.0%"):
        description.check_outputs("tflite_int8", {"logits": half_wrong}, against)
    result = description.check_outputs("tflite_int8", {"logits": logits * 1.1}, against)
    assert result["test_accuracy"] == 1.0
    # Of few images chance takes as many.
    against, logits = _compared(2)
    one_wrong = np.stack([logits[0], logits[0]])
    result = description.check_outputs("tflite_int8", {"logits": one_wrong * 0.5}, against)
    assert result["test_accuracy"] == 0.5


def test_numbers_that_are_none_are_not_good():
    against, logits = _compared()
    with pytest.raises(RuntimeError, match="differs from the network in logits"):
        description.check_outputs("tflite", {"logits": logits + 1e-3}, against)
    damaged = logits.copy()
    damaged[-1] = np.nan
    with pytest.raises(RuntimeError, match="nan"):
        description.check_outputs("tflite_int8", {"logits": damaged}, against)


def test_float_operations_of_a_float_model_are_all_its_operations(many_kinds):
    content = (many_kinds[0] / "network.tflite").read_bytes()
    found = {o["operation"] for o in tflite.float_operations(content)}
    assert {"CONV_2D", "ELU", "FULLY_CONNECTED"} <= found
