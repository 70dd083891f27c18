"""Write the manual's tables of the shipped evaluators from their manifests; a test compares them.

python -m tests.repo.evaluator_rows
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studies.ablate_evaluator import markdown
from tests.repo.source import ROOT

SPACES = ("cifar_mbconv", "cifar_mbconv_small")
KINDS = ("one_hot", "soft")

_Row = tuple[str, str, Callable[[dict[str, Any]], str]]


def manifest(space: str) -> dict[str, Any]:
    """Return the manifest of a shipped evaluator."""
    path = ROOT / f"saved_models/evaluator_{space}/manifest.json"
    return json.loads(path.read_text(encoding="utf-8"))


def percent(*shares: float) -> str:
    """Return fractions as percent with two significant digits."""
    return " / ".join("0" if s == 0 else f"{100 * s:.2g}" for s in shares) + " %"


def _of_heads(kind: str, field: str, form: Callable[[float], str]) -> Callable[[dict], str]:
    def cell(part: dict[str, Any]) -> str:
        return " / ".join(form(h[field]) for h in part["objectives"][kind]["heads"].values())

    return cell


def _accuracy(value: float) -> str:
    return f"{100 * value:.2f}".rstrip("0").rstrip(".")


def _regret(kind: str, *fields: str) -> Callable[[dict], str]:
    return lambda part: percent(*(part["objectives"][kind]["regret"][f] for f in fields))


def _error(kind: str, field: str) -> Callable[[dict], str]:
    def cell(part: dict[str, Any]) -> str:
        errors = part["objectives"][kind]["error_end_to_end"].values()
        return percent(*(error[field] for error in errors))

    return cell


def _cosine(which: str) -> Callable[[dict], str]:
    def cell(part: dict[str, Any]) -> str:
        # Rounded down: 0.99996 is not 1.
        cosines = (part["gradient_cosine"][which][q] for q in ("median", "p1"))
        return " / ".join(f"{int(1e5 * c) / 1e5:.5f}" for c in cosines)

    return cell


def _within(part: dict[str, Any]) -> str:
    kinds = ("random_products", "random_linear")
    shares = (part["objectives"][k]["regret"]["share_within_0.001"] for k in kinds)
    return " / ".join(f"{100 * s:.2f}" for s in shares) + " %"


def _at_random(part: dict[str, Any]) -> str:
    return percent(*(error["mean"] for error in part["error_at_random_accelerators"].values()))


_HEADS = "PEx / PEy / RF / dataflow"
_METRICS = "latency / energy / area"

#: First cell, the paper's figure, and the cell of one kind of architectures.
ROWS: tuple[_Row, ...] = (
    (
        f"EDAP: heads right, {_HEADS}, %",
        "98.9 / 98.3 / 98.3 / 98.8",
        _of_heads("edap", "accuracy", _accuracy),
    ),
    (
        "EDAP: always the most frequent answer, %",
        "",
        _of_heads("edap", "majority_accuracy", _accuracy),
    ),
    (
        "EDAP: label entropy, bits",
        "",
        _of_heads("edap", "label_entropy_bits", lambda bits: f"{bits:.2f}"),
    ),
    ("EDAP: regret, mean / max", "", _regret("edap", "mean", "max")),
    (
        f"EDAP: error end to end, {_METRICS}, mean",
        "1.7 / 1.7 / 0.8 %",
        _error("edap", "mean"),
    ),
    ("EDAP: the same, p99", "", _error("edap", "p99")),
    ("random products: heads right, %", "", _of_heads("random_products", "accuracy", _accuracy)),
    (
        "random products: always the most frequent answer, %",
        "",
        _of_heads("random_products", "majority_accuracy", _accuracy),
    ),
    (
        "random products: regret, mean / p99 / max",
        "",
        _regret("random_products", "mean", "p99", "max"),
    ),
    (f"random products: error end to end, {_METRICS}, mean", "", _error("random_products", "mean")),
    ("random products: the same, p99", "", _error("random_products", "p99")),
    ("random linear: heads right, %", "", _of_heads("random_linear", "accuracy", _accuracy)),
    ("random linear: regret, mean / p99 / max", "", _regret("random_linear", "mean", "p99", "max")),
    ("single metrics: regret, mean / max", "", _regret("single_metrics", "mean", "max")),
    ("within a regret of 0.1 %, random products / linear", "", _within),
    (
        f"error at random accelerators, {_METRICS}, mean",
        "0.4 / 0.3 / 0.1 %",
        _at_random,
    ),
    ("gradient cosine, hard minimum, median / p1", "", _cosine("hard_minimum")),
    ("gradient cosine, soft minimum, median / p1", "", _cosine("soft_minimum")),
    (
        "gradient cosine, default mode with the exact soft minimum",
        "",
        _cosine("default_with_soft_minimum"),
    ),
)


def _table(space: str) -> list[str]:
    metrics = manifest(space)["metrics"]
    num = f"{metrics['num_architectures']:,}"
    lines = [
        f"| `evaluator_{space}`, {num} fresh architectures of each kind | paper | one-hot | soft |",
        "|---|---|---|---|",
    ]
    for name, paper, cell in ROWS:
        lines.append(f"| {name} | {paper} | {' | '.join(cell(metrics[kind]) for kind in KINDS)} |")
    return lines


def _trust_table() -> list[str]:
    lines = [
        "| trust | " + " | ".join(f"`{space}`" for space in SPACES) + " |",
        "|---|---|---|",
    ]
    reports = [manifest(space)["metrics"]["trust"] for space in SPACES]

    def row(name: str, cell: Callable[[dict[str, Any]], str]) -> None:
        lines.append(f"| {name} | {' | '.join(cell(report) for report in reports)} |")

    groups = {"typical": lambda r: r["typical"]}
    for name in reports[0]["atypical"]:
        groups[name.replace("_", " ")] = lambda r, name=name: r["atypical"][name]
    for name, of in groups.items():
        row(f"{name}: flagged", lambda r, of=of: percent(of(r)["share_flagged"]))
        row(
            f"{name}: large errors, and how many of them are flagged",
            lambda r, of=of: _large(of(r)),
        )
    row(
        "largest regret / metric error of all that are trusted",
        lambda r: percent(r["all"]["largest_trusted_regret"], r["all"]["largest_trusted_error"]),
    )
    row(
        "error bound held for all",
        lambda r: "yes" if r["all"]["error_bound_held"] else "no",
    )
    return lines


def _large(group: dict[str, Any]) -> str:
    num = group["num_large_errors"]
    return f"{num} of {group['num']:,}" + (f", {round(num * group['recall'])}" if num else "")


def texts() -> list[tuple[Path, str, str]]:
    """Return file, name of the marks, and what belongs between them."""
    full = [*(_table(space) for space in SPACES), _trust_table()]
    ablation = ROOT / "studies/results/ablation_evaluator.json"
    rows = json.loads(ablation.read_text(encoding="utf-8"))["rows"]
    page = ROOT / "docs/measured_evaluators.md"
    return [
        (page, "evaluators", joined(full)),
        (page, "ablation", joined([markdown(rows).splitlines()])),
    ]


def marks(name: str) -> tuple[str, str]:
    """Return what stands before and after a table."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def joined(tables: list[list[str]]) -> str:
    """Return tables as text, an empty line between them."""
    return "\n\n" + "\n\n".join("\n".join(lines) for lines in tables) + "\n\n"


def write(texts_of_files: list[tuple[Path, str, str]]) -> None:
    """Write texts between their marks."""
    for path, name, between in texts_of_files:
        begin, end = marks(name)
        before, _, rest = path.read_text(encoding="utf-8").partition(begin)
        path.write_text(before + begin + between + end + rest.partition(end)[2], encoding="utf-8")


if __name__ == "__main__":
    write(texts())
