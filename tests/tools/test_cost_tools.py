"""The command lines evaluate_cost and build_cost_table."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from dance_tf.config import MachineConfig, config_to_json, override
from dance_tf.export.networks import write_accelerator
from dance_tf.presets import preset
from dance_tf.structs import Accelerator
from tools import build_cost_table, evaluate_cost
from tools import flags as common

ARRAY = "pe_x=8,pe_y=8,rf_bytes=64,dataflow=weight_stationary"
LAYER = "conv:K=8,C=4,P=6,Q=6,R=3,S=3,stride=2"
TINY = ["--preset=tiny"]


@pytest.fixture
def call(capsys):
    def run(tool, *flags):
        status = common.call(tool.main, tool.FLAGS, [tool.__name__.split(".")[-1], *flags])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def evaluate(call):
    def run(*flags):
        status, out, error = call(evaluate_cost, "--format=json", *flags)
        assert (status, error) == (0, "")
        return json.loads(out, parse_constant=pytest.fail)

    return run


def test_one_layer_as_json(evaluate):
    report = evaluate(f"--layer={LAYER}", f"--accelerator={ARRAY}")
    assert report["macs"] == 8 * 4 * 36 * 9
    assert report["accelerator"] == {
        "pe_x": 8,
        "pe_y": 8,
        "rf_bytes": 64,
        "dataflow": "weight_stationary",
    }
    (entry,) = report["layers"]
    assert entry["layer"]["stride"] == [2, 2]
    assert entry["bound_by"] in entry["cycles_by_resource"]
    assert entry["loop_nest"].endswith("multiply_accumulate")
    assert report["energy_pj"] == entry["energy_pj"] > report["macs"] * 2.2


def test_a_picture_of_the_array(evaluate, tmp_path):
    path = tmp_path / "array.svg"
    evaluate(f"--layer={LAYER}", f"--accelerator={ARRAY}", f"--draw={path}")
    picture = ElementTree.parse(path).getroot()
    assert picture.tag.endswith("svg") and "weight_stationary" in path.read_text()


def test_pictures_of_every_layer_of_a_network(evaluate, tmp_path):
    network = [*TINY, "--architecture=mbconv3_e3,mbconv3_e3", f"--accelerator={ARRAY}"]
    names = {entry["name"] for entry in evaluate(*network, f"--draw={tmp_path}/all/")["layers"]}
    files = sorted(path.name for path in (tmp_path / "all").iterdir())
    *pictures, index = files
    assert index == "index.html" and 1 < len(pictures) <= len(names)
    for picture in pictures:
        assert ElementTree.parse(tmp_path / "all" / picture).getroot().tag.endswith("svg")
    evaluate(*network, f"--draw={tmp_path}/page.html")
    evaluate(*network, f"--draw={tmp_path}/nests.txt")
    page, nests, index = (
        path.read_text()
        for path in (tmp_path / "page.html", tmp_path / "nests.txt", tmp_path / "all" / index)
    )
    assert page.count("<svg") == nests.count("multiply_accumulate") == len(pictures)
    for name in names:
        assert name in page and name in nests and name in index
    assert all(f'src="{picture}"' in index for picture in pictures)


def test_one_layer_as_text(call):
    status, out, error = call(evaluate_cost, f"--layer={LAYER}", f"--accelerator={ARRAY}")
    assert (status, error) == (0, "")
    for words in (
        "8 x 8 PEs",
        "cycles",
        "latency, ms",
        "utilisation",
        "bound by",
        "wires",
        "register_files",
        "leakage not counted",
        "for ",
        "multiply_accumulate",
    ):
        assert words in out, words


def test_layers_and_options_of_every_kind(evaluate):
    for text, macs in (
        ("dense:K=10,C=40", 400),
        ("dense:N=3,K=10,C=40", 1200),
        ("depthwise:K=12,P=5,Q=4,R=3,S=3,dilation=2", 12 * 20 * 9),
        ("conv:K=4,C=4,P=50,R=5,stride=2x1", 16 * 50 * 5),
        ("conv:K=9,C=2,P=6,Q=6,R=3,S=3,groups=3", 5832),
    ):
        report = evaluate(f"--layer={text}", f"--accelerator={ARRAY}")
        assert report["macs"] == macs
    half = evaluate(
        f"--layer={text}", f"--accelerator={ARRAY}", "--set=hardware.machine.clock_mhz=100"
    )
    assert half["latency_ms"] == pytest.approx(2 * report["latency_ms"])
    assert half["latency_cycles"] == report["latency_cycles"]


def test_sizes_that_do_not_divide_the_array(evaluate):
    """Ten outputs over four PEs: 15 cycles of padded work, 50 real MACs (A1)."""
    report = evaluate(
        "--layer=dense:K=10,C=5",
        "--accelerator=pe_x=1,pe_y=4,rf_bytes=64,dataflow=weight_stationary",
        "--set=hardware.accelerators.pe_x=[1]",
        "--set=hardware.accelerators.pe_y=[4]",
    )
    assert (report["macs"], report["compute_cycles"]) == (50, 15)
    assert report["array_utilisation"] == pytest.approx(50 / 60)
    assert report["layers"][0]["padded_layer"]["K"] == 12


def test_one_architecture(evaluate, call):
    report = evaluate(*TINY, "--architecture=mbconv3_e3, zero", f"--accelerator={ARRAY}")
    assert report["architecture"] == {"space": "tiny_mbconv", "ops": ["mbconv3_e3", "zero"]}
    assert len(report["layers"]) == 8
    more = evaluate(*TINY, "--architecture=mbconv3_e3,mbconv7_e6", f"--accelerator={ARRAY}")
    assert more["latency_cycles"] > report["latency_cycles"]
    status, out, _ = call(
        evaluate_cost, *TINY, "--architecture=mbconv3_e3,zero", f"--accelerator={ARRAY}"
    )
    assert status == 0
    assert "block0/mbconv3_e3/depthwise" in out and out.count("multiply_accumulate") == 8


def test_the_files_of_a_run(evaluate, tmp_path):
    """Architecture, configuration and machine come from the run's own files."""
    config = override(preset("tiny"), ["space.width_multiplier=2"])
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(config)))
    architecture = {"space": "tiny_mbconv", "ops": ["mbconv5_e3", "zero"]}
    (tmp_path / "result.json").write_text(json.dumps({"architecture": architecture}))
    machine = MachineConfig(clock_mhz=100.0)
    accelerator = Accelerator(8, 8, 64, "weight_stationary")
    write_accelerator(tmp_path / "accelerator.json", accelerator, machine, {"latency_ms": 1.0})
    files = [f"--architecture={tmp_path}/result.json", f"--accelerator={tmp_path}/accelerator.json"]
    report = evaluate(*files)
    assert report["latency_ms"] == pytest.approx(report["latency_cycles"] / 100e3)
    narrow = evaluate(*TINY, *files)
    assert narrow["macs"] < report["macs"]
    assert narrow["latency_ms"] == pytest.approx(narrow["latency_cycles"] / 200e3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "one of --layer and --architecture"),
        ([f"--layer={LAYER}", "--architecture=zero"], "--layer and --architecture both name"),
        (["--layer=pool:K=3"], "begin with one of conv:"),
        (["--layer=conv"], "begin with one of conv:"),
        (["--layer=conv:"], "expected NAME=VALUE"),
        (["--layer=conv:K=0"], "K=0 is not a positive integer"),
        (["--layer=conv:K=3.5"], "not a positive integer"),
        (["--layer=conv:K=-3"], "not a positive integer"),
        (["--layer=conv:k=3"], "no field 'k'"),
        (["--layer=conv:K=3,K=4"], "K is given twice"),
        (["--layer=conv:K=3,strid=2"], "did you mean 'stride'"),
        (["--layer=conv:K=6,groups=4"], "4 groups do not divide K = 6"),
        (["--layer=conv:K=6,groups=0"], "groups=0 is not a positive integer"),
        (["--layer=depthwise:K=6,groups=6"], "no field 'groups'"),
        (["--layer=conv:K=3,stride=1x2x3"], "too many numbers"),
        (["--layer=conv:K=3x3"], "too many numbers"),
        (["--layer=dense:K=3,P=3"], "no field 'P'"),
        (["--layer=depthwise:K=3,C=3"], "no field 'C'"),
        ([*TINY, "--architecture=mbconv3_e3"], "has 1 ops; tiny_mbconv has 2 blocks"),
        ([*TINY, "--architecture=mbconv3_e3,mbconv3_e4"], "did you mean 'mbconv3_e"),
        ([*TINY, "--architecture=zero,zero"], "not allowed at block 0"),
        ([*TINY, "--architecture=mbconv3_e3,zero", "--draw=a.svg"], "one mapping, and 8 layers"),
        *(
            ([f"--layer={LAYER}", f"--draw={target}"], "none of what can be drawn to: name")
            for target in ("all", "picture.png", "a/b", "")
        ),
        ([f"--layer={LAYER}", "--draw=no/such/a.svg"], "there is no folder"),
        ([f"--layer={LAYER}", f"--draw={__file__}/"], "is a file: name a folder"),
        ([f"--layer={LAYER}", "--draw=."], "is a folder with files in it"),
        (["--architecture=/no/such/result.json"], "no such file"),
        ([f"--layer={LAYER}", "--accelerator=pe_x=8"], "pe_y, rf_bytes, dataflow missing"),
        ([f"--layer={LAYER}", f"--accelerator={ARRAY},pe_z=1"], "no field 'pe_z'"),
        ([f"--layer={LAYER}", "--accelerator=/no/such.json"], "no such file"),
        (
            [f"--layer={LAYER}", f"--accelerator={ARRAY.replace('pe_x=8', 'pe_x=7')}"],
            "pe_x = 7 is outside the space",
        ),
        ([f"--layer={LAYER}", f"--accelerator={ARRAY.replace('weight_', '')}"], "not one of"),
        (
            ["--layer=conv:K=8,C=4,P=4,Q=4,S=9", f"--accelerator={ARRAY.replace('weight', 'row')}"],
            "8x8 row_stationary with 64 B: S = 9 needs as many PEs along Y, there are 8",
        ),
        (
            [
                f"--layer={LAYER}",
                f"--accelerator={ARRAY.replace('=64', '=4')}",
                "--set=hardware.accelerators.rf_bytes=[4]",
            ],
            "the register file holds 2 words, the smallest tiles need 3",
        ),
        (
            ["--layer=conv:K=8,C=8,P=4,Q=4,R=99,S=99"],
            "weight_stationary with 64 B: the global buffer holds 65536 words, the smallest tiles"
            " need 705680",
        ),
        (
            ["--layer=conv:K=8,C=8,P=4,Q=4,R=199,S=199", "--best_accelerator"],
            "can run on no accelerator: the global buffer holds 65536 words, the smallest",
        ),
    ],
)
def test_a_mistake_is_one_line_and_no_number(call, flags, message):
    if not any("accelerator" in flag for flag in flags):
        flags = [*flags, f"--accelerator={ARRAY}"]
    status, out, error = call(evaluate_cost, *flags)
    assert (status, out) == (1, "")
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"architecture": 3}', '{"accelerator": 3}'])
def test_a_bad_file_is_one_line(call, tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_text(content)
    for flags in (
        [*TINY, f"--architecture={path}", f"--accelerator={ARRAY}"],
        [f"--layer={LAYER}", f"--accelerator={path}"],
    ):
        status, out, error = call(evaluate_cost, *flags)
        assert (status, out) == (1, "")
        assert "bad.json" in error and error.count("\n") == 1


SMALL = [
    *TINY,
    "--set=hardware.accelerators.pe_x=[8]",
    "--set=hardware.accelerators.pe_y=[8]",
    "--set=hardware.accelerators.rf_bytes=[64]",
]


def test_a_table_is_built_then_loaded(call, tmp_path):
    folder = tmp_path / "my cache"
    status, out, progress = call(build_cost_table, *SMALL, f"--cache_dir={folder}")
    built = json.loads(out)
    assert status == 0 and "100%" in progress
    assert not built["is_from_cache"] and built["cache_dir"] == str(folder)
    assert (built["num_accelerators"], built["num_architectures"]) == (3, 42)
    assert built["num_infeasible_cells"] == 0
    for metric in ("latency_ms", "energy_mj", "area_mm2"):
        assert 0 < built[metric]["min"] <= built["reference"][metric] <= built[metric]["max"]
    status, out, progress = call(build_cost_table, *SMALL, f"--cache_dir={folder}")
    loaded = json.loads(out)
    assert status == 0 and progress == "" and loaded["is_from_cache"]
    changing = ("wall_s", "is_from_cache")
    assert {k: v for k, v in loaded.items() if k not in changing} == {
        k: v for k, v in built.items() if k not in changing
    }
    (path,) = folder.iterdir()
    (path / "energy_mj.npy").write_bytes(b"")
    status, out, error = call(build_cost_table, *SMALL, f"--cache_dir={folder}")
    assert (status, out) == (1, "")
    assert "energy_mj.npy" in error and "delete it" in error and error.count("\n") == 1
    assert list(folder.iterdir()) == [path]


def test_table_mistakes(call):
    for flag, message in (
        ("--set=space.name=cifar", "unknown space 'cifar'"),
        ("--set=hardware.machine.technology=7nm", "unknown technology '7nm'"),
        ("--set=hardware.accelerators.rf_bytes=[4096]", "known for 1 to 512 words"),
        ("--set=hardware.machine.rf_mode=both", "rf_mode is 'both'"),
    ):
        status, out, error = call(build_cost_table, *TINY, flag, "--cache_dir=/no/such/folder")
        assert (status, out) == (1, ""), flag
        assert message in error and error.count("\n") == 1, flag
