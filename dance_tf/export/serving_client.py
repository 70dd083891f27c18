"""Client of a served evaluator: one call, by REST or by gRPC.

The gRPC side needs the package tensorflow-serving-api; the REST side needs nothing.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from dance_tf.errors import UserError

__all__ = ["PROTOCOLS", "predict"]

#: Port of each protocol of TensorFlow Serving.
PROTOCOLS = {"rest": 8501, "grpc": 8500}

#: Number of axes that one sample of each input has; a batch has one more.
_SAMPLE_RANKS = {"mixture_weights": 2, "objective_vectors": 1, "accelerator_index": 0}


def predict(
    inputs: Mapping[str, ArrayLike],
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
        protocol: Name in PROTOCOLS.
        server: HOST:PORT; None: this machine and the protocol's usual port.
        model_name: Name that the evaluator is served under.
        model_version: Version to ask; None: the newest that is served.
        signature: Name of the signature; see evaluator.evaluator_signatures.
        timeout_s: Seconds to wait for an answer.
    Raises:
        UserError: If an input is not finite; or if the server cannot be reached, does not
            answer in time, refuses, or answers with anything but a number for each sample.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol is {protocol!r}, not one of {', '.join(PROTOCOLS)}")
    server = server or f"localhost:{PROTOCOLS[protocol]}"
    call = _predict_rest if protocol == "rest" else _predict_grpc
    batch = _batched(inputs)
    outputs = call(batch, server, model_name, model_version, signature, timeout_s)
    size = max((len(array) for array in batch.values()), default=1)
    for name, values in outputs.items():
        _check_output(server, name, values, size)
    return outputs


def _batched(inputs: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """Return the inputs with exactly one batch axis."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in inputs.items():
        try:
            given = np.asarray(value)
            dtype = np.int32 if name == "accelerator_index" else np.float32
            with np.errstate(over="ignore"):
                array = given.astype(dtype, casting="same_kind")
        except (TypeError, ValueError):
            raise UserError(
                f"{name}: not an array of numbers, or its rows differ in length"
            ) from None
        _refuse_not_finite(name, given)
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


def _refuse_not_finite(name: str, array: np.ndarray) -> None:
    """Refuse numbers that float32, and so JSON, cannot hold; the message gives the position."""
    is_held = np.abs(array) <= np.finfo(np.float32).max
    if not is_held.all():
        position = np.argwhere(~is_held)[0].tolist()
        raise UserError(
            f"{name}{position} is {array[tuple(position)]:g}, not a number that float32 holds"
        )


def _check_output(server: str, name: str, values: np.ndarray, size: int) -> None:
    """Refuse an output that is not one number for each sample."""
    where = f"{server} answers with a bad {name!r}"
    if values.dtype.kind not in "biuf":
        raise UserError(f"{where}: not numbers, or rows that differ in length")
    if values.ndim < 1 or len(values) != size:
        num = len(values) if values.ndim else "one number without a"
        raise UserError(f"{where}: {num} row(s) for {size} sample(s)")
    is_finite = np.isfinite(values)
    if not is_finite.all():
        position = np.argwhere(~is_finite)[0].tolist()
        raise UserError(f"{where}: {name}{position} is {values[tuple(position)]:g}")


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
    body = json.dumps({"signature_name": signature, "inputs": columns}, allow_nan=False).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            answer = response.read()
    except urllib.error.HTTPError as error:
        try:
            reason = json.loads(error.read())["error"]
        except (ValueError, KeyError, TypeError):
            reason = error.reason
        raise UserError(f"{url} refuses with HTTP status {error.code}: {_line(reason)}") from None
    except TimeoutError:
        raise UserError(f"{url} has not answered within {timeout_s:g} s") from None
    except http.client.IncompleteRead as error:
        raise UserError(f"{url}: its answer ends after {len(error.partial)} bytes") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{url} cannot be reached: {_line(reason)}") from None
    return _outputs_of_rest(answer, url)


def _outputs_of_rest(answer: bytes, url: str) -> dict[str, np.ndarray]:
    """Return the outputs in the body of an answer."""
    try:
        data = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{url} answers {len(answer)} bytes that are no JSON: {_line(error)}"
        ) from None
    outputs = data.get("outputs") if isinstance(data, dict) else None
    if not isinstance(outputs, dict) or not outputs:
        raise UserError(
            f'{url} does not answer as TensorFlow Serving does: there is no "outputs" with'
            " columns by name"
        )
    arrays = {}
    for name, values in outputs.items():
        try:
            arrays[name] = np.asarray(values)
        except ValueError:  # rows that differ in length
            arrays[name] = np.asarray(None)
    return arrays


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
    if not response.outputs:
        raise UserError(f"{server} answers without outputs")
    arrays = {}
    for name, tensor in response.outputs.items():
        try:
            arrays[name] = tf.make_ndarray(tensor)
        except (TypeError, ValueError) as error:
            raise UserError(f"{server} answers with a bad {name!r}: {_line(error)}") from None
    return arrays


def _line(text: object) -> str:
    """Return the first part of a message on one line."""
    return " ".join(str(text).split())[:400]
