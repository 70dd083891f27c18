"""Networks and evaluators as files that load elsewhere: SavedModel, Keras, TFLite.

Every writer writes aside, re-loads what it wrote, compares it with the original and
only then renames it, so a folder holds checked exports or nothing.

The names are the same in every export: a network with one input takes `images`
(float32 [B, H, W, C]) and gives `logits` (float32 [B, classes]). The batch axis is free
in all formats: a TFLite interpreter starts at one image and can be resized.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.export_accelerator import read_accelerator, write_accelerator
from dance_tf.export_evaluator import export_evaluator
from dance_tf.export_tflite import convert_to_tflite, open_interpreter, quiet_stderr
from dance_tf.serving import ServedModel, staging_folder
from dance_tf.signatures import (
    BATCH_SIZE,
    Images,
    arrays_by_name,
    call_by_name,
    export_saved_model,
    in_batches,
    input_specs,
)
from dance_tf.strict_json import write_json

__all__ = [
    "TFLiteClassifier",
    "convert_to_tflite",
    "export_evaluator",
    "export_network",
    "export_saved_model",
    "load_network",
    "read_accelerator",
    "sample_images",
    "write_accelerator",
]

#: Largest difference to Keras of a float export, relative to the largest logit (or 1).
FLOAT_TOLERANCE = 1e-5

#: Least share of images on which a float export chooses the class that Keras chooses.
MIN_TOP1_AGREEMENT = 0.99

#: Largest root-mean-square error of int8 logits, relative to their spread: at 1 the
#: quantised network says nothing about the float one. Its accuracy is reported.
MAX_INT8_ERROR = 1.0

_NUM_RANDOM = 16


def export_network(
    model: keras.Model,
    output_dir: str,
    *,
    calibration_images: Images,
    test_images: Images | None = None,
    test_labels: np.ndarray | None = None,
) -> dict[str, Any]:
    """Write a trained network in every format, each re-loaded and compared.

    Files: `saved_model/`, `network.keras`, `network.tflite` (float), `network_int8.tflite`
    (all-integer, int8 input and output) and `export.json`, which holds what is returned.
    Other files in the folder stay; exports of the same names are replaced.

    Args:
        model: Functional network with one output, [B, classes]; free batch axis.
        calibration_images: [N, H, W, C], from which the int8 ranges are taken; N >= 1.
        test_images: Images to compare on; None: the calibration images.
        test_labels: Their labels, int [N]; adds the accuracy of every format.
    Returns:
        For each of `saved_model`, `keras`, `tflite` and `tflite_int8` a dict with `path`,
        `num_bytes`, `max_difference` and `top1_agreement` with the model, with labels
        `test_accuracy`; and `num_images`, `keras_test_accuracy`.
    Raises:
        UserError: If the model or the images do not fit.
        RuntimeError: If an export does not do what the model does.
    """
    specs = input_specs(model)
    calibration = arrays_by_name(calibration_images, specs, "calibration_images")
    compared = calibration
    if test_images is not None:
        compared = arrays_by_name(test_images, specs, "test_images")
    num_images = len(next(iter(compared.values())))
    if test_labels is not None and len(test_labels) != num_images:
        raise UserError(f"{len(test_labels)} test_labels for {num_images} test images")
    rng = np.random.default_rng(0)
    noise = {
        name: rng.random((_NUM_RANDOM, *spec.shape[1:])).astype(spec.dtype.as_numpy_dtype)
        for name, spec in specs.items()
    }
    inputs = {name: np.concatenate([compared[name], noise[name]]) for name in specs}
    expected = in_batches(lambda batch: call_by_name(model, batch), inputs)
    output_dir = os.path.abspath(output_dir)

    def compare(path: str, logits: np.ndarray) -> dict[str, Any]:
        return {
            "path": os.path.join(output_dir, os.path.basename(path)),
            "num_bytes": _num_bytes(path),
            **_comparison(logits, expected, num_images, test_labels),
        }

    report: dict[str, Any] = {"num_images": num_images}
    if test_labels is not None:
        report["keras_test_accuracy"] = _accuracy(expected[:num_images], test_labels)
    with staging_folder(output_dir) as staging:
        path = os.path.join(staging, "saved_model")
        export_saved_model(model, path)
        served = ServedModel(path)
        report["saved_model"] = compare(path, in_batches(lambda b: served(**b)["logits"], inputs))

        path = os.path.join(staging, "network.keras")
        model.save(path)
        loaded = load_network(path)
        report["keras"] = compare(path, in_batches(lambda b: call_by_name(loaded, b), inputs))

        for key, name, images in (
            ("tflite", "network.tflite", None),
            ("tflite_int8", "network_int8.tflite", calibration),
        ):
            path = os.path.join(staging, name)
            content = convert_to_tflite(os.path.join(staging, "saved_model"), images)
            with open(path, "wb") as file:
                file.write(content)
            report[key] = compare(path, TFLiteClassifier(path).predict(inputs))
        for key in ("saved_model", "keras", "tflite", "tflite_int8"):
            _refuse_mismatch(key, report[key])
        write_json(os.path.join(staging, "export.json"), report)
        for name in sorted(os.listdir(staging)):
            target = os.path.join(output_dir, name)
            if os.path.lexists(target):  # moved into the staging folder, removed with it
                os.rename(target, os.path.join(staging, f".old_{name}"))
            os.rename(os.path.join(staging, name), target)
    return report


def sample_images(dataset: Any, split: str, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first images of a split and their labels, at most `num` of them.

    Args:
        dataset: protocols.ImageDataset; its order without a seed is fixed.
        split: "architecture" to calibrate on, "test" to compare on.
        num: How many.
    """
    images, labels = next(iter(dataset.split(split, batch_size=num)))
    return np.asarray(images), np.asarray(labels)


def load_network(path: str) -> keras.Model:
    """Load a `.keras` file.

    Raises:
        UserError: If there is no such file or it holds no network.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; expected a network saved by Keras (.keras)")
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises almost anything on a damaged file
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: Keras cannot load it as a network: {reason}") from error


class TFLiteClassifier:
    """Run a TFLite network on float images, whatever its input and output types.

    The dtype, scale and zero point are read from the file.
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
        if len(self._outputs) != 1:
            raise UserError(f"{self.path}: {len(self._outputs)} outputs; a classifier has one")

    def predict(self, images: Images) -> np.ndarray:
        """Return logits, float32 [B, classes], of images float32 [B, H, W, C].

        A model whose batch axis is fixed at 1 runs image by image.
        """
        shapes = {name: d["shape_signature"] for name, d in self._inputs.items()}
        specs = {
            name: tf.TensorSpec([None, *(None if n < 0 else n for n in shape[1:])], tf.float32)
            for name, shape in shapes.items()
        }
        arrays = arrays_by_name(images, specs, "images")
        is_free = all(shape[0] < 0 for shape in shapes.values())
        if not is_free and any(shape[0] > 1 for shape in shapes.values()):
            raise UserError(f"{self.path}: its batch axis is fixed at more than one image")
        return in_batches(self._run, arrays, batch_size=BATCH_SIZE if is_free else 1)

    def accuracy(self, images: Images, labels: np.ndarray) -> float:
        """Return the share of images whose largest logit is that of the label."""
        return _accuracy(self.predict(images), labels)

    def _run(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        values = {name: _quantise(batch[name], d) for name, d in self._inputs.items()}
        with quiet_stderr():  # the first call announces its delegate
            outputs = self._runner(**values)
        ((name, details),) = self._outputs.items()
        return _dequantise(outputs[name], details)


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


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(logits.argmax(-1) == np.asarray(labels)))


def _comparison(
    logits: np.ndarray, expected: np.ndarray, num_images: int, labels: np.ndarray | None
) -> dict[str, Any]:
    """Compare logits [N, classes]; the rows after `num_images` are of random inputs."""
    if logits.shape != expected.shape:
        raise RuntimeError(f"an export gives logits {logits.shape}, the network {expected.shape}")
    difference = logits.astype(np.float64) - expected
    spread = np.sqrt(np.mean(np.square(expected - expected.mean())))
    result = {
        "max_difference": float(np.abs(difference).max()),
        "max_relative_difference": float(
            np.abs(difference).max() / max(1.0, np.abs(expected).max())
        ),
        "rms_error_of_spread": float(np.sqrt(np.mean(np.square(difference))) / max(spread, 1e-12)),
        "top1_agreement": _accuracy(logits[:num_images], expected[:num_images].argmax(-1)),
    }
    if labels is not None:
        result["test_accuracy"] = _accuracy(logits[:num_images], labels)
    return result


def _refuse_mismatch(key: str, result: Mapping[str, Any]) -> None:
    if key == "tflite_int8":
        is_good = result["rms_error_of_spread"] <= MAX_INT8_ERROR
    else:
        is_good = (
            result["max_relative_difference"] <= FLOAT_TOLERANCE
            and result["top1_agreement"] >= MIN_TOP1_AGREEMENT
        )
    if not is_good:  # not a number is not good either
        numbers = ", ".join(f"{k} {v}" for k, v in result.items() if k != "path")
        raise RuntimeError(f"the export {key} differs from the network: {numbers}; nothing kept")


def _num_bytes(path: str) -> int:
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(path)
        for name in names
    )
