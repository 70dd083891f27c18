"""Co-search a network and its accelerator, retrain the network and export both.

Leaves in --output_dir: config.json, run_info.json, history.jsonl, result.json,
accelerator.json, report.html, checkpoints/, tensorboard/ and exports/. Prints a JSON
summary. After SIGTERM or Ctrl-C, --resume goes on and ends as the uninterrupted run would
have.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from absl import flags

from dance_tf.errors import UserError
from dance_tf.files import local_path, read_json
from dance_tf.run.terminal import note, warn
from dance_tf.structs import Architecture

from . import flags as common
from .objective import define_objective_flags, objective_weights
from .preprocessing import add_preprocessing, define_preprocessing_flag
from .workload import fixed_accelerator

FLAGS = common.shared_flags(
    *common.EXPERIMENT, "supernet", "fixed_accelerator", "output_dir", "resume"
)
define_objective_flags(FLAGS, "Hardware cost that the search", default=None)
_SUPERNET_DIR = common.define_path(
    "supernet_dir",
    "Folder of train_supernet: start from its weights and leave out the warm-up.",
    FLAGS,
)
_MAX_LATENCY = flags.DEFINE_float(
    "max_latency_ms", None, "Hard limit on the result's exact latency.", flag_values=FLAGS
)
_MAX_ENERGY = flags.DEFINE_float(
    "max_energy_mj", None, "Hard limit on the result's exact energy.", flag_values=FLAGS
)
_MAX_AREA = flags.DEFINE_float(
    "max_area_mm2", None, "Hard limit on the accelerator's area.", flag_values=FLAGS
)
_FIXED_ARCHITECTURE = flags.DEFINE_string(
    "fixed_architecture",
    None,
    "Look up the exact best accelerator for this network alone: its ops with commas, or a"
    " JSON file such as a result.json. Trains nothing, unless --retrain is given.",
    flag_values=FLAGS,
)
_RETRAIN = flags.DEFINE_boolean(
    "retrain", True, "Train the derived network and test it.", flag_values=FLAGS
)
_EXPORT = flags.DEFINE_boolean(
    "export", True, "Write SavedModel, Keras and TFLite files.", flag_values=FLAGS
)
_PREPROCESSING = define_preprocessing_flag(FLAGS)

#: Entries of result.json that are shown at the end.
_SUMMARY = (
    "architecture",
    "accelerator",
    "predicted_cost",
    "exact_cost",
    "limits",
    "accuracy",
    "accuracy_reason",
    "warnings",
)


def main(argv: list[str]) -> int:
    """Run the job that the flags describe."""
    del argv
    config = common.experiment_config(FLAGS)
    # Named as the fields are.
    given = (FLAGS["objective"], _MAX_LATENCY, _MAX_ENERGY, _MAX_AREA)
    changes: dict[str, Any] = {flag.name: flag.value for flag in given if flag.value is not None}
    weights = objective_weights(FLAGS)
    if weights is not None:
        names = (f"lambda_{metric}" for metric in ("latency", "energy", "area"))
        changes |= dict(zip(names, weights, strict=True))
    if _SUPERNET_DIR.value:
        changes["supernet_dir"] = _SUPERNET_DIR.value
    if FLAGS["fixed_accelerator"].value:
        changes["fixed_accelerator"] = fixed_accelerator(FLAGS["fixed_accelerator"].value)
    if _FIXED_ARCHITECTURE.value:
        from dance_tf.supernet.space_files import name_of

        changes["fixed_architecture"] = _ops(_FIXED_ARCHITECTURE.value, name_of(config.space))
    config = dataclasses.replace(config, search=dataclasses.replace(config.search, **changes))
    config.search.objective_terms()  # Refuses weights that nothing takes.
    is_searching = config.search.fixed_architecture is None
    use_retrain = _RETRAIN.value and (is_searching or FLAGS["retrain"].present > 0)
    warnings = common.check_effects(
        config,
        "search",
        FLAGS,
        fields=[f"search.{name}" for name in changes],
        retrains=use_retrain,
    )
    if FLAGS["export"].present and _EXPORT.value and not use_retrain:
        warnings += ("--export has no effect: it has one only with a retraining",)
        warn(warnings[-1])
    if _PREPROCESSING.value and not (use_retrain and _EXPORT.value):
        raise UserError("--export_preprocessing has no effect: it has one only with exports")
    output_dir = common.output_dir(FLAGS)
    is_resuming = bool(FLAGS["resume"].value)

    common.load_tensorflow()
    from dance_tf.report.page import REPORT_NAME, write_report
    from dance_tf.run.surroundings import StopSignals, check_output_dir
    from dance_tf.search import pipeline

    check_output_dir(config, output_dir, is_resuming)
    finished = pipeline.load_finished(output_dir, use_retrain=use_retrain, use_export=_EXPORT.value)
    is_finished = finished is not None
    if finished is not None:
        note(f"search: {output_dir} is finished; nothing is left to do")
    else:
        with StopSignals() as stop:
            finished = pipeline.run_experiment(
                config,
                output_dir=output_dir,
                is_resuming=is_resuming,
                use_retrain=use_retrain,
                use_export=_EXPORT.value,
                cache_dir=FLAGS["cache_dir"].value,
                stop=stop,
                warnings=warnings,
            )
    result, paths = finished
    if _PREPROCESSING.value:
        exports = os.path.join(output_dir, "exports")
        paths["saved_model_with_preprocessing"] = add_preprocessing(config.data, exports)
    paths["report"] = os.path.join(output_dir, REPORT_NAME)
    if not is_finished or not os.path.exists(paths["report"]):
        write_report(output_dir, cache_dir=FLAGS["cache_dir"].value)
    summary = {
        "output_dir": output_dir,
        **{name: value for name, value in result.to_json().items() if name in _SUMMARY},
        "files": paths,
    }
    print(json.dumps(summary, indent=2, allow_nan=False))
    return 0


def _ops(text: str, space: str) -> tuple[str, ...]:
    """Return the ops of the network of a space that --fixed_architecture names."""
    if not text.endswith(".json"):
        return tuple(op.strip() for op in text.split(","))
    data = read_json(local_path(text, "--fixed_architecture"))
    fields = data.get("architecture", data) if isinstance(data, dict) else None
    architecture = Architecture.from_json(fields, text)
    if architecture.space != space:
        raise UserError(f"{text}: is of space {architecture.space!r}, not {space!r}")
    return architecture.ops


if __name__ == "__main__":
    common.run(main, FLAGS)
