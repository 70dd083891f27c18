"""Write the manual's tables of compared strategies from their file; a test compares them.

python -m tests.repo.strategy_rows
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.repo.evaluator_rows import joined, write
from tests.repo.search_rows import read
from tests.repo.source import ROOT

_PAGE = ROOT / "docs/strategies.md"


def _percent(share: float | None, digits: int = 1) -> str:
    return "none" if share is None else f"{100 * share:.{digits}f}"


def _ratio(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"


def _by_strategy(found: dict[str, Any]) -> dict[str, dict[int, dict[str, Any]]]:
    """Return entries by strategy and budget, those with the largest hypervolume first."""
    entries: dict[str, dict[int, dict[str, Any]]] = {}
    for entry in found["strategies"]:
        entries.setdefault(entry["strategy"], {})[entry["budget"]] = entry
    last = max(found["budgets"])
    return dict(sorted(entries.items(), key=lambda e: -e[1][last]["hypervolume_median"]))


def hypervolume_table(found: dict[str, Any]) -> list[str]:
    """Return medians and quartiles of the hypervolume by networks trained."""
    budgets = found["budgets"]
    lines = [
        f"| strategy | {' | '.join(map(str, budgets))} |",
        "|---" * (1 + len(budgets)) + "|",
    ]
    for name, by_budget in _by_strategy(found).items():
        cells = [
            f"{_percent(e['hypervolume_median'])} ({_percent(e['hypervolume_q25'])} to"
            f" {_percent(e['hypervolume_q75'])})"
            for e in (by_budget[budget] for budget in budgets)
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
        believed = [by_budget[budget]["believed"] for budget in budgets]
        if all(believed):
            cells = [_percent(e["hypervolume_median"]) for e in believed]
            lines.append(f"| the same, front by what it believes | {' | '.join(cells)} |")
    return lines


#: Rows of the README's table: strategy, and what it is called there.
_IN_SHORT = {
    "dance_predictor": "DANCE, here with a predictor of errors",
    "nasaic": "NASAIC (2020)",
    "best_of_both_combined": "Best of both worlds (2020), combined",
    "regularised_evolution": "evolution of pairs",
    "accuracy_first": "accuracy first, then the best accelerator",
    "random_pairs": "random pairs",
}


def short_table(found: dict[str, Any]) -> list[str]:
    """Return the medians of some strategies, for the README."""
    budgets, by_strategy = found["budgets"], _by_strategy(found)
    lines = [f"| | {' | '.join(map(str, budgets))} |", "|---" * (1 + len(budgets)) + "|"]
    for name, words in _IN_SHORT.items():
        cells = [_percent(by_strategy[name][b]["hypervolume_median"]) for b in budgets]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return lines


def systems_table(found: dict[str, Any]) -> list[str]:
    """Return the table of systems that the paper has, on one space and one cost model."""
    weight, budget = f"{found['cost_weights'][1]:g}", _shown_budget(found)
    lines = [
        "| system | method | network-hardware relation | candidates trained | accuracy, %"
        " | EDAP, relative | regret, % | seconds of search |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, by_budget in _by_strategy(found).items():
        entry = by_budget[budget]
        answer = (entry["believed"] or entry)["answers"][weight]
        lines.append(
            f"| `{name}` | {entry['method']} | {'yes' if entry['relation'] else 'no'} | {budget}"
            f" | {_percent(1 - answer['error_median'], 2)} | {answer['cost_median']:.2f}"
            f" | {_percent(answer['regret_median'])} | {entry['wall_s_median']:.0f} |"
        )
    return lines


def _shown_budget(found: dict[str, Any]) -> int:
    return found["budgets"][min(1, len(found["budgets"]) - 1)]


def limits_table(found: dict[str, Any]) -> list[str]:
    """Return shares of runs that keep limits, and regrets within them, at the last budget."""
    names, budget = list(found["limits"]), max(found["budgets"])
    lines = [
        f"| strategy | {' | '.join(names)} |",
        "|---" * (1 + len(names)) + "|",
    ]
    every = found["exact"]["limited_of_all_trained"]
    cells = [f"{_percent(every[n]['regret'])}; 0.0" for n in names]
    lines.append(f"| all 6,561 networks trained once | {' | '.join(cells)} |")
    for name, by_budget in _by_strategy(found).items():
        entry = by_budget[budget]
        seen, shown = entry["limits"], (entry["believed"] or entry)["limits"]
        cells = [
            f"{_percent(seen[n]['share_kept'], 0)} %: {_percent(shown[n]['regret_median'])};"
            f" {_percent(max(seen[n]['seen_regret_median'], 0.0))}"
            for n in names
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return lines


def ratios_table(found: dict[str, Any]) -> list[str]:
    """Return how many times less cost there is at equal accuracy, at the last budget."""
    points = list(found["exact"]["cost_ratio"])
    budget = max(found["budgets"])
    lines = [
        f"| front | {' | '.join(f'{p} points' for p in points)} | one accelerator for all loses:"
        " mean, most |",
        "|---" * (2 + len(points)) + "|",
    ]
    exact = found["exact"]
    cells = [_ratio(exact["cost_ratio"][p]) for p in points]
    loss = (
        f"{_percent(exact['one_accelerator_loss_mean'])} %,"
        f" {_percent(exact['one_accelerator_loss_max'])} % (whole space)"
    )
    lines.append(f"| exact | {' | '.join(cells)} | {loss} |")
    for name, by_budget in _by_strategy(found).items():
        entry = by_budget[budget]["believed"] or by_budget[budget]
        cells = [_ratio(entry["cost_ratio_median"][p]) for p in points]
        loss = (
            f"{_percent(entry['one_accelerator_loss_mean'])} %,"
            f" {_percent(entry['one_accelerator_loss_max'])} %"
        )
        lines.append(f"| `{name}` | {' | '.join(cells)} | {loss} |")
    return lines


def predicted_table(found: dict[str, Any]) -> list[str]:
    """Return Kendall's correlations of 24 trained networks with what predicts them."""
    lines = ["| what ranks | Kendall | 95 % interval |", "|---|---|---|"]
    for name, kendall in found["kendall"].items():
        interval = f"{kendall['low']:.2f} to {kendall['high']:.2f}"
        lines.append(f"| {name} | {kendall['value']:.2f} | {interval} |")
    return lines


def ranking_table(ways: Sequence[dict[str, Any]]) -> list[str]:
    """Return Kendall's correlation of supernets by epochs, and that of the MACs."""
    lines = [
        "| supernet, paths | epochs | images | accuracy of paths, % | Kendall, all | better half"
        " | seconds of training |",
        "|---|---|---|---|---|---|---|",
    ]
    macs = ways[0]["macs"]
    lines.append(
        f"| multiply-accumulates | | | | {macs['kendall']:.2f} |"
        f" {macs['kendall_better_half']:.2f} | |"
    )
    lines += [
        f"| `{found['kind']}`, {found['sampling']} | {row['epoch']}"
        f" | {row['size']}x{row['size']} | {100 * row['accuracy']:.1f}"
        f" | {row['kendall']:.2f} | {row['kendall_better_half']:.2f}"
        f" | {row['train_s']:.0f} |"
        for found in ways
        for row in found["curve"]
        if "kendall" in row
    ]
    return lines


def again_table(found: dict[str, Any]) -> list[str]:
    """Return the networks that were trained once again, with the table's accuracies."""
    lines = [
        f"| network | million MACs | published, % | after {found['retrain']['epochs']} epochs, % |",
        "|---|---|---|---|",
    ]
    for row in found["networks"]:
        accuracies = f"{_percent(row['published_accuracy'])} | {_percent(row['accuracy'])}"
        lines.append(f"| `{row['architecture']}` | {row['macs'] / 1e6:.1f} | {accuracies} |")
    return lines


def inputs_table(found: dict[str, Any]) -> list[str]:
    """Return what searches on other inputs than images found, beside the largest network."""
    lines = [
        "| seed | accuracy found, % | of the largest, % | EDAP found, ms mJ mm2"
        " | of the largest on its best accelerator | saved | int8, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["seeds"]:
        own, largest = row["edap_ms_mj_mm2"], row["largest_edap_ms_mj_mm2"]
        lines.append(
            f"| {row['seed']} | {_percent(row['accuracy'])} | {_percent(row['largest_accuracy'])}"
            f" | {own:.2e} | {largest:.2e} | {largest / own:.1f} x"
            f" | {_percent(row['tflite_int8_accuracy'])} |"
        )
    return lines


def texts() -> list[tuple[Path, str, str]]:
    """Return each page, the name of its marks, and what stands between them."""
    found = read("compare_strategies")
    tables = {
        "hypervolumes": hypervolume_table(found),
        "systems": systems_table(found),
        "strategy limits": limits_table(found),
        "equal accuracy": ratios_table(found),
    }
    tables["supernet ranking"] = ranking_table(
        [read(f"supernet_ranking{way}") for way in ("", "_superkernel_uniform", "_proxyless_fair")]
    )
    tables["trained again"] = again_table(read("retrained_again"))
    inputs = ROOT / "docs/own_space.md"
    others = [(inputs, name, joined([inputs_table(read(name))])) for name in ("series", "tokens")]
    predicted = ROOT / "docs/measured_searches.md"
    alone = (predicted, "predicted", joined([predicted_table(read("predicted_cifar10_small"))]))
    short = (ROOT / "README.md", "in short", joined([short_table(found)]))
    return [alone, short, *others] + [
        (_PAGE, name, joined([lines])) for name, lines in tables.items()
    ]


if __name__ == "__main__":
    write(texts())
