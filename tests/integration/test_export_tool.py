"""python -m tools.export_model: files that load, one clear line for a mistake."""

import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from dance_tf.config import (
    AcceleratorSpaceConfig,
    DataConfig,
    MachineConfig,
    SpaceConfig,
    config_to_json,
)
from dance_tf.data.datasets import load_images
from dance_tf.evaluator.domain import EvaluatorDomain, NetworkShapes, make_networks
from dance_tf.evaluator.neural import NeuralEvaluator
from dance_tf.export import networks, tflite
from dance_tf.export.serving import ServedModel
from dance_tf.hardware.accelerator import AcceleratorSpace
from dance_tf.presets import preset
from dance_tf.supernet.space_files import make_space
from tools import export_model
from tools import flags as common


def _call(*arguments):
    return common.call(export_model.main, export_model.FLAGS, ["export_model", *arguments])


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory):
    """An untrained network of 8x8 images; what it says does not matter here."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
    x = keras.layers.Dense(10)(keras.layers.Flatten()(x))
    path = tmp_path_factory.mktemp("model") / "network.keras"
    keras.Model(inputs, x).save(path)
    return path


@pytest.fixture(scope="module")
def raw_network(tmp_path_factory):
    """A network that knows the digits in 0..255 and has no layer that says so."""
    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    dataset = load_images(DataConfig(dataset="digits"), input_size=8)
    images, labels = networks.sample_images(dataset, "train", 1200)
    # Least squares in 0..255, towards -1 where a class is not; the constant counts for much.
    flat = np.column_stack([255 * images.reshape(len(images), -1)[:, ::3], np.ones(len(images))])
    weights = np.linalg.lstsq(flat, 2.0 * np.eye(10)[labels] - 1, rcond=None)[0]
    kernel = np.zeros((192, 10))
    kernel[::3] = weights[:-1]
    model.layers[-1].set_weights([kernel, weights[-1]])
    path = tmp_path_factory.mktemp("raw") / "raw.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, keras_file):
    """A run folder, exported once."""
    folder = tmp_path_factory.mktemp("runs") / "a run"
    (folder / "exports").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_to_json(preset("tiny"))))
    (folder / "exports" / "network.keras").write_bytes(keras_file.read_bytes())
    return folder


def test_network_of_a_run_folder(run_dir, capsys):
    assert _call(f"--run_dir={run_dir}", "--num_images=60") == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert captured.err == ""
    assert report["dataset"] == "digits" and report["split"] == "test"
    assert report["num_images"] == 60
    assert report["tflite"]["top1_agreement"] >= 0.99
    for key in ("saved_model", "keras", "tflite", "tflite_int8"):
        assert os.path.dirname(report[key]["path"]) == str(run_dir / "exports")
        assert os.path.exists(report[key]["path"])
        assert "test_accuracy" in report[key]
    classifier = tflite.TFLiteClassifier(run_dir / "exports" / "network_int8.tflite")
    assert classifier.predict(np.zeros((2, 8, 8, 3), np.float32)).shape == (2, 10)


def test_network_that_scales_its_input_is_fed_raw_images(tmp_path, capsys):
    """Its accuracy is that of the same network without the layer, on 0..1."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    outputs = keras.layers.Dense(10)(
        keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    )
    keras.Model(inputs, outputs).save(tmp_path / "scales.keras")
    output_dir = tmp_path / "out"
    arguments = (f"--model={tmp_path / 'scales.keras'}", f"--output_dir={output_dir}")
    assert _call(*arguments, "--num_images=60") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["inputs"]["value_range"] == [0.0, 255.0]
    assert report["inputs"]["specs"]["images"]["dtype"] == "uint8"
    classifier = tflite.TFLiteClassifier(output_dir / "network.tflite")
    assert classifier.predict(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 10)


@pytest.fixture
def evaluator(tmp_path):
    """An untrained evaluator, saved to the folder `trained`; of no table that there is."""
    space = make_space(SpaceConfig(name="tiny_mbconv"))
    accelerators = AcceleratorSpace(AcceleratorSpaceConfig(pe_x=(8,), pe_y=(8, 16)))
    domain = EvaluatorDomain(space, accelerators, MachineConfig(), "hash", (1.0, 1.0, 1.0))
    shapes = NetworkShapes(
        num_candidates=len(accelerators),
        cell_mask=tuple(map(tuple, space.op_mask.astype(int).tolist())),
        num_blocks=1,
        generator_units=8,
        estimator_units=8,
    )
    generator, estimator = make_networks(domain, shapes)
    estimator.area_mm2.assign(np.linspace(1, 2, len(accelerators)).reshape(estimator.head_sizes))
    evaluator = NeuralEvaluator(
        generator,
        estimator,
        domain=domain,
        shapes=shapes,
        candidates=np.arange(len(accelerators)),
    )
    evaluator.save(str(tmp_path / "trained"))
    return evaluator


def test_evaluator_gets_the_next_version(evaluator, tmp_path, capsys):
    base, space = tmp_path / "served", evaluator.domain.space
    for version in (1, 2):
        assert _call(f"--evaluator_dir={tmp_path / 'trained'}", f"--output_dir={base}") == 0
        report = json.loads(capsys.readouterr().out)
        assert report["version"] == version and report["max_relative_difference"] < 1e-5
    weights = space.op_mask / space.op_mask.sum(-1, keepdims=True)
    answer = ServedModel(base)(mixture_weights=weights, objective_vectors=[0.0, 1.0, 1.0, 1.0])
    expected = evaluator.evaluate(weights[None], [[0.0, 1.0, 1.0, 1.0]])
    assert answer["latency_ms"][0] == pytest.approx(float(expected.metrics[0, 0]), rel=1e-5)
    for version in ("0.1", "v2"):
        arguments = (f"--evaluator_dir={tmp_path / 'trained'}", f"--output_dir={base}")
        assert _call(*arguments, f"--version={version}") == 1
        assert "whole number" in capsys.readouterr().err
    assert sorted(os.listdir(base)) == ["1", "2"]


def test_evaluator_with_the_files_of_a_server(evaluator, tmp_path, capsys):
    arguments = (f"--evaluator_dir={tmp_path / 'trained'}", f"--serving_dir={tmp_path / 'all'}")
    assert _call(*arguments, "--noexact", "--version=3") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["signatures"]) == {"serving_default", "estimate_cost"}
    files = ["batching.config", "compose.yaml", "models.config"]
    assert sorted(os.listdir(tmp_path / "all")) == [*files[:2], "evaluator", *files[2:]]
    assert sorted(report["files"]) == files
    assert os.listdir(tmp_path / "all" / "evaluator") == ["3"]


def test_exact_needs_the_table_that_the_evaluator_learnt(evaluator, tmp_path, capsys):
    arguments = (f"--evaluator_dir={tmp_path / 'trained'}", f"--serving_dir={tmp_path / 'all'}")
    assert _call(*arguments, f"--cache_dir={tmp_path / 'tables'}") == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "was trained on another cost table" in captured.err
    assert "--noexact" in captured.err
    assert not (tmp_path / "all").exists()
    # With the hash of the table that has been built it is the same one.
    (header,) = (tmp_path / "tables").glob("table_*/header.json")
    domain = dataclasses.replace(
        evaluator.domain, content_hash=json.loads(header.read_text())["content_hash"]
    )
    evaluator.domain = domain
    evaluator.save(str(tmp_path / "trained"))
    assert _call(*arguments, f"--cache_dir={tmp_path / 'tables'}") == 0
    assert "exact" in json.loads(capsys.readouterr().out)["signatures"]


def test_evaluator_as_tflite(evaluator, tmp_path, capsys):
    arguments = (f"--evaluator_dir={tmp_path / 'trained'}", f"--tflite_dir={tmp_path / 'lite'}")
    assert _call(*arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_compared"] == 1000 and report["max_relative_difference"] < 1e-4
    assert sorted(os.listdir(tmp_path / "lite")) == ["evaluator.json", "evaluator.tflite"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give one of --run_dir, --model and --evaluator_dir, not none"),
        (["--run_dir=a", "--model=b"], "not --run_dir and --model"),
        (["--model={keras}", "--version=1"], "--version goes with --evaluator_dir"),
        (["--run_dir=a", "--preset=tiny"], "--preset goes with --model"),
        (["--model={keras}"], "--output_dir is missing"),
        (["--model=missing.keras", "--output_dir={out}"], "no such file"),
        (["--model={broken}", "--output_dir={out}"], "Keras cannot load"),
        (["--model={vector}", "--output_dir={out}"], "not images or series of fixed size"),
        (["--model={two}", "--output_dir={out}"], "tells 2 classes apart, but digits has 10"),
        (["--model={keras}", "--output_dir={out}", "--dataset=cifar1"], "cifar1"),
        (["--run_dir={tmp}"], "no trained network"),
        (["--evaluator_dir={tmp}", "--output_dir={out}"], "manifest.json"),
        (["--evaluator_dir=missing", "--output_dir={out}"], "no such folder"),
        (["--evaluator_dir={tmp}", "--output_dir={keras}"], "is a file"),
        (["--evaluator_dir={tmp}", "--serving_dir={keras}"], "is a file"),
        (["--evaluator_dir={tmp}"], "--output_dir is missing"),
        (["--evaluator_dir={tmp}", "--serving_dir=a", "--tflite_dir=b"], "give one of"),
        (["--model={raw}", "--output_dir={out}"], "add --input_range=0,255"),
        (["--model={keras}", "--output_dir={out}", "--input_range=1,0"], "--input_range=1,0"),
        (["--model={keras}", "--output_dir={out}", "--input_range=1"], "two numbers"),
        (["--run_dir=a", "--input_range=0,1"], "--input_range goes with --model"),
        (["--evaluator_dir={tmp}", "--strict_int8"], "--strict_int8 goes with"),
        (["--model={keras}", "--tflite_dir=a"], "--tflite_dir goes with --evaluator_dir"),
        (["--evaluator_dir={tmp}", "--output_dir={out}", "--noexact"], "goes with --serving_dir"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(
    tmp_path, keras_file, raw_network, capsys, monkeypatch, arguments, says
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "no data"))
    (tmp_path / "broken.keras").write_bytes(keras_file.read_bytes()[:-100])
    for name, shape in (("vector", (5,)), ("two", (8, 8, 3))):
        inputs = keras.Input(shape)
        outputs = keras.layers.Dense(2)(keras.layers.Flatten()(inputs))
        keras.Model(inputs, outputs).save(tmp_path / f"{name}.keras")
    (tmp_path / "raw.keras").write_bytes(raw_network.read_bytes())
    paths = {n: tmp_path / f"{n}.keras" for n in ("broken", "vector", "two", "raw")}
    names = {**paths, "keras": keras_file, "tmp": tmp_path, "out": tmp_path / "out"}
    before = sorted(os.listdir(tmp_path))
    assert _call(*(argument.format(**names) for argument in arguments)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err and captured.err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before


def test_help_imports_no_tensorflow():
    code = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from tools import flags, export_model\n"
        "assert flags.call(export_model.main, export_model.FLAGS, sys.argv) == 0\n"
        "assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--evaluator_dir" in done.stdout
