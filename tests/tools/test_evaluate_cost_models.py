"""evaluate_cost on Keras models, and on all accelerators at once."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as kl

from dance_tf.config import override
from dance_tf.hardware.accelerator import AcceleratorSpace
from dance_tf.hardware.loopnest.mapper import LoopNestCostModel
from dance_tf.interop.keras_model import layers_of_keras_model
from dance_tf.presets import preset
from tests.repo.source import ROOT
from tools import evaluate_cost
from tools import flags as common

ARRAY = "--accelerator=pe_x=8,pe_y=8,rf_bytes=64,dataflow=weight_stationary"
ACCELERATOR = {"pe_x": 8, "pe_y": 8, "rf_bytes": 64, "dataflow": '"weight_stationary"'}
FEW = [
    "--set=hardware.accelerators.pe_x=[8,12]",
    "--set=hardware.accelerators.pe_y=[8,16]",
    "--set=hardware.accelerators.rf_bytes=[32,64]",
]


@pytest.fixture
def call(capsys):
    def run(*flags):
        argv = ["evaluate_cost", *map(str, flags)]
        status = common.call(evaluate_cost.main, evaluate_cost.FLAGS, argv)
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def evaluate(call):
    def run(*flags):
        status, out, error = call("--format=json", *flags)
        assert (status, error) == (0, "")
        return json.loads(out, parse_constant=pytest.fail)

    return run


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kl.Conv2D(8, 3, strides=2, padding="same", name="stem"),
            kl.BatchNormalization(name="norm"),
            kl.ReLU(name="relu"),
            kl.DepthwiseConv2D(3, padding="same", name="depthwise"),
            kl.Conv2D(8, 1, groups=2, name="grouped"),
            kl.Conv2D(8, 1, groups=2, name="again"),
            kl.GlobalAveragePooling2D(name="pool"),
            kl.Dense(10, name="dense"),
        ],
        name="little",
    )


@pytest.fixture(scope="module")
def path(model, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("a folder") / "little.keras"
    model.save(path)
    return str(path)


def test_the_report_of_a_model(evaluate, path):
    report = evaluate(f"--keras_model={path}", ARRAY)
    assert report["model"] == {"name": "little", "num_parameters": 224 + 32 + 80 + 2 * 40 + 90}
    layers = {entry["name"]: entry for entry in report["layers"]}
    assert list(layers) == ["stem", "depthwise", "grouped", "again", "dense"]
    macs = {"stem": 3456, "depthwise": 16 * 72, "grouped": 16 * 32, "again": 512, "dense": 80}
    assert {name: entry["macs"] for name, entry in layers.items()} == macs
    assert report["macs"] == sum(macs.values())
    assert layers["depthwise"]["kind"] == "depthwise" and layers["grouped"]["kind"] == "conv"
    for entry in report["layers"]:
        assert entry["latency_cycles"] >= entry["macs"] / 64
        assert entry["energy_pj"] == pytest.approx(sum(entry["energy_by_component_pj"].values()))
        assert 0 < entry["utilisation"] <= 1
        assert entry["bound_by"] in report["cycles_bound_by"]
    for total in ("latency_cycles", "energy_pj"):
        assert report[total] == pytest.approx(sum(e[total] for e in report["layers"]))
    assert report["area_um2"] > 0
    assert any("batch" in note for note in report["notes"])
    listed = {entry["name"]: entry for entry in report["not_costed"]}
    assert {name: entry["class"] for name, entry in listed.items()} == {
        "norm": "BatchNormalization",
        "relu": "ReLU",
        "pool": "GlobalAveragePooling2D",
    }
    assert listed["norm"]["folded_into"] == "stem" and listed["norm"]["words_moved"] == 0
    assert listed["relu"]["words_moved"] == 256
    assert 0 < listed["relu"]["share_of_data_moved"] < 1
    assert "best" not in report and "pareto" not in report


def test_the_report_as_text(call, path):
    status, out, error = call(f"--keras_model={path}", "--best_accelerator", "--top_k=2", *FEW)
    assert (status, error) == (0, "")
    for words in (
        "note: the batch size is open",
        "little",
        "depthwise",
        "register_file",
        "bound by",
        "not costed",
        "folded",
        "% of data moved",
        "best accelerators",
        "not beaten in latency, energy and area",
        "--format=json",
    ):
        assert words in out, words


def test_without_an_accelerator_a_named_one_is_taken(evaluate, path):
    report = evaluate(f"--keras_model={path}")
    assert report["accelerator"] == {
        "pe_x": 16,
        "pe_y": 16,
        "rf_bytes": 64,
        "dataflow": "weight_stationary",
    }


def test_an_application(call):
    flags = ["--application=MobileNetV2", "--input_size=32", "--format=json"]
    one = [f"--set=hardware.accelerators.{f}=[{v}]" for f, v in ACCELERATOR.items()]
    status, out, error = call(*flags, "--best_accelerator", *one)
    # What takes a while shows its progress, and nothing else is said.
    assert status == 0 and error.splitlines()[-1].startswith("accelerators 100%")
    report = json.loads(out)
    assert report["model"]["num_parameters"] == 3_538_984
    assert len(report["layers"]) == 53 and report["macs"] < 300_774_272


@pytest.fixture(scope="module")
def metrics(model):
    config = override(preset("digits"), [flag.removeprefix("--set=") for flag in FEW]).hardware
    space = AcceleratorSpace(config.accelerators)
    layers = layers_of_keras_model(model).layers
    cost = LoopNestCostModel(config.machine)(layers, space.all())
    latency_ms = np.sum(cost.latency_cycles, axis=0) / config.machine.cycles_per_ms
    columns = [latency_ms, np.sum(cost.energy_pj, axis=0) * 1e-9, cost.area_um2 * 1e-6]
    return space, np.stack(columns, axis=1)


class TestBest:
    """The best of all accelerators, against the cost model asked one by one."""

    @staticmethod
    def names(space, rows):
        return [space.decode(int(row)) for row in rows]

    @staticmethod
    def named(entries):
        fields = ("pe_x", "pe_y", "rf_bytes", "dataflow")
        return [tuple(entry[field] for field in fields) for entry in entries]

    def test_edap(self, evaluate, path, metrics):
        _, values = metrics
        report = evaluate(f"--keras_model={path}", "--best_accelerator", "--top_k=4", *FEW)
        order = np.argsort(values.prod(axis=1), kind="stable")[:4]
        best = report["best"]
        got = [entry["latency_ms"] * entry["energy_mj"] * entry["area_mm2"] for entry in best]
        np.testing.assert_allclose(got, values[order].prod(axis=1), rtol=1e-5)
        assert best[0]["objective"] == pytest.approx(1)
        assert [entry["objective"] for entry in best] == pytest.approx(
            values[order].prod(axis=1) / values[order[0]].prod(), rel=1e-5
        )
        # The rest of the report is of the best one.
        assert tuple(report["accelerator"].values()) == self.named(best)[0]
        assert report["latency_cycles"] == pytest.approx(best[0]["latency_cycles"])
        assert report["energy_pj"] == pytest.approx(best[0]["energy_pj"], rel=1e-6)
        assert report["area_um2"] == pytest.approx(best[0]["area_um2"])

    @pytest.mark.parametrize(
        ("flags", "weights", "kind"),
        [
            (["--objective=product", "--objective_weights=1,0,0"], (1, 0, 0), "product"),
            (["--objective=product", "--objective_weights=2,1,0.5"], (2, 1, 0.5), "product"),
            (["--objective=linear", "--objective_weights=0,1,0"], (0, 1, 0), "linear"),
            (["--objective=linear"], (1, 1, 1), "linear"),
            (["--objective=latency"], (2, 0.5, 0.5), "linear"),
        ],
    )
    def test_other_objectives(self, evaluate, path, metrics, flags, weights, kind):
        _, values = metrics
        report = evaluate(f"--keras_model={path}", "--best_accelerator", *flags, *FEW)
        reference = values[np.argmin(values.prod(axis=1))]
        scaled = values / reference
        by_hand = scaled @ weights if kind == "linear" else np.prod(scaled**weights, axis=1)
        assert report["best"][0]["objective"] == pytest.approx(by_hand.min(), rel=1e-5)
        assert report["objective"]["kind"] == kind
        assert list(report["objective"]["reference"].values()) == pytest.approx(list(reference))

    def test_limits(self, evaluate, call, path, metrics):
        _, values = metrics
        middle = float(np.median(values[:, 2]))
        flags = [f"--keras_model={path}", "--best_accelerator", "--top_k=99", *FEW]
        best = evaluate(*flags, f"--max_area_mm2={middle}")["best"]
        assert len(best) == int((values[:, 2].astype("float32") <= np.float32(middle)).sum())
        assert all(entry["area_mm2"] <= middle * (1 + 1e-6) for entry in best)
        status, out, error = call(*flags, "--max_area_mm2=0.001")
        assert (status, out) == (1, "")
        assert "max_area_mm2" in error and error.count("\n") == 1

    def test_pareto_front(self, evaluate, path, metrics):
        space, values = metrics
        report = evaluate(f"--keras_model={path}", "--best_accelerator", *FEW)
        front = [
            row
            for row in range(len(values))
            if not any(
                (other <= values[row]).all() and (other < values[row]).any() for other in values
            )
        ]
        names = {tuple(vars(a).values()) for a in self.names(space, front)}
        found = self.named(report["pareto"])
        assert set(found) <= names and {tuple(values[r]) for r in front} == {
            tuple(values[space.encode(type(space.decode(0))(*name))]) for name in found
        }
        latencies = [entry["latency_ms"] for entry in report["pareto"]]
        assert latencies == sorted(latencies)
        for a, b in itertools.permutations(report["pareto"], 2):
            assert any(a[m] < b[m] for m in ("latency_ms", "energy_mj", "area_mm2"))

    def test_beside_an_accelerator(self, evaluate, path):
        report = evaluate(f"--keras_model={path}", "--best_accelerator", ARRAY, *FEW)
        assert list(report["accelerator"].values()) == [8, 8, 64, "weight_stationary"]
        assert report["best"][0]["objective"] == pytest.approx(1)

    def test_of_a_layer_and_of_an_architecture(self, evaluate):
        layer = "--layer=conv:K=8,C=4,P=6,Q=6,R=3,S=3"
        assert len(evaluate(layer, "--best_accelerator", *FEW)["best"]) == 5
        flags = ["--preset=tiny", "--architecture=mbconv3_e3,zero", "--best_accelerator", *FEW]
        report = evaluate(*flags)
        assert report["best"][0]["latency_cycles"] == pytest.approx(report["latency_cycles"])


# Field reports, by way of the command line


def _saved(tmp_path, *layers, shape) -> str:
    keras.Sequential([keras.Input(shape), *layers], name="net").save(tmp_path / "net.keras")
    return f"--keras_model={tmp_path}/net.keras"


@pytest.mark.parametrize(
    ("layers", "shape", "macs"),
    [
        ([kl.Conv2D(9, 3, groups=3)], (8, 8, 6), 5832),
        ([kl.Conv2D(8, 3, strides=2, padding="same")], (7, 7, 3), 3456),
        (
            [kl.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2)],
            (9, 9, 4),
            1800,
        ),
        ([kl.Dense(10)], (8, 8, 16), 10240),
        ([kl.Dense(7)], (5, 12), 420),
    ],
)
def test_macs_of_field_reports(evaluate, tmp_path, layers, shape, macs):
    assert evaluate(_saved(tmp_path, *layers, shape=shape), ARRAY)["macs"] == macs


def test_open_sizes(evaluate, call, tmp_path):
    flag = _saved(tmp_path, kl.Conv2D(8, 3, padding="same"), shape=(None, None, 3))
    status, out, error = call(flag, ARRAY)
    assert (status, out) == (1, "")
    assert "axis 1 and 2 (height and width)" in error and "--input_shape" in error
    assert error.count("\n") == 1
    assert evaluate(flag, "--input_shape=32,32,3", ARRAY)["macs"] == 221184


def test_several_inputs(evaluate, call, tmp_path):
    a, b = keras.Input((None, 8)), keras.Input((None, 8))
    keras.Model([a, b], kl.Dot(axes=2)([a, b])).save(tmp_path / "net.keras")
    flag = f"--keras_model={tmp_path}/net.keras"
    report = evaluate(flag, "--input_shape=5,8", "--input_shape=6,8", ARRAY)
    assert report["macs"] == 5 * 6 * 8
    status, _, error = call(flag, "--input_shape=5,8", ARRAY)
    assert status == 1 and "2 inputs" in error


def test_code_in_a_file_is_not_run(call, evaluate, tmp_path):
    layers = [kl.Lambda(lambda x: x * 2, name="secret"), kl.Dense(2)]
    flag = _saved(tmp_path, *layers, shape=(4, 3))
    status, out, error = call(flag, ARRAY)
    assert (status, out) == (1, "") and error.count("\n") == 1
    assert "net.keras" in error and "layer 'secret'" in error and "--unsafe" in error
    assert evaluate(flag, "--unsafe", ARRAY)["macs"] == 4 * 6


BEST = ["--layer=dense:K=2", "--best_accelerator"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--keras_model and --application"),
        (["--keras_model=/no/such.keras"], "/no/such.keras: no such file"),
        (["--application=MobileNet2"], "did you mean 'MobileNetV2'"),
        (["--application=VGG16", "--input_size=8"], "images of 8 pixels"),
        (["--application=VGG16", "--layer=dense:K=2"], "both name what to cost"),
        (["--application=VGG16", "--input_shape=8,8,3"], "--input_shape goes with --keras_model"),
        (["--layer=dense:K=2", "--input_size=8"], "--input_size goes with --application"),
        (["--layer=dense:K=2", "--unsafe"], "--unsafe goes with --keras_model"),
        ([*BEST, "--max_latency_ms=0"], "max_latency_ms"),
        ([*BEST, "--max_latency_ms=-1"], "max_latency_ms"),
        (
            [*BEST, "--objective=linear", "--objective_weights=1,2"],
            "three numbers are needed",
        ),
        (
            [*BEST, "--objective=linear", "--objective_weights=1,2,x"],
            "three numbers are needed",
        ),
        ([*BEST, "--objective=linear", "--objective_weights=-1,2,1"], "weights"),
        ([*BEST, "--objective=linear", "--objective_weights=0,0,0"], "weights"),
        ([*BEST, "--objective=linear", "--objective_weights=nan,1,1"], "weights"),
        ([*BEST, "--objective_weights=1,2,1"], "goes with --objective=linear"),
        ([*BEST, "--objective=area", "--objective_weights=1,2,1"], "goes with --objective=linear"),
        (
            ["--layer=dense:K=2", "--set=hardware.measured_csv=my.csv"],
            "measured table has no parts",
        ),
        (["--layer=dense:K=2", "--top_k=2"], "--top_k goes with --best_accelerator"),
        (["--layer=dense:K=2", "--objective=linear"], "--objective goes with"),
        (["--layer=dense:K=2", "--max_area_mm2=1"], "--max_area_mm2 goes with"),
    ],
)
def test_a_mistake_is_one_line(call, flags, message):
    status, out, error = call(*flags)
    assert (status, out) == (1, "")
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "text", ["32,32", "32,x,3", "32,0,3", "32,-1,3", "", ",", "32;32;3", "32,32,4"]
)
def test_a_bad_shape_is_one_line(call, tmp_path, text):
    flag = _saved(tmp_path, kl.Conv2D(8, 3, padding="same"), shape=(None, None, 3))
    status, out, error = call(flag, f"--input_shape={text}", ARRAY)
    assert (status, out) == (1, "") and error.count("\n") == 1


def test_a_wrong_choice_is_a_wrong_flag(call):
    for flag in ("--format=yaml", "--objective=speed", "--top_k=0", "--input_size=0"):
        status, out, error = call("--layer=dense:K=2", flag)
        assert (status, out) == (2, "") and error.count("\n") == 1


@pytest.mark.slow
def test_mobilenet_to_its_best_accelerator_takes_half_a_minute():
    command = [sys.executable, "-m", "tools.evaluate_cost", "--application=MobileNetV2"]
    command += ["--input_size=224", "--best_accelerator", "--format=json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    assert report["macs"] == 300_774_272
    assert len(report["best"]) == 5
