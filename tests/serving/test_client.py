"""tools/query_evaluator.py against a local server: REST and gRPC, answers and refusals."""

from __future__ import annotations

import http.client
import json
import math
import socket
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest

from dance_tf.errors import UserError
from dance_tf.export import serving_client
from dance_tf.export.serving_client import PROTOCOLS, predict
from dance_tf.hardware.objective import EDAP
from tests.evaluator.fake_table import SMALL
from tools import flags as common
from tools import query_evaluator

NETWORK = "mbconv5_e3,zero"
HARDWARE = [
    f"--set=hardware.accelerators.{name}={list(getattr(SMALL.accelerators, name))}"
    for name in ("pe_x", "pe_y", "rf_bytes")
]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(params=sorted(PROTOCOLS))
def ask(request, server, capsys):
    """A function that runs the tool against the server; returns status, JSON and stderr."""

    def call(*arguments):
        given = [f"--protocol={request.param}", "--preset=tiny", *arguments]
        if any(argument.startswith("--accelerator") for argument in arguments):
            given += HARDWARE  # Which says what the accelerator's number is.
        if not any(argument.startswith("--server") for argument in arguments):
            given.append(f"--server={server.addresses[request.param]}")
        flags = query_evaluator.FLAGS
        status = common.call(query_evaluator.main, flags, ["query_evaluator", *given])
        captured = capsys.readouterr()
        return status, json.loads(captured.out) if captured.out else None, captured.err

    call.protocol = request.param
    return call


def _one_hot(evaluator):
    names = evaluator.domain.space.op_names
    indices = [names.index(op) for op in NETWORK.split(",")]
    return np.eye(len(names), dtype=np.float32)[indices]


def test_an_architecture_gets_the_evaluators_answer(ask, evaluator):
    status, report, errors = ask(f"--architecture={NETWORK}")
    assert (status, errors) == (0, "")
    (answer,) = report["predictions"]
    expected = evaluator.evaluate(_one_hot(evaluator)[None], EDAP.vector[None])
    accelerator = evaluator.domain.accelerators.decode(int(expected.accelerator_index[0]))
    assert answer["latency_ms"] == pytest.approx(float(expected.metrics[0, 0]), rel=1e-5)
    for name in ("pe_x", "pe_y", "rf_bytes", "dataflow"):
        assert answer[name] == getattr(accelerator, name)


def test_objectives_reach_the_server(ask, table, evaluator):
    status, report, _ = ask(
        f"--architecture={NETWORK}",
        "--signature=exact",
        "--objective=linear",
        "--objective_weights=0,0,1",
    )
    assert status == 0
    (answer,) = report["predictions"]
    assert answer["area_mm2"] == pytest.approx(float(table.area_mm2.min()), rel=1e-6)


def test_the_cost_on_an_accelerator(ask, table, evaluator):
    fields = {"pe_x": 12, "pe_y": 10, "rf_bytes": 64, "dataflow": "row_stationary"}
    text = ",".join(f"{name}={value}" for name, value in fields.items())
    arguments = (f"--architecture={NETWORK}", "--signature=estimate_cost", f"--accelerator={text}")
    status, report, _ = ask(*arguments)
    assert status == 0
    rows = evaluator.domain.accelerators.all()
    (index,) = np.flatnonzero((rows.pe_x == 12) & (rows.pe_y == 10) & (rows.rf_bytes == 64))[2:]
    expected = evaluator.estimate(_one_hot(evaluator)[None], [int(index)])[0]
    (answer,) = report["predictions"]
    names = ("latency_ms", "energy_mj", "area_mm2")
    assert answer == pytest.approx(dict(zip(names, map(float, expected), strict=True)), rel=1e-5)


def test_one_sample_or_a_batch_gets_exactly_one_batch_axis(ask, queries, tmp_path):
    """[D, O], [1, D, O] and [3, D, O] give one, one and three predictions."""
    weights, answers = queries["mixture_weights"].tolist(), []
    for mixtures in (weights[0], weights[:1], weights[:3]):
        path = tmp_path / "mixtures.json"
        path.write_text(json.dumps(mixtures))
        status, report, _ = ask(f"--mixture_weights={path}")
        assert status == 0
        answers.append(report["predictions"])
    single, batch_of_one, batch = answers
    assert (len(single), len(batch_of_one), len(batch)) == (1, 1, 3)
    for name, value in single[0].items():
        expected = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
        assert batch_of_one[0][name] == expected and batch[0][name] == expected


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: [[2 * x for x in row] for row in w], "do not sum to one within 0.001 (row 0)"),
        (lambda w: [[-x for x in row] for row in w], "some weights are negative (row 0)"),
        (lambda w: [row[:-1] for row in w], ""),  # wrong width; the words are TensorFlow's
    ],
)
def test_refusals_are_one_line_with_the_status(ask, queries, tmp_path, change, says):
    path = tmp_path / "mixtures.json"
    path.write_text(json.dumps(change(queries["mixture_weights"][0].tolist())))
    status, report, errors = ask(f"--mixture_weights={path}")
    assert (status, report) == (1, None)
    assert errors.startswith("query_evaluator: ") and errors.count("\n") == 1
    assert says in errors
    assert {"rest": "HTTP status 400", "grpc": "INVALID_ARGUMENT"}[ask.protocol] in errors


def test_what_is_not_served_is_said(ask):
    for arguments, rest, grpc in (
        (["--model_name=other"], "404", "NOT_FOUND"),
        (["--model_version=9"], "404", "NOT_FOUND"),
    ):
        status, report, errors = ask(f"--architecture={NETWORK}", *arguments)
        assert (status, report) == (1, None) and errors.count("\n") == 1
        assert {"rest": f"HTTP status {rest}", "grpc": grpc}[ask.protocol] in errors
        assert "Servable not found" in errors
    status, report, _ = ask(f"--architecture={NETWORK}", "--model_version=1")
    assert status == 0 and len(report["predictions"]) == 1


def test_no_server_is_one_line(ask):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        status, report, errors = ask(f"--architecture={NETWORK}", f"--server={address}")
    assert (status, report) == (1, None) and errors.count("\n") == 1
    assert {"rest": "cannot be reached", "grpc": "UNAVAILABLE"}[ask.protocol] in errors


def test_a_server_that_does_not_answer_is_given_up(ask):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        status, report, errors = ask(
            f"--architecture={NETWORK}", f"--server={address}", "--timeout_s=0.3"
        )
    assert (status, report) == (1, None) and errors.count("\n") == 1
    says = {"rest": ("has not answered", "timed out"), "grpc": ("DEADLINE_EXCEEDED", "UNAVAIL")}
    assert any(text in errors for text in says[ask.protocol])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give one of --architecture and --mixture_weights"),
        ([f"--architecture={NETWORK}", "--mixture_weights=a.json"], "give one of"),
        (["--architecture=mbconv5_e3"], "tiny_mbconv has 2 blocks"),
        (["--architecture=mbconv5_e3,zer0"], "zer0"),
        ([f"--architecture={NETWORK}", "--signature=estimate_cost"], "go together"),
        ([f"--architecture={NETWORK}", "--objective_weights=1,2,3"], "goes with --objective"),
        ([f"--architecture={NETWORK}", "--objective=linear", "--objective_weights=1"], "three"),
        ([f"--architecture={NETWORK}", "--objective=linear", "--objective_weights=0,0,0"], "0.0"),
        (["--mixture_weights=missing.json"], "missing.json: no such file"),
        (["--mixture_weights={nan}"], "not a number"),
        (["--mixture_weights={text}"], "holds no array"),
        (["--mixture_weights={ragged}"], "rows differ in length"),
        (["--mixture_weights={flat}"], "2 axes are one sample, 3 a batch"),
        (["--mixture_weights={huge}"], "mixture_weights[1, 0] is 1e+39"),
        (
            [f"--architecture={NETWORK}", "--objective=linear", "--objective_weights=1e39,1,1"],
            "weights sum to 1e+39",
        ),
    ],
)
def test_mistakes_are_refused_before_the_server_is_asked(ask, tmp_path, arguments, says):
    files = {
        "nan": "[[NaN]]",
        "text": '"a"',
        "ragged": "[[1, 0], [1]]",
        "flat": "[1, 0]",
        "huge": "[[1, 0], [1e39, 0]]",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths = {name: tmp_path / name for name in files}
    nowhere = "--server=127.0.0.1:1"
    status, report, errors = ask(*(a.format(**paths) for a in arguments), nowhere)
    assert (status, report) == (1, None)
    assert says in errors and errors.count("\n") == 1 and "127.0.0.1:1" not in errors


def test_grpc_without_its_package_is_one_line(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(UserError, match="pip install tensorflow-serving-api, or use REST"):
        predict({}, protocol="grpc", server=server.addresses["grpc"])


def test_rest_speaks_rows_and_columns(server, queries):
    """The stand-in server reads both of TensorFlow Serving's formats alike."""
    url = f"http://{server.addresses['rest']}/v1/models/evaluator:predict"
    names = ("mixture_weights", "objective_vectors")
    columns = {name: queries[name][:3].tolist() for name in names}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    answers = []
    for body in ({"inputs": columns}, {"instances": rows}):
        with urllib.request.urlopen(url, json.dumps(body).encode()) as response:
            answers.append(json.load(response))
    by_column, by_row = answers[0]["outputs"], answers[1]["predictions"]
    assert [row["latency_ms"] for row in by_row] == by_column["latency_ms"]
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(url, b"{")
    assert error.value.code == 400


@pytest.fixture
def answer(monkeypatch):
    """Let every server answer with these bytes."""

    def set_to(body):
        class Answer:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def read(self):
                if isinstance(body, Exception):
                    raise body
                return body

        monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Answer())

    return set_to


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"hello": 1}', "does not answer as TensorFlow Serving does"),
        (b'{"outputs": {}}', "does not answer as TensorFlow Serving does"),
        (b"[1]", "does not answer as TensorFlow Serving does"),
        (b"", "answers 0 bytes that are no JSON"),
        (b'{"outputs": {"a": [1.0', "answers 22 bytes that are no JSON"),
        (http.client.IncompleteRead(b"abc"), "its answer ends after 3 bytes"),
        (b'{"outputs": {"a": [1.0], "b": [1.0, 2.0]}}', "bad 'b': 2 row(s) for 1 sample(s)"),
        (b'{"outputs": {"a": []}}', "bad 'a': 0 row(s) for 1 sample(s)"),
        (b'{"outputs": {"a": 1.0}}', "bad 'a': one number without a row(s)"),
        (b'{"outputs": {"a": ["x"]}}', "bad 'a': not numbers"),
        (b'{"outputs": {"a": [[1], [1, 2]]}}', "bad 'a': not numbers"),
        (b'{"outputs": {"a": [NaN]}}', "bad 'a': a[0] is nan"),
        (b'{"outputs": {"a": [1e999]}}', "bad 'a': a[0] is inf"),
    ],
)
def test_a_bad_reply_is_one_line(answer, body, says):
    answer(body)
    with pytest.raises(UserError) as error:
        predict({"mixture_weights": [[1.0]]})
    assert says in str(error.value) and "\n" not in str(error.value)
    assert "cannot be reached" not in str(error.value)


def test_an_unknown_protocol():
    with pytest.raises(UserError, match="protocol is 'http'"):
        predict({}, protocol="http")


@pytest.mark.parametrize("code", [3, -1, 0.5])
def test_an_unknown_dataflow_is_said(ask, monkeypatch, code):
    reply = {"dataflow": np.asarray([code]), "latency_ms": np.asarray([1.0])}
    monkeypatch.setattr(serving_client, "predict", lambda *_, **__: reply)
    status, report, errors = ask(f"--architecture={NETWORK}")
    assert (status, report) == (1, None)
    assert f"answers with dataflow {code} in row 0" in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        ({"dtype": 1, "tensor_content": b"abc", "tensor_shape": [1]}, "bad 'a'"),
        ({"dtype": 1, "float_val": [1.0, 2.0], "tensor_shape": [2]}, "2 row(s) for 1 sample(s)"),
        ({"dtype": 1, "float_val": [math.nan], "tensor_shape": [1]}, "a[0] is nan"),
        (None, "answers without outputs"),
    ],
)
def test_a_bad_reply_by_grpc_is_one_line(monkeypatch, tensor, says):
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    reply = predict_pb2.PredictResponse()
    if tensor is not None:
        of_a = reply.outputs["a"]
        for size in tensor.pop("tensor_shape"):
            of_a.tensor_shape.dim.add(size=size)
        of_a.MergeFrom(type(of_a)(**tensor))

    class Stub:
        def __init__(self, channel):
            pass

        def Predict(self, *_, **__):
            return reply

    monkeypatch.setattr(prediction_service_pb2_grpc, "PredictionServiceStub", Stub)
    with pytest.raises(UserError) as error:
        predict({"mixture_weights": [[1.0]]}, protocol="grpc")
    assert says in str(error.value) and "\n" not in str(error.value)
