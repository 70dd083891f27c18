"""The example of a measured table runs, and what it prints follows from its formula."""

from __future__ import annotations

import pathlib
import re
import runpy
import tempfile


def test_from_template_to_the_best_board(tmp_path: pathlib.Path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    runpy.run_module("examples.measured_table", run_name="__main__")
    rows, small, large, best = capsys.readouterr().out.splitlines()
    num_rows, num_layers = map(
        int, re.match(r"(\d+) rows: (\d+) layers on 2 boards", rows).groups()
    )
    assert num_rows == 2 * num_layers > 40
    shares = [int(re.search(r"(\d+)%", line).group(1)) for line in (small, large)]
    assert sum(shares) in (99, 100, 101) and min(shares) > 0  # 7x7 runs on the large one only
    # Without a 7x7 filter, the small board has the smaller product: 1.1 / 150 * 6 < 1.6 / 200 * 7.
    assert best.endswith("1.1 mm2") and "mbconv7" not in best
    (csv_file,) = tmp_path.glob("*/measured.csv")
    assert csv_file.read_text(encoding="utf-8").count("infeasible") > 0
