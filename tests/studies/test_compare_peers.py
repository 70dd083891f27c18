"""The comparison with ZigZag: what it computes, and, where ZigZag is there, that it runs."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from dance_tf.config import MachineConfig
from dance_tf.structs import Accelerator
from studies import compare_peers

ROOT = pathlib.Path(__file__).resolve().parents[2]
HAS_ZIGZAG = importlib.util.find_spec("zigzag") is not None


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "studies.compare_peers", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )


@pytest.mark.skipif(HAS_ZIGZAG, reason="ZigZag is installed")
def test_without_zigzag_it_is_one_line_that_says_how_to_get_it():
    done = _run("--quick")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "pip install '.[peers]'" in done.stderr
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^peers = \["zigzag-dse', project, flags=re.MULTILINE)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ZIGZAG, reason="ZigZag is not installed (the extra `peers`)")
def test_zigzag_agrees_on_cycles(tmp_path: pathlib.Path):
    done = _run("--quick", f"--output={tmp_path}/peers.json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    written = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))
    assert printed == {k: v for k, v in written.items() if k != "pairs"}
    assert written["num_pairs"] == len(written["pairs"]) == 6
    assert written["rank_correlation"]["cycles"]["all"] > 0.9
    assert 0.8 < written["ours_over_zigzag"]["cycles"]["median"] < 1.25


def test_the_machine_is_ours():
    """Energies per word, words per cycle and capacities survive the change of units."""
    machine = MachineConfig(technology="accelergy_2020_45nm")
    accelerator = Accelerator(12, 20, 256, "row_stationary")
    description = compare_peers.machine_description(accelerator, machine)
    array = description["operational_array"]
    assert (array["sizes"], array["unit_energy"]) == ([12, 20], 2.2)
    words = {"register_file": 128, "global_buffer": 128 * 512}
    pj_per_word = {"register_file": 1.005, "global_buffer": 75.215 / 4, "dram": 128.0}
    for name, memory in description["memories"].items():
        assert memory["size"] // 16 == words.get(name, memory["size"] // 16)
        widths = {port["bandwidth_max"] / 16 for port in memory["ports"]}
        assert len(widths) == 1
        for cost in ("r_cost", "w_cost"):
            assert memory[cost] / widths.copy().pop() == pytest.approx(pj_per_word[name])
        ways = [way for port in memory["ports"] for way in port["allocation"]]
        assert len(ways) == len(set(ways)) == 8
        # One register file in each PE, one of the others for all.
        assert memory["served_dimensions"] == ([] if name == "register_file" else ["D1", "D2"])
    assert widths.pop() == pytest.approx(6.4, rel=0.01)


def test_agreement_is_by_rank_and_within_layers():
    """Two layers that each order their accelerators the other way round, far apart."""
    pairs = pd.DataFrame(
        {
            "layer": ["a"] * 3 + ["b"] * 3,
            "kind": ["conv"] * 3 + ["depthwise"] * 3,
            "cycles": [1.0, 2.0, 3.0, 10.0, 20.0, 30.0],
            "zigzag_cycles": [3.0, 2.0, 1.0, 30.0, 20.0, 10.0],
            "energy_pj": np.arange(6.0) + 1,
            "zigzag_energy_pj": 2 * np.exp(np.arange(6.0)),
        }
    )
    report = compare_peers.agreement(pairs)
    cycles = report["rank_correlation"]["cycles"]
    assert cycles["conv"] == cycles["depthwise"] == cycles["within_layers"] == pytest.approx(-1)
    assert cycles["all"] == pytest.approx(1 - 6 * (4 + 4 + 4 + 4) / (6 * 35))
    assert set(report["rank_correlation"]["energy_pj"].values()) == {1.0}
    ratios = report["ours_over_zigzag"]["cycles"]
    assert (ratios["min"], ratios["median"]) == (pytest.approx(1 / 3), pytest.approx(1.0))
    assert ratios["max"] == pytest.approx(3.0)
