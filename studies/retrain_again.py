"""Train a few networks of a space again, and see whether they come out as its table has them.

    python -m studies.retrain_again --space=nas_bench_macro --dataset=cifar10 \\
        --set=retrain.epochs=2 --num_networks=6 --work_dir=runs/again --output=again.json

The networks are spread evenly over the accuracies of those that have at most --max_macs
multiply-accumulates. Each is trained from scratch by the schedule of `retrain`, on the splits
train and architecture, and tested. The file is written after each training; killed anywhere,
the same command goes on.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any

import numpy as np
from absl import flags
from scipy import stats

from dance_tf.errors import UserError
from dance_tf.files import write_json
from tools import flags as common

FLAGS = common.shared_flags("preset", "config", "set", "space", "dataset", "data_dir", "seed")
_WORK_DIR = common.define_path("work_dir", "Folder of the trainings.", FLAGS)
_OUTPUT = common.define_path("output", "JSON file to write.", FLAGS)
_NUM_NETWORKS = flags.DEFINE_integer(
    "num_networks", 6, "Networks to train.", lower_bound=3, flag_values=FLAGS
)
_MAX_MACS = flags.DEFINE_float(
    "max_macs", 20e6, "Most multiply-accumulates of a network.", flag_values=FLAGS
)


def main(argv: list[str]) -> int:
    """Train what is missing, and write what was found."""
    del argv
    common.require(_WORK_DIR, _OUTPUT)
    config = common.experiment_config(FLAGS)
    common.load_tensorflow()
    from dance_tf.run.surroundings import Interrupted, StopSignals, make_deterministic
    from dance_tf.search.accuracy.table import AccuracyTable, shipped_table_path
    from dance_tf.search.pipeline import load_space_and_images
    from dance_tf.search.retrain import retrain

    make_deterministic(config.seed)
    space, dataset = load_space_and_images(config)
    path = shipped_table_path(space.name)
    if path is None:
        raise UserError(f"space {space.name} has no table of accuracies")
    table = AccuracyTable.read(space, path)
    macs = np.asarray(
        [sum(la.macs for la in space.layers(space.from_indices(r))) for r in table.op_indices]
    )
    small = np.flatnonzero(macs <= _MAX_MACS.value)
    published = 1.0 - table.errors(table.op_indices)
    wanted = np.linspace(published[small].min(), published[small].max(), _NUM_NETWORKS.value)
    nearest = [int(small[np.argmin(np.abs(published[small] - value))]) for value in wanted]
    rows = list(dict.fromkeys(nearest))
    report: dict[str, Any] = {"retrain": dataclasses.asdict(config.retrain), "networks": []}
    try:
        with StopSignals() as stop:
            for row in rows:
                ops = table.op_indices[row]
                trained = retrain(
                    space,
                    space.from_indices(ops.tolist()),
                    dataset,
                    config.retrain,
                    config.seed,
                    os.path.join(_WORK_DIR.value, "".join(map(str, ops))),
                    resume=True,
                    stop=stop,
                )
                report["networks"].append(
                    {
                        "architecture": "".join(map(str, ops)),
                        "macs": int(macs[row]),
                        "published_accuracy": float(published[row]),
                        "accuracy": trained.accuracy.value,
                        "train_s": trained.elapsed_s,
                    }
                )
                print(report["networks"][-1], flush=True)
                pairs = [(n["published_accuracy"], n["accuracy"]) for n in report["networks"]]
                if len(pairs) > 2:
                    found = stats.kendalltau(*zip(*pairs, strict=True)).statistic
                    report["kendall"] = float(found)
                write_json(_OUTPUT.value, report)
    except Interrupted as error:
        print(f"retrain_again: {error}: the same command goes on from here", file=sys.stderr)
        return 128 + error.signum
    return 0


if __name__ == "__main__":
    common.run(main, FLAGS)
