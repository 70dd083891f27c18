"""Write the CSV file that a measured cost table begins as: layers x accelerators, to fill in.

Its rows are all that a search of the space can ask for: every layer shape of the networks
on every accelerator. Fill in latency, energy and, once for each accelerator, area; write
infeasible as the latency of what cannot run. Then give the file to search, to
build_cost_table or to train_evaluator as --set=hardware.measured_csv=FILE, with the same
--preset and other settings.

Prints a JSON object with the number of rows. An existing file is never overwritten.
"""

from __future__ import annotations

import json
import os

from absl import flags

from dance_tf.errors import UserError

from . import flags as common

FLAGS = common.shared_flags("preset", "config", "set")
_OUTPUT = common.define_path("output", "CSV file to write.", FLAGS)
_ESTIMATE = flags.DEFINE_boolean(
    "estimate",
    False,
    "Fill in what the cost model of the machine says, to be replaced by what is measured.",
    flag_values=FLAGS,
)


def main(argv: list[str]) -> None:
    """Write the file."""
    del argv
    config = common.experiment_config(FLAGS)
    unread = {} if _ESTIMATE.value else {"hardware.machine": "--estimate"}
    common.check_effects(config, "cost_template", FLAGS, unread=unread)
    if not _OUTPUT.value:
        raise UserError("--output is missing: name the CSV file to write")
    path = _OUTPUT.value
    if os.path.exists(path):
        raise UserError(f"--output={path} exists, and may hold measurements: name another file")
    common.load_tensorflow()
    from dance_tf.hardware.accelerator import AcceleratorSpace
    from dance_tf.hardware.layers import space_layers
    from dance_tf.hardware.loopnest.mapper import LoopNestCostModel
    from dance_tf.hardware.measured import write_cost_template
    from dance_tf.run.terminal import progress
    from dance_tf.supernet.space_files import make_space

    layers = space_layers(make_space(config.space))
    accelerators = AcceleratorSpace(config.hardware.accelerators).all()
    machine, cost = config.hardware.machine, None
    if _ESTIMATE.value:
        with progress("estimate") as report:
            cost = LoopNestCostModel(machine)(layers, accelerators, report)
    num_rows = write_cost_template(path, layers, accelerators, cost, machine)
    summary = {
        "output": path,
        "num_layers": len(layers),
        "num_accelerators": len(accelerators.pe_x),
        "num_rows": num_rows,
    }
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    common.run(main, FLAGS)
