"""Outcome of a run: exported files, confused classes, and charts of search and retraining."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from dance_tf.files import Json, read_json
from dance_tf.report.charts import Chart, Series, line_chart
from dance_tf.report.run_folder import Run
from dance_tf.report.texts import is_number, number
from dance_tf.search.predictions import PREDICTIONS_NAME
from dance_tf.search.result import PHASES
from dance_tf.search.retrain import PHASE as RETRAIN
from dance_tf.structs import METRICS

__all__ = ["confusion", "dataflow_spans", "exports", "retraining_charts", "search_charts"]

# Keys of export.json, and the format in words.
_FORMATS = {
    "saved_model": "TensorFlow SavedModel",
    "keras": "Keras",
    "tflite": "TFLite, float32",
    "tflite_int8": "TFLite, int8",
}

# Classes up to which the whole matrix is shown, and pairs that are listed in its place.
_MAX_CLASSES, _NUM_PAIRS = 20, 15


def exports(run: Run) -> dict[str, Json] | None:
    """Return each exported file with its size and accuracy; None where nothing was exported."""
    report = _read(run, os.path.join("exports", "export.json"))
    if report is None:
        return None
    rows = []
    for key, title in _FORMATS.items():
        entry = report.get(key)
        if entry is None:
            continue
        rows.append(
            {
                "title": title,
                "file": os.path.join("exports", os.path.basename(entry["path"])),
                "size": _size(entry["num_bytes"]),
                "accuracy": _share(entry.get("test_accuracy")),
                "agreement": _share(entry.get("top1_agreement")),
                "in_float": _in_float(entry.get("float_operations")),
            }
        )
    return {
        "rows": rows,
        "inputs": _inputs(report.get("inputs")),
        "num_images": number(report["num_images"]),
        "keras_accuracy": _share(report.get("keras_test_accuracy")),
    }


def _inputs(inputs: Mapping[str, Json] | None) -> list[str]:
    """Return the network's input in phrases; exports of older versions do not have it."""
    if inputs is None:
        return []
    phrases = []
    if len(inputs.get("source_shape") or ()) == 2:
        phrases.append(f"series of {inputs['height']} steps of {inputs['channels']} channels")
    elif inputs.get("height") and inputs.get("width"):
        phrases.append(f"images of {inputs['height']}x{inputs['width']} pixels")
    if inputs.get("value_range"):
        phrases.append("values of {:g} to {:g}".format(*inputs["value_range"]))
    for name in ("crop", "resize", "channel_order"):
        if inputs.get(name):
            phrases.append(f"{name.replace('_', ' ')}: {inputs[name]}")
    return phrases


def _in_float(operations: Sequence[Mapping[str, str]] | None) -> str:
    """Return the operations of an int8 network in float; "" where there is none, or unknown."""
    each = {f"{o['operation']} of {o['layer'] or 'an unknown layer'}" for o in operations or ()}
    return f"in float: {', '.join(sorted(each))}" if each else ""


def confusion(run: Run) -> dict[str, Json] | None:
    """Return the confusion of classes by the network; None where the run has not kept it.

    Where there are many classes, only the pairs that are confused most often are listed.
    """
    data = _read(run, PREDICTIONS_NAME)
    if data is None:
        return None
    num_classes, names = data["num_classes"], data["class_names"]
    counts = {(label, answer): count for label, answer, count in data["confusion"]}
    totals: Counter[int] = Counter()
    for (label, _), count in counts.items():
        totals[label] += count

    def name(label: int) -> str:
        return names[label] if names and label < len(names) else str(label)

    found: dict[str, Json] = {
        "split": data["accuracy"]["split"],
        "num_images": number(sum(totals.values())),
        "num_wrong": number(sum(n for (a, b), n in counts.items() if a != b)),
        "mistakes": [
            {
                "png": mistake["png"],
                "label": name(mistake["label"]),
                "answer": name(mistake["predicted"]),
                "share": f"{100 * mistake['probability']:.1f} %",
            }
            for mistake in data["mistakes"]
        ],
        "rows": None,
        "pairs": None,
    }
    if num_classes <= _MAX_CLASSES:
        found["names"] = [name(label) for label in range(num_classes)]
        found["rows"] = [
            {
                "name": name(label),
                "cells": [_cell(counts, totals, label, answer) for answer in range(num_classes)],
                "right": _share(counts.get((label, label), 0) / totals[label])
                if totals[label]
                else "no image",
            }
            for label in range(num_classes)
        ]
        return found
    wrong = sorted((-count, *pair) for pair, count in counts.items() if pair[0] != pair[1])
    found["pairs"] = [
        {
            "label": name(label),
            "answer": name(answer),
            "count": number(-count),
            "share": f"{-100 * count / totals[label]:.1f} %",
        }
        for count, label, answer in wrong[:_NUM_PAIRS]
    ]
    return found


def _cell(
    counts: Mapping[tuple[int, int], int], totals: Mapping[int, int], label: int, answer: int
) -> dict[str, Json]:
    count = counts.get((label, answer), 0)
    share = count / totals[label] if count else 0.0
    return {"count": count, "share": share, "is_right": label == answer}


def _read(run: Run, name: str) -> dict[str, Json] | None:
    path = os.path.join(run.folder, name)
    return read_json(path) if os.path.exists(path) else None


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.2f} %"


def _size(num_bytes: int) -> str:
    if num_bytes < 1e6:
        return f"{num_bytes / 1e3:,.1f} kB"
    return f"{num_bytes / 1e6:,.2f} MB"


def search_charts(run: Run) -> list[Chart]:
    """Return the charts of the search, those for which the history has numbers."""
    records = [record for record in run.history if record.get("phase") in PHASES]
    records = [record for record in records if is_number(record.get("step"))]
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

    def entropy(name: str, reduce: Callable[[Sequence[float]], float]) -> Series:
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


def dataflow_spans(run: Run) -> list[dict[str, Json]]:
    """Return which dataflow the evaluator chose from which step on."""
    spans: list[dict[str, Json]] = []
    for record in run.history:
        if record.get("phase") in PHASES and is_number(record.get("step")):
            name = (record.get("accelerator") or {}).get("dataflow")
            if name and (not spans or spans[-1]["name"] != name):
                spans.append({"name": name, "step": number(record["step"])})
    return spans


def _series(
    records: Sequence[Mapping[str, Json]],
    name: str,
    value_of: Callable[[Mapping[str, Json]], Json],
    is_stepped: bool = False,
    x: str = "step",
) -> Series:
    """Return the points of the records that have a number; others, of older runs, have none."""
    points: list[tuple[Json, Json]] = [(record.get(x), value_of(record)) for record in records]
    return Series(name, [(a, b) for a, b in points if is_number(a) and is_number(b)], is_stepped)


def _product(values: Iterable[Json]) -> float | None:
    values = list(values)
    return math.prod(values) if all(map(is_number, values)) else None


def _reduced(values: Json, reduce: Callable[[Sequence[float]], float]) -> float | None:
    if not isinstance(values, list) or not values or not all(map(is_number, values)):
        return None
    return float(reduce(values))


def _of_accelerator(record: Mapping[str, Json], name: str) -> Json:
    accelerator = record.get("accelerator")
    return accelerator.get(name) if isinstance(accelerator, dict) else None
