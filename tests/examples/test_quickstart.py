"""The manual's code is the example, and the example runs."""

from __future__ import annotations

import pathlib
import re
import runpy

import pytest

from tests.repo.manual import code_blocks

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "quickstart.py"


@pytest.mark.parametrize("path", ["README.md", "docs/search.md"])
def test_the_manual_shows_the_example(path: str):
    (block,) = code_blocks(path, "python")
    assert block in EXAMPLE.read_text(encoding="utf-8")


def test_example_runs_and_finds_the_best(cache_dir, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_dir.parent))
    runpy.run_module("examples.quickstart", run_name="__main__")
    spaces, cost, best, mixture = capsys.readouterr().out.splitlines()
    assert spaces == "42 networks x 54 accelerators"
    latency_ms, energy_mj, area_mm2 = map(float, re.findall(r"[\d.]+(?= m)", cost))
    assert 0 < latency_ms < 1 and 0 < energy_mj < 1 and 0.5 < area_mm2 < 5
    assert best.startswith("most often best: Accelerator(pe_x=")
    # Zero costs nothing, so it is what a cost alone goes to where it is allowed.
    assert mixture.endswith("'zero']")
    assert list(cache_dir.glob("table_*/header.json"))
