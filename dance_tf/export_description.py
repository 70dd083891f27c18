"""What an exported network takes and gives: a JSON text that goes with every format.

It is `export.json` beside the exports, lies inside the SavedModel where TensorFlow Serving
passes over it (assets.extra/description.json), and is appended to TFLite files.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from dance_tf.errors import UserError
from dance_tf.strict_json import read_json
from dance_tf.structs import InputDescription

__all__ = [
    "DESCRIPTION_FILE",
    "SCHEMA_VERSION",
    "check_values",
    "describe",
    "read_description",
]

#: Name of the description inside a SavedModel's assets.extra and a TFLite file.
DESCRIPTION_FILE = "description.json"

SCHEMA_VERSION = 1

#: Values may lie outside of the range by this share of its width: noise, interpolation.
_MARGIN = 0.25

#: Images that fill less of the range are of another one: 0..1 where 0..255 is meant.
_MIN_FILLED = 0.02

_NO_DATA_SET = "exported without a data set"


def describe(
    input_specs: Mapping[str, Any],
    output_specs: Mapping[str, Any],
    inputs: InputDescription | None,
    value_range: tuple[float, float] | None,
) -> dict[str, Any]:
    """Return what is known of a network's inputs and classes; null with a reason beside it.

    Args:
        input_specs: Name to tf.TensorSpec.
        output_specs: Name to tf.TensorSpec.
        inputs: As the data set tells; None: without one.
        value_range: Of what the network is fed, if the network itself says it.
    Returns:
        `schema_version`, `inputs` (fields of InputDescription, and `specs`), `outputs` and
        `class_names`.
    """
    fields: dict[str, Any] = {}
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


def read_description(saved_model_dir: str) -> dict[str, Any] | None:
    """Return the description inside a SavedModel, or None."""
    path = os.path.join(saved_model_dir, "assets.extra", DESCRIPTION_FILE)
    return read_json(path) if os.path.isfile(path) else None


def check_values(
    images: np.ndarray, value_range: tuple[float, float] | list[float] | None, what: str
) -> None:
    """Refuse images whose values lie far outside of a range; warn where they hardly fill it.

    Args:
        images: float [...].
        value_range: None: anything goes.
        what: What to call the images.
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


def _plain(specs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {"shape": spec.shape.as_list(), "dtype": spec.dtype.name}
        for name, spec in specs.items()
    }
