"""Train the weights of a supernet once, for any number of searches.

Paths are drawn uniformly for search.epochs epochs; --supernet_dir of the search starts
from the result. Leaves in --output_dir: config.json, run_info.json, history.jsonl,
checkpoints/, weights/ and supernet.json, which says of what space, supernet and images
they are, and how accurate some networks are with them. Prints supernet.json. After SIGTERM
or Ctrl-C, --resume goes on and ends as the uninterrupted training would have.
"""

from __future__ import annotations

import json
import os

from dance_tf.run.terminal import note

from . import flags as common

FLAGS = common.shared_flags(
    "preset",
    "config",
    "set",
    "space",
    "dataset",
    "data",
    "data_dir",
    "seed",
    "supernet",
    "output_dir",
    "resume",
)


def main(argv: list[str]) -> int:
    """Train what the flags describe."""
    del argv
    config = common.experiment_config(FLAGS)
    common.check_effects(config, "train_supernet", FLAGS)
    output_dir = common.output_dir(FLAGS)
    is_resuming = bool(FLAGS["resume"].value)

    common.load_tensorflow()
    from dance_tf.run.surroundings import StopSignals, open_run
    from dance_tf.search import pipeline
    from dance_tf.search.supernet_training import finished_supernet, train_supernet

    with open_run(config, output_dir, is_resuming=is_resuming) as run:
        space, dataset = pipeline.load_space_and_images(config)
        record = finished_supernet(output_dir, space, dataset, config)
        if record is not None:
            names = ("run_info.json", "history.jsonl")
            paths = [os.path.join(output_dir, name) for name in names]
            lost = [path for path in paths if not os.path.exists(path)]
            if lost:
                pipeline.tell_lost(output_dir, lost, "not made again")
            note(f"train_supernet: {output_dir} is finished; nothing is left to do")
        else:
            run.begin(pipeline.input_record(dataset))
            with StopSignals() as stop:
                record = train_supernet(
                    space, dataset, config, output_dir, is_resuming=is_resuming, stop=stop
                )
            run.end()
    print(json.dumps({"output_dir": output_dir, **record}, indent=2, allow_nan=False))
    return 0


if __name__ == "__main__":
    common.run(main, FLAGS)
