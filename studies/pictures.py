"""Draw the pictures of the manual anew.

    python -m studies.pictures --run_dir=runs/digits

Writes into docs/images:

- `sweep.svg`: searches on CIFAR-10, from the files in studies/results.
- `rooms.svg`: the folders of dance_tf, and which of them imports which.
- `mapping.svg`: the best mapping of a layer, by `tools.evaluate_cost --draw`.
- `report.png`: the top of the report of a finished run, by headless Chromium.

Pictures whose run or program is missing are left as they are, with a line that says so.
"""

from __future__ import annotations

import argparse
import ast
import html
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

from dance_tf.files import read_json, write_text
from studies.analyse_sweep import draw_sweep
from studies.found_networks import read_trained
from tests.repo.source import ROOT, first_party_imports, python_files

__all__ = ["main", "rooms"]

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
    write_text(folder / "rooms.svg", rooms())
    print(f"wrote {folder / 'rooms.svg'}")
    _mapping(folder / "mapping.svg")
    _report(Path(options.run_dir) / "report.html", folder / "report.png")
    return 0


def rooms() -> str:
    """Return the picture of the rooms as SVG: each stands above all rooms that it imports."""
    imports = _imports_of_rooms()
    ranks: dict[str, int] = {}
    while len(ranks) < len(imports):
        ready = [room for room in imports if room not in ranks and imports[room] <= ranks.keys()]
        if not ready:
            raise ValueError(f"rooms import each other: {sorted(imports.keys() - ranks.keys())}")
        ranks |= {room: 1 + max((ranks[r] for r in imports[room]), default=-1) for room in ready}
    rows = [[r for r in ranks if ranks[r] == rank] for rank in range(max(ranks.values()), -1, -1)]
    total, height, gap = 960, 74, 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total}'
        f' {gap + len(rows) * (height + gap)}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for number, row in enumerate(rows):
        width = (total - gap) / len(row) - gap
        for column, room in enumerate(row):
            x, y = gap + column * (width + gap), gap + number * (height + gap)
            role = textwrap.wrap(_ROLES.get(room) or _first_line(room), int(width / 6.5))
            texts = [
                *role,
                *([f"imports {', '.join(sorted(imports[room]))}"] * bool(imports[room])),
            ]
            parts.append(
                f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{height}" rx="5"'
                ' fill="#eef3f8" stroke="#456"/>'
                f'<text x="{x + 10:.0f}" y="{y + 18}" font-size="14"'
                f' font-weight="bold">{room}</text>'
            )
            for line, text in enumerate(texts):
                colour = "#567" if text.startswith("imports ") else "#000"
                parts.append(
                    f'<text x="{x + 10:.0f}" y="{y + 35 + 15 * line}" fill="{colour}">'
                    f"{html.escape(text)}</text>"
                )
    return "\n".join([*parts, "</svg>", ""])


def _imports_of_rooms() -> dict[str, set[str]]:
    """Return each room and the rooms that its files import; modules in no folder are `dance_tf`."""
    found: dict[str, set[str]] = {"tools": set()}
    # Without the public names, and the program above all rooms.
    left_out = ("dance_tf/__init__.py", "dance_tf/__main__.py")
    for path in python_files():
        if path.startswith(("dance_tf/", "tools/")) and path not in left_out:
            imported = {_room(target) for target in first_party_imports(path)}
            found.setdefault(_room(path), set()).update(imported - {_room(path), "benchmarks"})
    return found


def _room(path: str) -> str:
    parts = path.split("/")
    return parts[1] if parts[0] == "dance_tf" and len(parts) > 2 else parts[0]


#: Roles of the two rooms whose package says something else.
_ROLES = {
    "dance_tf": "Records, errors, protocols, configurations, presets and files: imported by all.",
    "tools": "One thin program for each command line.",
}


def _first_line(room: str) -> str:
    tree = ast.parse((ROOT / "dance_tf" / room / "__init__.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


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
