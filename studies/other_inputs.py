"""Search on series and on sequences of tokens, beside the largest network of the space.

    python -m examples.tokens tokens.npz
    python -m studies.other_inputs --space=encoder_small --data=tokens.npz \\
        --num_seeds=3 --work_dir=runs/tokens --output=tokens.json

For each seed: the pair that is found, and the largest network, trained by the same schedule, on
its exact best accelerator. The fields of search and retrain are those of --set. The file is
written after each seed; killed anywhere, the same command goes on.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from typing import Any

import numpy as np
from absl import flags

from dance_tf.files import write_json
from tools import flags as common

FLAGS = common.shared_flags("preset", "config", "set", "space", "data", "evaluator", "supernet")
_WORK_DIR = common.define_path("work_dir", "Folder of the runs.", FLAGS)
_OUTPUT = common.define_path("output", "JSON file to write.", FLAGS)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 3, "Seeds.", lower_bound=1, flag_values=FLAGS)


def main(argv: list[str]) -> int:
    """Run what is missing, and write what was found."""
    del argv
    common.require(_WORK_DIR, _OUTPUT)
    config = common.experiment_config(FLAGS)
    common.load_tensorflow()
    from dance_tf.run.surroundings import Interrupted, StopSignals

    report: dict[str, Any] = {
        "space": config.space.name,
        "search": dataclasses.asdict(config.search),
        "retrain": dataclasses.asdict(config.retrain),
        "seeds": [],
    }
    try:
        with StopSignals() as stop:
            for seed in range(_NUM_SEEDS.value):
                own = dataclasses.replace(config, seed=seed)
                report["seeds"].append(_one(own, os.path.join(_WORK_DIR.value, str(seed)), stop))
                print(report["seeds"][-1], flush=True)
                write_json(_OUTPUT.value, report)
    except Interrupted as error:
        print(f"other_inputs: {error}: the same command goes on from here", file=sys.stderr)
        return 128 + error.signum
    return 0


def _one(config: Any, folder: str, stop: Any) -> dict[str, Any]:
    """Return what a seed finds, and the largest network beside it."""
    from dance_tf.files import read_json
    from dance_tf.hardware.layers import op_macs
    from dance_tf.hardware.objective import EDAP
    from dance_tf.hardware.oracle import best_accelerators
    from dance_tf.search.pipeline import prepare, run_experiment
    from dance_tf.search.retrain import retrain

    began = time.monotonic()
    found = os.path.join(folder, "found")
    result, paths = run_experiment(
        config, output_dir=found, is_resuming=os.path.exists(found), stop=stop
    )
    search_s = time.monotonic() - began
    problem = prepare(config)
    space, table = problem.space, problem.table
    macs = np.where(space.op_mask, op_macs(space)[1], -1.0)
    largest = space.from_indices(np.argmax(macs, axis=1).tolist())
    trained = retrain(
        space, largest, problem.dataset, config.retrain, config.seed,
        os.path.join(folder, "largest"), resume=True, stop=stop,
    )  # fmt: skip
    networks = [space.to_indices(a) for a in (result.architecture, largest)]
    metrics = table.metrics_of(networks).numpy()
    own = metrics[0, table.accelerators.encode(result.accelerator)]
    one_hot = table.one_hot(np.asarray(networks[1:]))
    best = best_accelerators(table, one_hot, EDAP.vector[None])
    of_largest = metrics[1, int(best.accelerator_index[0])]
    exports = read_json(os.path.join(os.path.dirname(paths["keras"]), "export.json"))
    return {
        "seed": config.seed,
        "architecture": list(result.architecture.ops),
        "accelerator": dataclasses.asdict(result.accelerator),
        "accuracy": result.accuracy.value if result.accuracy else None,
        "edap_ms_mj_mm2": float(np.prod(own, dtype=np.float64)),
        "largest": list(largest.ops),
        "largest_accuracy": trained.accuracy.value,
        "largest_edap_ms_mj_mm2": float(np.prod(of_largest, dtype=np.float64)),
        "tflite_max_difference": exports["tflite"]["max_difference"],
        "tflite_agreement": exports["tflite"]["top1_agreement"],
        "tflite_int8_accuracy": exports["tflite_int8"]["test_accuracy"],
        "search_and_retrain_s": search_s,
        "largest_s": trained.elapsed_s,
    }


if __name__ == "__main__":
    common.run(main, FLAGS)
