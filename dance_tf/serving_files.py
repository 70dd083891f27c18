"""The files around a SavedModel with which TensorFlow Serving serves it.

<folder>/evaluator/1/                      the versions of the model
<folder>/evaluator/1/assets.extra/...      requests that warm a version up
<folder>/models.config, batching.config    what to serve, and how to batch requests
<folder>/compose.yaml                      starts `tensorflow/serving` with all of it
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from dance_tf.strict_json import write_text

__all__ = ["MODEL_NAME", "WARMUP_FILE", "write_server_files", "write_warmup_requests"]

#: The name that the model is served under, and of its folder.
MODEL_NAME = "evaluator"

#: Where TensorFlow Serving looks for warm-up requests, inside a version.
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"

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

    Those that are there already stay as they are: they are meant to be changed.
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
        saved_model_dir: A version, before it is visible.
        requests: Inputs by name, by signature.
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
