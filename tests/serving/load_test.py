"""Many clients at once against a served evaluator; prints what was lost and how long it took.

    python -m tests.serving.load_test --serving_dir=DIR [--clients=64] [--seconds=60]

starts the local server for the versions in DIR/evaluator; --server=HOST:PORT asks one that
runs already, such as TensorFlow Serving, by gRPC. Every client has a connection of its own,
asks again as soon as it is answered, and compares each answer with the first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
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

__all__ = ["load", "start_server"]

_DEADLINE_S = 30.0


def start_server(base_dir: str) -> tuple[subprocess.Popen, str]:
    """Start the local server as a process of its own; return it and its gRPC address."""
    command = [sys.executable, "-m", "tests.serving.local_server", base_dir]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["grpc"]


def load(
    address: str, inputs: dict[str, np.ndarray], num_clients: int, seconds: float
) -> dict[str, Any]:
    """Ask `serving_default` from many clients at once.

    Args:
        address: HOST:PORT, of gRPC.
        inputs: One query.
        num_clients: Threads, each with its own connection.
        seconds: For how long.
    Returns:
        `num_requests`, `num_lost` (failed, or other than the first answer), `p50_ms`,
        `p99_ms`, `max_ms` and `requests_per_s`.
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL_NAME
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    times: list[list[float]] = [[] for _ in range(num_clients)]
    lost, first = [0] * num_clients, threading.Lock()
    expected: dict[str, np.ndarray] = {}
    started = time.perf_counter()

    def is_expected(response: Any) -> bool:
        answer = {name: tf.make_ndarray(t) for name, t in response.outputs.items()}
        with first:
            if not expected:
                expected.update(answer)
        return set(answer) == set(expected) and all(
            np.allclose(answer[name], expected[name], rtol=1e-6) for name in expected
        )

    def client(number: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(address, options) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while time.perf_counter() < started + seconds:
                asked = time.perf_counter()
                try:
                    response = stub.Predict(request, timeout=_DEADLINE_S, wait_for_ready=True)
                    lost[number] += not is_expected(response)
                except grpc.RpcError:
                    lost[number] += 1
                times[number].append(time.perf_counter() - asked)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - started
    milliseconds = 1e3 * np.concatenate(times)
    return {
        "num_clients": num_clients,
        "seconds": taken,
        "num_requests": len(milliseconds),
        "num_lost": sum(lost),
        "requests_per_s": len(milliseconds) / taken,
        "p50_ms": float(np.percentile(milliseconds, 50)),
        "p99_ms": float(np.percentile(milliseconds, 99)),
        "max_ms": float(milliseconds.max()),
    }


def main() -> int:
    """Run and print; the status is 1 if a request was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serving_dir", required=True, help="what export_model wrote")
    parser.add_argument("--server", help="HOST:PORT of a server that runs already, gRPC")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    base_dir = os.path.join(os.path.expanduser(given.serving_dir), MODEL_NAME)
    process, address = None, given.server
    if address is None:
        process, address = start_server(base_dir)
    try:
        report = load(address, _query(base_dir), given.clients, given.seconds)
    finally:
        if process is not None:
            process.communicate()
    print(json.dumps(report, indent=2))
    return int(report["num_lost"] > 0)


def _query(base_dir: str) -> dict[str, np.ndarray]:
    """Return the warm-up request of `serving_default` of the highest version."""

    found = versions(base_dir)
    record = next(iter(tf.data.TFRecordDataset(f"{found[max(found)]}/{WARMUP_FILE}")))
    log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
    inputs = log.predict_log.request.inputs
    return {name: tf.make_ndarray(tensor) for name, tensor in inputs.items()}


if __name__ == "__main__":
    sys.exit(main())
