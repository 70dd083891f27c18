"""A Keras network as a function of named inputs, and as a SavedModel of the same names.

Keras numbers layers and tensors through a process, so a network's own names depend on
what was built before it; these do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.serving import SIGNATURE

__all__ = [
    "BATCH_SIZE",
    "Images",
    "arrays_by_name",
    "call_by_name",
    "export_saved_model",
    "in_batches",
    "input_specs",
]

#: Images that go through a network at a time.
BATCH_SIZE = 64

#: A network's input: an array for its only input, or arrays by the names of its inputs.
Images = np.ndarray | Mapping[str, np.ndarray]


def input_specs(model: keras.Model) -> dict[str, tf.TensorSpec]:
    """Return the fixed names, shapes and dtypes of a network's inputs, in its own order.

    Raises:
        UserError: If the network is not functional, has several outputs, a fixed batch
            axis or another axis that is free.
    """
    tensors = getattr(model, "inputs", None)
    if not tensors or len(model.outputs) != 1:
        raise UserError(f"network {model.name!r}: only functional networks with one output export")
    specs = {}
    for position, tensor in enumerate(tensors):
        name = tensor.name
        if len(tensors) == 1:
            name = "images"
        elif re.fullmatch(r"(input_layer|keras_tensor)(_\d+)?", name):
            name = f"input_{position}"  # Keras numbers these through the process
        batch, *shape = tensor.shape
        if batch is not None or None in shape:
            raise UserError(
                f"network {model.name!r}: input {name!r} has shape {list(tensor.shape)}; a free"
                " batch axis and fixed other axes are needed"
            )
        specs[name] = tf.TensorSpec([None, *shape], tensor.dtype, name=name)
    return specs


def call_by_name(model: keras.Model, inputs: Mapping[str, Any]) -> tf.Tensor:
    """Return a network's output, float32 [B, classes], for inputs by their exported names."""
    flat = [tf.convert_to_tensor(inputs[name]) for name in input_specs(model)]
    nested = keras.tree.pack_sequence_as(model.input, flat)
    return tf.cast(model(nested, training=False), tf.float32)


def arrays_by_name(images: Images, specs: Mapping[str, tf.TensorSpec], what: str) -> dict[str, Any]:
    """Return images as arrays of the inputs' dtypes by name.

    Args:
        images: One array, or arrays by name; at least one sample, finite.
        specs: The inputs.
        what: What to call the images in a message.
    Raises:
        UserError: If they do not fit the inputs.
    """
    if not isinstance(images, Mapping):
        if len(specs) > 1:
            raise UserError(f"{what}: the network has several inputs: {', '.join(specs)}")
        images = {next(iter(specs)): images}
    if set(images) != set(specs):
        raise UserError(
            f"{what}: the inputs are {', '.join(sorted(specs))}, not {', '.join(sorted(images))}"
        )
    arrays = {}
    for name, spec in specs.items():
        array = np.asarray(images[name])
        if array.ndim == 0 or len(array) == 0:
            raise UserError(f"{what}: there are none; at least one image is needed")
        if not spec.shape.is_compatible_with(array.shape):
            expected = ["B", *spec.shape[1:].as_list()]
            raise UserError(f"{what}: shape {list(array.shape)} does not fit {expected}")
        if spec.dtype.is_floating and array.dtype.kind != "f":
            # A cast would let pixels of 0..255 pass for ones of 0..1.
            raise UserError(f"{what}: {array.dtype} values; floats (0..1) are needed")
        if spec.dtype.is_floating and not np.isfinite(array).all():
            raise UserError(f"{what}: some values are not finite")
        arrays[name] = array.astype(spec.dtype.as_numpy_dtype)
    if len({len(array) for array in arrays.values()}) > 1:
        raise UserError(f"{what}: the inputs have different numbers of samples")
    return arrays


def in_batches(
    function: Callable[[dict[str, np.ndarray]], Any],
    inputs: Mapping[str, np.ndarray],
    batch_size: int = BATCH_SIZE,
) -> np.ndarray:
    """Return a function of a batch, applied to all of the inputs part by part."""
    num = len(next(iter(inputs.values())))
    return np.concatenate(
        [
            np.asarray(function({n: a[i : i + batch_size] for n, a in inputs.items()}))
            for i in range(0, num, batch_size)
        ]
    )


def export_saved_model(model: keras.Model, path: str) -> None:
    """Write a network as a SavedModel with the signature `serving_default`.

    Args:
        model: As for `export_network`. Its only input is called `images`; several keep
            the names that the model gives them.
        path: Folder; must not exist.
    """
    specs = input_specs(model)

    def serve(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"logits": call_by_name(model, inputs)}

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(SIGNATURE, tf.function(serve, input_signature=[specs]))
    archive.write_out(path, verbose=False)
