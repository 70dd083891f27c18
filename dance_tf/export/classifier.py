"""A TFLite network run on images, whatever its input and output types."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.export.description import DESCRIPTION_FILE, check_values
from dance_tf.export.signatures import BATCH_SIZE, Images, arrays_by_name, in_batches
from dance_tf.export.tflite import open_interpreter, packed_file, quiet_stderr

__all__ = ["TFLiteClassifier"]


class TFLiteClassifier:
    """Run a TFLite network on float images, whatever its input and output types.

    The dtype, scale and zero point are read from the file.

    Attributes:
        path: Of the file.
        description: What the file says that it takes and gives (see export_description), or
            None.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        """Load a file.

        Raises:
            UserError: If it is not a TFLite model with the signature `serving_default`.
        """
        self.path = os.fspath(path)
        self._interpreter, self._runner = open_interpreter(self.path)
        self._inputs = self._runner.get_input_details()
        self._outputs = self._runner.get_output_details()
        text = packed_file(self.path, DESCRIPTION_FILE)
        self.description: dict[str, Any] | None = None if text is None else json.loads(text)

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs in the order of the file."""
        return _in_order(self._inputs, self._interpreter.get_input_details())

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs in the order of the file."""
        return _in_order(self._outputs, self._interpreter.get_output_details())

    def predict(self, images: Images) -> np.ndarray:
        """Return logits, float32 [B, classes], of images [B, H, W, C].

        A model whose batch axis is fixed at 1 runs image by image.

        Args:
            images: float32, in the range of values that the network takes; integers where
                its input is an integer that is no quantised float.
        Raises:
            UserError: If they do not fit, or lie far outside of the range that the file
                tells; or the network has several outputs.
        """
        if len(self._outputs) != 1:
            raise UserError(f"{self.path}: {len(self._outputs)} outputs; use predict_outputs")
        ((_, logits),) = self.predict_outputs(images).items()
        return logits

    def predict_outputs(self, images: Images) -> dict[str, np.ndarray]:
        """Return the outputs, float32 [B, ...], by name; the rest as in `predict`."""
        shapes = {name: d["shape_signature"] for name, d in self._inputs.items()}
        specs = {}
        for name, details in self._inputs.items():
            is_float = np.issubdtype(details["dtype"], np.floating) or details["quantization"][0]
            specs[name] = tf.TensorSpec(
                [None, *(None if n < 0 else n for n in shapes[name][1:])],
                tf.float32 if is_float else details["dtype"],
            )
        arrays = arrays_by_name(images, specs, "images")
        if self.description is not None and len(arrays) == 1:
            (array,) = arrays.values()
            check_values(array, self.description["inputs"]["value_range"], "images")
        is_free = all(shape[0] < 0 for shape in shapes.values())
        if not is_free and any(shape[0] > 1 for shape in shapes.values()):
            raise UserError(f"{self.path}: its batch axis is fixed at more than one image")
        return in_batches(self._run, arrays, batch_size=BATCH_SIZE if is_free else 1)

    def accuracy(self, images: Images, labels: np.ndarray) -> float:
        """Return the share of images whose largest logit is that of the label."""
        return float(np.mean(self.predict(images).argmax(-1) == np.asarray(labels)))

    def _run(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = {name: _quantise(batch[name], d) for name, d in self._inputs.items()}
        with quiet_stderr():  # the first call announces its delegate
            outputs = self._runner(**values)
        return {name: _dequantise(outputs[name], d) for name, d in self._outputs.items()}


def _in_order(details: Mapping[str, Any], tensors: list[dict[str, Any]]) -> list[str]:
    names = {d["index"]: name for name, d in details.items()}
    return [names[tensor["index"]] for tensor in tensors]


def _quantise(values: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    dtype = details["dtype"]
    if np.issubdtype(dtype, np.floating):
        return values.astype(dtype)
    scale, zero_point = details["quantization"]
    if not scale:  # an integer input that is no quantised number
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values / scale) + zero_point, limits.min, limits.max).astype(dtype)


def _dequantise(values: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    scale, zero_point = details["quantization"]
    values = values.astype(np.float32)
    return values if not scale else (values - np.float32(zero_point)) * np.float32(scale)
