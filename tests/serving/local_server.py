"""A stand-in for TensorFlow Serving: PredictionService and the REST paths, on loopback.

It loads a version with the session-based loader, replays the warm-up requests, and
answers in TensorFlow Serving's formats and statuses.

    python -m tests.serving.local_server BASE_DIR

serves the highest version until stdin ends, after one line with its addresses as JSON.
"""

from __future__ import annotations

import concurrent.futures
import http.server
import json
import re
import sys
import threading
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from dance_tf.export.serving import MODEL_NAME, WARMUP_FILE, versions

__all__ = ["LocalServer", "Refusal", "SessionModel"]

_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.NOT_FOUND: 404,
}


class Refusal(Exception):
    """A status other than OK."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class SessionModel:
    """A version as TensorFlow Serving holds it: a graph in a session, run by tensor names."""

    def __init__(self, path: str) -> None:
        threads = {"intra_op_parallelism_threads": 1, "inter_op_parallelism_threads": 1}
        self._session = tf.compat.v1.Session(
            graph=tf.Graph(), config=tf.compat.v1.ConfigProto(**threads)
        )
        loaded = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], path)
        self.signatures = {n: s for n, s in loaded.signature_def.items() if n[:2] != "__"}

    def predict(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs; raise Refusal."""
        if signature not in self.signatures:
            message = f'Serving signature name: "{signature}" not found in signature def'
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, message)
        definition = self.signatures[signature]
        if set(inputs) != set(definition.inputs):
            extra = ",".join(sorted({*inputs} - {*definition.inputs}))
            missing = ",".join(sorted({*definition.inputs} - {*inputs}))
            raise Refusal(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"input size does not match signature. Sent extra: {{{extra}}}."
                f" Missing but required: {{{missing}}}.",
            )
        for name, spec in definition.inputs.items():
            if tf.as_dtype(spec.dtype) != inputs[name].dtype:
                message = f"{name}: expects {tf.as_dtype(spec.dtype).name}"
                raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)
        fed = {definition.inputs[name].name: value for name, value in inputs.items()}
        fetched = {name: spec.name for name, spec in definition.outputs.items()}
        try:
            return self._session.run(fetched, fed)
        except (tf.errors.InvalidArgumentError, ValueError) as error:
            message = getattr(error, "message", str(error))
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, message) from None

    def input_dtypes(self, signature: str) -> dict[str, Any]:
        """Return the numpy dtype of each input; none for an unknown signature."""
        if signature not in self.signatures:
            return {}
        inputs = self.signatures[signature].inputs
        return {name: tf.as_dtype(spec.dtype).as_numpy_dtype for name, spec in inputs.items()}


class LocalServer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Serve the highest version of a base folder by gRPC and REST, at free ports."""

    def __init__(self, base_dir: str, num_threads: int = 16) -> None:
        found = versions(base_dir)
        self.version = max(found)
        self.model = SessionModel(found[self.version])
        self.num_warmups = self._warm_up(f"{found[self.version]}/{WARMUP_FILE}")
        pool = concurrent.futures.ThreadPoolExecutor(num_threads)
        self._grpc = grpc.server(pool)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(self, self._grpc)
        self.addresses = {"grpc": f"127.0.0.1:{self._grpc.add_insecure_port('127.0.0.1:0')}"}
        self._rest = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.addresses["rest"] = f"127.0.0.1:{self._rest.server_port}"

    def __enter__(self) -> LocalServer:
        self._grpc.start()
        threading.Thread(target=self._rest.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._rest.shutdown()
        self._rest.server_close()
        self._grpc.stop(None).wait()

    def Predict(self, request: Any, context: Any) -> Any:
        """Answer tensorflow.serving.PredictionService/Predict."""
        try:
            return self._answer(request)
        except Refusal as refusal:
            context.abort(refusal.code, refusal.message)

    def _answer(self, request: Any) -> Any:
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        self.find(spec.name, version)
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        outputs = self.model.predict(spec.signature_name or "serving_default", inputs)
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(spec)
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response

    def find(self, name: str, version: int | None) -> None:
        """Refuse what is not served."""
        if name != MODEL_NAME or version not in (None, self.version):
            message = f"Servable not found for request: {name} version {version}"
            raise Refusal(grpc.StatusCode.NOT_FOUND, message)

    def _warm_up(self, path: str) -> int:
        logs = [
            prediction_log_pb2.PredictionLog.FromString(record.numpy())
            for record in tf.data.TFRecordDataset(path)
        ]
        for log in logs:
            self._answer(log.predict_log.request)
        return len(logs)


def _handler(server: LocalServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                status, answer = 200, self._predict(body)
            except Refusal as refusal:
                status, answer = _HTTP_STATUS[refusal.code], {"error": refusal.message}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _predict(self, body: bytes) -> dict[str, Any]:
            found = re.fullmatch(r"/v1/models/([^/:]+)(?:/versions/(\d+))?:predict", self.path)
            if found is None:
                raise Refusal(grpc.StatusCode.NOT_FOUND, f"Malformed request: POST {self.path}")
            server.find(found[1], None if found[2] is None else int(found[2]))
            try:
                request = json.loads(body)
                signature = request.get("signature_name", "serving_default")
                is_row_format = "instances" in request
                columns = request.get("inputs")
                if is_row_format:
                    rows = request["instances"]
                    columns = {name: [row[name] for row in rows] for name in rows[0]}
                dtypes = server.model.input_dtypes(signature)
                inputs = {n: np.asarray(v, dtypes.get(n)) for n, v in columns.items()}
            except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"JSON: {error}") from None
            outputs = {n: v.tolist() for n, v in server.model.predict(signature, inputs).items()}
            if not is_row_format:
                return {"outputs": outputs}
            rows = zip(*outputs.values(), strict=True)
            return {"predictions": [dict(zip(outputs, row, strict=True)) for row in rows]}

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


if __name__ == "__main__":
    with LocalServer(sys.argv[1]) as running:
        print(json.dumps(running.addresses), flush=True)
        sys.stdin.read()
