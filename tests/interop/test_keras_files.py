"""Keras files are read without running code of theirs, or refused in one line."""

from __future__ import annotations

import json
import os
import pathlib
import resource
import sys
import zipfile

import h5py
import keras
import pytest
from keras import layers as kl

from dance_tf.errors import UserError
from dance_tf.interop.keras_files import application_names, load_application, load_keras_file
from dance_tf.interop.keras_model import layers_of_keras_model

WITNESS = "DANCE_TF_TEST_WITNESS"


def _leaves_a_trace(x):
    os.environ[WITNESS] = "ran"
    return x


def _model(*layers: keras.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((8, 8, 4)), *layers], name="net")


def _save(model: keras.Model, path) -> str:
    model.save(path)
    os.environ.pop(WITNESS, None)
    return str(path)


def _changed(source: str, target, change) -> str:
    """Write a .keras file whose members are changed: None drops one."""
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(target, "w") as write:
        for name in read.namelist():
            content = change(name, read.read(name))
            if content is not None:
                write.writestr(name, content)
    return str(target)


def _refusal(path, **options) -> str:
    with pytest.raises(UserError) as raised:
        load_keras_file(path, **options)
    text = str(raised.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 700
    return text


@pytest.fixture
def depthwise(tmp_path) -> str:
    return _save(_model(kl.DepthwiseConv2D(3, name="dw")), tmp_path / "dw.keras")


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_files_are_read(tmp_path, ending: str):
    path = _save(_model(kl.Conv2D(4, 3), kl.Dense(2)), tmp_path / f"a net{ending}")
    assert layers_of_keras_model(load_keras_file(path)).macs == 36 * (144 + 8)


def test_a_compiled_model_is_read_too(tmp_path):
    model = _model(kl.Flatten(), kl.Dense(2))
    model.compile("adam", "mse")
    path = _save(model, tmp_path / "net.keras")
    assert layers_of_keras_model(load_keras_file(path)).macs == 512


# Code in files


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("kind", ["lambda", "function"])
def test_a_lambda_is_never_run(tmp_path, ending: str, kind: str):
    function = _leaves_a_trace if kind == "function" else (lambda x: _leaves_a_trace(x))
    layers = [kl.Lambda(function, output_shape=(8, 8, 4), name="secret"), kl.Dense(2)]
    path = _save(_model(*layers), tmp_path / f"net{ending}")
    text = _refusal(path)
    assert "layer 'secret'" in text and "Lambda" in text and "--unsafe" in text
    assert WITNESS not in os.environ


def test_a_lambda_in_a_nested_model_is_named(tmp_path):
    inner = keras.Sequential([keras.Input((8, 8, 4)), kl.Lambda(lambda x: x, name="deep")])
    assert "layer 'deep'" in _refusal(_save(_model(inner), tmp_path / "net.keras"))


def test_a_lambda_as_an_activation_is_refused(tmp_path):
    path = _save(_model(kl.Dense(2, activation=lambda x: x, name="odd")), tmp_path / "net.keras")
    assert "layer 'odd'" in _refusal(path)


def test_what_is_asked_for_is_loaded(tmp_path):
    layers = [kl.Lambda(lambda x: x * 2, name="double"), kl.Dense(2)]
    path = _save(_model(*layers), tmp_path / "net.keras")
    found = layers_of_keras_model(load_keras_file(path, is_unsafe=True))
    assert found.macs == 64 * 8
    assert [entry.layer_class for entry in found.not_costed] == ["Lambda"]


@pytest.mark.parametrize("name", ["TFSMLayer", "TorchModuleWrapper", "JaxLayer"])
def test_wrappers_of_other_programs_are_refused(depthwise, tmp_path, name: str):
    path = _changed(
        depthwise, tmp_path / "net.keras", lambda n, c: c.replace(b"DepthwiseConv2D", name.encode())
    )
    text = _refusal(path)
    assert name in text and "layer 'dw'" in text


def test_a_module_that_a_file_names_is_not_imported(depthwise, tmp_path):
    def change(name, content):
        return content.replace(
            b'"module": "keras.layers", "class_name": "DepthwiseConv2D"',
            b'"module": "antigravity", "class_name": "fly"',
        )

    assert "layer 'dw'" in _refusal(_changed(depthwise, tmp_path / "net.keras", change))
    assert "antigravity" not in sys.modules


# Layers that cannot be made


def _edited_h5(path: str, change) -> str:
    """Change the entries of all layers of an old file, those of nested models too."""

    def walk(data):
        for value in data.values() if isinstance(data, dict) else data:
            if isinstance(value, dict | list):
                walk(value)
        if isinstance(data, dict) and isinstance(data.get("config"), dict):
            change(data)

    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        walk(config)
        file.attrs["model_config"] = json.dumps(config)
    return path


def _backbone() -> keras.Model:
    return keras.Sequential([keras.Input((8, 8, 4)), kl.Conv2D(4, 1)], name="backbone")


def _functional() -> keras.Model:
    images = keras.Input((8, 8, 4))
    return keras.Model(images, kl.Conv2D(4, 1)(images), name="backbone")


@pytest.mark.parametrize("backbone", [_backbone, _functional])
def test_entries_of_old_files_that_say_nothing_are_left_out(tmp_path, backbone):
    """Such as Keras 2 wrote them; the file is left as it is."""
    model = _model(
        backbone(),
        kl.DepthwiseConv2D(3, name="dw"),
        kl.BatchNormalization(),
        kl.Conv2DTranspose(2, 2),
        kl.SeparableConv2D(3, 3),
        kl.TimeDistributed(kl.DepthwiseConv1D(3)),
    )
    path = _save(model, tmp_path / "old.h5")

    def change(entry):
        kind = entry["class_name"]
        if kind.startswith(("Conv", "Depthwise", "Separable")):
            entry["config"]["groups"] = 1
        if kind == "BatchNormalization":
            entry["config"] |= {"renorm": False, "virtual_batch_size": None}
        if kind == "InputLayer":
            entry["config"]["ragged"] = False

    before = pathlib.Path(_edited_h5(path, change)).read_bytes()
    found = load_keras_file(path)
    for weight, own in zip(found.weights, model.weights, strict=True):
        assert (weight.numpy() == own.numpy()).all()
    assert pathlib.Path(path).read_bytes() == before


def test_a_recurrent_layer_of_an_old_file_is_refused_as_such(tmp_path):
    model = keras.Sequential([keras.Input((4, 5)), kl.LSTM(3, name="memory")])
    path = _save(model, tmp_path / "old.h5")

    def change(entry):
        if entry["class_name"] == "LSTM":
            entry["config"]["time_major"] = False

    _edited_h5(path, change)
    with pytest.raises(UserError, match=r"'memory' .*recurrent"):
        layers_of_keras_model(load_keras_file(path))


@pytest.mark.parametrize("backbone", [_backbone, _functional])
def test_an_entry_that_changes_the_meaning_is_named_with_its_layer(tmp_path, backbone):
    """Not the nested model before it, which an old file does not say where to find."""
    layers = [backbone(), kl.DepthwiseConv2D(3, name="dw")]
    path = _save(_model(*layers), tmp_path / "old.h5")

    def change(entry):
        if entry["class_name"] == "DepthwiseConv2D":
            entry["config"]["groups"] = 2

    text = _refusal(_edited_h5(path, change))
    assert "layer 'dw' (DepthwiseConv2D)" in text and "'groups': 2" in text


def test_a_layer_in_a_nested_model_of_an_old_file_is_named(tmp_path):
    inner = keras.Sequential([keras.Input((8, 8, 4)), kl.DepthwiseConv2D(3, name="dw")])
    wrapped = kl.TimeDistributed(kl.DepthwiseConv1D(3, name="wrapped"))
    for layer, name in ((inner, "dw"), (wrapped, "wrapped")):
        path = _save(_model(_backbone(), layer), tmp_path / f"{name}.h5")

        def change(entry):
            if entry["class_name"].startswith("Depthwise"):
                entry["config"]["groups"] = 2

        text = _refusal(_edited_h5(path, change))
        assert f"layer '{name}' (Depthwise" in text and "'groups': 2" in text


def test_the_same_in_a_new_file(depthwise, tmp_path):
    def with_groups(number):
        entry = f'"depth_multiplier": 1, "groups": {number}'.encode()
        return lambda name, content: content.replace(b'"depth_multiplier": 1', entry)

    path = _changed(depthwise, tmp_path / "net.keras", with_groups(1))
    assert layers_of_keras_model(load_keras_file(path)).macs == 6 * 6 * 9 * 4
    text = _refusal(_changed(depthwise, tmp_path / "net.keras", with_groups(2)))
    assert "layer 'dw' (DepthwiseConv2D)" in text and "'groups': 2" in text


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_class_that_nobody_knows_is_named(tmp_path, ending: str):
    class Unknown(keras.Layer):
        def call(self, x):
            return x

    path = _save(_model(Unknown(name="mine"), kl.Dense(2)), tmp_path / f"net{ending}")
    text = _refusal(path)
    assert "layer 'mine' (Unknown)" in text and "Could not locate" in text


def test_weights_that_do_not_fit(depthwise, tmp_path):
    def change(name, content):
        return content.replace(b'"kernel_size": [3, 3]', b'"kernel_size": [5, 5]')

    assert "dw" in _refusal(_changed(depthwise, tmp_path / "net.keras", change))


# Files that are none


def test_files_that_are_no_models(depthwise, tmp_path):
    assert "no such file" in _refusal(str(tmp_path / "none.keras"))
    assert "folder" in _refusal(str(tmp_path))
    for name, content in {
        "text.keras": b"hello",
        "empty.keras": b"",
        "text.h5": b"hello",
        "broken.h5": b"\x89HDF\r\n\x1a\n and no more",
        "cut.keras": pathlib.Path(depthwise).read_bytes()[:-200],
    }.items():
        (tmp_path / name).write_bytes(content)
        assert "not a Keras model" in _refusal(str(tmp_path / name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, content: None if name == "config.json" else content, "without config.json"),
        (lambda name, content: b"{" if name == "config.json" else content, "not a Keras model"),
        (lambda name, content: b"\xff" if name == "config.json" else content, "not a Keras"),
        (lambda name, content: b"[1]" if name == "config.json" else content, "configuration"),
        (lambda name, content: b'{"a": 1}' if name == "config.json" else content, "configuration"),
        (lambda name, content: b"x" if name.endswith(".h5") else content, "cannot be loaded"),
        (lambda name, content: None if name.endswith(".h5") else content, "cannot be loaded"),
    ],
)
def test_archives_that_are_no_models(depthwise, tmp_path, change, message: str):
    assert message in _refusal(_changed(depthwise, tmp_path / "net.keras", change))


def test_weights_alone_are_no_model(tmp_path):
    model = _model(kl.Dense(2))
    model.save_weights(tmp_path / "net.weights.h5")
    assert "weights without a model" in _refusal(str(tmp_path / "net.weights.h5"))


def test_files_under_a_wrong_name(depthwise, tmp_path):
    for ending in (".h5", ".zip"):
        path = tmp_path / f"net{ending}"
        path.write_bytes(pathlib.Path(depthwise).read_bytes())
        assert "is not called *.keras" in _refusal(str(path))


# keras.applications


def test_applications_have_shapes_and_no_weights():
    model = load_application("MobileNetV2")
    assert model.count_params() == 3_538_984
    assert model.input_shape == (None, 224, 224, 3)
    assert load_application("MobileNetV2", 96).input_shape == (None, 96, 96, 3)
    # One that leaves its size open.
    assert load_application("MobileNetV3Small").input_shape == (None, 224, 224, 3)


def test_nothing_of_an_application_is_left_to_be_made_later():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load_application("ConvNeXtXLarge")  # 1.4 GB of weights
    seen = []
    layer = kl.Dense(2, kernel_initializer=lambda *a, **k: seen.append(a) or keras.ops.ones(a[0]))
    with keras.StatelessScope():
        layer.build((None, 3))
    assert len(seen) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def test_applications_that_there_are_not():
    assert "MobileNetV2" in application_names()
    with pytest.raises(UserError, match=r"no application 'MobileNet2'.*did you mean 'MobileNet"):
        load_application("MobileNet2")
    with pytest.raises(UserError, match="VGG16 with images of 8 pixels"):
        load_application("VGG16", 8)
