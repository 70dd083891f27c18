"""Exports say what they take and give, in every format; what does not fit is refused."""

import json
import pathlib
import warnings
import zipfile

import flatbuffers
import keras
import numpy as np
import pytest
from flatbuffers.table import Table
from keras import layers

from dance_tf.errors import UserError
from dance_tf.export import description, networks, tflite
from dance_tf.export.serving import ServedModel
from dance_tf.structs import InputDescription
from tests.repo.manual import code_blocks

CLASSES = ("dark", "middle", "bright")

#: Of 0..255, so that nothing passes for the usual 0..1.
INPUTS = InputDescription(
    height=6,
    width=6,
    channels=3,
    value_range=(0.0, 255.0),
    source_range=(0.0, 4095.0),
    source_shape=(None, None, 3),
    resize="averaged by area to 6x6",
    crop="the largest central square",
    channel_order="RGB",
    class_names=CLASSES,
)


def _images(num):
    """Images of three brightnesses in 0..255, and which."""
    rng = np.random.default_rng(0)
    labels = np.arange(num) % 3
    images = 85 * labels[:, None, None, None] + 85 * rng.random((num, 6, 6, 3))
    return images.astype(np.float32), labels


def _network(scale=1.0):
    """Tell the three apart from images in 0..255 / scale, without a layer that says so."""
    inputs = keras.Input((6, 6, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 1, name="sum")(inputs))
    model = keras.Model(inputs, layers.Dense(3, name="tell")(x))
    model.get_layer("sum").set_weights([np.eye(3).reshape(1, 1, 3, 3) * scale, np.zeros(3)])
    slopes, biases = np.array([-1.0, 0.0, 1.0]) / 3, np.array([85.0, 0.0, -170.0])
    model.get_layer("tell").set_weights([np.tile(slopes, (3, 1)), biases])
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(folder, report)."""
    folder = tmp_path_factory.mktemp("run") / "exports"
    images, labels = _images(60)
    report = networks.export_network(
        _network(),
        str(folder),
        calibration_images=images,
        test_labels=labels,
        inputs=INPUTS,
    )
    return folder, report


def test_every_format_tells_inputs_classes_and_accuracy(exported):
    folder, report = exported
    assert json.loads((folder / "export.json").read_text()) == report
    assert report["schema_version"] == 1
    assert report["class_names"] == list(CLASSES)
    for field in ("value_range", "source_range", "source_shape"):
        assert report["inputs"][field] == list(getattr(INPUTS, field))
    for field in ("height", "width", "channels", "resize", "crop", "channel_order"):
        assert report["inputs"][field] == getattr(INPUTS, field)
    accuracies = {
        key: report[key]["test_accuracy"]
        for key in ("saved_model", "keras", "tflite", "tflite_int8")
    }
    assert accuracies["saved_model"] == report["keras_test_accuracy"] == 1.0
    for found in (
        ServedModel(folder / "saved_model").description,
        tflite.TFLiteClassifier(folder / "network.tflite").description,
        tflite.TFLiteClassifier(folder / "network_int8.tflite").description,
    ):
        assert {k: found[k] for k in ("inputs", "class_names", "test_accuracy")} == {
            "inputs": report["inputs"],
            "class_names": list(CLASSES),
            "test_accuracy": accuracies,
        }
    for key in ("tflite", "tflite_int8"):
        assert report[key]["num_bytes"] == pathlib.Path(report[key]["path"]).stat().st_size


def _field(table, slot):
    """Position of a field by its place in the schema, or 0."""
    offset = table.Offset(4 + 2 * slot)
    return offset and table.Pos + offset


def _table(table, slot):
    return Table(table.Bytes, table.Indirect(_field(table, slot)))


def _entry(table, slot, index):
    start = table.Vector(_field(table, slot) - table.Pos)
    return Table(table.Bytes, table.Indirect(start + 4 * index))


def _text(table, slot):
    return table.String(_field(table, slot)).decode()


def _float(table, slot):
    start = table.Vector(_field(table, slot) - table.Pos)
    return table.Get(flatbuffers.number_types.Float32Flags, start)


def _byte(table, slot):
    return table.Get(flatbuffers.number_types.Uint8Flags, _field(table, slot))


@pytest.mark.parametrize("name", ["network.tflite", "network_int8.tflite"])
def test_standard_metadata_have_normalisation_colours_and_labels(exported, name):
    """Read by the places of the fields in metadata_schema.fbs."""
    from ai_edge_litert import schema_py_generated as schema

    content = (exported[0] / name).read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    entries = {model.Metadata(i).Name(): model.Metadata(i) for i in range(model.MetadataLength())}
    assert b"min_runtime_version" in entries
    buffer = model.Buffers(entries[b"TFLITE_METADATA"].Buffer()).DataAsNumpy().tobytes()
    assert buffer[4:8] == b"M001"
    root = Table(buffer, flatbuffers.encode.Get(flatbuffers.packer.uoffset, buffer, 0))
    assert "Values of 0 to 255." in _text(root, 1) and _text(root, 7) == "1.0.0"
    graph = _entry(root, 3, 0)
    image, logits = _entry(graph, 2, 0), _entry(graph, 3, 0)
    assert (_text(image, 0), _text(logits, 0)) == ("images", "logits")
    content_of_image = _table(image, 3)
    assert _byte(content_of_image, 0) == 2  # ImageProperties
    assert _byte(_table(content_of_image, 1), 0) == 1  # RGB
    unit = _entry(image, 4, 0)
    assert _byte(unit, 0) == 1  # NormalizationOptions: (pixel - mean) / std
    assert (_float(_table(unit, 1), 0), _float(_table(unit, 1), 1)) == (0.0, 1.0)
    assert (_float(_table(image, 5), 0), _float(_table(image, 5), 1)) == (255.0, 0.0)
    labels = _entry(logits, 6, 0)
    assert (_text(labels, 0), _byte(labels, 2)) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS
    with zipfile.ZipFile(exported[0] / name) as archive:
        assert archive.read("labels.txt").decode().split() == list(CLASSES)


def test_images_far_outside_of_the_range_are_refused_and_too_narrow_ones_warned_of(exported):
    images, _ = _images(3)
    for predict in (
        tflite.TFLiteClassifier(exported[0] / "network.tflite").predict,
        tflite.TFLiteClassifier(exported[0] / "network_int8.tflite").predict,
        lambda images: ServedModel(exported[0] / "saved_model")(images=images)["logits"],
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            predict(images)
            predict(np.zeros_like(images))  # black, not scaled
        with pytest.raises(UserError, match=r"values of .* the network takes 0 to 255"):
            predict(images * 257)
        with pytest.warns(UserWarning, match="the network takes 0 to 255"):
            predict(images / 255)


def test_the_lines_of_the_manual_run(exported):
    blocks = [b for b in code_blocks("docs/run_folder.md", "python") if "pixels" in b]
    assert len(blocks) == 2
    images, labels = _images(9)
    for block in blocks:
        values = {"pixels": images.astype(np.uint8)}
        exec(block.replace("runs/digits/exports", str(exported[0])), values)
        assert values["logits"].argmax(-1).tolist() == labels.tolist()


def test_without_a_data_set_what_is_unknown_is_null_with_a_reason():
    from dance_tf.export.signatures import input_specs, output_specs

    model = _network()
    described = description.describe(input_specs(model), output_specs(model), None, None)
    assert described["inputs"]["height"] == 6 and described["inputs"]["channels"] == 3
    for field in ("value_range", "resize", "crop", "channel_order", "source_range"):
        assert described["inputs"][field] is None
        assert described["inputs"][f"{field}_reason"]
    assert described["class_names"] is None and described["class_names_reason"]


def test_images_in_another_range_than_the_network_was_trained_on_are_refused(tmp_path):
    images, labels = _images(60)
    with pytest.raises(UserError, match=r"33% of test_images in 0 to 1, but 100% .* in 0 to 255"):
        networks.export_network(
            _network(), str(tmp_path / "x"), calibration_images=images / 255, test_labels=labels
        )
    assert not (tmp_path / "x").exists()
