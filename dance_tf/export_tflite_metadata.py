"""The standard metadata of a TFLite file, which Android's and MediaPipe's readers take.

The metadata are a flatbuffer of their own inside the model, and files (labels, a
description) that are appended to it as a ZIP archive: `unzip network.tflite` shows them.

Source: TensorFlow Lite Support, metadata schema 1.0 (identifier M001).
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flatbuffers

__all__ = ["LABELS_FILE", "packed_file", "with_metadata"]

#: Class names, one a line, in the order of the labels.
LABELS_FILE = "labels.txt"

# Of the schema: the name of the buffer, its identifier, codes of enums and unions.
_BUFFER_NAME, _IDENTIFIER, _MODEL_IDENTIFIER = b"TFLITE_METADATA", b"M001", b"TFL3"
_DESCRIPTIONS, _TENSOR_AXIS_LABELS = 1, 2
_IMAGE_PROPERTIES, _NORMALIZATION_OPTIONS = 2, 1
_RGB, _GREYSCALE = 1, 2


class _Scalar(NamedTuple):
    """A number in a table, by the method of the builder that adds its type."""

    prepend: Callable[..., Any]
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
        content: The model.
        name: Of the model.
        description: Text for people.
        input_names: In the order of the model's inputs.
        output_names: In the order of its outputs.
        channels: Of the only input if it is an image, 1 or 3.
        value_range: What 0..255 becomes before it is fed to the only input.
        class_names: Of the first output, if they have names.
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

    def tensor(tensor_name: str, content: Any = None, units: Any = None, **others: Any) -> int:
        # Name, description, names of dimensions, content, process units, stats, files.
        fields = (content, units, others.get("stats"), others.get("files"))
        return table(builder.CreateString(tensor_name), None, None, *fields)

    inputs: list[dict[str, Any]] = [{"tensor_name": input_name} for input_name in input_names]
    if channels is not None:
        colours = table(byte(_GREYSCALE if channels == 1 else _RGB))
        inputs[0]["content"] = table(byte(_IMAGE_PROPERTIES), colours)
    if value_range is not None:
        low, high = value_range
        std = 255.0 / (high - low)  # readers compute (pixel - mean) / std
        options = table(floats(-low * std), floats(std))
        inputs[0]["units"] = vector([table(byte(_NORMALIZATION_OPTIONS), options)])
        inputs[0]["stats"] = table(floats(high), floats(low))
    outputs: list[dict[str, Any]] = [{"tensor_name": output_name} for output_name in output_names]
    if class_names is not None:
        outputs[0]["files"] = vector([file(LABELS_FILE, _TENSOR_AXIS_LABELS)])
    input_tensors = vector([tensor(**fields) for fields in inputs])
    output_tensors = vector([tensor(**fields) for fields in outputs])
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
