"""How the numbers of a run went: the charts of its history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dance_tf.report.charts import Chart, Series, line_chart
from dance_tf.report.run_folder import Run
from dance_tf.report.texts import number
from dance_tf.search.result import PHASES
from dance_tf.search.retrain import PHASE as RETRAIN
from dance_tf.structs import METRICS

__all__ = ["dataflow_spans", "retraining_charts", "search_charts"]


def search_charts(run: Run) -> list[Chart]:
    """Return the charts of the search, those for which the history has numbers."""
    records = [record for record in run.history if record.get("phase") in PHASES]
    records = [record for record in records if _is_number(record.get("step"))]
    steps = [record["step"] for record in records]
    band = max((r["step"] for r in records if r["phase"] == "warmup"), default=None)

    def of(name: str, title: str = "", is_stepped: bool = False) -> Series:
        return _series(records, title or name.replace("_", " "), lambda r: r.get(name), is_stepped)

    def pair(metric: str) -> list[Series]:
        lines = [of(f"predicted_{metric}", "predicted"), of(f"exact_{metric}", "exact")]
        limit = getattr(run.limits, f"max_{metric}", None)
        if limit is not None and steps:
            lines.append(Series("limit", [(steps[0], limit), (steps[-1], limit)]))
        return lines

    def edap(source: str) -> Series:
        return _series(records, source, lambda r: _product(r.get(f"{source}_{m}") for m in METRICS))

    def entropy(name: str, reduce: Any) -> Series:
        return _series(records, name, lambda r: _reduced(r.get("mixture_entropy"), reduce))

    def array(name: str) -> Series:
        return _series(records, name, lambda r: _of_accelerator(r, name), True)

    specs: list[tuple[str, str, list[Series], bool]] = [
        (
            "Cross-entropy",
            "nats",
            [
                of("cross_entropy", "on train"),
                of("architecture_cross_entropy", "on architecture"),
            ],
            False,
        ),
        ("Accuracy on train, of sampled paths", "share", [of("accuracy")], True),
        ("EDAP of the network so far", "ms mJ mm²", [edap("predicted"), edap("exact")], True),
        ("Latency of the network so far", "ms", pair("latency_ms"), True),
        ("Energy of the network so far", "mJ", pair("energy_mj"), True),
        ("Area of its accelerator", "mm²", pair("area_mm2"), True),
        ("Objective of the mixture, predicted", "", [of("objective")], True),
        ("lambda_2", "", [of("lambda_2", "lambda_2")], True),
        (
            "Entropy of the mixture weights",
            "nats",
            [
                entropy("mean of the blocks", np.mean),
                entropy("lowest", min),
                entropy("highest", max),
            ],
            True,
        ),
        ("Share of Zero", "of skippable blocks", [of("zero_share", is_stepped=True)], True),
        ("Altered architecture steps", "share", [of("altered_share")], True),
        ("Above the limits, predicted", "cost / limit - 1", [of("limit_excess")], True),
        ("PE array", "PEs", [array("pe_x"), array("pe_y")], True),
        ("Register file", "bytes per PE", [array("rf_bytes")], True),
    ]
    charts = [
        line_chart(
            title,
            unit,
            series,
            x_label="weight steps",
            x_range=(min(steps), max(steps)) if steps else None,
            is_from_zero=is_from_zero,
            band_until=band,
        )
        for title, unit, series, is_from_zero in specs
    ]
    return [chart for chart in charts if chart is not None]


def retraining_charts(run: Run) -> list[Chart]:
    """Return the charts of the retraining; none where there was none."""
    records = [record for record in run.history if record.get("phase") == RETRAIN]

    def of(name: str, title: str) -> Series:
        return _series(records, title, lambda r: r.get(name), x="epoch")

    charts = [
        line_chart(title, unit, series, x_label="epochs")
        for title, unit, series in (
            ("Cross-entropy, smoothed labels", "nats", [of("cross_entropy", "on train")]),
            (
                "Accuracy",
                "share",
                [of("accuracy", "on train, augmented"), of("test_accuracy", "on test")],
            ),
        )
    ]
    return [chart for chart in charts if chart is not None]


def dataflow_spans(run: Run) -> list[dict[str, Any]]:
    """Return which dataflow the evaluator chose from which step on."""
    spans: list[dict[str, Any]] = []
    for record in run.history:
        if record.get("phase") in PHASES and _is_number(record.get("step")):
            name = (record.get("accelerator") or {}).get("dataflow")
            if name and (not spans or spans[-1]["name"] != name):
                spans.append({"name": name, "step": number(record["step"])})
    return spans


def _series(
    records: Sequence[Mapping[str, Any]],
    name: str,
    value_of: Any,
    is_stepped: bool = False,
    x: str = "step",
) -> Series:
    """Return the points of the records that have a number; others, of older runs, have none."""
    points: list[tuple[Any, Any]] = [(record.get(x), value_of(record)) for record in records]
    return Series(name, [(a, b) for a, b in points if _is_number(a) and _is_number(b)], is_stepped)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _product(values: Any) -> float | None:
    values = list(values)
    return math.prod(values) if all(map(_is_number, values)) else None


def _reduced(values: Any, reduce: Any) -> float | None:
    if not isinstance(values, list) or not values or not all(map(_is_number, values)):
        return None
    return float(reduce(values))


def _of_accelerator(record: Mapping[str, Any], name: str) -> Any:
    accelerator = record.get("accelerator")
    return accelerator.get(name) if isinstance(accelerator, dict) else None
