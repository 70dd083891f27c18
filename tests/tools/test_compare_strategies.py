"""The tool that compares strategies: what it writes, and what it refuses."""

from __future__ import annotations

import json

import pytest

from tools import compare_strategies
from tools import flags as common

#: Two blocks and one accelerator.
TINY = [
    "--preset=tiny",
    "--set=hardware.accelerators.pe_x=[8]",
    "--set=hardware.accelerators.pe_y=[8]",
    "--set=hardware.accelerators.rf_bytes=[64]",
    '--set=hardware.accelerators.dataflow=["row_stationary"]',
]


@pytest.fixture
def call(capsys):
    def run(*flags):
        argv = ["compare_strategies", *flags]
        status = common.call(compare_strategies.main, compare_strategies.FLAGS, argv)
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def accuracies(tmp_path):
    lines = ["architecture,accuracy_percent_1,accuracy_percent_2"]
    lines += [f"{a}{b},{80 + a + b % 6},{80.5 + a + b % 6}" for a in range(6) for b in range(7)]
    path = tmp_path / "accuracies.csv"
    path.write_text("\n".join(lines) + "\n")
    return f"--accuracy_csv={path}"


def test_a_table_of_ones_own_is_compared_on(call, accuracies, tmp_path):
    folder = tmp_path / "found"
    status, out, _ = call(
        *TINY,
        accuracies,
        "--strategies=random_networks,regularised_evolution",
        "--budgets=12,6",
        "--num_seeds=2",
        "--jobs=1",
        f"--output_dir={folder}",
    )
    assert status == 0 and "random_networks" in out
    found = json.loads((folder / "comparison.json").read_text())
    assert found["budgets"] == [6, 12] and found["exact"]["num_on_front"] >= 1
    named = [(e["strategy"], e["budget"], e["num_seeds"]) for e in found["strategies"]]
    assert named == [
        (name, budget, 2)
        for name in ("random_networks", "regularised_evolution")
        for budget in (6, 12)
    ]
    assert (folder / "comparison.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--strategies=dance_predicter"], "did you mean 'dance_predictor'"),
        (["--strategies=dance_supernet"], "dance_supernet needs --inherited"),
        (["--budgets=30,many"], "not positive integers"),
        (["--judge_csv=nowhere.csv"], "nowhere.csv: cannot be read"),
    ],
)
def test_a_mistake_is_one_line(call, accuracies, tmp_path, flags, says):
    budgets = [] if "budgets" in flags[0] else ["--budgets=4"]
    strategies = [] if "strategies" in flags[0] else ["--strategies=random_pairs"]
    status, out, error = call(
        *TINY,
        accuracies,
        *budgets,
        *strategies,
        *flags,
        "--jobs=1",
        "--num_seeds=1",
        f"--output_dir={tmp_path}/found",
    )
    assert status == 1 and out == ""
    assert says in error.splitlines()[-1]


def test_a_space_without_accuracies_needs_a_source(call, tmp_path):
    status, _, error = call(*TINY, f"--output_dir={tmp_path}/found")
    assert status == 1 and "name one, --accuracy_csv, or a supernet, --supernet_dir" in error
