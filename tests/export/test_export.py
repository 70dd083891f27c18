"""Exports load elsewhere, do what the original does, and are whole or absent."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from dance_tf.errors import UserError
from dance_tf.export import networks, signatures, tflite, tflite_interpreter
from dance_tf.export.serving import ServedModel
from dance_tf.structs import InputDescription

NUM_TEST = 200

INPUTS = InputDescription(
    height=8,
    width=8,
    channels=3,
    value_range=(0.0, 1.0),
    source_range=(0.0, 255.0),
    source_shape=(32, 48, 3),
    resize="averaged by area to 8x8",
    crop="the largest central square",
    channel_order="RGB",
    class_names=tuple("abcdefghij"),
)


def _prototype_images(num, seed):
    """Images in 0..1 of ten classes, each a fixed random pattern under noise."""
    patterns = np.random.default_rng(99).random((10, 8, 8, 3))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, num)
    images = 0.5 * patterns[labels] + 0.5 * rng.random((num, 8, 8, 3))
    return images.astype(np.float32), labels


def _mbconv_network():
    """A network with every kind of layer that the spaces have."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Rescaling(2.0, -1.0)(inputs)
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.8)(x))
    y = layers.Conv2D(48, 1, use_bias=False)(x)
    y = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.8)(y))
    y = layers.DepthwiseConv2D(5, padding="same", use_bias=False)(y)
    y = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.8)(y))
    y = layers.BatchNormalization(momentum=0.8)(layers.Conv2D(16, 1, use_bias=False)(y))
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(10)(x))


def _two_input_network(image_name, vector_name):
    """Two convolutions and a second input; weights depend on the seed alone."""
    keras.utils.set_random_seed(5)
    images = keras.Input((8, 8, 3), name=image_name)
    vector = keras.Input((5,), name=vector_name)
    x = layers.Conv2D(4, 3, activation="relu")(images)
    x = layers.Conv2D(4, 3, activation="relu")(x)
    x = layers.Concatenate()([layers.Flatten()(x), vector])
    return keras.Model([images, vector], layers.Dense(10)(x))


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(1)
    model = _mbconv_network()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.learning_rate = 0.02
    model.fit(*_prototype_images(1024, seed=0), batch_size=64, epochs=6, verbose=0)
    return model


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """(folder, report) of the trained network's exports."""
    folder = tmp_path_factory.mktemp("run") / "exports"
    images, labels = _prototype_images(NUM_TEST, seed=1)
    report = networks.export_network(
        trained,
        str(folder),
        calibration_images=_prototype_images(100, seed=2)[0],
        test_images=images,
        test_labels=labels,
        inputs=INPUTS,
    )
    return folder, report


def test_every_format_agrees_with_keras(exported):
    folder, report = exported
    assert sorted(os.listdir(folder)) == [
        "export.json",
        "network.keras",
        "network.tflite",
        "network_int8.tflite",
        "saved_model",
    ]
    assert report["num_images"] == NUM_TEST
    assert report["keras_test_accuracy"] > 0.9
    for key in ("saved_model", "keras", "tflite"):
        assert report[key]["max_relative_difference"] < 1e-5
        assert report[key]["top1_agreement"] >= 0.99
        assert abs(report[key]["test_accuracy"] - report["keras_test_accuracy"]) <= 0.01
    assert report["tflite_int8"]["test_accuracy"] >= report["keras_test_accuracy"] - 0.02
    for key in ("saved_model", "keras", "tflite", "tflite_int8"):
        assert os.path.exists(report[key]["path"])
        assert report[key]["num_bytes"] > 1000
    assert report["tflite_int8"]["num_bytes"] < report["tflite"]["num_bytes"]


def test_signature_is_fixed_however_often_exported(trained, exported, tmp_path):
    _mbconv_network()  # moves Keras's counters on
    again = networks.load_network(str(exported[0] / "network.keras"))
    signatures.export_saved_model(again, str(tmp_path / "second"))
    first, second = ServedModel(exported[0] / "saved_model"), ServedModel(tmp_path / "second")
    for served in (first, second):
        assert served.inputs == {"images": tf.TensorSpec([None, 8, 8, 3], tf.float32, "images")}
        assert served.outputs == {"logits": tf.TensorSpec([None, 10], tf.float32, "logits")}


def test_saved_model_adds_one_batch_axis_and_names_its_inputs(exported):
    served = ServedModel(exported[0] / "saved_model")
    images, _ = _prototype_images(3, seed=3)
    batch = served(images=images)["logits"]
    assert batch.shape == (3, 10)
    for i in range(3):
        np.testing.assert_allclose(served(images=images[i])["logits"], batch[i : i + 1], rtol=1e-5)
    with pytest.raises(UserError, match="unknown input 'image'; the inputs are images"):
        served(images=images, image=images)
    with pytest.raises(UserError, match="no value for input 'images'"):
        served()
    with pytest.raises(UserError, match=r"shape \[1, 3, 8, 8, 3\]"):
        served(images=images[None])
    with pytest.raises(UserError, match="cannot be read as float32"):
        served(images=np.full((8, 8, 3), "a"))


# TFLite


def test_tflite_starts_at_one_image_and_can_be_resized(exported):
    images, _ = _prototype_images(4, seed=4)
    for name in ("network.tflite", "network_int8.tflite"):
        classifier = tflite.TFLiteClassifier(exported[0] / name)
        batch = classifier.predict(images)
        assert batch.shape == (4, 10) and batch.dtype == np.float32
        singles = np.concatenate([classifier.predict(images[i : i + 1]) for i in range(4)])
        np.testing.assert_allclose(batch, singles, atol=1e-5)
        with pytest.raises(UserError, match="does not fit"):
            classifier.predict(images[0])

    from ai_edge_litert.interpreter import Interpreter

    # What a user does without our class.
    interpreter = Interpreter(str(exported[0] / "network.tflite"))
    (details,) = interpreter.get_input_details()
    assert details["shape"].tolist() == [1, 8, 8, 3]
    interpreter.resize_tensor_input(details["index"], [4, 8, 8, 3])
    interpreter.allocate_tensors()
    interpreter.set_tensor(details["index"], images)
    interpreter.invoke()
    logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    expected = tflite.TFLiteClassifier(exported[0] / "network.tflite").predict(images)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_classifier_reads_int8_io_from_the_file(exported, tmp_path):
    folder = exported[0]
    calibration, _ = _prototype_images(100, seed=2)
    path = tmp_path / "float_io.tflite"
    path.write_bytes(
        tflite.convert_to_tflite(str(folder / "saved_model"), calibration, use_int8_io=False)
    )
    images, labels = _prototype_images(100, seed=5)
    float_io = tflite.TFLiteClassifier(path)
    int8_io = tflite.TFLiteClassifier(folder / "network_int8.tflite")
    dtypes = [
        next(iter(c._runner.get_input_details().values()))["dtype"] for c in (float_io, int8_io)
    ]
    assert dtypes == [np.float32, np.int8]
    right = [round(100 * c.accuracy(images, labels)) for c in (float_io, int8_io)]
    assert right[0] > 90 and abs(right[0] - right[1]) <= 1
    keras_accuracy = tflite.TFLiteClassifier(folder / "network.tflite").accuracy(images, labels)
    assert min(right) >= 100 * keras_accuracy - 2


def test_two_inputs_are_fed_by_name_in_either_order(tmp_path):
    rng = np.random.default_rng(0)
    # Ranges that differ a lot: calibration data under the wrong name would show.
    images = rng.random((16, 8, 8, 3)).astype(np.float32)
    vector = (100.0 * rng.standard_normal((16, 5))).astype(np.float32)
    outputs = []
    for image_name, vector_name in (("a_image", "b_vector"), ("z_image", "b_vector")):
        inputs = {image_name: images, vector_name: vector}
        folder = tmp_path / image_name
        path = tmp_path / f"{image_name}.keras"
        _two_input_network(image_name, vector_name).save(path)
        model = networks.load_network(str(path))  # an export after a reload, as users do
        report = networks.export_network(model, str(folder), calibration_images=inputs)
        assert report["tflite"]["max_relative_difference"] < 1e-5
        assert report["tflite_int8"]["rms_error_of_spread"] < 0.05
        expected = np.asarray(model([images, vector]))
        for name, tolerance in (("network.tflite", 1e-5), ("network_int8.tflite", 0.05)):
            logits = tflite.TFLiteClassifier(folder / name).predict(inputs)
            assert np.abs(logits - expected).max() < tolerance * np.abs(expected).max()
        outputs.append(logits)
        with pytest.raises(UserError, match="several inputs"):
            tflite.TFLiteClassifier(folder / "network.tflite").predict(images)
    np.testing.assert_array_equal(*outputs)


def test_unnamed_inputs_get_names_that_do_not_depend_on_history():
    for _ in range(2):
        first, second = keras.Input((4,)), keras.Input((4,))
        model = keras.Model([first, second], layers.Dense(2)(layers.Add()([first, second])))
        assert list(signatures.input_specs(model)) == ["input_0", "input_1"]


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.zeros((0, 8, 8, 3), np.float32), "at least one image"),
        ([], "at least one image"),
        (np.zeros((8, 8, 3), np.float32), "does not fit"),
        (np.zeros((2, 8, 8, 1), np.float32), "does not fit"),
        (np.zeros((2, 8, 8, 3), np.uint8), "uint8"),
        (np.full((2, 8, 8, 3), np.nan, np.float32), "not finite"),
        ({"pictures": np.zeros((1, 8, 8, 3), np.float32)}, "the inputs are images, not pictures"),
    ],
)
def test_bad_calibration_images_leave_nothing(trained, tmp_path, images, says):
    folder = tmp_path / "new" / "exports"
    with pytest.raises(UserError, match="calibration_images") as error:
        networks.export_network(trained, str(folder), calibration_images=images)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_labels_have_to_fit(trained, tmp_path):
    images, labels = _prototype_images(4, seed=0)
    with pytest.raises(UserError, match="3 test_labels for 4"):
        networks.export_network(
            trained,
            str(tmp_path / "x"),
            calibration_images=images,
            test_images=images,
            test_labels=labels[:3],
        )


def test_networks_that_cannot_be_served_are_refused(tmp_path):
    images = np.zeros((1, 8, 8, 3), np.float32)
    fixed = keras.Input(batch_shape=(2, 8, 8, 3))
    unknown = keras.Input((None, None, 3))
    for inputs in (fixed, unknown):
        outputs = layers.GlobalAveragePooling2D()(inputs)
        with pytest.raises(UserError, match="free batch axis"):
            networks.export_network(
                keras.Model(inputs, outputs), str(tmp_path / "x"), calibration_images=images
            )

    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(UserError, match="functional"):
        networks.export_network(Subclassed(), str(tmp_path / "x"), calibration_images=images)
    assert os.listdir(tmp_path) == []


def test_an_export_that_differs_is_refused_and_the_old_one_stays(trained, tmp_path, monkeypatch):
    images, _ = _prototype_images(8, seed=0)
    (tmp_path / "network.keras").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    good = networks.export_saved_model

    def drop_weights(model, path):  # what a converter has been seen to do
        other = keras.models.clone_model(model)
        good(other, path)

    monkeypatch.setattr(networks, "export_saved_model", drop_weights)
    with pytest.raises(RuntimeError, match="saved_model differs"):
        networks.export_network(trained, str(tmp_path), calibration_images=images)
    assert sorted(os.listdir(tmp_path)) == ["network.keras", "notes.txt"]
    assert (tmp_path / "network.keras").read_text() == "old"


def test_an_export_replaces_its_own_files_only(exported, tmp_path, monkeypatch, trained):
    images, _ = _prototype_images(8, seed=0)
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "old.txt").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    # Conversion is not what is tested here: take files that are there.
    contents = [(exported[0] / n).read_bytes() for n in ("network.tflite", "network_int8.tflite")]
    monkeypatch.setattr(networks, "convert_to_tflite", lambda *_, **__: contents.pop(0))
    networks.export_network(trained, str(tmp_path), calibration_images=images)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "saved_model" / "old.txt").exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_other_files_are_no_classifier(tmp_path, exported):
    path = tmp_path / "x.tflite"
    for content in (b"", b"not a model", (exported[0] / "network.tflite").read_bytes()[:500]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.tflite") as error:
            tflite.TFLiteClassifier(path)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no such file"):
        tflite.TFLiteClassifier(tmp_path / "missing.tflite")
    whole = (exported[0] / "network.keras").read_bytes()
    for content in (b"", b"not a model", whole[: len(whole) // 2]):
        (tmp_path / "x.keras").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.keras") as error:
            networks.load_network(str(tmp_path / "x.keras"))
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no such file"):
        networks.load_network(str(tmp_path / "missing.keras"))


def test_native_messages_are_kept_back_unless_something_fails(capfd):
    with tflite_interpreter.quiet_stderr():
        os.write(2, b"chatter\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(KeyError), tflite_interpreter.quiet_stderr():
        os.write(2, b"the reason\n")
        raise KeyError
    assert capfd.readouterr().err == "the reason\n"
