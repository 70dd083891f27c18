"""Measure how fast this machine does what the tools promise, as one JSON object.

Every number is the median of several runs; `spread` has the smallest and the largest and
the number of runs. What a user would wait for is timed as a user would: a process of its
own, TensorFlow's import, compilation and an empty cache included; `_cpu_s` beside it are
the seconds of all cores, which other work on the machine changes less.

Suite `cost_model`:

    mappings_per_s         mappings evaluated by a search for the best ones, enumeration
                           included, compilation not (`compile_s`); all cores
    table_build_s          the whole cost table from nothing; peak_memory_mb of that
                           process, resident; table_mb on disk
    oracle_ms_per_network  exact best accelerator of one network, one network a call; the
                           first one takes `oracle_first_s`
    oracle_networks_per_s  the same for many networks in one call
    keras_application_s    MobileNetV2 from keras.applications to its best accelerators

Suite `evaluator`; queries are asked on one core, in a process of its own, which is the
suite `evaluator_queries`:

    keras_ms, saved_model_ms, tflite_ms, exact_ms   a single query: of the evaluator in
                           Python, of its SavedModel with checks and trust, of its TFLite
                           file, and of the table for the exact best accelerator
    tflite_checked_ms      of the TFLite file with the checks of its Python wrapper
    batched_per_s          queries per second of the SavedModel, 1024 a call
    exact_batched_per_s    the same of the table
    labels_s               50,000 architectures and 1.8 million pairs labelled from the
                           table, in memory; all cores
    train_s                both networks from nothing, the table being there; all cores

Suite `supernet`; warm steps on one batch of random images, which take turns:

    proxyless_..., superkernel_...   seconds of a step that trains a sampled path
                           (`train_path_s`), that gives the gates their gradient
                           (`gate_gradient_s`), and that compares four paths
                           (`score_function_s`)
    all_candidates_...     of a step that evaluates every op of every block, for its
                           weights (`train_s`) or for its gates (`gate_gradient_s`)

Suite `search`; warm steps of the co-search on one batch of random images, which take turns:

    weight_step_s          a step of the weights
    architecture_step_..._s   of the architecture parameters, with the neural and the exact
                           evaluator and without a cost (`no_cost`)
    neural_added, exact_added   what the evaluator adds to all the steps between one
                           architecture step and the next, as a share
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from absl import flags

from dance_tf.config import override
from dance_tf.errors import UserError
from dance_tf.files import Json, strict_data
from dance_tf.presets import preset
from dance_tf.run import run_info

from . import flags as common
from .fresh_process import ONE_CORE, run_fresh, say

if TYPE_CHECKING:
    from dance_tf.protocols import Evaluator

#: timeloop-mapper's own speed, for scale.
BASELINE = {
    "mappings_per_cpu_s": 640,
    "source": "timeloop-mapper with Accelergy, 112 bounded searches of layers like these:"
    " mappings evaluated over CPU seconds",
}


class Measured(NamedTuple):
    """Figures of one suite."""

    samples: dict[str, list[float]]  # name to one value per run
    facts: dict[str, Json]  # what was measured, and what does not vary


def main(argv: list[str]) -> None:
    """Measure and print.

    Raises:
        UserError: Outside a clone: its folder `benchmarks` is part of no package.
    """
    del argv
    if __package__ != "tools":
        raise UserError("belongs to the repository: run `python -m tools.benchmark` in a clone")
    started = run_info.now()
    measured = SUITES[_SUITE.value](1 if _QUICK.value else _RUNS.value, _QUICK.value)
    samples = measured.samples.items()
    report = {
        "suite": _SUITE.value,
        **{name: statistics.median(values) for name, values in samples},
        "spread": {
            name: {"min": min(values), "max": max(values), "runs": len(values)}
            for name, values in samples
        },
        **measured.facts,
        "machine": run_info.machine(),
        "versions": run_info.versions(),
        "git_commit": run_info.collect(None, started)["git_commit"],
        "started_at": started.isoformat(timespec="seconds"),
        "wall_s": (run_info.now() - started).total_seconds(),
    }
    print(json.dumps(strict_data(report), indent=2, allow_nan=False))


def cost_model(num_runs: int, is_quick: bool) -> Measured:
    """Measure the cost model, its table, the oracle and the way in from Keras."""
    # Quick: the same steps on two blocks and 54 accelerators.
    name = "tiny" if is_quick else "cifar10"
    input_size = 32 if is_quick else 224
    num_networks = 500 if is_quick else 50_000
    config = preset(name)
    samples: dict[str, list[float]] = {}

    # Processes of their own come first: while this one is small. A child's peak memory
    # starts from what its parent held.
    application = ("--application=MobileNetV2", f"--input_size={input_size}", "--format=json")
    application_runs = [
        run_fresh("evaluate_cost", f"--preset={name}", *application, "--best_accelerator")
        for _ in range(num_runs)
    ]
    samples["keras_application_s"] = [run.wall_s for run in application_runs]
    samples["keras_application_cpu_s"] = [run.cpu_s for run in application_runs]
    with tempfile.TemporaryDirectory() as folder:
        caches = [pathlib.Path(folder, str(index)) for index in range(num_runs)]
        builds = [
            run_fresh("build_cost_table", f"--preset={name}", f"--cache_dir={cache}")
            for cache in caches
        ]
        samples["table_build_s"] = [run.wall_s for run in builds]
        samples["table_build_cpu_s"] = [run.cpu_s for run in builds]
        samples["peak_memory_mb"] = [run.peak_memory_mb for run in builds]
        files = [file for file in caches[-1].rglob("*") if file.is_file()]
        table_mb = sum(file.stat().st_size for file in files) / 1e6

        common.load_tensorflow()
        from benchmarks.cost_model import measure_mapper, measure_oracle
        from dance_tf.hardware.accelerator import AcceleratorSpace
        from dance_tf.hardware.cost_table import load_or_build_table
        from dance_tf.hardware.layers import conv, space_layers
        from dance_tf.supernet.space_files import make_space

        space = make_space(config.space)
        table = load_or_build_table(space, config.hardware, cache_dir=caches[-1])
        networks = space.sample(num_networks, seed=0)
        oracle = measure_oracle(table, networks, num_runs=num_runs, on_run=say)
    accelerators = AcceleratorSpace(config.hardware.accelerators)
    mapper = measure_mapper(
        space_layers(space),
        accelerators,
        config.hardware.machine,
        num_runs=num_runs,
        on_run=say,
    )
    # The table's layers are small: listing their mapspaces takes longer than their mappings.
    large = conv("large", in_channels=256, out_channels=256, output_size=56, kernel=3)
    of_large = measure_mapper(
        [large],
        accelerators,
        config.hardware.machine,
        num_runs=num_runs,
        on_run=say,
    )
    samples["mappings_per_s"] = [of_large.num_mappings / s for s in of_large.seconds]
    samples["table_mappings_per_s"] = [mapper.num_mappings / s for s in mapper.seconds]
    samples["oracle_ms_per_network"] = [1e3 * s for s in oracle.one_by_one_s]
    samples["oracle_networks_per_s"] = [oracle.num_networks / s for s in oracle.together_s]
    facts = {
        "table_mb": table_mb,
        "compile_s": mapper.compile_s,
        "oracle_first_s": oracle.first_s,
        "num_mappings": of_large.num_mappings,
        "mappings_layer": "3x3 convolution, 256 to 256 channels, 56x56 outputs",
        "num_table_mappings": mapper.num_mappings,
        "num_layers": mapper.num_layers,
        "num_accelerators": len(accelerators),
        "num_networks": oracle.num_networks,
        "space": space.name,
        "keras_application": "MobileNetV2",
        "keras_input_size": input_size,
        "baseline": BASELINE,
    }
    return Measured(samples, facts)


def evaluator(num_runs: int, is_quick: bool) -> Measured:
    """Measure what the evaluator costs to make and to ask."""
    # Quick: the same steps on two blocks, and hardly trained.
    preset_name = "tiny" if is_quick else "cifar10"
    asked = ("--suite=evaluator_queries", "--runs=1", *(("--quick",) if is_quick else ()))
    runs = [run_fresh("benchmark", *asked, environment=ONE_CORE) for _ in range(num_runs)]
    samples = {name: [run.output[name] for run in runs] for name in runs[0].output["spread"]}
    few = ("--num_architectures=200",) if is_quick else ()
    labels = [
        run_fresh("build_labels", f"--preset={preset_name}", "--nowrite", *few)
        for _ in range(num_runs)
    ]
    # What the tool says of its labelling: its process also starts and loads the table.
    samples["labels_s"] = [run.output["wall_s"] for run in labels]
    samples["labels_cpu_s"] = [run.output["cpu_s"] for run in labels]
    with tempfile.TemporaryDirectory() as folder:
        steps = [f"--set={field}" for field in _SHORT_TRAINING] if is_quick else []
        # Once: it takes minutes. The queries have left the table where it finds it.
        training = run_fresh(
            "train_evaluator", f"--preset={preset_name}", *steps, f"--output_dir={folder}/evaluator"
        )
    samples["train_s"] = [training.wall_s]
    samples["train_cpu_s"] = [training.cpu_s]
    facts = ("space", "num_accelerators", "num_queries", "batch_size")
    return Measured(samples, {fact: runs[0].output[fact] for fact in facts})


def evaluator_queries(num_runs: int, is_quick: bool) -> Measured:
    """Measure how fast the shipped evaluator and the table answer, on the threads there are."""
    config = preset("tiny" if is_quick else "cifar10")
    num_queries, batch_size = (20, 16) if is_quick else (1000, 1024)
    common.load_tensorflow()
    import tensorflow as tf

    from benchmarks.evaluator import draw_queries, measure_batches, measure_singles
    from dance_tf.evaluator.loading import load_evaluator
    from dance_tf.evaluator.training import train_evaluator
    from dance_tf.export.evaluator import export_evaluator
    from dance_tf.export.evaluator_tflite import TFLiteEvaluator, export_evaluator_tflite
    from dance_tf.export.serving import SIGNATURE
    from dance_tf.files import pattern_free
    from dance_tf.hardware.cost_table import load_or_build_table
    from dance_tf.hardware.oracle import best_accelerators
    from dance_tf.supernet.space_files import make_space

    space = make_space(config.space)
    table = load_or_build_table(space, config.hardware)
    with tempfile.TemporaryDirectory() as folder:
        network = dataclasses.replace(config.evaluator, kind="neural")
        if is_quick:  # none is shipped for the tiny space
            short = override(config, ("evaluator.kind=neural", *_SHORT_TRAINING)).evaluator
            train_evaluator(table, short, config.seed, f"{folder}/trained")
            network = dataclasses.replace(short, path=f"{folder}/trained")
        trained = load_evaluator(network, table)
        exported = export_evaluator(trained, f"{folder}/served")
        with pattern_free(exported["path"]) as readable:
            loaded = tf.saved_model.load(readable)
        served = loaded.signatures[SIGNATURE]
        export_evaluator_tflite(trained, f"{folder}/tflite")
        tflite = TFLiteEvaluator(f"{folder}/tflite", num_threads=1)
    asks = {
        "keras": lambda weights, vectors: trained.evaluate(weights, vectors).metrics.numpy(),
        "saved_model": lambda weights, vectors: served(
            mixture_weights=tf.constant(weights), objective_vectors=tf.constant(vectors)
        )["accelerator_index"].numpy(),
        "tflite": tflite.evaluate_unchecked,
        "tflite_checked": tflite.evaluate,
        "exact": lambda weights, vectors: best_accelerators(table, weights, vectors).value.numpy(),
    }
    samples: dict[str, list[float]] = {}
    for run in range(num_runs):
        singles = measure_singles(asks, draw_queries(space, num_queries, run))
        batches = measure_batches(
            {"batched": asks["saved_model"], "exact_batched": asks["exact"]},
            draw_queries(space, 8 * batch_size, run),
            size=batch_size,
        )
        for name, seconds in singles.items():
            samples.setdefault(f"{name}_ms", []).append(1e3 * seconds)
        for name, per_s in batches.items():
            samples.setdefault(f"{name}_per_s", []).append(per_s)
    facts = {
        "space": space.name,
        "num_accelerators": len(table.accelerators),
        "num_queries": num_queries,
        "batch_size": batch_size,
    }
    return Measured(samples, facts)


def supernet(num_runs: int, is_quick: bool) -> Measured:
    """Measure a step of each supernet beside one that evaluates all candidate ops."""
    config = preset("tiny" if is_quick else "cifar10_small")
    batch_size, num_steps = (8, 1) if is_quick else (config.search.batch_size, 10)
    common.load_tensorflow()
    from benchmarks.supernet import measure_steps
    from dance_tf.supernet.space_files import make_space

    space = make_space(config.space)
    runs = [
        measure_steps(space, batch_size=batch_size, num_steps=num_steps, seed=run)
        for run in range(num_runs)
    ]
    samples = {f"{name}_s": [run[name] for run in runs] for name in runs[0]}
    facts = {"space": space.name, "batch_size": batch_size, "num_steps": num_steps}
    return Measured(samples, facts)


def search(num_runs: int, is_quick: bool) -> Measured:
    """Measure the steps of the co-search with each evaluator, and without any."""
    config = preset("tiny" if is_quick else "cifar10_small")
    num_steps = 2 if is_quick else 40
    common.load_tensorflow()
    from benchmarks.search import measure_search_steps
    from dance_tf.evaluator.exact import ExactEvaluator
    from dance_tf.evaluator.loading import load_evaluator
    from dance_tf.hardware.cost_table import load_or_build_table
    from dance_tf.supernet.space_files import make_space

    space = make_space(config.space)
    table = load_or_build_table(space, config.hardware)
    evaluators: dict[str, Evaluator] = {"exact": ExactEvaluator(table)}
    if not is_quick:  # none is shipped for the tiny space
        evaluators["neural"] = load_evaluator(config.evaluator, table)
    samples: dict[str, list[float]] = {}
    for run in range(num_runs):
        seconds = measure_search_steps(
            space, evaluators, table.reference, config.search, num_steps=num_steps, seed=run
        )
        for name, value in seconds.items():
            samples.setdefault(f"{name}_s", []).append(value)
        alone = seconds["architecture_step_no_cost"]
        period = config.search.arch_every * seconds["weight_step"] + alone
        for name in evaluators:
            added = seconds[f"architecture_step_{name}"] - alone
            samples.setdefault(f"{name}_added", []).append(added / period)
    facts = {
        "space": space.name,
        "batch_size": config.search.batch_size,
        "arch_every": config.search.arch_every,
        "num_steps": num_steps,
    }
    return Measured(samples, facts)


_SHORT_TRAINING = ("evaluator.estimator_steps=5", "evaluator.generator_steps=5")


#: Suites by name: (number of runs, whether quick) -> Measured.
SUITES: dict[str, Callable[[int, bool], Measured]] = {
    "cost_model": cost_model,
    "evaluator": evaluator,
    "evaluator_queries": evaluator_queries,
    "supernet": supernet,
    "search": search,
}

FLAGS = common.shared_flags()
_SUITE = flags.DEFINE_enum(
    "suite", "cost_model", list(SUITES), "What to measure.", flag_values=FLAGS
)
_RUNS = flags.DEFINE_integer(
    "runs", 3, "Runs behind each median.", lower_bound=1, flag_values=FLAGS
)
_QUICK = flags.DEFINE_boolean(
    "quick", False, "One run of everything on a tiny space, to see it work.", flag_values=FLAGS
)


if __name__ == "__main__":
    common.run(main, FLAGS)
