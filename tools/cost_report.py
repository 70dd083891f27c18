"""The report of evaluate_cost as tables for a reader."""

from __future__ import annotations

from collections.abc import Iterable

from dance_tf.files import Json
from dance_tf.run.reporting import format_table
from dance_tf.structs import DIMENSIONS

__all__ = ["format_report"]

# Rows that a table of the Pareto front shows.
_MAX_ROWS = 20


def format_report(report: dict[str, Json]) -> str:
    """Return the report of evaluate_cost as text."""
    array, num_layers = report["accelerator"], len(report["layers"])
    sections = [f"note: {note}" for note in report.get("notes", ())]
    sections += [
        f"{array['pe_x']} x {array['pe_y']} PEs, {array['rf_bytes']} B register file,"
        f" {array['dataflow']}, {report['technology']} (leakage not counted)",
        _totals(report),
        f"bound by {report['bound_by']}: "
        + ", ".join(
            f"{100 * cycles / report['latency_cycles']:.0f} % of the cycles by {name}"
            for name, cycles in report["cycles_bound_by"].items()
            if cycles
        ),
        _shares("energy", "uJ", report["energy_by_component_pj"]),
        _shares("area", "mm2", report["area_by_component_um2"]),
    ]
    if num_layers > 1:
        sections.append(_layers(report["layers"]))
    if report["not_costed"]:
        sections.append(_not_costed(report["not_costed"]))
    if "best" in report:
        sections.append(f"best accelerators\n{_accelerators(report['best'])}")
        front = report["pareto"]
        text = f"not beaten in latency, energy and area: {len(front)} accelerators\n"
        text += _accelerators(front[:_MAX_ROWS])
        if len(front) > _MAX_ROWS:
            text += f"\n({len(front) - _MAX_ROWS} more: --format=json)"
        sections.append(text)
    if "model" in report and num_layers > 1:
        sections.append("The mapping of every layer: --format=json")
    else:
        sections += map(_mapping, report["layers"])
    return "\n\n".join(sections)


def _totals(report: dict[str, Json]) -> str:
    rows: list[list[Json]] = []
    if "model" in report:
        rows += [[name.replace("num_", ""), value] for name, value in report["model"].items()]
    rows += [
        ["MACs", report["macs"]],
        ["cycles", report["latency_cycles"]],
        ["latency, ms", report["latency_ms"]],
        ["energy, uJ", report["energy_pj"] * 1e-6],
        ["area, mm2", report["area_um2"] * 1e-6],
        ["utilisation, %", 100 * report["utilisation"]],
        ["utilisation without waiting, %", 100 * report["array_utilisation"]],
    ]
    return format_table(["", "total"], rows)


def _layers(entries: Iterable[dict[str, Json]]) -> str:
    entries = list(entries)
    components = list(entries[0]["energy_by_component_pj"])
    headers = ["layer", "kind", "MACs", "cycles", "energy, uJ", *components]
    rows = [
        [
            entry["name"],
            entry["kind"],
            entry["macs"],
            entry["latency_cycles"],
            entry["energy_pj"] * 1e-6,
            *(entry["energy_by_component_pj"][name] * 1e-6 for name in components),
            100 * entry["utilisation"],
            entry["bound_by"],
        ]
        for entry in entries
    ]
    return format_table([*headers, "utilisation, %", "bound by"], rows)


def _not_costed(entries: Iterable[dict[str, Json]]) -> str:
    """Return what is not costed, class by class, those that move most data first."""
    classes: dict[str, list[dict[str, Json]]] = {}
    for entry in entries:
        classes.setdefault(entry["class"], []).append(entry)
    rows = [
        [
            name,
            len(group),
            sum(entry["folded_into"] is not None for entry in group),
            sum(entry["words_moved"] for entry in group),
            100 * sum(entry["share_of_data_moved"] for entry in group),
        ]
        for name, group in classes.items()
    ]
    rows.sort(key=lambda row: (-row[3], row[0]))
    return format_table(["not costed", "calls", "folded", "words moved", "% of data moved"], rows)


def _accelerators(entries: Iterable[dict[str, Json]]) -> str:
    fields = ["pe_x", "pe_y", "rf_bytes", "dataflow"]
    metrics = ["latency_ms", "energy_mj", "area_mm2", "objective"]
    headers = ["", *fields, "latency, ms", "energy, mJ", "area, mm2", "objective"]
    rows = [
        [rank, *(entry[name] for name in (*fields, *metrics))]
        for rank, entry in enumerate(entries, 1)
    ]
    return format_table(headers, rows)


def _mapping(entry: dict[str, Json]) -> str:
    real, padded = entry["layer"], entry["padded_layer"]
    grown = [f"{d} {real[d]} -> {padded[d]}" for d in DIMENSIONS if real[d] != padded[d]]
    note = f" (padded: {', '.join(grown)})" if grown else ""
    return f"mapping of {real['name']}{note}\n{entry['loop_nest']}"


def _shares(what: str, unit: str, parts: dict[str, float]) -> str:
    total = sum(parts.values())
    rows = [[name, value * 1e-6, 100 * value / total] for name, value in parts.items()]
    return format_table([what, unit, "%"], rows)
