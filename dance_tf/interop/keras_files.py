"""Keras models from files and from keras.applications, without running code of a file."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import h5py
import keras

from dance_tf.errors import UserError, did_you_mean
from dance_tf.interop.keras_calls import first_line

__all__ = ["application_names", "load_application", "load_keras_file"]

#: Classes whose entries in a file hold code, or name a file that does.
_RUN_CODE = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")

#: Size of the images of an application that leaves it open; what Keras documents for them.
_DEFAULT_SIZE = 224


def application_names() -> list[str]:
    """Return the names of the models in keras.applications."""
    return [n for n in dir(keras.applications) if callable(getattr(keras.applications, n))]


def load_application(name: str, input_size: int | None = None) -> keras.Model:
    """Return a model of keras.applications for its shapes; its weights are never made.

    Args:
        name: Such as MobileNetV2.
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
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=not is_unsafe)
    except Exception as error:  # Keras raises errors of many kinds
        raise UserError(f"{path}: {_cause(config, error)}") from None


def _read_config(path: str) -> Any:
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


def _objects(data: Any, owner: str = "the model") -> Iterator[tuple[str, str]]:
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


def _layer_entries(model: Any) -> Iterator[dict[str, Any]]:
    """Yield the entry of every layer of a model, those of nested models before the models."""
    config = model.get("config") if isinstance(model, dict) else None
    entries = config.get("layers") if isinstance(config, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        yield from _layer_entries(entry)
        if isinstance(entry, dict):
            yield entry


def _cause(model: Any, error: Exception) -> str:
    """Return what keeps a file from being loaded, with the layer where one alone does."""
    for entry in _layer_entries(model):
        try:
            is_known = hasattr(keras.layers, str(entry.get("class_name")))
            # Old files do not say where a class is from.
            keras.layers.deserialize({"module": "keras.layers", **entry} if is_known else entry)
        except Exception as inner:
            # Keras writes the whole configuration before or behind the reason.
            text = str(inner).rpartition("Exception encountered: ")[2]
            text = re.split("config=|Full object config", text)[0]
            owner, class_name = next(_objects(entry), ("a layer", "of no class"))
            return f"{owner} ({class_name}) cannot be loaded: {first_line(ValueError(text))}"
    return f"cannot be loaded: {first_line(error)}"
