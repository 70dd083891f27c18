"""Description of an exported network, and its comparison with the network that was trained.

The description tells inputs, outputs and classes. It is a JSON text that goes with every
format: `export.json` beside the exports, assets.extra/description.json inside the
SavedModel, where TensorFlow Serving passes over it, and an appended file in TFLite. An
export is kept only if its outputs are those of the network.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.files import Json, read_json
from dance_tf.structs import InputDescription

__all__ = [
    "DESCRIPTION_FILE",
    "SCHEMA_VERSION",
    "Compared",
    "accuracies_of",
    "check_outputs",
    "check_values",
    "describe",
    "read_description",
]

#: Largest difference to Keras of a float export, relative to the largest logit (or 1).
FLOAT_TOLERANCE = 1e-5

#: Least share of images on which a float export chooses the class that Keras chooses.
MIN_TOP1_AGREEMENT = 0.99

#: Largest root-mean-square error of int8 logits, or of float32 ones of a network of less
#: precision, relative to their spread: at 1 they say nothing about the network's own.
MAX_ERROR_OF_SPREAD = 1.0

#: Least share of Keras's accuracy that an export keeps, unless the images are too few to tell.
MIN_ACCURACY_KEPT = 0.5

#: Name of the description inside a SavedModel's assets.extra and a TFLite file.
DESCRIPTION_FILE = "description.json"

SCHEMA_VERSION = 1

#: Values may lie outside of the range by this share of its width: noise, interpolation.
_MARGIN = 0.25

#: Images that fill less of the range are of another one: 0..1 where 0..255 is meant.
_MIN_FILLED = 0.02

_NO_DATA_SET = "exported without a data set"


def describe(
    input_specs: Mapping[str, tf.TensorSpec],
    output_specs: Mapping[str, tf.TensorSpec],
    inputs: InputDescription | None,
    value_range: tuple[float, float] | None,
) -> dict[str, Json]:
    """Return the description of a network; an unknown field is None with a reason beside it.

    Args:
        input_specs: Shape and dtype of each input by name.
        output_specs: Shape and dtype of each output by name.
        inputs: Description of the images by their data set; None: without one.
        value_range: Range of values that the network itself says that it takes, or None.
    Returns:
        `schema_version`, `inputs` (fields of InputDescription, and `specs`), `outputs` and
        `class_names`.
    """
    fields: dict[str, Json] = {}
    if inputs is not None:
        fields = dataclasses.asdict(inputs)
        del fields["class_names"]
    else:
        names = [field.name for field in dataclasses.fields(InputDescription)]
        for name in names[:-1]:
            fields[name] = None
        shapes = [spec.shape[1:].as_list() for spec in input_specs.values()]
        if len(shapes) == 1 and len(shapes[0]) == 3:
            fields |= dict(zip(("height", "width", "channels"), shapes[0], strict=True))
        fields["value_range"] = value_range
        for name in [name for name, value in fields.items() if value is None]:
            fields[f"{name}_reason"] = _NO_DATA_SET
    classes = None if inputs is None else inputs.class_names
    no_classes = _NO_DATA_SET if inputs is None else "the data set has no names of its classes"
    return {
        "schema_version": SCHEMA_VERSION,
        "inputs": {**fields, "specs": _plain(input_specs)},
        "outputs": _plain(output_specs),
        "class_names": classes,
        **({"class_names_reason": no_classes} if classes is None else {}),
    }


def read_description(saved_model_dir: str) -> dict[str, Json] | None:
    """Return the description inside a SavedModel, or None."""
    path = os.path.join(saved_model_dir, "assets.extra", DESCRIPTION_FILE)
    return read_json(path) if os.path.isfile(path) else None


def check_values(
    images: np.ndarray, value_range: tuple[float, float] | list[float] | None, what: str
) -> None:
    """Refuse images whose values lie far outside of a range; warn where they hardly fill it.

    Args:
        images: Images of any shape, float.
        value_range: Range to hold them to; None: nothing is refused.
        what: Name of the images in a message.
    Raises:
        UserError: If they lie outside by more than a quarter of its width.
    """
    if value_range is None or images.dtype.kind != "f":
        return
    low, high = value_range
    least, largest = float(images.min()), float(images.max())
    margin = _MARGIN * (high - low)
    if least < low - margin or largest > high + margin:
        raise UserError(
            f"{what}: values of {least:g} to {largest:g}; the network takes {low:g} to {high:g}"
        )
    if fills_little(images, (low, high)):
        warnings.warn(
            f"{what}: values of {least:g} to {largest:g}; the network takes {low:g} to {high:g}",
            stacklevel=3,
        )


def fills_little(images: np.ndarray, value_range: tuple[float, float]) -> bool:
    """Return whether images differ, but by next to nothing of the range of values."""
    low, high = value_range
    return 0 < float(images.max()) - float(images.min()) < _MIN_FILLED * (high - low)


def _plain(specs: Mapping[str, tf.TensorSpec]) -> dict[str, Json]:
    return {
        name: {"shape": spec.shape.as_list(), "dtype": spec.dtype.name}
        for name, spec in specs.items()
    }


class Compared(NamedTuple):
    """Outputs and accuracies of the network, which every export is compared with."""

    expected: Mapping[str, np.ndarray]  # outputs [N, ...] of the images, then of random ones
    num_images: int  # number of images before the random ones
    labels: np.ndarray | None  # [num_images, ...]
    accuracies: Mapping[str, float]  # accuracy of the network by output that classifies


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(logits.argmax(-1) == np.asarray(labels)))


def accuracies_of(
    outputs: Mapping[str, np.ndarray], num_images: int, labels: np.ndarray | None
) -> dict[str, float]:
    """Return the accuracy of each output that gives as many answers as there are labels."""
    if labels is None:
        return {}
    return {
        name: _accuracy(values[:num_images], labels)
        for name, values in outputs.items()
        if values.shape[1:-1] == labels.shape[1:]
        and values.ndim > 1
        and labels.max() < values.shape[-1] > 1
    }


def check_outputs(key: str, found: Mapping[str, np.ndarray], against: Compared) -> dict[str, Json]:
    """Return the differences between the outputs of an export and those of the network.

    Args:
        key: Name of the export; `saved_model`, `keras` and `tflite` have to be exact.
        found: Outputs of the export by name, [N, ...].
        against: Outputs of the network.
    Returns:
        `max_difference`, `max_relative_difference`, `rms_error_of_spread`, `top1_agreement`
        (None where the output does not classify) and with labels `test_accuracy`. Of several
        outputs, the worst differences and the accuracy of the first, and the fields of each
        under `outputs`.
    Raises:
        UserError: If less than half of the accuracy is left.
        RuntimeError: If the outputs differ by more than the format allows.
    """
    accuracies = accuracies_of(found, against.num_images, against.labels)
    outputs = {}
    for name, expected in against.expected.items():
        outputs[name] = _comparison(found[name], expected, against.num_images)
        if name in accuracies:
            outputs[name]["test_accuracy"] = accuracies[name]
            _refuse_collapse(key, accuracies[name], against.accuracies[name], against.num_images)
        _refuse_mismatch(key, name, outputs[name])
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    result: dict[str, Json] = {}
    for field, worst in (
        ("max_difference", max),
        ("max_relative_difference", max),
        ("rms_error_of_spread", max),
        ("top1_agreement", min),
    ):
        values = [o[field] for o in outputs.values() if o[field] is not None]
        result[field] = worst(values) if values else None
    if accuracies:
        result["test_accuracy"] = next(iter(accuracies.values()))
    return {**result, "outputs": outputs}


def _comparison(found: np.ndarray, expected: np.ndarray, num_images: int) -> dict[str, Json]:
    """Compare an output [N, ...]; the rows after `num_images` are of random inputs."""
    if found.shape != expected.shape:
        raise RuntimeError(f"an export gives {found.shape}, the network {expected.shape}")
    difference = found.astype(np.float64) - expected
    spread = np.sqrt(np.mean(np.square(expected - expected.mean())))
    is_classifier = expected.ndim > 1 and expected.shape[-1] > 1
    return {
        "max_difference": float(np.abs(difference).max()),
        "max_relative_difference": float(
            np.abs(difference).max() / max(1.0, np.abs(expected).max())
        ),
        "rms_error_of_spread": float(np.sqrt(np.mean(np.square(difference))) / max(spread, 1e-12)),
        "top1_agreement": (
            _accuracy(found[:num_images], expected[:num_images].argmax(-1))
            if is_classifier
            else None
        ),
    }


def _refuse_collapse(key: str, accuracy: float, of_keras: float, num_images: int) -> None:
    # With few images, chance alone loses as many.
    num_lost = (of_keras - accuracy) * num_images
    if accuracy < MIN_ACCURACY_KEPT * of_keras and num_lost > np.sqrt(num_images):
        raise UserError(
            f"the export {key} is right on {accuracy:.1%} of {num_images} test images, Keras on"
            f" {of_keras:.1%}: nothing kept; calibrate on images like those that the network was"
            " trained on"
        )


def _refuse_mismatch(key: str, output: str, result: Mapping[str, Json]) -> None:
    agreement = result["top1_agreement"]
    if key in ("saved_model", "keras", "tflite"):
        is_good = result["max_relative_difference"] <= FLOAT_TOLERANCE and (
            agreement is None or agreement >= MIN_TOP1_AGREEMENT
        )
    else:
        is_good = result["rms_error_of_spread"] <= MAX_ERROR_OF_SPREAD
    if not is_good:  # not a number is not good either
        numbers = ", ".join(f"{k} {v}" for k, v in result.items())
        raise RuntimeError(
            f"the export {key} differs from the network in {output}: {numbers}; nothing kept"
        )
