"""The export, loaded as TensorFlow Serving does: what it answers, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import grpc
import numpy as np
import pytest

from dance_tf.errors import UserError
from dance_tf.export.evaluator import export_evaluator
from dance_tf.export.serving import ServedModel
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.structs import DATAFLOWS, METRICS
from tests.serving.local_server import Refusal

FIELDS = ("pe_x", "pe_y", "rf_bytes", "dataflow")
OTHER = {
    "serving_default": "objective_vectors",
    "estimate_cost": "accelerator_index",
    "exact": "objective_vectors",
}


def _inputs(queries, signature, rows=slice(None)):
    return {name: queries[name][rows].copy() for name in ("mixture_weights", OTHER[signature])}


def _metrics(outputs):
    return np.stack([outputs[name] for name in METRICS], axis=1)


def test_answers_are_those_of_the_evaluator(server, evaluator, queries):
    inputs = _inputs(queries, "serving_default")
    outputs = server.model.predict("serving_default", inputs)
    expected = evaluator.evaluate(*inputs.values())
    np.testing.assert_allclose(_metrics(outputs), expected.metrics, rtol=1e-5)
    np.testing.assert_array_equal(outputs["accelerator_index"], expected.accelerator_index)
    for i, index in enumerate(outputs["accelerator_index"]):
        accelerator = evaluator.domain.accelerators.decode(int(index))
        assert [outputs[name][i] for name in FIELDS[:3]] == [
            getattr(accelerator, name) for name in FIELDS[:3]
        ]
        assert DATAFLOWS[outputs["dataflow"][i]] == accelerator.dataflow


def test_trust_is_served_where_the_evaluator_says_it(server, evaluator, queries):
    inputs = _inputs(queries, "serving_default")
    outputs = server.model.predict("serving_default", inputs)
    others = set(outputs) - {*METRICS, "accelerator_index", *FIELDS}
    expected = evaluator.trust(*inputs.values(), evaluator.evaluate(*inputs.values()))._asdict()
    assert others == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, rtol=1e-4, atol=1e-5)


def test_estimates_are_those_of_the_evaluator(server, evaluator, queries):
    inputs = _inputs(queries, "estimate_cost")
    outputs = server.model.predict("estimate_cost", inputs)
    assert set(outputs) == set(METRICS)
    np.testing.assert_allclose(_metrics(outputs), evaluator.estimate(*inputs.values()), rtol=1e-5)


def test_exact_is_the_oracle(server, table, queries):
    inputs = _inputs(queries, "exact")
    outputs = server.model.predict("exact", inputs)
    best = best_accelerators(table, *inputs.values())
    np.testing.assert_array_equal(outputs["accelerator_index"], best.accelerator_index)
    np.testing.assert_allclose(_metrics(outputs), best.metrics, rtol=1e-6)
    assert set(outputs) == {*METRICS, "accelerator_index", *FIELDS}


@pytest.mark.parametrize("signature", OTHER)
def test_row_i_of_a_batch_equals_the_single_result(server, queries, signature):
    """One, three and six samples, by the session-based loader."""
    batch = server.model.predict(signature, _inputs(queries, signature))
    three = server.model.predict(signature, _inputs(queries, signature, slice(3)))
    for i in range(6):
        single = server.model.predict(signature, _inputs(queries, signature, slice(i, i + 1)))
        for name, value in single.items():
            assert value.shape == (1,) and batch[name].shape == (6,)
            np.testing.assert_allclose(value[0], batch[name][i], rtol=1e-6, atol=1e-6)
            if i < 3:
                np.testing.assert_allclose(three[name][i], batch[name][i], rtol=1e-6, atol=1e-6)


def test_no_input_or_output_is_without_a_batch_axis(server):
    """All signatures, as TensorFlow Serving reads them; batching needs the axis."""
    assert set(server.model.signatures) == set(OTHER)
    for definition in server.model.signatures.values():
        for info in (*definition.inputs.values(), *definition.outputs.values()):
            sizes = [axis.size for axis in info.tensor_shape.dim]
            assert not info.tensor_shape.unknown_rank and sizes[0] == -1
            assert all(size > 0 for size in sizes[1:])


def test_a_second_export_in_one_process_has_the_same_signatures(folder, evaluator, server):
    """Names, shapes and dtypes do not change with what was built before."""
    report = export_evaluator(evaluator, str(folder.parent / "again"))
    for name, signature in report["signatures"].items():
        first = ServedModel(folder / "evaluator" / "1", name)
        second = ServedModel(report["path"], name)
        assert first.inputs == second.inputs and first.outputs == second.outputs
        assert set(signature["inputs"]) == set(first.inputs)
    assert set(report["signatures"]) == {"serving_default", "estimate_cost"}  # no table


def test_unknown_names_are_answered_with_the_valid_ones(folder, queries):
    """Inputs and signatures."""
    served = ServedModel(folder / "evaluator", "estimate_cost")
    with pytest.raises(UserError, match="the inputs are accelerator_index, mixture_weights"):
        served(**_inputs(queries, "serving_default"))
    with pytest.raises(UserError, match="there is estimate_cost, exact, serving_default"):
        ServedModel(folder / "evaluator", "estimate")


def _spoil(inputs, name, row, value):
    """Return the inputs with one row changed; `value` may be a function of it."""
    inputs[name][row] = value(inputs[name][row]) if callable(value) else value
    return inputs


def _with(position, value):
    def change(row):
        row = row.copy()
        row[position] = value
        return row

    return change


REFUSED = [
    ("mixture_weights", _with((0, 1), np.nan), "some weights are not finite"),
    ("mixture_weights", _with((1, 0), np.inf), "some weights are not finite"),
    ("mixture_weights", _with((0, slice(0, 2)), (-0.5, 1.5)), "some weights are negative"),
    ("mixture_weights", lambda row: 1.01 * row, "do not sum to one within 0.001"),
    ("mixture_weights", lambda row: 0.0 * row, "do not sum to one within 0.001"),
    ("objective_vectors", (0, np.nan, 1, 1), "some numbers are not finite"),
    ("objective_vectors", (0, np.inf, 1, 1), "some numbers are not finite"),
    ("objective_vectors", (0.5, 1, 1, 1), "neither 0 nor 1"),
    ("objective_vectors", (2, 1, 1, 1), "neither 0 nor 1"),
    ("objective_vectors", (1, 1, -1, 1), "some weights are negative"),
    ("objective_vectors", (0, 0, 0, 0), "all weights are 0"),
    ("objective_vectors", (1, 3e38, 3e38, 3e38), "their sum is too large"),
    ("accelerator_index", 54, "outside 0..53"),
    ("accelerator_index", -1, "outside 0..53"),
]


@pytest.mark.parametrize(("name", "value", "says"), REFUSED)
@pytest.mark.parametrize("signature", OTHER)
def test_input_out_of_range_is_refused_by_both_loaders(
    server, folder, queries, signature, name, value, says
):
    inputs = _inputs(queries, signature)
    if name not in inputs:
        assert name not in server.model.signatures[signature].inputs
        return
    bad = _spoil(inputs, name, 4, value)
    with pytest.raises(Refusal) as refusal:
        server.model.predict(signature, bad)
    assert refusal.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{name}: " in refusal.value.message
    assert says in refusal.value.message and "(row 4)" in refusal.value.message


@pytest.mark.parametrize(("name", "value", "says"), REFUSED[::3])
def test_the_client_in_this_process_gets_one_line(folder, queries, name, value, says):
    signature = "estimate_cost" if name == "accelerator_index" else "serving_default"
    served = ServedModel(folder / "evaluator", signature)
    with pytest.raises(UserError) as error:
        served(**_spoil(_inputs(queries, signature), name, 0, value))
    assert says in str(error.value) and "(row 0)" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_op_that_a_block_does_not_have_is_refused(server, evaluator, queries):
    op_mask = evaluator.domain.space.op_mask
    block, op = np.argwhere(~op_mask)[0]
    inputs = _inputs(queries, "exact")
    inputs["mixture_weights"][2, block] = np.eye(op_mask.shape[1])[op]
    with pytest.raises(Refusal, match="an op that its block does not have has weight"):
        server.model.predict("exact", inputs)


def test_rounded_weights_are_answered(server, queries):
    inputs = _inputs(queries, "serving_default")
    inputs["mixture_weights"] = np.round(inputs["mixture_weights"], 4)
    assert np.isfinite(_metrics(server.model.predict("serving_default", inputs))).all()


def test_wrong_shapes_and_batch_sizes_are_refused(server, queries):
    inputs = _inputs(queries, "estimate_cost")
    for name, value in (
        ("mixture_weights", inputs["mixture_weights"][:, :, :-1]),
        ("mixture_weights", inputs["mixture_weights"][0]),
        ("mixture_weights", inputs["mixture_weights"][None]),
        ("accelerator_index", inputs["accelerator_index"][:1]),
        ("accelerator_index", inputs["accelerator_index"][0]),
        ("accelerator_index", inputs["accelerator_index"].astype(np.float32)),
    ):
        with pytest.raises(Refusal) as refusal:
            server.model.predict("estimate_cost", {**inputs, name: value})
        assert refusal.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_batch_of_no_rows_is_answered_with_none(server, queries):
    for signature in OTHER:
        outputs = server.model.predict(signature, _inputs(queries, signature, slice(0)))
        assert all(value.shape == (0,) for value in outputs.values())


def test_saved_model_cli_shows_and_runs_it(folder, queries, tmp_path):
    inputs = _inputs(queries, "serving_default", slice(2))
    np.savez(tmp_path / "in.npz", **inputs)
    given = ";".join(f"{name}={tmp_path / 'in.npz'}[{name}]" for name in inputs)
    program = os.path.join(os.path.dirname(sys.executable), "saved_model_cli")
    done = subprocess.run(
        [
            *(sys.executable, program, "run", "--dir", str(folder / "evaluator" / "1")),
            *("--tag_set", "serve", "--signature_def", "serving_default"),
            *("--inputs", given, "--outdir", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    served = ServedModel(folder / "evaluator")(**inputs)
    np.testing.assert_allclose(
        np.load(tmp_path / "latency_ms.npy"), served["latency_ms"], rtol=1e-6
    )
