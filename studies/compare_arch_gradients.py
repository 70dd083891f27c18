"""Compare the estimators of the architecture gradient with the effect that the ops have.

    python -m tools.train_supernet --output_dir=runs/supernet
    python -m studies.compare_arch_gradients --supernet_dir=runs/supernet --output=found.json

Both take the same flags of the configuration, such as --preset=cifar10_small.
On the frozen weights of a trained supernet and on a few fixed batches of held-out images,
with the architecture parameters as a search begins with them. The truth is the gradient of
the expected cross-entropy (CE),

    d E[CE] / d logit[d, o] = p[d, o] * (E[CE | op o in block d] - E[CE])

from many sampled paths: ops are drawn independently of each other, so the conditional means
are the coefficients of a least-squares fit of the losses by which op each block has and by
which batch it was. Each estimator then takes its steps on the same batches.

What was measured is written at intervals, and the same command goes on where it was
stopped. Prints a Markdown table.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import time
from typing import Any

import numpy as np
from absl import flags

from dance_tf.config import ARCH_GRADIENTS, ExperimentConfig
from dance_tf.errors import UserError
from dance_tf.files import read_json, write_json
from dance_tf.run import run_info
from tools import flags as common

FLAGS = common.shared_flags(
    "preset", "config", "set", "space", "dataset", "data_dir", "seed", "supernet"
)
_SUPERNET_DIR = common.define_path(
    "supernet_dir", "Folder of train_supernet, trained as the flags say.", FLAGS
)
_OUTPUT = common.define_path("output", "JSON file to write, or to go on with.", FLAGS)
_NUM_PATHS = flags.DEFINE_integer(
    "num_paths", 4000, "Paths that the truth is from.", lower_bound=4, flag_values=FLAGS
)
_NUM_STEPS = flags.DEFINE_integer(
    "num_steps", 150, "Steps of each estimator.", lower_bound=2, flag_values=FLAGS
)
_NUM_BATCHES = flags.DEFINE_integer(
    "num_batches", 8, "Batches of held-out images.", lower_bound=1, flag_values=FLAGS
)

_HEADER = ("estimator", "slope", "correlation", "slope of Zero", "noise", "CPU seconds per step")

#: Paths between two writings of the file.
_PATHS_AT_A_TIME = 100

#: Steps before the clock starts: the first one traces.
_NUM_WARM = 1


def main(argv: list[str]) -> None:
    """Measure what is missing in the output file, write it and print the table."""
    del argv
    common.require(_SUPERNET_DIR, _OUTPUT)
    config = common.experiment_config(FLAGS)
    path = pathlib.Path(_OUTPUT.value)
    supernet_dir = _SUPERNET_DIR.value

    common.load_tensorflow()
    from dance_tf.search.pipeline import load_space_and_images
    from dance_tf.search.supernet_training import load_supernet, read_supernet_record

    space, dataset = load_space_and_images(config)
    supernet = load_supernet(supernet_dir, space, dataset, config)
    record = read_supernet_record(supernet_dir, space, dataset, config)
    report = _begun(path, _settings(config, record))
    batches = list(
        itertools.islice(
            dataset.split(
                "architecture",
                batch_size=min(config.search.batch_size, dataset.num_images("architecture")),
                seed=config.seed,
            ),
            _NUM_BATCHES.value,
        )
    )
    _measure_truth(report, supernet, batches, path)
    done = {row["estimator"] for row in report["rows"]}
    for name in ARCH_GRADIENTS:
        if name not in done:
            row = _measure(name, supernet, config, batches, np.asarray(report["truth"]["gradient"]))
            report["rows"].append(row)
            write_json(path, report)
    print(markdown(report["rows"]))


def _settings(config: ExperimentConfig, record: dict[str, Any]) -> dict[str, Any]:
    """Return what the numbers depend on."""
    names = ("batch_size", "arch_paths", "gumbel_temperature")
    return {
        "supernet_sha256": record["weights_sha256"],
        "supernet": {name: record[name] for name in ("kind", "epochs", "seed", "data")},
        "space": record["space"]["name"],
        **{name: getattr(config.search, name) for name in names},
        "seed": config.seed,
        **{flag.name: flag.value for flag in (_NUM_PATHS, _NUM_STEPS, _NUM_BATCHES)},
    }


def _begun(path: pathlib.Path, settings: dict[str, Any]) -> dict[str, Any]:
    if path.exists():
        report = read_json(path)
        if not isinstance(report, dict) or report.get("settings") != settings:
            raise UserError(f"{path} is of other settings: delete it, or name another")
        return report
    return {
        "settings": settings,
        "machine": run_info.machine(),
        "versions": run_info.versions(),
        "paths": [],  # op indices and loss of each path, until the truth is known
        "rows": [],
    }


def _measure_truth(report: dict[str, Any], supernet: Any, batches: Any, path: Any) -> None:
    """Add the truth to the report, and how well two halves of the paths agree on it."""
    import tensorflow as tf

    from dance_tf.run.terminal import progress
    from dance_tf.search.arch_gradients import cross_entropy

    if "truth" in report:
        return

    @tf.function(reduce_retracing=True)
    def run(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        op_indices, _ = supernet.sample_gates(seed)
        return op_indices, cross_entropy(labels, supernet.call_path(images, op_indices, None, True))

    seed, total, paths = report["settings"]["seed"], _NUM_PATHS.value, report["paths"]
    with progress("truth") as on_progress:
        for number in range(len(paths), total):
            op_indices, loss = run(*batches[number % len(batches)], tf.constant([seed, number]))
            paths.append([*op_indices.numpy().tolist(), float(loss)])
            on_progress(number + 1, total, loss=float(loss))
            if (number + 1) % _PATHS_AT_A_TIME == 0:
                write_json(path, report)
    ops, losses = np.asarray(paths)[:, :-1].astype(int), np.asarray(paths)[:, -1]
    batch = np.arange(total) % len(batches)
    mixture = supernet.mixture_weights().numpy().astype(np.float64)
    # Two halves of whole rounds over the batches.
    half = np.arange(total) // len(batches) % 2
    halves = [
        fit_gradient(ops[half == h], losses[half == h], batch[half == h], mixture) for h in (0, 1)
    ]
    is_there = mixture > 0
    report["truth"] = {
        "gradient": fit_gradient(ops, losses, batch, mixture).tolist(),
        "correlation_of_halves": float(np.corrcoef(*(h[is_there] for h in halves))[0, 1]),
        "mean_cross_entropy": float(losses.mean()),
    }
    del report["paths"]
    write_json(path, report)


def fit_gradient(
    ops: np.ndarray, losses: np.ndarray, batch: np.ndarray, mixture: np.ndarray
) -> np.ndarray:
    """Return the gradient of the expected loss in the logits, float64 [D, O].

    Args:
        ops: Sampled op indices, int [K, D].
        losses: Their losses, float64 [K].
        batch: On which batch each was, int [K].
        mixture: Probabilities that the ops were drawn by, float64 [D, O].
    """
    num_blocks, num_ops = mixture.shape
    columns = [np.eye(num_ops)[ops].reshape(len(ops), -1), np.eye(batch.max() + 1)[batch]]
    fitted = np.linalg.lstsq(np.concatenate(columns, axis=1), losses, rcond=None)[0]
    effects = fitted[: num_blocks * num_ops].reshape(num_blocks, num_ops)
    return mixture * (effects - np.sum(mixture * effects, axis=1, keepdims=True))


def _measure(
    name: str, supernet: Any, config: ExperimentConfig, batches: Any, truth: np.ndarray
) -> dict[str, Any]:
    """Return the row of one estimator."""
    import tensorflow as tf

    from dance_tf.run.terminal import progress
    from dance_tf.search.arch_gradients import estimate

    search = dataclasses.replace(config.search, arch_gradient=name)
    logits = supernet.arch_logits.value

    @tf.function(reduce_retracing=True)
    def gradient(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(logits)
            surrogate = estimate(supernet, search, images, labels, seed).surrogate
        return tape.gradient(surrogate, logits)

    steps, seconds, total = [], 0.0, _NUM_STEPS.value
    with progress(name) as on_progress:
        for number in range(-_NUM_WARM, total):
            began = time.process_time()
            # Away from the seeds of the truth's paths.
            seed = tf.constant([config.seed, number - total])
            found = gradient(*batches[number % len(batches)], seed).numpy()
            if number >= 0:
                seconds += time.process_time() - began
                steps.append(found)
                on_progress(number + 1, total)
    is_zero = np.asarray(supernet.space.op_names) == "zero"
    figures = agreement(np.asarray(steps, np.float64), truth, is_zero)
    return {"estimator": name, **figures, "cpu_s_per_step": seconds / total}


def agreement(steps: np.ndarray, truth: np.ndarray, is_zero: np.ndarray) -> dict[str, float | None]:
    """Return how well the mean of steps fits the truth, and how much they scatter.

    Args:
        steps: Estimates, float64 [N, D, O].
        truth: float64 [D, O]; 0 where a block lacks the op.
        is_zero: Which ops are Zero, bool [O].
    Returns:
        `slope` of the mean estimate over the truth (1: the right size), their
        `correlation`, `slope_of_zero` over Zero's entries alone, and `noise`: the standard
        deviation of a step over the norm of the mean. None where a divisor is 0.
    """
    mean, is_there = steps.mean(axis=0), truth != 0
    found, wanted = mean[is_there], truth[is_there]
    norm = np.linalg.norm(mean)
    scatter = np.sqrt(np.sum(steps.var(axis=0, ddof=1)))
    return {
        "slope": _slope(found, wanted),
        "correlation": float(np.corrcoef(found, wanted)[0, 1]) if norm else None,
        "slope_of_zero": _slope(mean[is_there & is_zero], truth[is_there & is_zero]),
        "noise": float(scatter / norm) if norm else None,
    }


def _slope(found: np.ndarray, wanted: np.ndarray) -> float | None:
    """Return the slope of the line through 0."""
    square = float(wanted @ wanted)
    return float(found @ wanted) / square if square else None


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    names = ("slope", "correlation", "slope_of_zero", "noise", "cpu_s_per_step")
    cells = [
        (row["estimator"], *("-" if row[n] is None else f"{row[n]:.3g}" for n in names))
        for row in rows
    ]
    lines = [_HEADER, ("---",) * len(_HEADER), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    common.run(main, FLAGS)
