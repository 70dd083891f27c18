"""The files around the model: as TensorFlow Serving's own classes read them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from dance_tf.export.serving import WARMUP_FILE, write_server_files, write_warmup_requests


def _logs(path):
    return [
        prediction_log_pb2.PredictionLog.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(path))
    ]


def test_the_warm_up_requests_are_answered(folder, server):
    """The local server replays them when it starts, as TensorFlow Serving does."""
    logs = _logs(folder / "evaluator" / "1" / WARMUP_FILE)
    requests = [log.predict_log.request for log in logs]
    names = [request.model_spec.signature_name for request in requests]
    assert names == ["serving_default", "estimate_cost", "exact"]
    assert {request.model_spec.name for request in requests} == {"evaluator"}
    assert server.num_warmups == 3


@pytest.mark.parametrize("size", [1, 20, 127, 128, 20_000])
def test_requests_are_written_as_the_protos_write_them(tmp_path, size):
    """Lengths of one, two and three bytes; read back to the last bit."""
    inputs = {"some_floats": np.arange(size, dtype=np.float32), "an_int": np.asarray([size])}
    write_warmup_requests(str(tmp_path), {"a_signature": inputs})
    (log,) = _logs(tmp_path / WARMUP_FILE)
    expected = prediction_log_pb2.PredictionLog()
    request = expected.predict_log.request
    request.model_spec.name, request.model_spec.signature_name = "evaluator", "a_signature"
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    assert log == expected
    assert log.ByteSize() == expected.ByteSize()  # so no field is one that it does not know


def test_models_config_names_the_folder_that_compose_mounts(folder):
    text = (folder / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("evaluator", "/models/evaluator")
    assert (folder / "evaluator" / "1" / "saved_model.pb").is_file()
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    (service,) = compose["services"].values()
    assert service["image"].startswith("tensorflow/serving")
    assert service["volumes"] == [".:/models:ro"]
    for option in service["command"]:
        name, _, value = option.removeprefix("--").partition("=")
        if name.endswith("_file"):
            assert (folder / value.removeprefix("/models/")).is_file()
    ports = [port.rpartition(":")[2] for port in service["ports"]]
    assert ports == ["8500", "8501"]


def test_batching_config_is_a_text_proto_of_wrapped_numbers(folder):
    lines = (folder / "batching.config").read_text().splitlines()
    fields = [line.split() for line in lines if line[:1] != "#"]
    assert {f[0] for f in fields} == {
        "max_batch_size",
        "batch_timeout_micros",
        "num_batch_threads",
        "max_enqueued_batches",
    }
    assert all(f[1:3] == ["{", "value:"] and f[3].isdigit() and f[4:] == ["}"] for f in fields)


def test_files_that_are_there_stay(tmp_path):
    (tmp_path / "models.config").write_text("mine")
    paths = write_server_files(str(tmp_path))
    assert sorted(paths) == ["batching.config", "compose.yaml", "models.config"]
    assert (tmp_path / "models.config").read_text() == "mine"
    assert (tmp_path / "compose.yaml").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(paths)
