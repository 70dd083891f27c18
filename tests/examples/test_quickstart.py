"""The README's code is the example, and the example runs."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "quickstart.py"


def test_readme_shows_the_example():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = EXAMPLE.read_text(encoding="utf-8").partition('"""\n\n')[2]
    assert f"```python\n{code}```" in readme


def test_example_runs_and_finds_the_best(tmp_path: pathlib.Path):
    done = subprocess.run(
        [sys.executable, "-m", "examples.quickstart"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    spaces, cost, best, mixture = done.stdout.splitlines()
    assert spaces == "42 networks x 54 accelerators"
    latency_ms, energy_mj, area_mm2 = map(float, re.findall(r"[\d.]+(?= m)", cost))
    assert 0 < latency_ms < 1 and 0 < energy_mj < 1 and 0.5 < area_mm2 < 5
    assert best.startswith("most often best: Accelerator(pe_x=")
    # Zero costs nothing, so it is what a cost alone goes to where it is allowed.
    assert mixture.endswith("'zero']")
    assert list((tmp_path / "dance_tf").glob("table_*/header.json"))
