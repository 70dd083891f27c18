"""Label architectures with their exact best accelerators and keep them as a TFDS data set.

Writes `dance_labels` to the folder of data sets, unless the same set is there already, and
prints where it is, what it holds and how varied the labels are, as JSON. An interrupted
run leaves no set. What makes the labels teach little is a line on stderr too.
"""

from __future__ import annotations

import json
import time

from absl import flags

from . import flags as common

FLAGS = common.shared_flags("preset", "config", "set", "data_dir", "seed", "cache_dir")
_NUM_ARCHITECTURES = flags.DEFINE_integer(
    "num_architectures",
    50_000,
    "How many architectures, half of them one-hot and half mixtures.",
    lower_bound=3,
    flag_values=FLAGS,
)
_NUM_ACCELERATORS_EACH = flags.DEFINE_integer(
    "num_accelerators_each",
    36,
    "Random accelerators that each architecture is costed on.",
    lower_bound=1,
    flag_values=FLAGS,
)
_WRITE = flags.DEFINE_boolean(
    "write",
    True,
    "Write the set. With --nowrite the labels are made and counted only.",
    flag_values=FLAGS,
)


def main(argv: list[str]) -> None:
    """Label, write and print."""
    del argv
    config = common.experiment_config(FLAGS)
    unread = {} if _WRITE.value else {"data.data_dir": "--write"}
    common.check_effects(config, "build_labels", FLAGS, unread=unread)
    common.load_tensorflow()
    from dance_tf.data.prepared import resolve_data_dir
    from dance_tf.evaluator import label_dataset
    from dance_tf.hardware.cost_table import load_or_build_table
    from dance_tf.run.terminal import Stages, progress, warn
    from dance_tf.supernet.space_files import make_space

    data_dir = resolve_data_dir(config.data.data_dir)
    with Stages("cost table", "labels"):
        with progress("cost table") as report:
            table = load_or_build_table(
                make_space(config.space),
                config.hardware,
                cache_dir=FLAGS["cache_dir"].value,
                on_progress=report,
            )
        labels = label_dataset.LabelConfig(
            table=table,
            seed=config.seed,
            num_architectures=_NUM_ARCHITECTURES.value,
            num_accelerators_each=_NUM_ACCELERATORS_EACH.value,
        )
        began, cpu_began = time.monotonic(), time.process_time()
        with progress("labels") as report:
            if _WRITE.value:
                result = label_dataset.build_labels(labels, data_dir, report)
            else:
                labelling, done = label_dataset.Labelling(labels), 0
                for chunk in labelling:
                    done += len(chunk.objectives)
                    report(done, labels.num_architectures)
                result = labelling.description()
    result["wall_s"] = time.monotonic() - began
    result["cpu_s"] = time.process_time() - cpu_began
    for line in result["warnings"]:
        warn(line)
    print(json.dumps(result, indent=2, allow_nan=False))


if __name__ == "__main__":
    common.run(main, FLAGS)
