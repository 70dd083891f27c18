"""Files for TensorFlow Serving, and SavedModels called in this process as a server would.

TensorFlow Serving looks for `<base>/<integer>/saved_model.pb` and passes over every
other name, so a folder under another name is invisible until it is renamed. Beside the
versions lie the server's configuration and, inside each, a warm-up request per signature.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from tensorflow.core.protobuf import saved_model_pb2

from dance_tf.errors import UserError
from dance_tf.export.description import check_values, read_description
from dance_tf.files import naming_path, pattern_free, write_text
from dance_tf.run.folder_lock import owned

__all__ = [
    "MODEL_NAME",
    "SIGNATURE",
    "WARMUP_FILE",
    "ServedModel",
    "check_servable",
    "check_version",
    "next_version",
    "staging_folder",
    "write_server_files",
    "write_warmup_requests",
]

#: Name that the model is served under, and of its folder.
MODEL_NAME = "evaluator"

#: Path inside a version where TensorFlow Serving looks for warm-up requests.
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"

#: The signature that every export has.
SIGNATURE = "serving_default"

# Message of an assertion in a model.
_ASSERTION = re.compile(r"assertion failed: \[(.*?)\]\s*(?:\[|$|\n)", re.DOTALL)

_MAX_VERSION = 2**63 - 1  # TensorFlow Serving reads a signed 64-bit integer


@contextlib.contextmanager
def staging_folder(parent: str) -> Iterator[str]:
    """Yield a new folder inside `parent`, to write files in that are then renamed.

    At the end it is removed with the files that are still in it; after an error so are the
    folders above it that were made for it. Writers of the same parent take turns.
    """
    with owned(parent, is_waiting=True):
        # Not tempfile.mkdtemp: its folders are closed to other users, such as a server's.
        staging = os.path.join(parent, f".partial_{uuid.uuid4().hex}")
        os.mkdir(staging)
        try:
            with naming_path(parent):
                yield staging
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        shutil.rmtree(staging)


def check_version(version: int | str) -> int:
    """Return a version as an integer; leading zeros are dropped, so that 007 is 7.

    Raises:
        UserError: If it is not a number that TensorFlow Serving would serve.
    """
    text = str(version)
    if isinstance(version, bool) or not re.fullmatch("[0-9]+", text) or int(text) > _MAX_VERSION:
        raise UserError(
            f"version is {version!r}, not a whole number: TensorFlow Serving passes over folders"
            " with other names; give 1, 2, 3 and so on, or none for the next one"
        )
    return int(text)


def versions(base_dir: str) -> dict[int, str]:
    """Return the versions in a base folder, number to path, ascending."""
    names = os.listdir(base_dir) if os.path.isdir(base_dir) else []
    found = {int(n): os.path.join(base_dir, n) for n in names if re.fullmatch("[0-9]+", n)}
    return dict(sorted(found.items()))


def check_servable(path: str, layer_of: Callable[[str], str | None] = lambda _: None) -> None:
    """Refuse a SavedModel that TensorFlow Serving loads but cannot run.

    It cannot run functions that XLA must compile: its XLA for CPUs is off by default.

    Args:
        path: Folder of the SavedModel.
        layer_of: Function from the name of a node to the layer to name in the message.
    Raises:
        UserError: If there is such a function, named by its layer or node.
    """
    saved_model = saved_model_pb2.SavedModel()
    with open(os.path.join(path, "saved_model.pb"), "rb") as file:
        saved_model.ParseFromString(file.read())
    for meta_graph in saved_model.meta_graphs:
        library = meta_graph.graph_def.library.function
        compiled = {f.signature.name for f in library if f.attr["_XlaMustCompile"].b}
        graphs = [meta_graph.graph_def.node, *(function.node_def for function in library)]
        for node in (node for nodes in graphs for node in nodes):
            called = node.attr["f"].func.name if "f" in node.attr else ""
            is_compiled = "_XlaMustCompile" in node.attr and node.attr["_XlaMustCompile"].b
            if called in compiled or is_compiled or node.op.startswith("Xla"):
                layer = layer_of(node.name)
                where = f"layer {layer!r}" if layer else f"node {node.name!r}"
                raise UserError(
                    f"{where} computes with a function that XLA must compile ({called or node.op}),"
                    " and TensorFlow Serving has XLA for CPUs off: write it without"
                    " jit_compile=True (Keras itself asks for it where a convolution other than"
                    " Conv2D and Conv3D has groups)"
                )


def next_version(base_dir: str) -> int:
    """Return the highest version in a base folder plus one; 1 in an empty one."""
    return max(versions(base_dir), default=0) + 1


class ServedModel:
    """SavedModel in this process, called by a signature as a serving client would.

    One sample (no batch axis on any input) gets exactly one batch axis; batches pass as
    they are. The result always has the batch axis.

    Attributes:
        path: Folder of the version.
        description: Description of the network (see export/description.py), or None.
    """

    def __init__(self, path: str | os.PathLike, signature: str = SIGNATURE) -> None:
        """Load a SavedModel.

        Args:
            path: Folder of the SavedModel, or base folder of versions, of which the highest
                is taken.
            signature: Name of the signature to call.
        Raises:
            UserError: If there is no SavedModel, or it has no such signature.
        """
        self.path = os.fspath(path)
        if not os.path.exists(os.path.join(self.path, "saved_model.pb")):
            found = versions(self.path)
            if not found:
                raise UserError(f"{self.path}: neither a SavedModel nor a folder of versions")
            self.path = found[max(found)]
        try:
            # The loaded object owns the variables, so it must live as long as the function.
            with pattern_free(self.path) as readable:
                self._loaded = tf.saved_model.load(readable)
        except (OSError, ValueError, tf.errors.OpError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{self.path}: cannot load the SavedModel: {reason}") from None
        if signature not in self._loaded.signatures:
            there = ", ".join(sorted(self._loaded.signatures)) or "none"
            raise UserError(f"{self.path}: no signature {signature!r}; there is {there}")
        self._function = self._loaded.signatures[signature]
        self.description = read_description(self.path)

    @property
    def inputs(self) -> dict[str, tf.TensorSpec]:
        """Name to shape and dtype."""
        return dict(self._function.structured_input_signature[1])

    @property
    def outputs(self) -> dict[str, tf.TensorSpec]:
        """Name to shape and dtype."""
        return dict(self._function.structured_outputs)

    def __call__(self, **inputs: ArrayLike) -> dict[str, np.ndarray]:
        """Return the outputs by name, each with the batch axis first.

        Args:
            **inputs: One array per input, either all with or all without the batch axis.
        Raises:
            UserError: On an unknown or missing name, a shape or dtype that does not fit, or
                values that the model refuses.
        """
        specs = self.inputs
        for name in {*inputs} ^ {*specs}:
            what = "no value for input" if name in specs else "unknown input"
            raise UserError(f"{what} {name!r}; the inputs are {', '.join(sorted(specs))}")
        arrays = {name: _as_dtype(name, inputs[name], specs[name].dtype) for name in specs}
        is_sample = [arrays[name].ndim == specs[name].shape.rank - 1 for name in specs]
        if all(is_sample):
            arrays = {name: array[None] for name, array in arrays.items()}
        for name, array in arrays.items():
            if not specs[name].shape.is_compatible_with(array.shape):
                expected = specs[name].shape[1:].as_list()
                raise UserError(
                    f"input {name!r} has shape {list(np.shape(inputs[name]))}; one sample has"
                    f" {expected}, a batch one axis more in front"
                )
        sizes = {name: len(array) for name, array in arrays.items()}
        if len(set(sizes.values())) > 1:
            raise UserError(f"the inputs have different batch sizes: {sizes}")
        if self.description is not None and len(arrays) == 1:
            (array,) = arrays.values()
            check_values(array, self.description["inputs"]["value_range"], "images")
        try:
            outputs = self._function(**{name: tf.constant(a) for name, a in arrays.items()})
        except tf.errors.InvalidArgumentError as error:
            found = _ASSERTION.search(error.message)
            if found is None:
                raise
            raise UserError(f"{self.path}: {found.group(1)}") from None
        except (tf.errors.UnimplementedError, tf.errors.NotFoundError) as error:
            reason = " ".join(error.message.split())[:200]
            raise UserError(f"{self.path}: cannot be run on this machine: {reason}") from None
        return {name: value.numpy() for name, value in outputs.items()}


def _as_dtype(name: str, value: ArrayLike, dtype: tf.DType) -> np.ndarray:
    try:
        return np.asarray(value).astype(dtype.as_numpy_dtype, casting="same_kind")
    except (TypeError, ValueError):
        raise UserError(f"input {name!r} cannot be read as {dtype.name}") from None


_FILES = {
    "models.config": f"""\
# ModelServerConfig: what is served. Paths are those inside the container.
model_config_list {{
  config {{
    name: "{MODEL_NAME}"
    base_path: "/models/{MODEL_NAME}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
}}
""",
    "batching.config": """\
# BatchingParameters: requests that arrive together run together. One query takes less than
# a millisecond, so waiting for others is not worth more than that.
max_batch_size { value: 64 }
batch_timeout_micros { value: 500 }
num_batch_threads { value: 4 }
max_enqueued_batches { value: 1000 }
""",
    "compose.yaml": """\
# docker compose up: gRPC on port 8500, REST on port 8501, of this machine only.
services:
  evaluator:
    image: tensorflow/serving:${SERVING_TAG:-latest}
    ports:
      - "127.0.0.1:8500:8500"
      - "127.0.0.1:8501:8501"
    volumes:
      - ".:/models:ro"
    command:
      - --model_config_file=/models/models.config
      # A request that is refused takes those of its batch along: leave these two out where
      # clients send what they have not checked.
      - --enable_batching=true
      - --batching_parameters_file=/models/batching.config
    restart: unless-stopped
""",
}


def write_server_files(folder: str) -> dict[str, str]:
    """Write models.config, batching.config and compose.yaml; return name to path.

    Files that are there already stay as they are: they are meant to be changed.
    """
    os.makedirs(folder, exist_ok=True)
    paths = {name: os.path.join(folder, name) for name in _FILES}
    for name, path in paths.items():
        if not os.path.lexists(path):
            write_text(path, _FILES[name])
    return paths


def write_warmup_requests(
    saved_model_dir: str, requests: Mapping[str, Mapping[str, np.ndarray]]
) -> None:
    """Write the requests that TensorFlow Serving sends to a version before it serves it.

    Args:
        saved_model_dir: Folder of the version, before it is visible.
        requests: Inputs by name, for each signature.
    """
    path = os.path.join(saved_model_dir, WARMUP_FILE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tf.io.TFRecordWriter(path) as writer:
        for signature, inputs in requests.items():
            writer.write(_prediction_log(signature, inputs))


def _prediction_log(signature: str, inputs: Mapping[str, np.ndarray]) -> bytes:
    """Return a tensorflow.serving.PredictionLog that holds a PredictRequest.

    Put together by hand, as the classes are in a package that only the gRPC client needs;
    a test reads it with them.
    """
    model_spec = _field(1, MODEL_NAME.encode()) + _field(3, signature.encode())
    request = _field(1, model_spec)
    for name, array in inputs.items():
        tensor = tf.make_tensor_proto(array).SerializeToString()
        request += _field(2, _field(1, name.encode()) + _field(2, tensor))
    return _field(6, _field(1, request))  # PredictionLog.predict_log, PredictLog.request


def _field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field of the Protocol Buffers wire format; number < 16."""
    size, length = len(content), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content
