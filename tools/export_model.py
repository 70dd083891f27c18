"""Export a trained network (SavedModel, Keras, TFLite float and int8) or an evaluator.

--run_dir exports the network of a search's folder again, --model any Keras file of a
network, --evaluator_dir a trained evaluator: as a version for TensorFlow Serving
(--output_dir), as such with the files that start a server (--serving_dir), or as TFLite
(--tflite_dir). Each file is loaded again and compared before it is kept. Prints the
comparison as JSON.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import flags

from dance_tf.config import DataConfig, config_from_json
from dance_tf.errors import UserError
from dance_tf.files import Json, read_json

from . import flags as common

if TYPE_CHECKING:
    import keras
    import numpy as np

    from dance_tf.evaluator.neural import NeuralEvaluator
    from dance_tf.hardware.oracle import Best

FLAGS = common.shared_flags(
    "preset", "config", "set", "dataset", "data", "data_dir", "cache_dir", "output_dir"
)
_RUN_DIR = common.define_path(
    "run_dir",
    "Folder of a run. Its config says which images to compare on; writes to its exports"
    " unless --output_dir says otherwise.",
    FLAGS,
)
_MODEL = common.define_path(
    "model",
    "Keras file (.keras) of a network of images. They are fed in the range that its first"
    " layers or its input's type ask for, else in 0..1.",
    FLAGS,
)
_INPUT_RANGE = flags.DEFINE_list(
    "input_range",
    None,
    "With --model: LOW,HIGH, the range of values that the network takes, where it does not"
    " tell itself, such as 0,255 or -1,1.",
    flag_values=FLAGS,
)
_STRICT_INT8 = flags.DEFINE_boolean(
    "strict_int8",
    False,
    "Fail where something of the int8 network stays in float, as TFLite has it in float only."
    " Without it the list is in the report.",
    flag_values=FLAGS,
)
_EVALUATOR_DIR = common.define_path("evaluator_dir", "Folder of a trained evaluator.", FLAGS)
_VERSION = flags.DEFINE_string(
    "version",
    None,
    "With --evaluator_dir: folder of the version, a whole number. Otherwise the next one.",
    flag_values=FLAGS,
)
_SERVING_DIR = common.define_path(
    "serving_dir",
    "With --evaluator_dir: folder for evaluator/VERSION, models.config, batching.config and"
    " compose.yaml, which starts tensorflow/serving.",
    FLAGS,
)
_EXACT = flags.DEFINE_boolean(
    "exact",
    True,
    "With --serving_dir: add the signature `exact`, which holds the cost table of the"
    " evaluator. It is built where it is not in the cache.",
    flag_values=FLAGS,
)
_TFLITE_DIR = common.define_path(
    "tflite_dir", "With --evaluator_dir: folder for evaluator.tflite and its evaluator.json.", FLAGS
)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images",
    200,
    "Images to calibrate int8 on (split architecture), and to compare on (split test).",
    lower_bound=1,
    flag_values=FLAGS,
)


#: Where an evaluator may go.
_TARGETS = ("output_dir", "serving_dir", "tflite_dir")


def main(argv: list[str]) -> None:
    """Export what the flags name."""
    del argv
    sources = [flag.name for flag in (_RUN_DIR, _MODEL, _EVALUATOR_DIR) if flag.value]
    if len(sources) != 1:
        given = " and ".join(f"--{name}" for name in sources) or "none"
        raise UserError(f"give one of --run_dir, --model and --evaluator_dir, not {given}")
    for name in ("preset", "config", "set"):
        if FLAGS[name].value and not _MODEL.value:
            raise UserError(f"--{name} goes with --model only")
    for flag in (_VERSION, _SERVING_DIR, _TFLITE_DIR):
        if flag.value is not None and not _EVALUATOR_DIR.value:
            raise UserError(f"--{flag.name} goes with --evaluator_dir only")
    if _INPUT_RANGE.value and not _MODEL.value:
        raise UserError("--input_range goes with --model only")
    if FLAGS["strict_int8"].present and _EVALUATOR_DIR.value:
        raise UserError("--strict_int8 goes with --run_dir and --model only")
    for name in ("dataset", "data", "data_dir", "num_images"):
        if FLAGS[name].present and _EVALUATOR_DIR.value:
            raise UserError(f"--{name} goes with --run_dir or --model, not with --evaluator_dir")
    for name in ("exact", "cache_dir"):
        if FLAGS[name].present and not _SERVING_DIR.value:
            raise UserError(f"--{name} goes with --serving_dir only")
    if _EVALUATOR_DIR.value:
        report = _export_evaluator(_EVALUATOR_DIR.value)
    elif _RUN_DIR.value:
        report = _export_run(_RUN_DIR.value)
    else:
        report = _export_file(_MODEL.value)
    print(json.dumps(report, indent=2, allow_nan=False))


def _export_evaluator(path: str) -> dict[str, Json]:
    targets = [name for name in _TARGETS if FLAGS[name].value]
    if len(targets) > 1:
        raise UserError(f"give one of {', '.join(f'--{name}' for name in _TARGETS)}")
    folder = common.output_dir(FLAGS, targets[0] if targets else "output_dir", is_waiting=True)
    if not os.path.isdir(path):
        raise UserError(f"--evaluator_dir={path}: no such folder")

    common.load_tensorflow()
    from dance_tf.evaluator.neural import NeuralEvaluator
    from dance_tf.export import serving
    from dance_tf.export.evaluator import export_evaluator

    if _VERSION.value is not None:
        serving.check_version(_VERSION.value)
    evaluator = NeuralEvaluator.load(path)
    if targets == ["tflite_dir"]:
        from dance_tf.export.evaluator_tflite import export_evaluator_tflite

        return export_evaluator_tflite(evaluator, folder)
    if targets != ["serving_dir"]:
        return export_evaluator(evaluator, folder, _VERSION.value)
    from dance_tf.export.serving import MODEL_NAME, write_server_files

    exact = _exact(evaluator) if _EXACT.value else None
    report = export_evaluator(evaluator, os.path.join(folder, MODEL_NAME), _VERSION.value, exact)
    return {**report, "files": write_server_files(folder)}


def _exact(evaluator: NeuralEvaluator) -> Callable[..., Best]:
    """Return a search for exact best accelerators in the table that the evaluator learnt."""
    from dance_tf.config import HardwareConfig
    from dance_tf.evaluator.neural import MEND, EvaluatorDomain
    from dance_tf.hardware.cost_table import load_or_build_table
    from dance_tf.hardware.oracle import best_accelerators
    from dance_tf.run.terminal import progress

    domain = evaluator.domain
    hardware = HardwareConfig(accelerators=domain.accelerators.config, machine=domain.machine)
    with progress("cost table") as report_progress:
        table = load_or_build_table(
            domain.space,
            hardware,
            cache_dir=FLAGS["cache_dir"].value,
            on_progress=report_progress,
        )
    if EvaluatorDomain.of_table(table).content_hash != domain.content_hash:
        raise UserError(
            f"--evaluator_dir={_EVALUATOR_DIR.value} was trained on another cost table: {MEND},"
            " or export it with --noexact"
        )
    return functools.partial(best_accelerators, table)


def _export_run(run_dir: str) -> dict[str, Json]:
    path = os.path.join(run_dir, "exports", "network.keras")
    if not os.path.isfile(path):
        raise UserError(f"--run_dir={run_dir}: no exports/network.keras, so no trained network")
    config = config_from_json(read_json(os.path.join(run_dir, "config.json")))
    given: dict[str, Json] = {n: FLAGS[n].value for n in ("dataset", "data_dir") if FLAGS[n].value}
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **given))
    common.check_effects(config, "export_model", FLAGS)
    output_dir = os.path.dirname(path)
    if FLAGS["output_dir"].value is not None:
        output_dir = common.output_dir(FLAGS, is_waiting=True)
    return _export(path, config.data, output_dir)


def _export_file(path: str) -> dict[str, Json]:
    if not os.path.isfile(path):
        raise UserError(f"--model={path}: no such file")
    config = common.experiment_config(FLAGS)
    common.check_effects(config, "export_model", FLAGS)
    return _export(path, config.data, common.output_dir(FLAGS, is_waiting=True))


def _export(path: str, config: DataConfig, output_dir: str) -> dict[str, Json]:
    given = _given_range()
    common.load_tensorflow()
    from dance_tf.data import datasets
    from dance_tf.export import networks

    model = networks.load_network(path)
    shapes = [list(tensor.shape) for tensor in getattr(model, "inputs", None) or ()]
    shape = shapes[0] if len(shapes) == 1 else []
    if len(shape) not in (3, 4) or not all(shape[1:]):
        found = " and ".join(map(str, shapes)) or "no known shape"
        raise UserError(f"{path}: takes inputs of {found}, not images or series of fixed size")
    dataset = datasets.load_data(config, tuple(shape[1:]))
    num_classes = max((output.shape[-1] or 0) for output in model.outputs)
    if num_classes < dataset.num_classes:
        raise UserError(
            f"{path}: tells {num_classes} classes apart, but {dataset.name} has"
            f" {dataset.num_classes}; name its own data set with --dataset"
        )
    calibration, _ = networks.sample_images(dataset, "architecture", _NUM_IMAGES.value)
    images, labels = networks.sample_images(dataset, "test", _NUM_IMAGES.value)
    value_range = _value_range(path, model, images, labels, given)
    inputs = getattr(dataset, "input_description", None)
    if inputs is not None:
        inputs = dataclasses.replace(inputs, value_range=value_range)
    report = networks.export_network(
        model,
        output_dir,
        calibration_images=_scaled(calibration, value_range, model),
        test_images=_scaled(images, value_range, model),
        test_labels=labels,
        inputs=inputs,
        use_strict_int8=_STRICT_INT8.value,
    )
    return {"output_dir": output_dir, "dataset": dataset.name, "split": "test", **report}


def _given_range() -> tuple[float, float] | None:
    if not _INPUT_RANGE.value:
        return None
    try:
        low, high = map(float, _INPUT_RANGE.value)
    except ValueError:
        low, high = 0.0, 0.0
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        text = ",".join(_INPUT_RANGE.value)
        raise UserError(f"--input_range={text}: give two numbers, the lower first, such as 0,255")
    return low, high


def _value_range(
    path: str,
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    given: tuple[float, float] | None,
) -> tuple[float, float]:
    """Return the range of values to feed: that of the flag, of the network itself, or 0..1."""
    from dance_tf.export.preparation import better_range, declared_range

    declared = declared_range(model)
    if given is not None:
        return given
    if declared is not None:
        return declared.low, declared.high
    (output, *others) = model.outputs
    if not others and len(output.shape) == 2:
        better = better_range(model, images, labels, (0.0, 1.0))
        if better is not None:
            (low, high), there, here = better
            raise UserError(
                f"{path}: recognises {here:.0%} of the images in 0..1, but {there:.0%} in"
                f" {low:g}..{high:g}: add --input_range={low:g},{high:g}, or 0,1 if that is"
                " meant"
            )
    return 0.0, 1.0


def _scaled(images: np.ndarray, value_range: tuple[float, float], model: keras.Model) -> np.ndarray:
    """Return images of 0..1 in another range, as whole numbers where the network takes those."""
    import numpy as np

    low, high = value_range
    scaled = np.asarray(low + (high - low) * images, np.float32)
    dtype = np.dtype(model.inputs[0].dtype) if "int" in model.inputs[0].dtype else np.float32
    return np.rint(scaled).astype(dtype) if dtype != np.float32 else scaled


if __name__ == "__main__":
    common.run(main, FLAGS)
