"""Train the neural evaluator of a space on labels from its cost table.

Writes the two networks and a manifest to --output_dir and prints, as JSON, how good they
are. Stopped half-way, the same command goes on. `--set=evaluator.FIELD=VALUE` changes
width, steps and the rest; a search uses the result by `--set=evaluator.path=DIR`.
"""

from __future__ import annotations

import contextlib
import json
import shlex

from dance_tf.run.installation import tool_command
from dance_tf.run.reporting import TensorBoardLog
from dance_tf.run.terminal import Stages, progress

from . import flags as common

FLAGS = common.shared_flags("preset", "config", "space", "set", "seed", "cache_dir", "output_dir")
_LOG_DIR = common.define_path("log_dir", "Folder to write the losses to, for TensorBoard.", FLAGS)


def main(argv: list[str]) -> None:
    """Train and print."""
    del argv
    config = common.experiment_config(FLAGS)
    common.check_effects(config, "train_evaluator", FLAGS)
    output_dir = common.output_dir(FLAGS)

    common.load_tensorflow()
    from dance_tf.evaluator.training import train_evaluator
    from dance_tf.hardware.cost_table import load_or_build_table
    from dance_tf.supernet.space_files import make_space

    with contextlib.ExitStack() as stack:
        stack.enter_context(Stages("cost table", "train evaluator"))
        with progress("cost table") as report:
            table = load_or_build_table(
                make_space(config.space),
                config.hardware,
                cache_dir=FLAGS["cache_dir"].value,
                on_progress=report,
            )
        show = stack.enter_context(progress("train evaluator"))
        log = None
        if _LOG_DIR.value is not None:
            log = TensorBoardLog(_LOG_DIR.value)
            stack.callback(log.close)

        def report(step: int, total: int, **losses: float) -> None:
            show(step, total, **losses)
            if log is not None:
                log.write(step, losses)

        metrics = train_evaluator(
            table, config.evaluator, config.seed, output_dir, report, command=_command()
        )
    print(json.dumps({"output_dir": output_dir, **metrics}, indent=2, allow_nan=False))


def _command() -> str:
    """Return the command that gives the same networks, but for where things lie."""
    given = [FLAGS[name] for name in ("preset", "config", "space", "set", "seed")]
    values = [
        (flag.name, value)
        for flag in given
        if flag.present
        for value in (flag.value if isinstance(flag.value, list) else [flag.value])
    ]
    arguments = [shlex.quote(f"--{name}={value}") for name, value in values]
    return " ".join([tool_command("train_evaluator"), *arguments, "--output_dir=DIR"])


if __name__ == "__main__":
    common.run(main, FLAGS)
