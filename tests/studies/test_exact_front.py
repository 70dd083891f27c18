"""The example that finds a supernet's front: what it writes, and that a kill changes nothing."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from dance_tf.hardware import cost_table
from dance_tf.presets import preset
from dance_tf.structs import METRICS, Accelerator
from dance_tf.supernet.space_files import make_space
from studies import exact_front
from tests.search.problems import shuffled_table
from tools import flags as common

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZES = ("--num_evaluations=12", "--num_images=20", "--population_size=6", "--tournament_size=3")


@pytest.fixture
def run(supernet_dir, monkeypatch, tmp_path):
    """Return a call of the example on an untrained supernet; it gives status and report."""
    monkeypatch.setattr(cost_table, "load_or_build_table", lambda *a, **k: shuffled_table(1))

    def call(*arguments: str) -> tuple[int, dict]:
        paths = {
            "supernet_dir": supernet_dir,
            "memo": tmp_path / "m.jsonl",
            "output": tmp_path / "f.json",
        }
        given = [f"--{name}={path}" for name, path in paths.items()]
        status = common.call(
            exact_front.main, exact_front.FLAGS, ["exact_front", *SIZES, *given, *arguments]
        )
        text = paths["output"].read_text(encoding="utf-8") if status == 0 else "{}"
        return status, json.loads(text)

    return call


def test_writes_the_front_of_each_objective(run, capsys):
    status, report = run("--objective=EDAP", "--objective=linear:1,0,0")
    assert status == 0
    out, err = capsys.readouterr()
    assert "networks measured now" in err
    assert report["supernet"]["supernet_sha256"] == "ab"
    assert report["supernet"]["num_images"] == 20
    assert report["evolution"]["num_evaluations"] == 12
    assert 12 <= report["num_networks"] <= 24
    table, space = shuffled_table(1), make_space(preset("tiny").space)
    for name, weights in (("EDAP", [1, 1, 1]), ("linear:1,0,0", [1, 0, 0])):
        found = report["objectives"][name]
        assert (found["weights"], found["num_evaluations"]) == (weights, 12)
        growth = found["hypervolume_by_evaluations"]
        assert [row["num_evaluations"] for row in growth] == [1, 3, 4, 6, 7, 9, 10, 12]
        shares = [row["share"] for row in growth]
        assert shares == sorted(shares) and shares[-1] == 1.0 and shares[0] >= 0.0
        points = [(point["error"], point["objective"]) for point in found["front"]]
        assert points == sorted(points) and len(points) >= 2
        assert [cost for _, cost in points] == sorted((cost for _, cost in points), reverse=True)
        assert out.count(f"{name}: front of 12 networks") == 1
        for point in found["front"]:
            metrics = [point[metric] for metric in METRICS]
            assert point["edap_ms_mj_mm2"] == pytest.approx(np.prod(metrics))
            indices = [space.op_names.index(op) for op in point["ops"]]
            one_hot = np.eye(space.num_ops, dtype=np.float32)[None, indices]
            row = table.accelerators.encode(Accelerator(**point["accelerator"]))
            exact = table.expected_metrics(one_hot)[0, row]
            np.testing.assert_allclose(metrics, exact, rtol=1e-5)


def test_asks_the_memo_before_the_supernet(run, capsys):
    _, first = run()
    assert "exact_front: 12 networks measured now" in capsys.readouterr().err
    _, second = run()
    assert "exact_front: 0 networks measured now" in capsys.readouterr().err
    assert second == first


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--objective=speed"], "--objective=speed: neither one of EDAP"),
        (["--objective=linear:1,2"], "three weights"),
        (["--objective=EDAP:1,2,1"], "three weights"),
        (["--objective=linear:1,2,-1"], "non-negative"),
        (["--num_evaluations=1"], "num_evaluations is 1"),
        (["--memo="], "--memo is missing"),
        (["--num_images=0"], "0 held-out images"),
    ],
)
def test_mistakes_are_one_line(run, capsys, arguments, words):
    status, _ = run(*arguments)
    err = capsys.readouterr().err
    assert (status, err.count("\n")) == (1, 1)
    assert words in err


@pytest.mark.slow
def test_a_killed_evolution_ends_as_the_uninterrupted_one(tmp_path):
    """SIGKILL after every few measurements, on a supernet that was trained in earnest."""
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1"}

    def start(module: str, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)

    folder, cache = tmp_path / "supernet", f"--cache_dir={tmp_path}/tables"
    trained = start("tools.train_supernet", "--preset=tiny", f"--output_dir={folder}")
    assert trained.wait() == 0
    common_flags = (f"--supernet_dir={folder}", cache, *SIZES)
    memo, output = tmp_path / "killed.jsonl", tmp_path / "killed.json"
    given = (*common_flags, f"--memo={memo}", f"--output={output}")
    for num_lines in (2, 6, 11):
        process = start("studies.exact_front", *given)
        while not memo.exists() or memo.read_bytes().count(b"\n") < num_lines:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not output.exists()
    assert start("studies.exact_front", *given).wait() == 0
    whole = tmp_path / "whole.json"
    uninterrupted = (f"--memo={tmp_path}/whole.jsonl", f"--output={whole}")
    assert start("studies.exact_front", *common_flags, *uninterrupted).wait() == 0
    assert output.read_bytes() == whole.read_bytes()
    assert memo.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
