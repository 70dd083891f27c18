"""Train the neural evaluator of a space on labels from its cost table.

Writes the two networks and a manifest to --output_dir and prints, as JSON, how good they
are. Stopped half-way, the same command goes on. `--set=evaluator.FIELD=VALUE` changes
width, steps and the rest; a search uses the result by `--set=evaluator.path=DIR`.
"""

from __future__ import annotations

import json

from dance_tf.reporting import progress
from tools import flags as common

FLAGS = common.shared_flags("preset", "config", "set", "seed", "cache_dir", "output_dir")


def main(argv: list[str]) -> None:
    """Train and print."""
    del argv
    config = common.experiment_config(FLAGS)
    output_dir = common.output_dir(FLAGS)

    common.load_tensorflow()
    from dance_tf.evaluator.training import train_evaluator
    from dance_tf.hardware.cost_table import load_or_build_table
    from dance_tf.supernet.search_space import make_space

    with progress("cost table") as report:
        table = load_or_build_table(
            make_space(config.space),
            config.hardware,
            cache_dir=FLAGS["cache_dir"].value,
            on_progress=report,
        )
    with progress("train evaluator") as report:
        metrics = train_evaluator(table, config.evaluator, config.seed, output_dir, report)
    print(json.dumps({"output_dir": output_dir, **metrics}, indent=2, allow_nan=False))


if __name__ == "__main__":
    common.run(main, FLAGS)
