"""An op, a space and images of one's own: searched, trained, exported and reported."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np

from dance_tf.export.tflite import TFLiteClassifier
from dance_tf.files import read_json
from dance_tf.report.run_folder import read_run
from tests.repo.manual import code_blocks

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_manual_shows_the_example():
    text = (ROOT / "examples" / "own_op.py").read_text(encoding="utf-8")
    for block in code_blocks("docs/own_space.md", "python"):
        assert block in text


def test_the_example_gives_all_that_the_command_line_gives(cache_dir, tmp_path):
    folder = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "examples.own_op", str(folder)],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(cache_dir.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "accuracy" in done.stdout
    result = read_json(folder / "result.json")
    assert result["architecture"]["space"] == "ghosts"
    assert result["accuracy"]["value"] > 0.3  # of ten classes, after eight epochs
    network = TFLiteClassifier(str(folder / "exports" / "network.tflite"))
    assert network.predict(np.zeros((2, 8, 8, 1), np.float32)).shape == (2, 10)
    assert read_run(str(folder)).space.op_layers(0, "ghost3")[0].name == "block0/ghost3/primary"
