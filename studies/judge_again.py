"""Judge networks that searches and evolution have found on images that nothing was chosen by.

    python -m studies.judge_again --supernet_dir=runs/supernet --found=runs/sweep/pareto.json \\
        --found=front.json --memo=runs/judged.jsonl --output=judged.json

Who picks the best of many measured errors picks lucky ones, and the more are measured, the
luckier. So the networks of a `tools.pareto` and of an `studies.exact_front` are judged here
once more, with inherited weights on the test images. `studies.analyse_sweep --judged` then
compares the two by these errors as well. The same command goes on where it was stopped.
"""

from __future__ import annotations

import numpy as np
from absl import flags

from dance_tf.files import write_json
from studies.found_networks import networks_in
from tools import flags as common

FLAGS = common.shared_flags("preset", "config", "set", "space", "dataset", "data_dir", "supernet")
_SUPERNET_DIR = common.define_path(
    "supernet_dir",
    "Folder of a finished train_supernet, whose configuration is used without another one.",
    FLAGS,
)
_FOUND = common.define_path(
    "found", "pareto.json, or a file of exact_front. Repeatable.", FLAGS, is_repeated=True
)
_MEMO = common.define_path(
    "memo", "JSONL file of measured accuracies, to begin or to go on with.", FLAGS
)
_OUTPUT = common.define_path("output", "JSON file to write.", FLAGS)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 10_000, "Test images to judge on, at most all.", flag_values=FLAGS
)


def main(argv: list[str]) -> int:
    """Judge what the files hold and write the errors."""
    del argv
    common.require(_SUPERNET_DIR, _FOUND, _MEMO, _OUTPUT)
    networks = sorted({network.ops for path in _FOUND.value for network in networks_in(path)})
    common.start_from_config_in(_SUPERNET_DIR.value, FLAGS)
    config = common.experiment_config(FLAGS)
    common.load_tensorflow()
    from dance_tf.run import run_info
    from dance_tf.run.surroundings import make_deterministic
    from dance_tf.run.terminal import progress
    from dance_tf.search.accuracy_memo import supernet_memo
    from dance_tf.search.pipeline import load_space_and_images
    from dance_tf.structs import Architecture

    make_deterministic(config.seed)
    space, dataset = load_space_and_images(config)
    indices = np.stack([space.to_indices(Architecture(space.name, ops)) for ops in networks])
    judged = []
    with supernet_memo(
        _MEMO.value, _SUPERNET_DIR.value, space, dataset, config, _NUM_IMAGES.value, split="test"
    ) as memo:
        with progress("networks") as on_progress:
            for row, ops in zip(indices, networks, strict=True):
                error = 1.0 - float(memo.accuracies(row[None])[0])
                judged.append({"ops": ops, "error": error})
                on_progress(len(judged), len(networks))
        report = {
            "supernet": memo.identity,
            "networks": judged,
            "machine": run_info.machine(),
            "versions": run_info.versions(),
        }
    write_json(_OUTPUT.value, report)
    print(f"wrote {_OUTPUT.value}: {len(judged)} networks")
    return 0


if __name__ == "__main__":
    common.run(main, FLAGS)
