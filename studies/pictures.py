"""Draw the pictures of the manual anew.

    python -m studies.pictures --run_dir=runs/digits

Writes into docs/images:

- `sweep.svg`: searches on CIFAR-10, from the files in studies/results.
- `mapping.svg`: the best mapping of a layer, by `tools.evaluate_cost --draw`.
- `report.png`: the top of the report of a finished run, by headless Chromium.

Pictures whose run or program is missing are left as they are, with a line that says so.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dance_tf.files import read_json
from studies.analyse_sweep import draw_sweep
from studies.found_networks import read_trained

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[1]
_RESULTS = ROOT / "studies/results"
_MAPPING = (
    "--layer=conv:K=32,C=16,P=16,Q=16,R=3,S=3",
    "--accelerator=pe_x=8,pe_y=12,rf_bytes=64,dataflow=row_stationary",
)
_WINDOW = "1280,1240"


def main(argv: Sequence[str] | None = None) -> int:
    """Draw all pictures that can be drawn here."""
    parser = argparse.ArgumentParser(
        prog="pictures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run_dir", default="runs/digits", help="folder of a finished search")
    parser.add_argument(
        "--output_dir", default=str(ROOT / "docs/images"), help="folder to write to"
    )
    options = parser.parse_args(argv)
    folder = Path(options.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder / "sweep.svg")
    _mapping(folder / "mapping.svg")
    _report(Path(options.run_dir) / "report.html", folder / "report.png")
    return 0


def _sweep(path: Path) -> None:
    sweep, front = (
        read_json(_RESULTS / f"{name}_cifar10_small.json") for name in ("sweep", "front")
    )
    draw_sweep(sweep, front, str(path), read_trained(str(_RESULTS / "trained_cifar10_small.json")))
    print(f"wrote {path}")


def _mapping(path: Path) -> None:
    command = [sys.executable, "-m", "tools.evaluate_cost", *_MAPPING, f"--draw={path.resolve()}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    print(f"wrote {path}")


def _report(page: Path, path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None or not page.exists():
        missing = "Chromium is not installed" if chromium is None else f"there is no {page}"
        print(f"{missing}: {path} stays as it is", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={profile}", f"--window-size={_WINDOW}"]
        command += [f"--screenshot={path.resolve()}", page.resolve().as_uri()]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=60)
    print(f"wrote {path}, {os.path.getsize(path):,} bytes")


if __name__ == "__main__":
    sys.exit(main())
