"""A Keras network as a function of named inputs, and as a SavedModel of the same names.

Keras numbers layers and tensors through a process, so a network's own names depend on the
networks built before it; the names of an export do not.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from dance_tf.errors import UserError
from dance_tf.export.serving import SIGNATURE, check_servable

__all__ = [
    "BATCH_SIZE",
    "Images",
    "Run",
    "arrays_by_name",
    "call_by_name",
    "export_saved_model",
    "in_batches",
    "input_specs",
    "layer_names",
    "layer_of",
    "output_specs",
]

#: Images that go through a network at a time.
BATCH_SIZE = 64

#: Images for a network: an array for its only input, or arrays by the names of its inputs.
Images = np.ndarray | Mapping[str, np.ndarray]

#: Function from a batch to outputs [B, ...], both by name.
Run = Callable[[dict[str, np.ndarray]], Mapping[str, ArrayLike]]


def input_specs(model: keras.Model) -> dict[str, tf.TensorSpec]:
    """Return the fixed names, shapes and dtypes of a network's inputs, in its own order.

    Raises:
        UserError: If the network is not functional, has a fixed batch axis or another axis
            that is free.
    """
    tensors = getattr(model, "inputs", None)
    if not tensors:
        raise UserError(f"network {model.name!r}: only functional networks export")
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


def output_specs(model: keras.Model) -> dict[str, tf.TensorSpec]:
    """Return the fixed names and shapes of a network's outputs, float32, in its own order.

    An only output is called `logits`. Several have the names that the network gives them
    (those of their layers, or the keys of a dict), or `output_<position>` where Keras has
    numbered the layer.
    """
    outputs = model.outputs
    names = list(getattr(model, "output_names", None) or [""] * len(outputs))
    if len(outputs) == 1:
        names = ["logits"]
    operations = keras.Model(model.inputs, outputs).operations  # a Sequential does not tell
    kinds = {operation.name: type(operation).__name__ for operation in operations}
    specs = {}
    for position, (name, tensor) in enumerate(zip(names, outputs, strict=True)):
        # Keras's own names are those of the class with a number of the process.
        words = re.sub(r"[\W_\d]", "", kinds.get(name, "")).lower()
        is_numbered = words and re.sub(r"_\d+$", "", name).replace("_", "").lower() == words
        if not name or is_numbered or names.count(name) > 1:
            name = f"output_{position}"
        specs[name] = tf.TensorSpec(tensor.shape, tf.float32, name=name)
    return specs


def call_by_name(model: keras.Model, inputs: Mapping[str, ArrayLike]) -> dict[str, tf.Tensor]:
    """Return a network's outputs, float32 [B, ...] by name, for inputs by exported names."""
    flat = [tf.convert_to_tensor(inputs[name]) for name in input_specs(model)]
    nested = keras.tree.pack_sequence_as(model.input, flat)
    outputs = keras.tree.flatten(model(nested, training=False))
    return {
        name: tf.cast(output, tf.float32)
        for name, output in zip(output_specs(model), outputs, strict=True)
    }


def arrays_by_name(
    images: Images, specs: Mapping[str, tf.TensorSpec], what: str
) -> dict[str, np.ndarray]:
    """Return images as arrays of the inputs' dtypes by name.

    Args:
        images: One array, or arrays by name; at least one sample, finite.
        specs: Shapes and dtypes of the inputs by name.
        what: Name of the images in a message.
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
            # A cast would take pixels of 0..255 for values of 0..1.
            raise UserError(f"{what}: {array.dtype} values; floats (0..1) are needed")
        if not np.isfinite(array).all():
            raise UserError(f"{what}: some values are not finite")
        arrays[name] = array.astype(spec.dtype.as_numpy_dtype)
        if spec.dtype.is_integer and not np.array_equal(arrays[name], array):
            # A cast would turn values of 0..1 into zeros.
            raise UserError(
                f"{what}: {array.dtype} values of {array.min():g} to {array.max():g}; whole"
                f" numbers of {spec.dtype.name} are needed"
            )
    if len({len(array) for array in arrays.values()}) > 1:
        raise UserError(f"{what}: the inputs have different numbers of samples")
    return arrays


def in_batches(
    function: Run, inputs: Mapping[str, np.ndarray], batch_size: int = BATCH_SIZE
) -> dict[str, np.ndarray]:
    """Return the outputs by name of a function that takes the inputs batch by batch."""
    num = len(next(iter(inputs.values())))
    parts = [
        function({n: a[i : i + batch_size] for n, a in inputs.items()})
        for i in range(0, num, batch_size)
    ]
    return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}


def export_saved_model(model: keras.Model, path: str) -> None:
    """Write a network as a SavedModel with the signature `serving_default`.

    Grouped convolutions, which Keras has XLA compile, are written as depthwise ones or as
    one convolution per group: a server's XLA for CPUs is off by default.

    Args:
        model: Functional network with a free batch axis. Its only input is called `images`;
            several keep the names that the network gives them.
        path: Folder; must not exist.
    Raises:
        UserError: If something that XLA must compile remains.
    """
    specs = input_specs(model)

    def serve(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return call_by_name(model, inputs)

    with _split_groups(model):
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint(SIGNATURE, tf.function(serve, input_signature=[specs]))
        archive.write_out(path, verbose=False)
    names = layer_names(model)
    check_servable(path, lambda node: layer_of(node, names))


def layer_names(model: keras.Model) -> frozenset[str]:
    """Return the names of a network's layers, those of networks inside it included."""
    return frozenset(layer.name for layer in _all_layers(model))


def layer_of(node: str, names: Collection[str]) -> str | None:
    """Return the layer that a node of a traced network belongs to, or None.

    Args:
        node: Name of the node, a path of scopes such as `functional_1/conv2d_3_1/BiasAdd`.
        names: Names of the layers; see `layer_names`.
    """
    found = []
    for scope in node.split("/"):
        # A trace adds "_1" to the names of layers; conv2d_1 may be a layer's name as well.
        for name in (re.sub(r"_1$", "", scope), scope, re.sub(r"_\d+$", "", scope)):
            if name in names:
                found.append(name)
                break
    return "/".join(found) or None


def _all_layers(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yield the layers inside a layer, at any depth: of networks, wrappers and lists."""
    seen = {id(layer)}
    waiting = [layer]
    while waiting:
        for value in list(vars(waiting.pop()).values()):
            for inner in value if isinstance(value, list | tuple) else [value]:
                if isinstance(inner, keras.layers.Layer) and id(inner) not in seen:
                    seen.add(id(inner))
                    waiting.append(inner)
                    yield inner


@contextlib.contextmanager
def _split_groups(model: keras.Model) -> Iterator[None]:
    """Let grouped convolutions be computed by group, without XLA, while this lasts."""
    grouped = [
        layer
        for layer in _all_layers(model)
        if getattr(layer, "groups", 1) > 1 and hasattr(layer, "convolution_op")
    ]
    for layer in grouped:
        layer.convolution_op = _by_group(layer)
    try:
        yield
    finally:
        for layer in grouped:
            del layer.convolution_op


def _by_group(layer: keras.layers.Layer) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Return a grouped convolution as a depthwise one, or as one convolution per group."""
    whole = layer.convolution_op
    axis = -1 if layer.data_format == "channels_last" else 1
    is_unit = all(rate == 1 for rate in layer.dilation_rate) or max(layer.strides) == 1

    def convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        is_depthwise = kernel.shape[-2] == 1 and len(kernel.shape) == 4
        # TensorFlow's depthwise kernels take one stride, and no dilation beside a stride.
        if is_depthwise and is_unit and len(set(layer.strides)) == 1:
            shape = (*kernel.shape[:2], layer.groups, kernel.shape[-1] // layer.groups)
            return keras.ops.depthwise_conv(
                inputs,
                keras.ops.reshape(kernel, shape),
                strides=layer.strides[0],
                padding=layer.padding,
                data_format=layer.data_format,
                dilation_rate=layer.dilation_rate,
            )
        parts = zip(
            keras.ops.split(inputs, layer.groups, axis),
            keras.ops.split(kernel, layer.groups, -1),
            strict=True,
        )
        return keras.ops.concatenate([whole(part, weights) for part, weights in parts], axis)

    return convolve
