"""Measure an evaluator against the exact cost table on fresh architectures.

Prints one JSON object, for one-hot and for soft architectures: accuracy per head with the
entropy of its labels and the accuracy of always giving the most frequent one, regret of
the generated accelerator, relative error of the metrics, and the cosine of its gradient
with that of the exact cost at the exact best accelerator (`hard_minimum`) and with that of
the exact evaluator (`soft_minimum`). Under `trust`: how often a large error is flagged, on
typical and on atypical queries. Errors and regrets are fractions.
"""

from __future__ import annotations

import dataclasses
import json

from absl import flags

from dance_tf.files import strict_data
from dance_tf.run.terminal import note, progress

from . import flags as common

FLAGS = common.shared_flags("preset", "config", "set", "space", "evaluator", "seed", "cache_dir")
_NUM_ARCHITECTURES = flags.DEFINE_integer(
    "num_architectures",
    2000,
    "Of each kind, one-hot and soft.",
    lower_bound=1,
    flag_values=FLAGS,
)
_PATH = common.define_path(
    "path",
    "Folder of a trained evaluator. Otherwise the configuration's, otherwise the shipped one.",
    FLAGS,
)


def main(argv: list[str]) -> None:
    """Measure and print."""
    del argv
    config = common.experiment_config(FLAGS)
    if _PATH.value is not None:
        named = dataclasses.replace(config.evaluator, kind="neural", path=_PATH.value)
        config = dataclasses.replace(config, evaluator=named)
    common.check_effects(config, "evaluate_evaluator", FLAGS)

    common.load_tensorflow()
    from dance_tf.evaluator.assessment import evaluate_evaluator
    from dance_tf.evaluator.loading import check_evaluator, load_evaluator
    from dance_tf.hardware.cost_table import load_or_build_table
    from dance_tf.supernet.space_files import make_space

    space = make_space(config.space)
    check_evaluator(config.evaluator, space, config.hardware)
    with progress("cost table") as on_progress:
        table = load_or_build_table(
            space,
            config.hardware,
            cache_dir=FLAGS["cache_dir"].value,
            on_progress=on_progress,
        )
    evaluator = load_evaluator(config.evaluator, table)
    if evaluator.reason is not None:
        note(f"evaluator: exact, as {evaluator.reason}")
    report = evaluate_evaluator(
        evaluator,
        table,
        _NUM_ARCHITECTURES.value,
        config.seed,
        softmin_temperature=config.evaluator.softmin_temperature,
    )
    print(json.dumps(strict_data(report), indent=2, allow_nan=False))


if __name__ == "__main__":
    common.run(main, FLAGS)
