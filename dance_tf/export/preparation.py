"""Preparation of a network for export: float32, and the range of values that it takes.

Axes: B images; H, W, C height, width and channels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np

from dance_tf.errors import UserError
from dance_tf.export.signatures import BATCH_SIZE
from dance_tf.files import Json

__all__ = ["DeclaredRange", "better_range", "declared_range", "in_float32"]

#: Usual ranges of the values of images.
_USUAL_RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))

#: Width of the range that first layers are fed, between that of 0..1 and that of standardised
#: values.
_NORMAL_WIDTH = 2.0

#: Least gain in accuracy by which another range is taken for the right one.
_MIN_GAIN = 0.2


class DeclaredRange(NamedTuple):
    """Range of values that a network itself says that it takes."""

    low: float
    high: float
    reason: str  # evidence for the range, for a message


def in_float32(model: keras.Model) -> tuple[keras.Model, tuple[str, ...]]:
    """Return a network that computes in float32, and the dtype policies that it had.

    Args:
        model: Functional network; itself returned if all of it is float32.
    Returns:
        The network, and the names of its policies other than float32, sorted.
    Raises:
        UserError: If a layer has weights that Keras has quantised, or the network cannot
            be built again from its config.
    """
    config = copy.deepcopy(model.get_config())
    policies, is_other = set(), False
    for holder, layer_name, policy in _dtype_policies(config):
        if policy.quantization_mode:
            raise UserError(
                f"layer {layer_name!r} has the dtype policy {policy.name!r}: weights that Keras has"
                " quantised do not export; give the network as it was before quantize(), the"
                " int8 file is made from it"
            )
        if (policy.compute_dtype, policy.variable_dtype) != ("float32", "float32"):
            if isinstance(holder["dtype"], dict):  # else the type of an input, which follows
                policies.add(policy.name)
            holder["dtype"], is_other = "float32", True
    if not is_other:
        return model, ()
    names = ", ".join(sorted(policies)) or "of its inputs"
    try:
        rebuilt = model.__class__.from_config(config)
        for variable, old in zip(rebuilt.weights, model.weights, strict=True):
            variable.assign(keras.ops.cast(old.value, variable.dtype))
    except Exception as error:  # layers of a user's own may raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"network {model.name!r} has the dtype policy {names} and cannot be built again in"
            f" float32: {reason}"
        ) from error
    return rebuilt, tuple(sorted(policies))


def _dtype_policies(
    config: Json, layer_name: str = ""
) -> Iterator[tuple[dict[str, Json], str, keras.dtype_policies.DTypePolicy]]:
    """Yield each floating policy in a config: (part that holds it, name of the layer, policy)."""
    if isinstance(config, list | tuple):
        for part in config:
            yield from _dtype_policies(part, layer_name)
    elif isinstance(config, dict):
        layer_name = config["name"] if isinstance(config.get("name"), str) else layer_name
        dtype = config.get("dtype")
        if isinstance(dtype, str | dict):
            try:
                policy = keras.dtype_policies.get(dtype)
            except (ValueError, TypeError):  # an argument of another meaning
                policy = None
            if policy is not None and "float" in str(policy.compute_dtype):
                yield config, layer_name, policy
        for part in config.values():
            yield from _dtype_policies(part, layer_name)


def declared_range(model: keras.Model) -> DeclaredRange | None:
    """Return the range of images that a network with one input takes, if it says so.

    An integer input takes the range of its type, or 0..255. Otherwise the operations before
    the first layer that learns are followed, into networks inside the network as well:
    Rescaling, Normalization, or arithmetic on the input. The range is the usual one that
    they bring nearest to the values that first layers are fed.

    Returns:
        The range; None if the network has several inputs, or scales nothing before its first
        layer that learns.
    """
    if len(model.inputs) != 1:
        return None
    (tensor,) = model.inputs
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if "int" in dtype:
        low = float(np.iinfo(dtype).min) if dtype == "int8" else 0.0
        return DeclaredRange(low, low + 255.0, f"its input is {dtype}")
    if None in tensor.shape[1:]:
        return None
    scale, offset, name = 1.0, 0.0, ""
    for operation_name, outputs in _first_values(model, np.array([0.0, 1.0, 255.0], np.float32)):
        zero, one, many = (float(value) for value in outputs)
        new = one - zero
        if new <= 0 or not np.isclose(many, zero + 255 * new, rtol=1e-3, atol=1e-3 * abs(new)):
            break  # no scale, or none alone
        if (new, zero) != (scale, offset):
            scale, offset, name = new, zero, operation_name
    if not name:
        return None
    low, high = _usual_range(scale, offset)
    return DeclaredRange(low, high, f"its layer {name!r} scales what it is fed")


def _usual_range(scale: float, offset: float) -> tuple[float, float]:
    """Return the usual range that `scale * x + offset` brings to values for a first layer."""
    for low, high in _USUAL_RANGES:
        ends = (scale * low + offset, scale * high + offset)
        if any(np.allclose(ends, wanted, atol=0.02) for wanted in ((0, 1), (-1, 1))):
            return low, high
    # Standardised values: the mean of the images becomes 0, and lies in their range.
    centre = -offset / scale
    unsigned = [r for r in _USUAL_RANGES[:2] if r[0] <= centre <= r[1]] or _USUAL_RANGES[:2]
    return min(unsigned, key=lambda r: abs(np.log(scale * (r[1] - r[0]) / _NORMAL_WIDTH)))


def _first_values(model: keras.Model, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, values) of the operations after the input, up to the first that learns.

    Args:
        model: Network with one input.
        values: Values float32 [B], each of which fills an image.
    """
    model = keras.Model(model.inputs, model.outputs)  # a Sequential does not tell its operations
    tensor = model.inputs[0]
    images = np.broadcast_to(
        values.reshape(-1, *[1] * (len(tensor.shape) - 1)), (len(values), *tensor.shape[1:])
    )
    while True:
        users = [op for op in model.operations if _takes(op, tensor)]
        if len(users) != 1:
            return
        (user,) = users
        if isinstance(user, keras.Model):
            if len(getattr(user, "inputs", None) or ()) == 1:
                yield from _first_values(user, _at_centre(model, tensor, images))
            if any(map(_learns, user.layers)):
                return
        elif _learns(user):
            return
        outputs = keras.tree.flatten(keras.Operation.output.fget(user))
        if len(outputs) != 1 or len(outputs[0].shape) != len(tensor.shape):
            return
        tensor = outputs[0]
        yield user.name, _at_centre(model, tensor, images)


def _learns(operation: keras.Operation) -> bool:
    is_normalization = isinstance(operation, keras.layers.Normalization)
    return bool(getattr(operation, "weights", None)) and not is_normalization


def _takes(operation: keras.Operation, tensor: keras.KerasTensor) -> bool:
    """Return whether an operation, or a network inside the network, is called with a tensor."""
    try:
        # A network's own `input` is the one that it was built with.
        inputs = keras.tree.flatten(keras.Operation.input.fget(operation))
    except (AttributeError, ValueError):  # an input itself
        return False
    return any(other is tensor for other in inputs)


def _at_centre(model: keras.Model, tensor: keras.KerasTensor, images: np.ndarray) -> np.ndarray:
    """Return the centre's values, averaged over channels, float [B], of a tensor inside."""
    if tensor is model.inputs[0]:
        outputs = images
    else:
        outputs = np.asarray(keras.Model(model.inputs[0], tensor)(images, training=False))
    centre = tuple(size // 2 for size in outputs.shape[1:-1])
    return np.asarray(outputs, np.float64)[(slice(None), *centre)].mean(axis=-1)


def better_range(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, value_range: tuple[float, float]
) -> tuple[tuple[float, float], float, float] | None:
    """Return another usual range in which the network recognises far more of the images.

    Args:
        model: Network with one input and one output, [B, classes].
        images: Images, float32 [B, H, W, C].
        labels: Labels, int [B].
        value_range: Range that the images are in.
    Returns:
        The range, the accuracy in it and that in `value_range`; None if no range is better.
    """
    low, high = value_range
    unit = (images - low) / (high - low)

    def accuracy(of_range: tuple[float, float]) -> float:
        scaled = (of_range[0] + unit * (of_range[1] - of_range[0])).astype(np.float32)
        parts = [
            np.asarray(model(scaled[i : i + BATCH_SIZE], training=False))
            for i in range(0, len(scaled), BATCH_SIZE)
        ]
        return float(np.mean(np.concatenate(parts).argmax(-1) == labels))

    others = [r for r in _USUAL_RANGES if r != (low, high)]
    accuracies = [accuracy(r) for r in others]
    best, here = int(np.argmax(accuracies)), accuracy((low, high))
    gain = accuracies[best] - here
    if gain < max(_MIN_GAIN, 2 / np.sqrt(len(images))):
        return None
    return others[best], accuracies[best], here
