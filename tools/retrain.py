"""Train one network of a space, test it and export it.

The network is that of a search (--result, with the config.json beside it) or given by
--ops. It starts from random weights or, with --set=retrain.initial_weights=inherited, from
those of the supernet in search.supernet_dir. Leaves in --output_dir: config.json,
run_info.json, architecture.json, history.jsonl, retrain.json, checkpoints/ and exports/.
Prints retrain.json. After SIGTERM or Ctrl-C, --resume goes on and ends as the
uninterrupted run would have.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING

from absl import flags

from dance_tf.config import ExperimentConfig
from dance_tf.errors import UserError
from dance_tf.files import Json, read_json, write_json
from dance_tf.run.terminal import Stages, note
from dance_tf.structs import Architecture

from . import flags as common
from .engine_flags import task_of_environment
from .preprocessing import add_preprocessing, define_preprocessing_flag

if TYPE_CHECKING:
    from dance_tf.protocols import ImageDataset
    from dance_tf.run.replicas import Replicas
    from dance_tf.run.surroundings import StopSignals
    from dance_tf.supernet.search_space import NetworkSpace
    from dance_tf.supernet.supernet import Supernet

FLAGS = common.shared_flags(
    "preset", "config", "set", "dataset", "data", "data_dir", "seed", "output_dir", "resume"
)
_RESULT = common.define_path(
    "result", "A search's result.json, or the folder that holds it.", FLAGS
)
_OPS = flags.DEFINE_list(
    "ops",
    None,
    "One candidate op per block, separated by commas, such as mbconv3_e6,zero.",
    flag_values=FLAGS,
)
_EXPORT = flags.DEFINE_boolean(
    "export", True, "Write SavedModel, Keras and TFLite files.", flag_values=FLAGS
)
_PREPROCESSING = define_preprocessing_flag(FLAGS)
_DISTRIBUTE = flags.DEFINE_enum(
    "distribute",
    "none",
    ["none", "mirrored", "multiworker"],
    "Devices that share each batch: one; all visible GPUs of this machine; those of all processes"
    " that TF_CONFIG names, each started with this command.",
    flag_values=FLAGS,
)
_NUM_CPU_DEVICES = flags.DEFINE_integer(
    "num_cpu_devices",
    1,
    "Logical devices that the CPU is split into, to try --distribute=mirrored without GPUs.",
    lower_bound=1,
    flag_values=FLAGS,
)

_ARCHITECTURE = "architecture.json"


def main(argv: list[str]) -> int:
    """Retrain what the flags name."""
    del argv
    if _PREPROCESSING.value and not _EXPORT.value:
        raise UserError("--export_preprocessing has no effect: it has one only with exports")
    if _NUM_CPU_DEVICES.value > 1 and _DISTRIBUTE.value != "mirrored":
        raise UserError("--num_cpu_devices goes with --distribute=mirrored")
    is_chief = _DISTRIBUTE.value != "multiworker" or task_of_environment() == 0
    output_dir = common.output_dir(FLAGS, is_owned=is_chief)
    if FLAGS["resume"].value:
        if _RESULT.value or _OPS.value:
            raise UserError("--resume knows its network: leave out --result and --ops")
        source = os.path.join(output_dir, _ARCHITECTURE)
        if not os.path.exists(source):
            raise UserError(
                f"--resume: {output_dir} has no {_ARCHITECTURE}: no retraining is there"
            )
    elif bool(_RESULT.value) == bool(_OPS.value):
        raise UserError("give one of --result and --ops")
    else:
        source = _RESULT.value
        if _RESULT.value and os.path.isdir(source):
            source = os.path.join(source, "result.json")
    if not _OPS.value:
        common.start_from_config_in(os.path.dirname(source), FLAGS)
    config = common.experiment_config(FLAGS)
    is_inheriting = config.retrain.initial_weights == "inherited"
    unread = {} if is_inheriting else {"search": "retrain.initial_weights=inherited"}
    common.check_effects(config, "retrain", FLAGS, unread=unread)
    if _OPS.value:
        from dance_tf.supernet.space_files import name_of

        architecture = Architecture(name_of(config.space), tuple(op.strip() for op in _OPS.value))
    else:
        architecture = _read_architecture(source)

    common.load_tensorflow()
    from dance_tf.run.replicas import open_replicas
    from dance_tf.run.surroundings import StopSignals

    replicas = open_replicas(_DISTRIBUTE.value, num_cpu_devices=_NUM_CPU_DEVICES.value)
    if not replicas.is_chief:
        with StopSignals() as stop:
            _help_retraining(config, architecture, output_dir, stop, replicas)
        return 0
    names = ("retrain", "export") if _EXPORT.value else ("retrain",)
    with Stages(*names), StopSignals() as stop:
        report = _retrain(config, architecture, output_dir, stop, replicas)
    if _PREPROCESSING.value:
        add_preprocessing(config.data, os.path.join(output_dir, "exports"))
    print(json.dumps(report, indent=2, allow_nan=False))
    return 0


def _read_architecture(path: str) -> Architecture:
    data = read_json(path)
    found = data.get("architecture") if isinstance(data, dict) else None
    return Architecture.from_json(found, path)


def _help_retraining(
    config: ExperimentConfig,
    architecture: Architecture,
    output_dir: str,
    stop: StopSignals,
    replicas: Replicas,
) -> None:
    """Train beside the chief, which writes."""
    from dance_tf.run.surroundings import make_deterministic
    from dance_tf.search import pipeline
    from dance_tf.search.retrain import retrain

    make_deterministic(config.seed)
    space, dataset = pipeline.load_space_and_images(config)
    retrain(
        space,
        space.validate(architecture),
        dataset,
        config.retrain,
        config.seed,
        output_dir,
        supernet=_supernet(config, space, dataset),
        resume=bool(FLAGS["resume"].value),
        stop=stop,
        replicas=replicas,
    )


def _supernet(
    config: ExperimentConfig, space: NetworkSpace, dataset: ImageDataset
) -> Supernet | None:
    """Return the supernet that the network inherits its weights from, if it does."""
    from dance_tf.search.retrain import INHERITS_NOTHING
    from dance_tf.search.supernet_training import load_supernet

    if config.retrain.initial_weights != "inherited":
        return None
    if config.search.supernet_dir is None:
        raise UserError(INHERITS_NOTHING)
    return load_supernet(config.search.supernet_dir, space, dataset, config)


def _retrain(
    config: ExperimentConfig,
    architecture: Architecture,
    output_dir: str,
    stop: StopSignals,
    replicas: Replicas,
) -> dict[str, Json]:
    from dance_tf.run.surroundings import open_run
    from dance_tf.search import pipeline
    from dance_tf.search.quantisation import finish
    from dance_tf.search.retrain import retrain

    is_resuming = bool(FLAGS["resume"].value)
    path, exports = (os.path.join(output_dir, name) for name in ("retrain.json", "exports"))
    with open_run(config, output_dir, is_resuming=is_resuming) as run:
        if os.path.exists(path):
            report = read_json(path)
            is_exported = _EXPORT.value and "exports" in report
            lost = pipeline.missing_exports(exports) if is_exported else []
            if lost:
                pipeline.tell_lost(output_dir, lost, "made again")
            elif "exports" in report or not _EXPORT.value:
                note(f"retrain: {output_dir} is finished; nothing is left to do")
                return report
        space, dataset = pipeline.load_space_and_images(config)
        space.validate(architecture)
        supernet = _supernet(config, space, dataset)
        run.begin(pipeline.input_record(dataset))
        record = dataclasses.asdict(architecture)
        write_json(os.path.join(output_dir, _ARCHITECTURE), {"architecture": record})
        result = retrain(
            space,
            architecture,
            dataset,
            config.retrain,
            config.seed,
            output_dir,
            supernet=supernet,
            resume=is_resuming,
            stop=stop,
            replicas=replicas,
        )
        finished = finish(
            space,
            architecture,
            result,
            dataset,
            config.retrain,
            config.seed,
            output_dir,
            exports=exports if _EXPORT.value else None,
            resume=is_resuming,
            stop=stop,
        )
        int8 = finished.int8_accuracy
        report = {
            "schema_version": 1,
            "architecture": record,
            "dataset": dataset.name,
            "accuracy": dataclasses.asdict(result.accuracy),
            "int8_accuracy": None if int8 is None else dataclasses.asdict(int8),
            "num_parameters": result.network.count_params(),
            "seed": config.seed,
            "num_trained_candidates": 1,
            "training_time_s": round(result.elapsed_s, 3),
            **({} if finished.exports is None else {"exports": finished.exports}),
        }
        write_json(path, report)
        run.end()
    return report


if __name__ == "__main__":
    common.run(main, FLAGS)
