"""Sections of the report as plain data for the template: names, numbers as text, geometry."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from dance_tf.files import Json
from dance_tf.report.exact import ExactParts
from dance_tf.report.run_folder import Run
from dance_tf.report.texts import accelerator_name, component_name, layer_shape, number, op_name
from dance_tf.structs import METRICS, Layer
from dance_tf.supernet.op_names import op_kernel_expansion

__all__ = [
    "array_drawing",
    "comparison",
    "cost_by_layer",
    "limits",
    "mixture_at_the_end",
    "mixture_weights",
    "network_blocks",
    "prediction",
    "shares",
]

#: Metric to its unit; names without it are made from these.
UNITS = {"latency_ms": "ms", "energy_mj": "mJ", "area_mm2": "mm²"}

# Side of a drawn PE and the gap between two.
_PE, _GAP = 10, 2


def shares(parts: Mapping[str, float], scale: float) -> list[dict[str, Json]]:
    """Return parts of a whole, each with its value as text and its share in per cent."""
    total = sum(parts.values())
    return [
        {
            "key": name,
            "name": component_name(name),
            "value": number(value * scale),
            "percent": round(100 * value / total, 2) if total else 0.0,
        }
        for name, value in parts.items()
    ]


# The network


def network_blocks(run: Run, exact: ExactParts | None) -> list[dict[str, Json]]:
    """Return the fixed and the searched parts of the network, in the order in which they run."""
    space, blocks = run.space, []
    stem, *others = space.layers_before()
    positions = [layer for layer in others if layer.name == "positions"]
    first_layers = [layer for layer in others if layer.name != "positions"]
    *head_layers, classifier = space.layers_after()
    chains: list[tuple[str, str, str, int | None, Sequence[Layer]]] = [
        ("stem", "Stem", f"Convolution {stem.R}x{stem.S}", stem.R, [stem]),
    ]
    if positions:
        chains.append(("positions", "Positions", "A learnt vector for each place", 1, positions))
    if first_layers:
        what = f"MBConv {first_layers[0].R}x{first_layers[0].S}, no expansion"
        chains.append(("first", "First", what, 3, first_layers))
    for index, op in enumerate(run.architecture.ops):
        kernel = getattr(space.op(op), "kernel", None)
        of_op = space.op_layers(index, op)
        chains.append((f"block{index}", f"Block {index}", op_name(op), kernel, of_op))
    if head_layers:
        chains.append(("head", "Head", "Convolution 1x1", 1, head_layers))
    chains.append(("classifier", "Classifier", "Average pooling, dense", 1, [classifier]))
    widest = max(layer.K for *_, layers in chains for layer in layers)
    costs = _costs_by_part(exact)
    for key, name, what, kernel, layers in chains:
        part: dict[str, Json] = {"name": name, "what": what, "kernel": min(kernel or 1, 7)}
        if key.startswith("block"):
            block = space.blocks[int(key[5:])]
            channels = [block.in_channels, *(layer.K for layer in layers)]
            part["sizes"] = f"{block.in_channels} to {block.out_channels} channels"
            height, width = block.output_shape
            part["output"] = f"{width}x{height}"
            part["stride"] = block.stride
            part["is_zero"] = not layers
        else:
            first, last = layers[0], layers[-1]
            channels = [first.C * first.num_groups, *(layer.K for layer in layers)]
            part["sizes"] = f"{channels[0]} to {channels[-1]} channels"
            part["output"] = f"{last.P}x{last.Q}"
            part["stride"] = first.stride[0]
            part["is_zero"] = False
        part["outline"] = _outline(channels, widest) if layers else None
        part["cost"] = costs.get(key)
        blocks.append(part)
    return blocks


def _outline(channels: Sequence[int], widest: int) -> str:
    """Return the polygon of a chain's channels in a square of 100 x 100; area grows slower."""
    heights = [50 * math.sqrt(count / widest) for count in channels]
    xs = [100 * i / (len(channels) - 1) for i in range(len(channels))]
    points = [(x, 50 - h) for x, h in zip(xs, heights, strict=True)]
    points += [(x, 100 - y) for x, y in reversed(points)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _costs_by_part(exact: ExactParts | None) -> dict[str, dict[str, Json]]:
    """Return latency and energy of each part of the network, with their shares."""
    if exact is None:
        return {}
    sums: dict[str, list[float]] = {}
    for entry in exact.entries:
        part = sums.setdefault(entry["name"].partition("/")[0], [0.0, 0.0])
        part[0] += entry["latency_ms"]
        part[1] += entry["energy_pj"]
    latency, energy = (sum(part[i] for part in sums.values()) for i in range(2))
    return {
        name: {
            "latency": number(1e3 * ms, 3),
            "latency_percent": round(100 * ms / latency, 1) if latency else 0.0,
            "energy": number(1e-6 * pj, 3),
            "energy_percent": round(100 * pj / energy, 1) if energy else 0.0,
        }
        for name, (ms, pj) in sums.items()
    }


# The accelerator


def array_drawing(run: Run, exact: ExactParts | None) -> dict[str, Json]:
    """Return the PE array as paths: one of all MACs and one of all register files.

    In each PE, the two share the square as they share its area.
    """
    array = run.accelerator
    share = 0.0
    if exact is not None and exact.area_um2 is not None:
        files, macs = exact.area_um2["register_files"], exact.area_um2["macs"]
        share = files / (files + macs)
    pitch, split = _PE + _GAP, round(_PE * share, 2)
    corners = [(x * pitch, y * pitch) for y in range(array.pe_y) for x in range(array.pe_x)]
    return {
        "width": array.pe_x * pitch - _GAP,
        "height": array.pe_y * pitch - _GAP,
        "macs": "".join(f"M{x} {y}h{_PE}v{_PE}h-{_PE}z" for x, y in corners),
        "files": "".join(f"M{x} {y}h{_PE}v{split}h-{_PE}z" for x, y in corners) if split else "",
        "file_percent": round(100 * share, 1),
        "num_pes": array.num_pes,
    }


# Costs


def cost_by_layer(exact: ExactParts) -> dict[str, Json]:
    """Return a row for each layer, and the totals by component and by what bounds a layer."""
    entries = exact.entries
    has_parts = "bound_by" in entries[0]
    most_ms = max(entry["latency_ms"] for entry in entries) or 1.0
    most_pj = max(entry["energy_pj"] for entry in entries) or 1.0
    rows = []
    for layer, entry in zip(exact.layers, entries, strict=True):
        row = {
            "name": layer.name,
            "shape": layer_shape(layer),
            "macs": number(entry["macs"]),
            "latency": number(1e3 * entry["latency_ms"]),
            "latency_percent": round(100 * entry["latency_ms"] / most_ms, 2),
            "energy": number(1e-6 * entry["energy_pj"]),
            "energy_percent": round(100 * entry["energy_pj"] / most_pj, 2),
            "utilisation": _percent(entry["utilisation"]),
        }
        if has_parts:
            row["bound_by"] = entry["bound_by"]
            row["bound_name"] = component_name(entry["bound_by"])
            row["components"] = shares(entry["energy_by_component_pj"], 1e-6)
        rows.append(row)
    found: dict[str, Json] = {"rows": rows, "has_parts": has_parts}
    found["macs"] = number(sum(entry["macs"] for entry in entries))
    found["latency"] = number(1e3 * sum(entry["latency_ms"] for entry in entries))
    found["energy"] = number(1e-6 * sum(entry["energy_pj"] for entry in entries))
    if has_parts:
        energy = {
            name: sum(entry["energy_by_component_pj"][name] for entry in entries)
            for name in entries[0]["energy_by_component_pj"]
        }
        waits: dict[str, float] = {}
        for entry in entries:
            waits[entry["bound_by"]] = waits.get(entry["bound_by"], 0.0) + entry["latency_ms"]
        found["energy_shares"] = shares(energy, 1e-6)
        found["bound_shares"] = shares(dict(sorted(waits.items(), key=lambda x: -x[1])), 1e3)
    return found


def prediction(run: Run) -> list[dict[str, str]] | None:
    """Return what the evaluator said of its pair beside the exact cost, None without both."""
    predicted = run.costs.get("predicted_cost")
    exact = run.costs.get("evaluator_accelerator_exact_cost")
    if predicted is None or exact is None:
        return None
    names = [*METRICS, "edap_ms_mj_mm2", "objective"]
    titles = ["latency, ms", "energy, mJ", "area, mm²", "EDAP, ms mJ mm²", "objective"]
    return [
        {
            "name": title,
            "predicted": number(predicted[name], 5),
            "exact": number(exact[name], 5),
            "error": f"{100 * (predicted[name] / exact[name] - 1):+.3f} %" if exact[name] else "",
        }
        for name, title in zip(names, titles, strict=True)
    ]


def comparison(run: Run, exact: ExactParts | None, baseline: Run | None) -> list[dict[str, Json]]:
    """Return the costs that the run's exact cost is held against, each relative to it."""
    result, own = run.result, run.costs["exact_cost"]
    suffix = "" if run.limits is None else ", whatever the limits"
    title = "This run" + _accuracy_note(result)
    rows = [_compared(title, "", result["accelerator"], own, own)]
    for title, accelerator, cost in (
        (
            "The evaluator's accelerator for this network",
            result.get("evaluator_accelerator"),
            run.costs.get("evaluator_accelerator_exact_cost"),
        ),
        (
            "Exact best accelerator for this network" + suffix,
            result.get("exact_best_accelerator"),
            run.costs.get("exact_best_cost"),
        ),
    ):
        if accelerator is not None and cost is not None:
            rows.append(_compared(title, "", accelerator, cost, own))
    if run.limits is not None and result["limits"]["is_repaired"]:
        before = result["limits"]["derived_exact"]
        note = ", ".join(map(_short, result["limits"]["derived_ops"]))
        title = "Before the repair, nearest to the limits"
        rows.append(_compared(title, note, None, _cost(run, [before[m] for m in METRICS]), own))
    if baseline is not None:
        note = f"{baseline.name}: {', '.join(map(_short, baseline.architecture.ops))}"
        # By this run's objective; the baseline may have had another.
        cost = _cost(run, [baseline.costs["exact_cost"][m] for m in METRICS])
        title = "Baseline" + _accuracy_note(baseline.result)
        rows.append(_compared(title, note, baseline.result["accelerator"], cost, own))
    elif exact is not None and exact.largest is not None:
        largest = exact.largest
        note = ", ".join(map(_short, largest.ops))
        title = "Baseline: the largest network of the space on its best accelerator" + suffix
        rows.append(_compared(title, note, largest.accelerator, _cost(run, largest.metrics), own))
    if exact is not None and exact.cheapest is not None:
        cheapest = exact.cheapest
        note = ", ".join(map(_short, cheapest.ops))
        title = "Cheapest network of the space" + suffix
        rows.append(_compared(title, note, cheapest.accelerator, _cost(run, cheapest.metrics), own))
    reference = _cost(run, run.reference)
    rows.append(_compared("Reference: the mean network", "", None, reference, own))
    return rows


def limits(run: Run) -> list[dict[str, str]]:
    """Return each limit beside the exact cost that keeps to it; none without limits."""
    given = {} if run.limits is None else dataclasses.asdict(run.limits)
    return [
        {
            "name": f"{name.removeprefix('max_').partition('_')[0]}, {UNITS[metric]}",
            "limit": f"{limit:g}",
            "exact": number(run.costs["exact_cost"][metric]),
            "share": f"{100 * run.costs['exact_cost'][metric] / limit:.2f} %",
        }
        for (name, limit), metric in zip(given.items(), METRICS, strict=bool(given))
        if limit is not None
    ]


def _cost(run: Run, metrics: Sequence[float]) -> dict[str, float]:
    """Return metrics with what is computed from them."""
    return {
        **dict(zip(METRICS, metrics, strict=True)),
        "edap_ms_mj_mm2": math.prod(metrics),
        "objective": float(run.objective(metrics, run.reference)),
    }


def _compared(
    title: str,
    note: str,
    accelerator: Mapping[str, Json] | None,
    cost: Mapping[str, float],
    own: Mapping[str, float],
) -> dict[str, Json]:
    relative = cost["objective"] / own["objective"] if own["objective"] else math.inf
    return {
        "title": title,
        "note": note,
        "accelerator": "" if accelerator is None else accelerator_name(accelerator),
        "values": [number(cost[name]) for name in (*METRICS, "edap_ms_mj_mm2", "objective")],
        "relative": f"{relative:.3g} x",
    }


def _accuracy_note(result: Mapping[str, Json]) -> str:
    accuracy = result.get("accuracy")
    return f" ({100 * accuracy['value']:.2f} % on {accuracy['split']})" if accuracy else ""


def _short(op: str) -> str:
    kernel_expansion = op_kernel_expansion(op)
    return op if kernel_expansion is None else "k{}e{}".format(*kernel_expansion)


def _percent(share: float | None) -> str:
    return "not defined" if share is None else f"{100 * share:.1f} %"


def mixture_weights(run: Run) -> np.ndarray | None:
    """Return the softmax of the logits at the end, [D, O]; NaN where no op is; None if unknown."""
    try:
        logits = np.asarray(run.result.get("arch_logits"), np.float64)  # None becomes NaN
    except (TypeError, ValueError):
        return None
    shape = (run.space.num_blocks, run.space.num_ops)
    if logits.shape != shape or np.isnan(logits).all(axis=1).any():
        return None
    weights = np.exp(logits - np.nanmax(logits, axis=1, keepdims=True))
    return weights / np.nansum(weights, axis=1, keepdims=True)


def mixture_at_the_end(run: Run) -> dict[str, Json] | None:
    """Return the softmax of the logits at the end, [D, O], for a heat map; None if unknown."""
    weights = mixture_weights(run)
    if weights is None:
        return None
    return {
        "ops": [_short(op) for op in run.space.op_names],
        "rows": [[None if np.isnan(w) else float(w) for w in row] for row in weights],
        "chosen": run.space.to_indices(run.architecture).tolist(),
    }
