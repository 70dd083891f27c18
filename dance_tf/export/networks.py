"""Networks as files that load elsewhere, SavedModel, Keras and TFLite; and accelerator.json.

Every export is written aside, re-loaded and compared with the network, and only then
renamed, so a folder holds checked exports or nothing.

The names are the same in every export: a network with one input takes `images`
(float32 [B, H, W, C]) and gives `logits` (float32 [B, classes]). The batch axis is free
in all formats: a TFLite interpreter starts at one image and can be resized.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from typing import ClassVar, Protocol

import keras
import numpy as np

from dance_tf.config import MachineConfig, config_from_json
from dance_tf.errors import UserError
from dance_tf.export.description import (
    DESCRIPTION_FILE,
    Compared,
    accuracies_of,
    check_outputs,
    check_values,
    describe,
    fills_little,
)
from dance_tf.export.int8 import int8_content
from dance_tf.export.preparation import better_range, declared_range, in_float32
from dance_tf.export.serving import ServedModel, staging_folder
from dance_tf.export.signatures import (
    Images,
    Run,
    arrays_by_name,
    call_by_name,
    export_saved_model,
    in_batches,
    input_specs,
    layer_names,
    output_specs,
)
from dance_tf.export.tflite import (
    TFLiteClassifier,
    convert_to_tflite,
    float_operations,
    with_metadata,
)
from dance_tf.files import Json, read_json, strict_data, write_json
from dance_tf.protocols import ImageDataset
from dance_tf.structs import Accelerator, InputDescription

__all__ = [
    "export_network",
    "load_network",
    "read_accelerator",
    "sample_images",
    "write_accelerator",
]

#: Formats of an exported network, which are keys of its report.
FORMATS = ("saved_model", "keras", "tflite", "tflite_int8")

_NUM_RANDOM = 16


def export_network(
    model: keras.Model,
    output_dir: str,
    *,
    calibration_images: Images,
    test_images: Images | None = None,
    test_labels: np.ndarray | None = None,
    inputs: InputDescription | None = None,
    use_strict_int8: bool = False,
    int8_model: keras.Model | None = None,
) -> dict[str, Json]:
    """Write a trained network in every format, each re-loaded and compared.

    Files: `saved_model/`, `network.keras`, `network.tflite` (float), `network_int8.tflite`
    (int8, input and output too; operations that TFLite has in float only are listed) and
    `export.json`, which holds the returned report. The SavedModel and the TFLite files hold
    the description of inputs, classes and accuracies as well. Other files in the folder
    stay; exports of the same names are replaced.

    A network of another dtype policy, such as mixed_float16, is exported in float32.

    >>> import tempfile
    >>> import keras
    >>> import numpy as np
    >>> import dance_tf
    >>> inputs = keras.Input((8, 8, 3))
    >>> pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    >>> network = keras.Model(inputs, keras.layers.Dense(4)(pooled))
    >>> images = np.random.default_rng(0).random((8, 8, 8, 3), np.float32)
    >>> folder = tempfile.TemporaryDirectory()
    >>> report = dance_tf.export_network(network, folder.name, calibration_images=images)
    >>> sorted(os.listdir(folder.name))
    ['export.json', 'network.keras', 'network.tflite', 'network_int8.tflite', 'saved_model']
    >>> report["tflite"]["max_relative_difference"] < 1e-5
    True
    >>> folder.cleanup()

    Args:
        model: Functional network; free batch axis.
        calibration_images: Images [N, H, W, C], from which the int8 ranges are taken; N >= 1;
            in the range of values that the network takes.
        test_images: Images to compare on; None: the calibration images.
        test_labels: Labels of the test images, int [N] or of the shape of an output without
            its classes; adds the accuracy of every format.
        inputs: Description of the images by their data set; None: the network's own.
        use_strict_int8: Whether to refuse a network of which something stays in float.
        int8_model: Network of the int8 file if that is another, fine-tuned for 8-bit words.
    Returns:
        For each of `saved_model`, `keras`, `tflite` and `tflite_int8` a dict with `path`,
        `num_bytes`, `max_difference` and `top1_agreement` with the model, and with labels
        `test_accuracy`. Of several outputs, the worst differences, the accuracy of the first
        that classifies, and the fields of each under `outputs`. In `tflite_int8`, the
        `float_operations` (see tflite.float_operations). `num_images`,
        `keras_test_accuracy`, `dtype_policies` that were other than float32, and the fields
        of `description.describe`.
    Raises:
        UserError: If the model or the images do not fit, the images are not in the range
            that the network takes, or an export loses its accuracy.
        RuntimeError: If the outputs of a float export are not those of the model.
    """
    specs, results = input_specs(model), output_specs(model)
    calibration = arrays_by_name(calibration_images, specs, "calibration_images")
    compared = calibration
    if test_images is not None:
        compared = arrays_by_name(test_images, specs, "test_images")
    num_images = len(next(iter(compared.values())))
    if test_labels is not None and len(test_labels) != num_images:
        raise UserError(f"{len(test_labels)} test_labels for {num_images} test images")
    value_range = _checked_range(model, inputs, calibration, compared)
    if inputs is None and value_range is None and test_labels is not None:
        _refuse_wrong_range(model, compared, test_labels)
    rng = np.random.default_rng(0)
    values = {n: np.concatenate([a, _noise(rng, a, value_range)]) for n, a in compared.items()}

    network, policies = in_float32(model)
    expected = in_batches(lambda batch: call_by_name(network, batch), values)
    own = in_batches(lambda batch: call_by_name(model, batch), values) if policies else expected
    labels = None if test_labels is None else np.asarray(test_labels)
    accuracies = accuracies_of(own, num_images, labels)
    against = Compared(expected, num_images, labels, accuracies)
    if policies:
        check_outputs("network in float32", own, against)
    report: dict[str, Json] = {
        **describe(specs, results, inputs, value_range),
        "num_images": num_images,
        "dtype_policies": policies,
    }
    if accuracies:
        report["keras_test_accuracy"] = next(iter(accuracies.values()))
    elif labels is not None:
        shapes = ", ".join(f"{n!r} has shape {spec.shape.as_list()}" for n, spec in results.items())
        report["keras_test_accuracy"] = None
        report["keras_test_accuracy_reason"] = f"labels {list(labels.shape)} do not fit: {shapes}"

    output_dir = os.path.abspath(output_dir)
    names = layer_names(network)
    with staging_folder(output_dir) as staging:
        files = {
            key: os.path.join(staging, name)
            for key, name in zip(
                FORMATS,
                ("saved_model", "network.keras", "network.tflite", "network_int8.tflite"),
                strict=True,
            )
        }

        def compare(key: str, run: Run) -> None:
            report[key] = check_outputs(key, in_batches(run, values), against)

        export_saved_model(network, files["saved_model"])
        served = ServedModel(files["saved_model"])
        compare("saved_model", lambda batch: served(**batch))
        network.save(files["keras"])
        loaded = load_network(files["keras"])
        compare("keras", lambda batch: call_by_name(loaded, batch))
        for key, images in (("tflite", None), ("tflite_int8", calibration)):
            if key == "tflite_int8" and int8_model is not None:
                content = int8_content(int8_model, calibration)
                own = in_batches(functools.partial(call_by_name, int8_model), values)
                against = Compared(own, num_images, labels, accuracies_of(own, num_images, labels))
            else:
                content = convert_to_tflite(files["saved_model"], images, layer_names=names)
            if key == "tflite_int8":
                in_float = float_operations(content, names)
                if use_strict_int8 and in_float:
                    raise UserError(f"not all int8: {_listed(in_float)}")
            with open(files[key], "wb") as file:
                file.write(content)
            compare(key, TFLiteClassifier(files[key]).predict_outputs)
        report["tflite_int8"]["float_operations"] = in_float
        _attach_description(report, files)
        for key, path in files.items():
            place = os.path.join(output_dir, os.path.basename(path))
            report[key] = {"path": place, "num_bytes": _num_bytes(path), **report[key]}
        report = strict_data(report)
        write_json(os.path.join(staging, "export.json"), report)
        for name in sorted(os.listdir(staging)):
            target = os.path.join(output_dir, name)
            if os.path.lexists(target):  # moved into the staging folder, removed with it
                os.rename(target, os.path.join(staging, f".old_{name}"))
            os.rename(os.path.join(staging, name), target)
    return report


def sample_images(dataset: ImageDataset, split: str, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first images of a split and their labels, at most `num` of them.

    Args:
        dataset: Images, whose order without a seed is fixed.
        split: "architecture" to calibrate on, "test" to compare on.
        num: Number of images.
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


def _checked_range(
    model: keras.Model, inputs: InputDescription | None, *images: Mapping[str, np.ndarray]
) -> tuple[float, float] | None:
    """Return the range of values that a network takes; refuse images that are not in it."""
    declared = declared_range(model)
    if inputs is not None:
        value_range, reason = inputs.value_range, "as `inputs` says"
    elif declared is not None:
        value_range, reason = (declared.low, declared.high), declared.reason
    else:
        return None
    for arrays, what in zip(images, ("calibration_images", "test_images"), strict=True):
        for array in arrays.values() if len(arrays) == 1 else ():
            values = array.astype(np.float32)
            low, high = value_range
            if inputs is None and fills_little(values, value_range):
                raise UserError(
                    f"{what}: values of {values.min():g} to {values.max():g}, but the network takes"
                    f" {low:g} to {high:g} ({reason}): give images that are not scaled yet, for"
                    f" example {low:g} + {high - low:g} * images of ones in 0..1"
                )
            try:
                check_values(values, value_range, what)
            except UserError as error:
                raise UserError(f"{error} ({reason})") from None
    return value_range


def _refuse_wrong_range(
    model: keras.Model, compared: Mapping[str, np.ndarray], labels: np.ndarray
) -> None:
    """Refuse images of a range in which the network fails, but not in another one."""
    arrays, labels = list(compared.values()), np.asarray(labels)
    if len(arrays) > 1 or len(model.outputs) > 1 or len(model.outputs[0].shape) != 2:
        return
    (images,) = arrays
    if labels.ndim != 1 or images.dtype.kind != "f" or images.min() == images.max():
        return
    value_range = (0.0, 255.0) if images.max() > 2 else (min(0.0, -float(images.min() < 0)), 1.0)
    better = better_range(model, images, labels, value_range)
    if better is not None:
        (low, high), there, here = better
        raise UserError(
            f"the network recognises {here:.0%} of test_images in {value_range[0]:g}"
            f" to {value_range[1]:g}, but {there:.0%} of the same in {low:g} to {high:g}: give"
            " images in the range that it was trained on"
        )


def _noise(
    rng: np.random.Generator, array: np.ndarray, value_range: tuple[float, float] | None
) -> np.ndarray:
    """Return random images of an array's shape, in the range that the network takes or 0..1."""
    low, high = value_range or (0.0, 1.0)
    noise = low + (high - low) * rng.random((_NUM_RANDOM, *array.shape[1:]))
    if array.dtype.kind not in "fc":
        noise = np.rint(noise)
    return noise.astype(array.dtype)


def _attach_description(report: Mapping[str, Json], files: Mapping[str, str]) -> None:
    """Put inputs, outputs, classes and accuracies into the SavedModel and the TFLite files."""
    described = {key: report[key] for key in ("schema_version", "inputs", "outputs", "class_names")}
    accuracies = {key: report[key].get("test_accuracy") for key in FORMATS}
    described["test_accuracy"] = accuracies
    described["num_test_images"] = report["num_images"]
    described = strict_data(described)
    extra = os.path.join(files["saved_model"], "assets.extra")
    os.makedirs(extra)
    write_json(os.path.join(extra, DESCRIPTION_FILE), described)
    text = json.dumps(described, indent=2, allow_nan=False) + "\n"
    inputs, outputs, classes = (described[k] for k in ("inputs", "outputs", "class_names"))
    channels = inputs["channels"] if len(inputs["specs"]) == 1 else None
    num_classes = next(iter(outputs.values()))["shape"][-1:]
    for key in ("tflite", "tflite_int8"):
        before = TFLiteClassifier(files[key])
        accuracy = accuracies[key]
        with open(files[key], "rb") as file:
            content = file.read()
        content = with_metadata(
            content,
            name="network",
            description=_in_words(inputs, accuracy, report["num_images"]),
            input_names=before.input_names,
            output_names=before.output_names,
            channels=channels if channels in (1, 3) else None,
            value_range=inputs["value_range"] if len(inputs["specs"]) == 1 else None,
            # Readers refuse a file with more or fewer labels than the network has classes.
            class_names=classes if classes and [len(classes)] == num_classes else None,
            files={DESCRIPTION_FILE: text},
        )
        with open(files[key], "wb") as file:
            file.write(content)
        TFLiteClassifier(files[key])  # loads


def _in_words(inputs: Mapping[str, Json], accuracy: float | None, num_images: int) -> str:
    """Return range, preparation of images and accuracy as sentences for a file's metadata."""
    words = []
    if inputs["value_range"] is not None:
        words.append("Values of {:g} to {:g}.".format(*inputs["value_range"]))
    words += [
        f"{key}: {inputs[key]}." for key in ("crop", "resize", "channel_order") if inputs[key]
    ]
    if accuracy is not None:
        words.append(f"Accuracy {accuracy:.1%} on {num_images} test images.")
    return " ".join(words) or "A network."


def _listed(operations: list[dict[str, str]]) -> str:
    """Return in short the operations that stay in float, with their layers."""
    computed = [o for o in operations if o["operation"] not in ("DEQUANTIZE", "QUANTIZE")]
    names = list(
        dict.fromkeys(
            f"{o['operation']} of layer {o['layer']!r}" if o["layer"] else o["operation"]
            for o in computed or operations
        )
    )
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} stays in float"


def _num_bytes(path: str) -> int:
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(path)
        for name in names
    )


_SCHEMA_VERSION = 1

#: Units of the fields of an accelerator; other units are in the names.
_UNITS = {
    "pe_x": "processing elements along x",
    "pe_y": "processing elements along y",
    "rf_bytes": "bytes of register file in each processing element",
    "dataflow": "name",
}


class _Record(Protocol):
    """Instance of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field]]


def write_accelerator(
    path: str | os.PathLike,
    accelerator: Accelerator,
    machine: MachineConfig,
    exact_cost: _Record | Mapping[str, Json],
    *,
    cost_source: Mapping[str, Json] | None = None,
) -> None:
    """Write accelerator.json, read it again and compare.

    Args:
        path: File to write.
        accelerator: Accelerator to write.
        machine: Machine that all accelerators of the space share.
        exact_cost: Exact cost of the run's network on this accelerator, a record or a dict
            of numbers with units in their names, such as latency_ms.
        cost_source: Source of that cost, such as the technology and its hash.
    """
    if not isinstance(exact_cost, Mapping):
        exact_cost = dataclasses.asdict(exact_cost)
    data = {
        "schema_version": _SCHEMA_VERSION,
        "accelerator": dataclasses.asdict(accelerator),
        "units": _UNITS,
        "machine": dataclasses.asdict(machine),
        "exact_cost": dict(exact_cost),
        **({} if cost_source is None else {"cost_source": dict(cost_source)}),
    }
    write_json(path, data)
    if read_accelerator(path)[:2] != (accelerator, machine):
        os.remove(path)
        raise RuntimeError(f"{os.fspath(path)}: does not read back as it was written; removed")


def read_accelerator(
    path: str | os.PathLike,
) -> tuple[Accelerator, MachineConfig, Mapping[str, Json]]:
    """Return accelerator, machine and exact cost of an accelerator.json.

    Raises:
        UserError: If it cannot be read or a field is missing, unknown or out of range.
    """
    data, where = read_json(path), os.fspath(path)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != _SCHEMA_VERSION:
        raise UserError(f"{where}: schema_version is {version!r}, this reads {_SCHEMA_VERSION}")
    for key in ("accelerator", "machine", "exact_cost"):
        if not isinstance(data.get(key), dict):
            raise UserError(f"{where}: {key} is missing or not an object")
    fields = [field.name for field in dataclasses.fields(Accelerator)]
    if set(data["accelerator"]) != set(fields):
        raise UserError(f"{where}: accelerator has to have {', '.join(fields)} and no more")
    accelerator = Accelerator.from_json(data["accelerator"], where)
    try:
        machine = config_from_json({"hardware": {"machine": data["machine"]}}).hardware.machine
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return accelerator, machine, data["exact_cost"]
