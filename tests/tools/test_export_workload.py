"""The command line export_workload: files of other tools, whole or not at all."""

from __future__ import annotations

import json
import math
import os
import pathlib
import shutil

import keras
import pytest
import yaml

from dance_tf import files
from tests.interop import timeloop_twin
from tests.interop.topology_twin import macs_of, read_topology
from tools import export_workload
from tools import flags as common

ARRAY = "--accelerator=pe_x=8,pe_y=8,rf_bytes=64,dataflow={}"
LAYER = "--layer=conv:K=10,C=5,P=6,Q=5,R=3,S=3,stride=2x1"
NETWORK = ["--preset=tiny", "--architecture=mbconv3_e3,zero"]


@pytest.fixture
def call(capsys):
    def run(*flags):
        status = common.call(export_workload.main, export_workload.FLAGS, ["export", *flags])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def export(call, tmp_path):
    def run(*flags):
        folder = tmp_path / "new" / "out"
        status, out, error = call(*flags, f"--output_dir={folder}")
        assert (status, error) == (0, "")
        report = json.loads(out, parse_constant=pytest.fail)
        assert report["output_dir"] == str(folder)
        found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        assert sorted(report["files"]) == [str(path.relative_to(folder)) for path in found]
        assert os.listdir(folder.parent) == ["out"]
        return report, folder

    return run


def check_number(layer: pathlib.Path) -> dict:
    """Compare a layer's files, read alone, with what they are expected to give."""
    texts = {path.name: path.read_text("utf-8") for path in layer.glob("*.yaml")}
    expected = json.loads((layer / "expected.json").read_text("utf-8"))
    found = timeloop_twin.evaluate(texts, accounting="timeloop_2020", as_timeloop=False)
    assert found["macs"] == expected["padded_macs"] >= expected["macs"]
    assert found["cycles"] == expected["latency_cycles"]
    assert found["energy_pj"] == pytest.approx(expected["energy_pj"], rel=1e-9)
    assert found["area_um2"] == pytest.approx(expected["area_um2"], rel=1e-9)
    return expected


def test_timeloop_files_give_our_number(export):
    report, folder = export("--to=timeloop", LAYER, ARRAY.format("row_stationary"))
    assert (report["macs"], report["num_layers"], report["version"]) == (13500, 1, "0.3")
    (layer,) = folder.iterdir()
    assert check_number(layer)["macs"] == 13500


def test_a_split_register_file_and_another_version(export):
    machine = "--set=hardware.machine.rf_mode=split"
    array = ARRAY.format("row_stationary")
    _, folder = export("--to=timeloop", LAYER, array, machine, "--version=0.4")
    (layer,) = folder.iterdir()
    architecture = yaml.safe_load((layer / "arch.yaml").read_text("utf-8"))["architecture"]
    assert architecture["version"] == 0.4
    check_number(layer)


def test_a_network_is_a_folder_per_layer(export):
    report, folder = export("--to=timeloop", *NETWORK, ARRAY.format("weight_stationary"))
    layers = sorted(folder.iterdir())
    assert len(layers) == report["num_layers"] == 8
    assert [layer.name.partition("_")[0] for layer in layers] == list("01234567")
    assert sum(check_number(layer)["macs"] for layer in layers) == report["macs"]


@pytest.mark.parametrize(("version", "num_numbers"), [("2", 8), ("3", 7)])
def test_scalesim_reads_the_network_s_macs(export, version, num_numbers):
    report, folder = export("--to=scalesim", f"--version={version}", *NETWORK)
    layers = read_topology((folder / "topology.csv").read_text("utf-8"), num_numbers)
    assert sum(macs_of(values) for _, values in layers) == report["macs"] > 0


def test_zigzag_reads_the_network_s_macs(export):
    report, folder = export("--to=zigzag", *NETWORK)
    entries = yaml.safe_load((folder / "workload.yaml").read_text("utf-8"))
    assert len(entries) == report["num_layers"]
    assert sum(math.prod(entry["loop_sizes"]) for entry in entries) == report["macs"]
    assert entries[0]["operand_precision"]["O"] == 16


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([LAYER], "--to is missing: timeloop, scalesim or zigzag"),
        (["--to=zigzag"], "give one of --layer"),
        (["--to=timeloop", LAYER], "--accelerator goes with --to=timeloop"),
        (["--to=zigzag", LAYER, ARRAY.format("row_stationary")], "--accelerator goes with --to=t"),
        (["--to=zigzag", "--version=3", LAYER], "--version=3: of zigzag there are none"),
        (["--to=scalesim", "--version=0.3", LAYER], "--version=0.3: of scalesim there are 2, 3"),
        (
            ["--to=timeloop", "--version=0.5", LAYER],
            "--version=0.5: of timeloop there are 0.3, 0.4",
        ),
        (["--to=scalesim", "--layer=conv:R=3,dilation=2"], "SCALE-Sim has no dilation"),
        (["--to=scalesim", "--layer=conv:K=0"], "K=0 is not a positive integer"),
        (["--to=scalesim", "--version=3", LAYER], "has one stride"),
        (
            ["--to=timeloop", "--layer=conv:S=9", ARRAY.format("row_stationary")],
            "cannot run on 8x8 row_stationary",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(call, tmp_path, flags, message):
    status, out, error = call(*flags, f"--output_dir={tmp_path / 'out'}")
    assert (status, out) == (1, "")
    assert message in error and error.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_no_folder_of_others_is_written_to(call, tmp_path):
    (tmp_path / "note").write_text("mine")
    status, _, error = call("--to=zigzag", LAYER, f"--output_dir={tmp_path}")
    assert status == 1 and "is not empty" in error
    status, _, error = call("--to=zigzag", LAYER, f"--output_dir={tmp_path / 'note'}")
    assert status == 1 and "is a file" in error
    status, _, error = call("--to=zigzag", LAYER)
    assert status == 1 and "--output_dir is missing" in error
    assert os.listdir(tmp_path) == ["note"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert call("--to=zigzag", LAYER, f"--output_dir={empty}")[0] == 0
    assert os.listdir(empty) == ["workload.yaml"]


def test_a_disk_that_fails_leaves_nothing(call, tmp_path, monkeypatch):
    written: list[str] = []

    def fail_at_the_third(path, text):
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device", path)
        pathlib.Path(path).write_text(text)

    monkeypatch.setattr(files, "write_text", fail_at_the_third)
    array = ARRAY.format("weight_stationary")
    status, out, error = call("--to=timeloop", LAYER, array, f"--output_dir={tmp_path / 'out'}")
    assert (status, out) == (1, "") and "No space left" in error
    assert os.listdir(tmp_path) == []


def test_a_keras_model_keeps_its_macs_in_every_format(export, tmp_path):
    """Depthwise, both strides, groups and a dense layer over rows, counted by hand."""
    layers = keras.layers
    image = keras.Input((9, 9, 2))
    x = layers.Conv2D(4, 3, strides=(1, 2), name="strided")(image)  # 7x4
    x = layers.DepthwiseConv2D(3, padding="same", name="per_channel")(x)
    x = layers.Conv2D(6, 3, groups=2, padding="same", name="grouped")(x)
    x = layers.Dense(10, name="rows")(x)
    keras.Model(image, x).save(tmp_path / "model.keras")
    macs = 2016 + 28 * 4 * 9 + 28 * 6 * 2 * 9 + 28 * 6 * 10
    model = f"--keras_model={tmp_path / 'model.keras'}"
    report, folder = export("--to=scalesim", model)
    text = (folder / "topology.csv").read_text("utf-8")
    assert "strided,9,9,3,3,2,4,1,2,\n" in text
    assert sum(macs_of(values) for _, values in read_topology(text, 8)) == report["macs"] == macs
    shutil.rmtree(folder.parent)
    report, folder = export("--to=zigzag", model)
    entries = yaml.safe_load((folder / "workload.yaml").read_text("utf-8"))
    assert sum(math.prod(entry["loop_sizes"]) for entry in entries) == report["macs"] == macs
    assert [entry["name"] for entry in entries] == ["strided", "per_channel", "grouped", "rows"]
