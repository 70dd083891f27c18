"""What became of a run's network: its exports, and which images it takes for what."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dance_tf.report.run_folder import Run
from dance_tf.report.texts import number
from dance_tf.search.predictions import PREDICTIONS_NAME
from dance_tf.strict_json import read_json

__all__ = ["confusion", "exports"]

# Keys of export.json, and the format in words.
_FORMATS = {
    "saved_model": "TensorFlow SavedModel",
    "keras": "Keras",
    "tflite": "TFLite, float32",
    "tflite_int8": "TFLite, int8",
}

# Classes up to which the whole matrix is shown, and pairs that are listed in its place.
_MAX_CLASSES, _NUM_PAIRS = 20, 15


def exports(run: Run) -> dict[str, Any] | None:
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


def _inputs(inputs: Mapping[str, Any] | None) -> list[str]:
    """Return what the network is fed, in phrases; exports of before do not say it."""
    if inputs is None:
        return []
    phrases = []
    if inputs.get("height") and inputs.get("width"):
        phrases.append(f"images of {inputs['height']}x{inputs['width']} pixels")
    if inputs.get("value_range"):
        phrases.append("values of {:g} to {:g}".format(*inputs["value_range"]))
    for name in ("crop", "resize", "channel_order"):
        if inputs.get(name):
            phrases.append(f"{name.replace('_', ' ')}: {inputs[name]}")
    return phrases


def _in_float(operations: Sequence[Mapping[str, str]] | None) -> str:
    """Return what of an int8 network is computed in float; "" where nothing is, or unknown."""
    each = {f"{o['operation']} of {o['layer'] or 'an unknown layer'}" for o in operations or ()}
    return f"in float: {', '.join(sorted(each))}" if each else ""


def confusion(run: Run) -> dict[str, Any] | None:
    """Return what the network takes for what; None where the run has not kept it.

    Of many classes, the pairs that are taken for one another most often.
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

    found: dict[str, Any] = {
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
) -> dict[str, Any]:
    count = counts.get((label, answer), 0)
    share = count / totals[label] if count else 0.0
    return {"count": count, "share": share, "is_right": label == answer}


def _read(run: Run, name: str) -> dict[str, Any] | None:
    path = os.path.join(run.folder, name)
    return read_json(path) if os.path.exists(path) else None


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.2f} %"


def _size(num_bytes: int) -> str:
    if num_bytes < 1e6:
        return f"{num_bytes / 1e3:,.1f} kB"
    return f"{num_bytes / 1e6:,.2f} MB"
