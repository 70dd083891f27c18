"""TFLite files: conversion of SavedModels, metadata, and the interpreter that runs them.

A file holds the metadata that Android's readers look for, and the JSON description of the
network. `TFLiteClassifier` runs a file on images whatever its input and output types.
"""

from __future__ import annotations

import io
import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import flatbuffers
import numpy as np
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.export.description import DESCRIPTION_FILE, check_values
from dance_tf.export.serving import SIGNATURE, ServedModel
from dance_tf.export.signatures import BATCH_SIZE, Images, arrays_by_name, in_batches, layer_of
from dance_tf.export.tflite_interpreter import open_interpreter, quiet_stderr
from dance_tf.files import Json, pattern_free

__all__ = [
    "LABELS_FILE",
    "TFLiteClassifier",
    "convert_to_tflite",
    "float_operations",
    "packed_file",
    "with_metadata",
]

#: File of class names, one a line, in the order of the labels.
LABELS_FILE = "labels.txt"

# Parts of the metadata schema: name of the buffer, identifier, codes of enums and unions.
_BUFFER_NAME, _IDENTIFIER, _MODEL_IDENTIFIER = b"TFLITE_METADATA", b"M001", b"TFL3"
_DESCRIPTIONS, _TENSOR_AXIS_LABELS = 1, 2
_IMAGE_PROPERTIES, _NORMALIZATION_OPTIONS = 2, 1
_RGB, _GREYSCALE = 1, 2

#: Node in a message of the converter, and the reason that it gives.
_NODE = re.compile(r'"([^"@]+/[^"@]+)@')
_ERROR = re.compile(r"error: (?:loc\(.*?\)\)\)?: )?(.+)")


def convert_to_tflite(
    saved_model_dir: str,
    calibration_images: Images | None = None,
    *,
    use_int8_io: bool = True,
    layer_names: Collection[str] = (),
) -> bytes:
    """Return a SavedModel as TFLite: float, or int8 if there are calibration images.

    Operations that TFLite has in float only stay so in the int8 model: see
    `float_operations`. Integer inputs stay as they are.

    The conversion starts from the SavedModel, never from the Keras object: conversion from
    concrete functions of Keras 3 models has dropped weights without a word.

    Args:
        saved_model_dir: Folder of a SavedModel with the signature `serving_default`.
        calibration_images: Images [N, H, W, C], fed one at a time and by name; N >= 1.
        use_int8_io: Whether the int8 model's input and output are int8 too.
        layer_names: Layers of the network, one of which a message may name.
    Raises:
        UserError: If the converter refuses the network.
    """
    with pattern_free(saved_model_dir) as readable:
        return _convert(readable, calibration_images, use_int8_io, layer_names)


def _convert(
    saved_model_dir: str,
    calibration_images: Images | None,
    use_int8_io: bool,
    layer_names: Collection[str],
) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model_dir, [SIGNATURE])
    if calibration_images is not None:
        specs = ServedModel(saved_model_dir).inputs
        samples = arrays_by_name(calibration_images, specs, "calibration_images")

        def representative_dataset() -> Iterator[dict[str, np.ndarray]]:
            for i in range(len(next(iter(samples.values())))):
                yield {name: array[i : i + 1] for name, array in samples.items()}

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative_dataset
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        if use_int8_io and all(spec.dtype.is_floating for spec in specs.values()):
            converter.inference_input_type = converter.inference_output_type = tf.int8
    with quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # calibration inside TensorFlow warns of its own future
        try:
            return converter.convert()
        except Exception as error:  # the converter has exceptions of its own, which are private
            raise UserError(_cause(str(error), layer_names)) from error


def _cause(message: str, layer_names: Collection[str]) -> str:
    """Return the reason in a message of the converter, a hundred lines long, as one line."""
    lines = [line for line in message.splitlines() if "error:" in line] or [message]
    found = _ERROR.search(lines[0])
    reason = " ".join((found.group(1) if found else lines[0]).split())[:200]
    nodes = _NODE.search(lines[0])
    layer = layer_of(nodes.group(1), layer_names) if nodes else None
    where = f"layer {layer!r}" if layer else "the network"
    hint = "; a recurrent layer converts with unroll=True" if "TensorList" in message else ""
    return f"TFLite cannot hold {where}: {reason}{hint}"


def float_operations(content: bytes, layer_names: Collection[str] = ()) -> list[dict[str, str]]:
    """Return the operations that a TFLite model computes in float, in order.

    Args:
        content: Bytes of the file.
        layer_names: Layers of the network; see `signatures.layer_names`.
    Returns:
        `operation`, `tensor` (its output), `dtype` and `layer` of each; the layer of a
        conversion from int8 is that of the operation that asks for it; "" if unknown.
    """
    from ai_edge_litert import schema_py_generated as schema

    operations = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    types = {code: name.lower() for name, code in vars(schema.TensorType).items()}
    floating = ("float16", "float32", "float64", "bfloat16")
    model = schema.Model.GetRootAs(content, 0)
    found = []
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        users: dict[int, str] = {}
        for number in reversed(range(graph.OperatorsLength())):
            operator = graph.Operators(number)
            code = model.OperatorCodes(operator.OpcodeIndex())
            name = operations[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            outputs = [operator.Outputs(i) for i in range(operator.OutputsLength())]
            tensors = [graph.Tensors(i) for i in outputs if i >= 0]
            names = [(tensor.Name() or b"").decode() for tensor in tensors]
            layers = [layer_of(name.partition(";")[0], layer_names) for name in names]
            layer = next(filter(None, layers), None) or users.get(outputs[0], "")
            for i in range(operator.InputsLength()):
                users[operator.Inputs(i)] = layer
            found += [
                {"operation": name, "tensor": n, "dtype": types[t.Type()], "layer": layer}
                for n, t in zip(names, tensors, strict=True)
                if types[t.Type()] in floating
            ]
    return found[::-1]


class TFLiteClassifier:
    """Run a TFLite network on float images, whatever its input and output types.

    The dtype, scale and zero point are read from the file.

    Attributes:
        path: Path of the file.
        description: Description of the network in the file (see export/description.py), or
            None.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        """Load a file.

        Args:
            path: Path of the file.
        Raises:
            UserError: If it is not a TFLite model with the signature `serving_default`.
        """
        self.path = os.fspath(path)
        self._interpreter, self._runner = open_interpreter(self.path)
        self._inputs = self._runner.get_input_details()
        self._outputs = self._runner.get_output_details()
        text = packed_file(self.path, DESCRIPTION_FILE)
        self.description: dict[str, Json] | None = None if text is None else json.loads(text)

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
            images: Images, float32 in the range of values that the network takes; integers
                where its input is an integer that is no quantised float.
        Raises:
            UserError: If the images do not fit, or lie far outside of the range in the
                description; or the network has several outputs.
        """
        if len(self._outputs) != 1:
            raise UserError(f"{self.path}: {len(self._outputs)} outputs; use predict_outputs")
        ((_, logits),) = self.predict_outputs(images).items()
        return logits

    def predict_outputs(self, images: Images) -> dict[str, np.ndarray]:
        """Return the outputs, float32 [B, ...], by name; images as for `predict`."""
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


#: Fields of a tensor as the interpreter tells them.
_Details = Mapping[str, Json]


def _in_order(details: Mapping[str, _Details], tensors: Sequence[_Details]) -> list[str]:
    names = {d["index"]: name for name, d in details.items()}
    return [names[tensor["index"]] for tensor in tensors]


def _quantise(values: np.ndarray, details: _Details) -> np.ndarray:
    dtype = details["dtype"]
    scale, zero_point = details["quantization"]
    if np.issubdtype(dtype, np.floating) or not scale:  # or an integer that is none quantised
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values / scale) + zero_point, limits.min, limits.max).astype(dtype)


def _dequantise(values: np.ndarray, details: _Details) -> np.ndarray:
    scale, zero_point = details["quantization"]
    values = values.astype(np.float32)
    return values if not scale else (values - np.float32(zero_point)) * np.float32(scale)


class _Scalar(NamedTuple):
    """Number in a table, with the method of the builder that adds its type."""

    prepend: Callable[[int, int, int], None]
    value: int


def with_metadata(
    content: bytes,
    *,
    name: str,
    description: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    channels: int | None = None,
    value_range: tuple[float, float] | None = None,
    class_names: Sequence[str] | None = None,
    files: Mapping[str, str] | None = None,
) -> bytes:
    """Return a TFLite model with metadata and files; other metadata stay.

    Args:
        content: Bytes of the model.
        name: Name of the model.
        description: Text for people.
        input_names: Names in the order of the model's inputs.
        output_names: Names in the order of its outputs.
        channels: Channels of the only input if it is an image, 1 or 3.
        value_range: Values that 0 and 255 become before they are fed to the only input.
        class_names: Names of the classes of the first output, if they have names.
        files: Further texts to append, by name.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    described = _metadata(
        name, description, input_names, output_names, channels, value_range, class_names, files
    )
    buffer.data = memoryview(described)
    model.buffers.append(buffer)
    entry.name, entry.buffer = _BUFFER_NAME, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=_MODEL_IDENTIFIER)
    packed = io.BytesIO(bytes(builder.Output()))
    labels = {} if class_names is None else {LABELS_FILE: "\n".join(class_names) + "\n"}
    with zipfile.ZipFile(packed, "a") as archive:
        for file_name, text in {**labels, **(files or {})}.items():
            # A fixed date: the same network gives the same file.
            archive.writestr(zipfile.ZipInfo(file_name), text)
    return packed.getvalue()


def packed_file(path: str | os.PathLike, name: str) -> str | None:
    """Return the text of a file that is appended to a TFLite model, if there is one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name).decode()
    except (zipfile.BadZipFile, KeyError):
        return None


def _metadata(
    name: str,
    description: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    channels: int | None,
    value_range: tuple[float, float] | None,
    class_names: Sequence[str] | None,
    files: Mapping[str, str] | None,
) -> bytes:
    """Return the flatbuffer. Tables are lists of fields in the order of the schema."""
    builder = flatbuffers.Builder(1024)

    def table(*fields: int | _Scalar | None) -> int:
        builder.StartObject(len(fields))
        for slot, field in enumerate(fields):
            if isinstance(field, _Scalar):
                field.prepend(slot, field.value, 0)
            elif field is not None:
                builder.PrependUOffsetTRelativeSlot(slot, field, 0)
        return builder.EndObject()

    def vector(offsets: Sequence[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    def floats(value: float) -> int:
        builder.StartVector(4, 1, 4)
        builder.PrependFloat32(value)
        return builder.EndVector()

    def byte(value: int) -> _Scalar:
        return _Scalar(builder.PrependUint8Slot, value)

    def file(file_name: str, kind: int) -> int:
        return table(builder.CreateString(file_name), None, byte(kind))

    def tensor(tensor_name: str, parts: Mapping[str, int]) -> int:
        # Name, description, names of dimensions, content, process units, stats, files.
        fields = map(parts.get, ("content", "units", "stats", "files"))
        return table(builder.CreateString(tensor_name), None, None, *fields)

    inputs: list[dict[str, int]] = [{} for _ in input_names]
    if channels is not None:
        colours = table(byte(_GREYSCALE if channels == 1 else _RGB))
        inputs[0]["content"] = table(byte(_IMAGE_PROPERTIES), colours)
    if value_range is not None:
        low, high = value_range
        std = 255.0 / (high - low)  # readers compute (pixel - mean) / std
        options = table(floats(-low * std), floats(std))
        inputs[0]["units"] = vector([table(byte(_NORMALIZATION_OPTIONS), options)])
        inputs[0]["stats"] = table(floats(high), floats(low))
    outputs: list[dict[str, int]] = [{} for _ in output_names]
    if class_names is not None:
        outputs[0]["files"] = vector([file(LABELS_FILE, _TENSOR_AXIS_LABELS)])
    input_tensors = vector([tensor(*pair) for pair in zip(input_names, inputs, strict=True)])
    output_tensors = vector([tensor(*pair) for pair in zip(output_names, outputs, strict=True)])
    graph = table(None, None, input_tensors, output_tensors)
    described = vector([file(file_name, _DESCRIPTIONS) for file_name in files or {}])
    root = table(
        builder.CreateString(name),
        builder.CreateString(description),
        None,  # version of the model
        vector([graph]),
        None,  # author
        None,  # licence
        described,
        builder.CreateString("1.0.0"),
    )
    builder.Finish(root, file_identifier=_IDENTIFIER)
    return bytes(builder.Output())
