"""Ask a served evaluator: one call, by REST or by gRPC.

The gRPC side needs the package tensorflow-serving-api; the REST side needs nothing.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np

from dance_tf.errors import UserError

__all__ = ["PROTOCOLS", "predict"]

#: Protocol to the port that TensorFlow Serving offers it on.
PROTOCOLS = {"rest": 8501, "grpc": 8500}

#: Inputs to the number of axes that one sample has; a batch has one more.
_SAMPLE_RANKS = {"mixture_weights": 2, "objective_vectors": 1, "accelerator_index": 0}


def predict(
    inputs: Mapping[str, Any],
    *,
    protocol: str = "rest",
    server: str | None = None,
    model_name: str = "evaluator",
    model_version: int | None = None,
    signature: str = "serving_default",
    timeout_s: float = 10.0,
) -> dict[str, np.ndarray]:
    """Return the outputs by name, each with the batch axis first.

    Args:
        inputs: Arrays by name; samples without the batch axis get exactly one, and a single
            sample among batches is repeated.
        protocol: Of PROTOCOLS.
        server: HOST:PORT; None: this machine and the protocol's usual port.
        model_name: What the server calls the evaluator.
        model_version: None: the newest that is served.
        signature: See evaluator_signatures.
        timeout_s: After which to give up.
    Raises:
        UserError: If the server cannot be reached, does not answer in time, or refuses.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol is {protocol!r}, not one of {', '.join(PROTOCOLS)}")
    server = server or f"localhost:{PROTOCOLS[protocol]}"
    call = _predict_rest if protocol == "rest" else _predict_grpc
    return call(_batched(inputs), server, model_name, model_version, signature, timeout_s)


def _batched(inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the inputs with exactly one batch axis."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in inputs.items():
        try:
            array = np.asarray(value)
            is_index = name == "accelerator_index"
            array = array.astype(np.int32 if is_index else np.float32, casting="same_kind")
        except (TypeError, ValueError):
            raise UserError(
                f"{name}: not an array of numbers, or its rows differ in length"
            ) from None
        rank = _SAMPLE_RANKS.get(name, array.ndim)
        if array.ndim not in (rank, rank + 1):
            raise UserError(
                f"{name} has shape {list(array.shape)}: {rank} axes are one sample,"
                f" {rank + 1} a batch"
            )
        arrays[name] = array if array.ndim > rank else array[None]
    size = max((len(array) for array in arrays.values()), default=1)
    return {
        name: np.repeat(array, size, axis=0) if len(array) == 1 else array
        for name, array in arrays.items()
    }


def _predict_rest(
    inputs: Mapping[str, np.ndarray],
    server: str,
    model_name: str,
    model_version: int | None,
    signature: str,
    timeout_s: float,
) -> dict[str, np.ndarray]:
    version = "" if model_version is None else f"/versions/{model_version}"
    url = f"http://{server}/v1/models/{model_name}{version}:predict"
    columns = {name: array.tolist() for name, array in inputs.items()}
    body = json.dumps({"signature_name": signature, "inputs": columns}).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            outputs = json.loads(response.read())["outputs"]
        return {name: np.asarray(values) for name, values in outputs.items()}
    except urllib.error.HTTPError as error:
        try:
            reason = json.loads(error.read())["error"]
        except (ValueError, KeyError, TypeError):
            reason = error.reason
        raise UserError(f"{url} refuses with HTTP status {error.code}: {_line(reason)}") from None
    except TimeoutError:
        raise UserError(f"{url} has not answered within {timeout_s:g} s") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{url} cannot be reached: {_line(reason)}") from None
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{url} does not answer as TensorFlow Serving does") from None


def _predict_grpc(
    inputs: Mapping[str, np.ndarray],
    server: str,
    model_name: str,
    model_version: int | None,
    signature: str,
    timeout_s: float,
) -> dict[str, np.ndarray]:
    try:
        import grpc
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
    except ImportError as error:
        raise UserError(
            f"gRPC needs a package that is missing ({error.name}):"
            " pip install tensorflow-serving-api, or use REST"
        ) from None
    import tensorflow as tf

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature
    if model_version is not None:
        request.model_spec.version.value = model_version
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    try:
        with grpc.insecure_channel(server) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            response = stub.Predict(request, timeout=timeout_s)
    except grpc.RpcError as error:
        code = error.code().name
        raise UserError(f"{server} fails with {code}: {_line(error.details())}") from None
    return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


def _line(text: Any) -> str:
    """Return the first part of a message on one line."""
    return " ".join(str(text).split())[:400]
