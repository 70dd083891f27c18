"""Keras models from files and from keras.applications, without running code of a file."""

from __future__ import annotations

import concurrent.futures
import copy
import inspect
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator

import h5py
import keras

from dance_tf.errors import UserError, did_you_mean
from dance_tf.files import Json
from dance_tf.interop.keras_calls import first_line

__all__ = ["application_names", "load_application", "load_keras_file"]

#: Classes whose entries in a file hold code, or name a file that does.
_RUN_CODE = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")

#: Entries of older files that say nothing at this value, and that classes took then.
_NEUTRAL: dict[str, Json] = {
    "groups": 1,
    "ragged": False,
    "renorm": False,
    "time_major": False,
    "virtual_batch_size": None,
}

#: Classes of models; a file of old does not say that they are no layers.
_MODELS = ("Functional", "Model", "Sequential")

#: Size of the images of an application that leaves it open; what Keras documents for them.
_DEFAULT_SIZE = 224


def application_names() -> list[str]:
    """Return the names of the models in keras.applications."""
    return [n for n in dir(keras.applications) if callable(getattr(keras.applications, n))]


def load_application(name: str, input_size: int | None = None) -> keras.Model:
    """Return a model of keras.applications for its shapes; its weights are never made.

    Args:
        name: Name such as MobileNetV2.
        input_size: Height and width of the images; None: the application's own.
    Raises:
        UserError: If there is none of this name or it does not take this size.
    """
    names = application_names()
    if name not in names:
        raise UserError(f"no application {name!r} in keras.applications{did_you_mean(name, names)}")
    build = getattr(keras.applications, name)
    is_first = keras.config.image_data_format() == "channels_first"

    def build_for(size: int) -> keras.Model:
        return build(weights=None, input_shape=(3, size, size) if is_first else (size, size, 3))

    def run() -> keras.Model:
        # In this scope variables have a shape and no value.
        with keras.StatelessScope(initialize_variables=False):
            model = build_for(input_size) if input_size is not None else build(weights=None)
            return build_for(_DEFAULT_SIZE) if None in model.inputs[0].shape[1:] else model

    try:
        # Keras keeps per thread which variables are still to be given a value, and would
        # do so at the next occasion.
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            model = pool.submit(run).result()
    except ValueError as error:
        raise UserError(
            f"application {name} with images of {input_size} pixels: {first_line(error)}"
        ) from None
    return model


def load_keras_file(path: str | os.PathLike, *, is_unsafe: bool = False) -> keras.Model:
    """Return the model in a .keras or .h5 file, not compiled.

    Entries that this version of Keras no longer takes, and that say nothing at the value
    which they have (`groups` of 1 in a depthwise layer), are left out.

    Args:
        path: The file.
        is_unsafe: Load layers that run code from the file too. Anything may then happen.
    Raises:
        UserError: If the file is not a Keras model, runs code, or holds a layer that this
            version of Keras or this program does not know; the message names the layer.
    """
    path = os.fspath(path)
    config = _read_config(path)
    if not is_unsafe:
        for owner, class_name in _objects(config):
            if class_name in _RUN_CODE:
                raise UserError(
                    f"{path}: {owner} holds a {class_name}, which runs code that the file brings"
                    " or names; it is loaded only if that is asked for (--unsafe)"
                )
    reduced = copy.deepcopy(config)
    _drop_neutral(reduced)
    try:
        if reduced == config:
            return keras.saving.load_model(path, compile=False, safe_mode=not is_unsafe)
        with tempfile.TemporaryDirectory() as folder:
            other = os.path.join(folder, os.path.basename(path))
            _copy_with_config(path, other, json.dumps(reduced))
            return keras.saving.load_model(other, compile=False, safe_mode=not is_unsafe)
    except Exception as error:  # Keras raises errors of many kinds
        raise UserError(f"{path}: {_cause(reduced, error)}") from None


def _drop_neutral(data: Json) -> None:
    """Remove in place what layers of a configuration do not take and what says nothing."""
    if isinstance(data, dict):
        layer_class = getattr(keras.layers, str(data.get("class_name")), None)
        config = data.get("config")
        if inspect.isclass(layer_class) and isinstance(config, dict):
            taken = inspect.signature(layer_class).parameters
            for key, neutral in _NEUTRAL.items():
                if key in config and key not in taken:
                    value = config[key]
                    if type(value) is type(neutral) and value == neutral:
                        del config[key]
        data = list(data.values())
    if isinstance(data, list):
        for value in data:
            _drop_neutral(value)


def _copy_with_config(path: str, target: str, config: str) -> None:
    """Copy a file of a model with another description of it."""
    if not zipfile.is_zipfile(path):
        shutil.copyfile(path, target)
        with h5py.File(target, "r+") as file:
            file.attrs["model_config"] = config
        return
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            if name == "config.json":
                archive.writestr(name, config)
            else:
                with source.open(name) as member, archive.open(name, "w", force_zip64=True) as out:
                    shutil.copyfileobj(member, out)


def _read_config(path: str) -> Json:
    """Return the description of the model in a file."""
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file")
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder; a .keras or .h5 file is needed")
    with open(path, "rb") as file:
        is_hdf5 = file.read(8) == b"\x89HDF\r\n\x1a\n"
    is_zip = zipfile.is_zipfile(path)
    if not is_hdf5 and not is_zip:
        raise UserError(
            f"{path}: not a Keras model: neither a zip archive (.keras) nor HDF5 (.h5), or cut off"
        )
    endings = (".keras",) if is_zip else (".h5", ".hdf5")
    if not path.endswith(endings):
        raise UserError(
            f"{path}: is {'a zip archive' if is_zip else 'HDF5'}, but is not called"
            f" {' or '.join('*' + e for e in endings)}"
        )
    try:
        text = _config_of_zip(path) if is_zip else _config_of_hdf5(path)
        if text is None:
            what = "a zip archive without config.json" if is_zip else "weights without a model"
            raise UserError(f"{path}: not a Keras model: {what}")
        config = json.loads(text)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not a Keras model: {first_line(error)}") from None
    if not isinstance(config, dict) or not isinstance(config.get("config"), dict):
        raise UserError(f"{path}: not a Keras model: its configuration is not one of a model")
    return config


def _config_of_zip(path: str) -> str | bytes | None:
    with zipfile.ZipFile(path) as archive:
        return archive.read("config.json") if "config.json" in archive.namelist() else None


def _config_of_hdf5(path: str) -> str | bytes | None:
    with h5py.File(path, "r") as file:
        return file.attrs.get("model_config")


def _objects(data: Json, owner: str = "the model") -> Iterator[tuple[str, str]]:
    """Yield the class of every object in a configuration, with the name of its layer."""
    if isinstance(data, dict):
        config = data.get("config")
        if isinstance(config, dict) and isinstance(config.get("name"), str):
            owner = f"layer {config['name']!r}"
        if isinstance(data.get("class_name"), str):
            yield owner, data["class_name"]
        data = list(data.values())
    if isinstance(data, list):
        for value in data:
            yield from _objects(value, owner)


def _layer_entries(model: Json) -> Iterator[dict[str, Json]]:
    """Yield the entry of every layer of a model, those of nested models before the models."""
    config = model.get("config") if isinstance(model, dict) else None
    entries = config.get("layers") if isinstance(config, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        yield from _layer_entries(entry)
        if isinstance(entry, dict):
            yield entry


def _cause(model: Json, error: Exception) -> str:
    """Return what keeps a file from being loaded, with the layer where one alone does."""
    # Keras writes class and name of the layer that it could not make, the innermost last.
    named = re.findall(r"deserializing class '(\w+)' using config=\{'name': '([^']*)'", str(error))
    if named:
        class_name, name = named[-1]
        return f"layer {name!r} ({class_name}) cannot be loaded: {_reason(error)}"
    for entry in _layer_entries(model):
        known_class = str(entry.get("class_name"))
        if "module" not in entry and known_class in _MODELS:
            continue  # its layers have been tried
        try:
            # Old files do not say where a class is from.
            is_known = hasattr(keras.layers, known_class)
            keras.layers.deserialize({"module": "keras.layers", **entry} if is_known else entry)
        except Exception as inner:
            owner, class_name = next(_objects(entry), ("a layer", "of no class"))
            return f"{owner} ({class_name}) cannot be loaded: {_reason(inner)}"
    return f"cannot be loaded: {first_line(error)}"


def _reason(error: Exception) -> str:
    """Return the reason, which Keras writes before or behind the whole configuration."""
    text = str(error).rpartition("Exception encountered: ")[2]
    return first_line(ValueError(re.split("config=|Full object config", text)[0]))
