"""Write the manual's tables of measured searches from their files; a test compares them.

python -m tests.repo.search_rows
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from studies.sweep_comparisons import by_objective_and_lambda, log_mean, mean
from tests.repo.evaluator_rows import joined, write
from tests.repo.source import ROOT

EXPERIMENTS = ROOT / "studies/results"

_SHORT = {
    "weight_stationary": "weight",
    "output_stationary": "output",
    "row_stationary": "row",
}


def read(name: str) -> dict[str, Any]:
    """Return a file of studies/results."""
    return json.loads((EXPERIMENTS / f"{name}.json").read_text(encoding="utf-8"))


def _sorted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows by objective, EDAP first, and lambda_2."""
    return sorted(rows, key=lambda r: (r["objective"] != "EDAP", r["objective"], r["lambda_2"]))


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{100 * share:.1f} %"


def _accelerator(fields: dict[str, Any]) -> str:
    return "{pe_x} x {pe_y} PEs, {rf_bytes} B, {dataflow}".format(**fields)


def baseline_table(findings: dict[str, Any]) -> list[str]:
    """Return what a cost in the loss saves, by objective and lambda_2."""
    trained = {
        (row["objective"], row["lambda_2"]): row
        for row in findings["trained"]["against_the_baseline"]
    }
    epochs = findings["trained"]["epochs"]
    lines = [
        "| objective, lambda_2 (seeds) | inherited error; of the baseline"
        f" | retrained, 8 epochs; baseline | trained side by side, {epochs} epochs; baseline"
        " | baseline / found: EDAP | latency | energy |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in _sorted(findings["against_the_baseline"]):
        of_trained = trained[row["objective"], row["lambda_2"]]
        ratios = (
            f"{row[f'{name}_ratio']:.2f}" for name in ("edap_ms_mj_mm2", "latency_ms", "energy_mj")
        )
        cells = (
            f"{row['objective']}, {row['lambda_2']:g} ({row['num_seeds']})",
            "; ".join(_percent(row[f"{who}inherited_error"]) for who in ("", "baseline_")),
            *(
                "; ".join(_percent(errors[f"{who}retrained_error"]) for who in ("", "baseline_"))
                for errors in (row, of_trained)
            ),
            *ratios,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def beside_table(findings: dict[str, Any], name: str, other: str) -> list[str]:
    """Return what the same searches found here and in another sweep."""
    beside = findings["beside"][name]
    lines = [
        f"| objective, lambda_2, seed | EDAP, {other} / this sweep"
        f" | inherited error: this sweep; {other} |",
        "|---|---|---|",
    ]
    for row in _sorted(beside["searches"]):
        errors = "; ".join(_percent(row[f"{who}inherited_error"]) for who in ("", "other_"))
        lines.append(
            f"| {row['objective']}, {row['lambda_2']:g}, {row['seed']}"
            f" | {row['edap_ms_mj_mm2_ratio']:.3f} | {errors} |"
        )
    difference = 100 * beside["mean_inherited_error_difference"]
    lines.append(f"| mean | {beside['mean_edap_ratio']:.3f} | {difference:+.1f} points |")
    return lines


def supernets_table(sweeps: dict[str, dict[str, Any]]) -> list[str]:
    """Return what searches for EDAP find in each supernet, by lambda_2, as means over seeds."""
    lines = [
        "| supernet, lambda_2 (seeds) | EDAP, ms mJ mm² | Zero, of blocks that may"
        " | inherited error | retrained error, 8 epochs |",
        "|---|---|---|---|---|",
    ]
    for kind, sweep in sweeps.items():
        for (objective, lambda_2), group in sorted(
            by_objective_and_lambda(sweep["points"]).items()
        ):
            if objective != "EDAP":
                continue
            errors = (_percent(mean(group, f"{name}_error")) for name in ("inherited", "retrained"))
            lines.append(
                f"| {kind}, {lambda_2:g} ({len(group)})"
                f" | {np.exp(log_mean(group, 'edap_ms_mj_mm2')):.4f}"
                f" | {100 * mean(group, 'zero_share'):.0f} % | {' | '.join(errors)} |"
            )
    return lines


def baseline_edap(findings: dict[str, Any]) -> float:
    """Return what networks searched for accuracy alone cost, as a mean over seeds."""
    return found_for_edap(findings["found"], 0)["edap_ms_mj_mm2"]


def found_for_edap(rows: list[dict[str, Any]], lambda_2: float) -> dict[str, Any]:
    """Return the one row of what searches for EDAP found with a lambda_2."""
    (row,) = [r for r in rows if (r["objective"], r["lambda_2"]) == ("EDAP", lambda_2)]
    return row


def sizes_table(findings: dict[str, Any]) -> list[str]:
    """Return the errors of trained networks, found and random ones, by what they cost."""
    trained, baseline = findings["trained"], baseline_edap(findings)
    lines = [
        f"| baseline / EDAP | found: error after {trained['epochs']} epochs (networks)"
        " | random: the same |",
        "|---|---|---|",
    ]
    for name, low, high in (
        ("3 and more", 3.0, np.inf),
        ("1.5 to 3", 1.5, 3.0),
        ("less than 1.5", 0.0, 1.5),
    ):
        rows = [
            row for row in trained["networks"] if low <= baseline / row["edap_ms_mj_mm2"] < high
        ]
        cells = []
        for is_spread in (False, True):
            group = [row for row in rows if row["is_spread"] == is_spread]
            cells.append(f"{_percent(mean(group, 'error'))} ({len(group)})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


#: Parts of the findings that compare with the exact front, and by which images.
_JUDGED_BY = {
    "of_the_exact_front": "held-out images",
    "of_the_exact_front_judged": "test images",
}


def front_table(findings: dict[str, Any]) -> list[str]:
    """Return how close the searches come to the front found by evolution."""
    lines = [
        "| objective, errors by | hypervolume, searches / evolution | searches | networks that"
        " evolution evaluated | of them on its front |",
        "|---|---|---|---|---|",
    ]
    for part, images in _JUDGED_BY.items():
        for name, row in findings[part]["objectives"].items():
            lines.append(
                f"| {name}, {images} | {100 * row['share']:.1f} % | {row['num_found']}"
                f" | {row['num_exact_evaluations']:,} | {row['num_on_exact_front']} |"
            )
    return lines


def saved_table(findings: dict[str, Any]) -> list[str]:
    """Return what can be saved at most, and what the searches save, by loss of accuracy."""
    columns = {
        f"{name}, {images}: searches; evolution": row["saved"]
        for part, images in _JUDGED_BY.items()
        for name, row in findings[part]["objectives"].items()
    }
    epochs = findings["trained"]["epochs"]
    columns[f"EDAP, trained for {epochs} epochs: searches; all trained networks"] = findings[
        "trained"
    ]["saved"]["EDAP"]
    lines = [
        f"| worse by at most | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for rows in zip(*columns.values(), strict=True):
        cells = (
            "; ".join(_times(row[f"{who}_ratio"]) for who in ("sweep", "others")) for row in rows
        )
        lines.append(f"| {100 * rows[0]['loss']:.1f} points | {' | '.join(cells)} |")
    return lines


def _times(ratio: float | None) -> str:
    return "none" if ratio is None else f"{ratio:.2f}"


def limits_table(report: dict[str, Any]) -> list[str]:
    """Return how often searches ended within limits."""
    lines = [
        "| limit, of the unconstrained latency | kept by | searches that ended within it by"
        " themselves | results within it | latency / limit, derived; of the result |",
        "|---|---|---|---|---|",
    ]
    for row in report["summary"]:
        key = (row["share"], row["kept_by"])
        group = [r for r in report["rows"] if (r["share"], r["kept_by"]) == key]
        ratios = (
            ", ".join(f"{r[name] / r['max_latency_ms']:.3f}" for r in group)
            for name in ("derived_latency_ms", "latency_ms")
        )
        lines.append(
            f"| {row['share']:g} | {row['kept_by']}"
            f" | {row['num_derived_within']} of {row['num_searches']}"
            f" | {row['num_within']} of {row['num_searches']} | {'; '.join(ratios)} |"
        )
    return lines


def rank_table(report: dict[str, Any]) -> list[str]:
    """Return how supernets rank networks, against trainings from scratch."""
    lines = [
        "| supernet | networks | Spearman (95 % interval) | Kendall (95 % interval) |",
        "|---|---|---|---|",
    ]
    for name, parts in report["rank_correlation"].items():
        for part, found in parts.items():
            cells = (
                "{value:.2f} ({low:.2f} to {high:.2f})".format(**found[measure])
                for measure in ("spearman", "kendall")
            )
            judge = report["supernets"].get(name, {"kind": "no supernet: MACs"})["kind"]
            lines.append(f"| {judge} | {part}, {found['num_networks']} | {' | '.join(cells)} |")
    return lines


def found_table(findings: dict[str, Any]) -> list[str]:
    """Return what was found, by objective and lambda_2."""
    lines = [
        "| objective, lambda_2 | kernel | expansion | Zero, of blocks that may | PEs"
        " | register file | dataflows |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in _sorted(findings["found"]):
        flows = ", ".join(f"{_SHORT[name]} {num}" for name, num in sorted(row["dataflows"].items()))
        kernel, expansion = (
            "none" if row[name] is None else f"{row[name]:.2f}" for name in ("kernel", "expansion")
        )
        lines.append(
            f"| {row['objective']}, {row['lambda_2']:g} | {kernel} | {expansion}"
            f" | {100 * row['zero_share']:.0f} % | {row['num_pes']:.0f}"
            f" | {row['rf_bytes']:.0f} B | {flows} |"
        )
    return lines


def one_accelerator_table(findings: dict[str, Any]) -> list[str]:
    """Return what choosing an accelerator for each network buys."""
    lines = [
        "| objective | networks found | their own best accelerators | best for all of them"
        " | loss on it, mean; largest |",
        "|---|---|---|---|---|",
    ]
    for name, row in findings["one_accelerator"].items():
        losses = "; ".join(f"{100 * (row[f'{x}_ratio'] - 1):.2f} %" for x in ("mean", "largest"))
        lines.append(
            f"| {name} | {row['num_networks']} | {row['num_own_accelerators']} different"
            f" | {_accelerator(row['accelerator'])} | {losses} |"
        )
    return lines


def dataflow_table(findings: dict[str, Any]) -> list[str]:
    """Return what the best accelerator of each dataflow costs, for networks of one op."""
    ops = ("mbconv3_e3", "mbconv3_e6", "mbconv7_e3", "mbconv7_e6")
    lines = [
        "| objective, dataflow | " + " | ".join(f"all `{op}`" for op in ops) + " |",
        "|---|" + "---|" * len(ops),
    ]
    by_cell: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in findings["uniform_networks"]:
        key = (row["objective"], row["accelerator"]["dataflow"])
        by_cell.setdefault(key, {})[row["op"]] = row
    for (objective, dataflow), rows in by_cell.items():
        cells = [f"{rows[op]['times_the_best']:.3f}; {_size(rows[op])}" for op in ops]
        lines.append(f"| {objective}, {_SHORT[dataflow]} | {' | '.join(cells)} |")
    return lines


def gradient_table(reports: dict[str, dict[str, Any]]) -> list[str]:
    """Return how the estimators of the architecture gradient compare with the truth."""
    lines = [
        "| supernet, estimator | slope | correlation | slope of Zero | noise"
        " | CPU seconds per step |",
        "|---|---|---|---|---|---|",
    ]
    for kind, row in ((kind, row) for kind, report in reports.items() for row in report["rows"]):
        numbers = (row["slope"], row["correlation"], row["slope_of_zero"], row["noise"])
        cells = " | ".join(f"{number:.2f}" for number in numbers)
        lines.append(f"| {kind}, `{row['estimator']}` | {cells} | {row['cpu_s_per_step']:.3f} |")
    return lines


def _size(row: dict[str, Any]) -> str:
    return "{pe_x} x {pe_y}, {rf_bytes} B".format(**row["accelerator"])


def texts() -> list[tuple[Path, str, str]]:
    """Return file, name of the marks, and what belongs between them."""
    findings = read("findings_cifar10_small")
    tables = {
        "Savings by a hardware cost in the loss, beside the baseline.": baseline_table(findings),
        "Loss on the best single accelerator for all networks of an objective.": (
            one_accelerator_table(findings)
        ),
        "The same searches for the network alone, on that accelerator.": (
            beside_table(findings, "one_accelerator", "network only")
        ),
        "Share of the front of evolution, in the same supernet, that the searches find.": (
            front_table(findings)
        ),
        "Baseline / found, by the objective, of the cheapest network that is worse by at most so"
        " many points: of the searches, of evolution, and of networks trained for 24 epochs.": (
            saved_table(findings)
        ),
        "Errors of the trained networks, found and random, by their cost.": sizes_table(findings),
        "The exact evaluator beside the neural one.": (
            beside_table(findings, "exact", "exact evaluator")
        ),
        "Networks and accelerators that were found.": found_table(findings),
        "Networks of one op everywhere: the objective on the best accelerator of each dataflow, as"
        " a multiple of that on the best of all, with its array and register file.": (
            dataflow_table(findings)
        ),
    }
    page = ROOT / "docs/measured_searches.md"
    gradients = gradient_table(
        {
            "superkernel": read("gradients_cifar10_small"),
            "proxyless": read("gradients_proxyless_cifar10_small"),
        }
    )
    supernets = {
        "superkernel": read("sweep_cifar10_small"),
        "proxyless": read("sweep_proxyless_cifar10_small"),
    }
    return [
        (page, "sweep", joined([[f"*{title}*", "", *table] for title, table in tables.items()])),
        (page, "limits", joined([limits_table(read("limits_cifar10_small"))])),
        (page, "supernets", joined([supernets_table(supernets)])),
        (page, "rank", joined([rank_table(read("rank_cifar10_small"))])),
        (page, "gradients", joined([gradients])),
    ]


if __name__ == "__main__":
    write(texts())
