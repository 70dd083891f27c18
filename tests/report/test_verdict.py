"""The verdict says what the numbers support, and no more."""

from __future__ import annotations

import dataclasses

import pytest

from dance_tf.hardware.objective import Limits
from dance_tf.report.exact import exact_parts
from dance_tf.report.run_folder import read_run
from dance_tf.report.verdict import verdict
from dance_tf.structs import METRICS, Architecture


@pytest.fixture
def run(run_dir):
    return read_run(run_dir)


def _changed(run, history=None, **result):
    history = run.history if history is None else history
    return dataclasses.replace(run, result={**run.result, **result}, history=history)


def _with_ops(run, op):
    ops = tuple(
        op if op in block_ops else "mbconv3_e3"
        for block_ops in (
            [name for name, is_op in zip(run.space.op_names, mask, strict=True) if is_op]
            for mask in run.space.op_mask
        )
    )
    return dataclasses.replace(run, architecture=Architecture(run.space.name, ops))


def _text(run, exact=None, baseline=None):
    return "\n".join(a.reason + a.setting for a in verdict(run, exact, baseline).advice)


def _settled_logits(run, height=9.0):
    chosen = run.space.to_indices(run.architecture)
    return [
        [None if not is_op else height * (op == chosen[block]) for op, is_op in enumerate(mask)]
        for block, mask in enumerate(run.space.op_mask)
    ]


def test_distances_are_ratios_of_objectives(run, table):
    exact, own = exact_parts(run, table), run.costs["exact_cost"]["objective"]
    (text,) = (s for s in verdict(run, exact, None).standing if "cheapest" in s)
    assert f"{own / exact.cheapest.objective:.2f}" in text
    assert f"{own / exact.largest.objective:.3f}" in text and "largest network" in text
    cost = {m: 2 * run.costs["exact_cost"][m] for m in METRICS}
    other = dataclasses.replace(run, folder="/a/dear one", costs={"exact_cost": cost})
    (text,) = (s for s in verdict(run, exact, other).standing if "dear one" in s)
    assert "0.125 times that of the baseline dear one" in text and "0.00 points" in text
    # Costs of another day are not compared.
    other_day = dataclasses.replace(exact, is_of_the_run=False)
    assert not any("cheapest" in s for s in verdict(run, other_day, None).standing)
    assert not any("cheapest" in s for s in verdict(run, None, None).standing)


@pytest.mark.parametrize("is_moving", [False, True])
@pytest.mark.parametrize("is_decided", [False, True])
def test_settled_is_decided_and_still(run, is_moving, is_decided):
    history = [
        {"phase": "search", "step": step, **{f"exact_{m}": 1.0 for m in METRICS}}
        for step in range(1, 11)
    ]
    history[-1]["exact_latency_ms"] = 1.5 if is_moving else 1.0
    logits = _settled_logits(run, 9.0 if is_decided else 0.0)
    found = verdict(_changed(run, tuple(history), arch_logits=logits), None, None)
    is_settled = is_decided and not is_moving
    assert found.settled.startswith(
        "The search has settled" if is_settled else "The search has not"
    )
    assert ("cost moved by 50 %" in found.settled) == is_moving
    assert any("search.epochs" in a.reason for a in found.advice) != is_settled


def test_what_is_not_known_is_not_said(run):
    found = verdict(_changed(run, (), arch_logits=[]), None, None)
    assert "cannot be said" in found.settled
    assert not any("settled" in advice.reason for advice in found.advice)


def test_advice_on_lambda_2(run, table):
    objective = {**run.result["objective"], "lambda_2": 0.06}
    run = _changed(run, objective=objective)
    assert "Every block that can be Zero is" in _text(_with_ops(run, "zero"))
    assert "search.lambda_2=0.02" in _text(_with_ops(run, "zero"))
    exact = exact_parts(run, table)
    largest = dataclasses.replace(run, architecture=Architecture(run.space.name, exact.largest.ops))
    assert "search.lambda_2=0.18" in _text(largest, exact)
    assert "lambda_2" not in _text(largest, None).replace("sweep over lambda_2", "")
    assert "cost had no say" in _text(_changed(run, objective={**objective, "lambda_2": 0.0}))
    collapse = {"is_restarted": True, "lambda_2_after": 0.012}
    assert "search.lambda_2=0.012" in _text(_changed(run, collapses=[collapse]))


def test_advice_on_accuracy(run):
    def accuracy(value):
        return {"value": value, "split": "test", "num_images": 40}

    def rates(values):
        return tuple(
            {"phase": "retrain", "step": i, "epoch": i + 1, "accuracy": value}
            for i, value in enumerate(values)
        )

    assert "retrain the network" in _text(_changed(run, accuracy=None))
    assert "guessing is on 10 %" in _text(_changed(run, accuracy=accuracy(0.15)))
    gaining = _changed(run, rates([0.1 * i for i in range(10)]), accuracy=accuracy(0.85))
    assert "still gaining" in _text(gaining) and "retrain.epochs=20" in _text(gaining)
    overfit = _changed(run, rates([0.99] * 10), accuracy=accuracy(0.7))
    assert "more images" in _text(overfit)
    fine = _text(_changed(run, rates([0.99] * 10), accuracy=accuracy(0.97)))
    assert "images" not in fine and "retrain" not in fine


def test_advice_on_limits_and_the_evaluator(run):
    cost = run.costs["exact_cost"]
    limits = Limits(max_latency_ms=cost["latency_ms"] * 1.01, max_area_mm2=2 * cost["area_mm2"])
    facts = {"is_repaired": True, "lost_log_probability": 0.125}
    text = _text(dataclasses.replace(_changed(run, limits=facts), limits=limits))
    assert "used to 99 %" in text and "max_area_mm2" not in text and "0.1250 nats" in text
    assert "off at the network found" not in text
    predicted = {**run.costs["predicted_cost"]}
    predicted["objective"] *= 1.5
    wrong = dataclasses.replace(run, costs={**run.costs, "predicted_cost": predicted})
    assert "evaluator.kind=exact" in _text(wrong)
