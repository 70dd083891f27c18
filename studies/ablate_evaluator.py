"""Train the evaluator in several forms, each on the same batches, and compare them.

    python -m studies.ablate_evaluator --output=studies/results/ablation_evaluator.json

Minutes for each form that is trained. A row is written as soon as it is measured, and the
same command goes on where it was stopped. Prints a Markdown table. What varies is in
FORMS; `--set` changes the configuration of all of them, such as the steps of the training.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from dance_tf.config import ExperimentConfig, config_to_json, override
from dance_tf.errors import UserError
from dance_tf.files import write_json
from dance_tf.presets import PRESETS, preset
from dance_tf.run import run_info
from dance_tf.run.terminal import progress
from studies.begun_report import begun_report

#: Form to the fields that it changes.
FORMS: dict[str, tuple[str, ...]] = {
    "shipped": (),
    "joint softmax": ("evaluator.generator_form=joint",),
    "independent heads": ("evaluator.generator_form=heads",),
    "plain estimator": ("evaluator.generator_form=joint", "evaluator.estimator_form=plain"),
    "EDAP alone": ("evaluator.training_objectives=edap",),
    "without forwarding": (
        "evaluator.generator_form=joint",
        "evaluator.estimator_form=unforwarded",
        "evaluator.training_objectives=edap",
    ),
    "as in the paper": (
        "evaluator.generator_form=heads",
        "evaluator.estimator_form=plain",
        "evaluator.training_objectives=edap",
    ),
}

#: Ways to pass the generated accelerator on when a search asks; nothing is trained anew.
FORWARDINGS = ("soft", "gumbel")

_NUM_GRADIENTS = 2000

_HEADER = (
    "form",
    "heads right, EDAP, least of four",
    "regret, EDAP: mean, max",
    "regret, random products: mean, max",
    "error: latency, energy, area",
    "gradient cosine: median, p1",
    "large errors, flagged",
    "training",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing in the output file, write it and print the table."""
    parser = argparse.ArgumentParser(
        prog="ablate_evaluator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", required=True, help="JSON file to write, or to go on with")
    parser.add_argument(
        "--work_dir", default="runs/ablation", help="folder of the trained evaluators"
    )
    parser.add_argument("--preset", choices=PRESETS, default="digits", help="what to start from")
    parser.add_argument("--set", action="append", default=[], help="as in the tools; repeatable")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        config = override(
            preset(options.preset),
            ["evaluator.kind=neural", *options.set, f"seed={options.seed}"],
        )
        report = ablate(config, pathlib.Path(options.output), pathlib.Path(options.work_dir))
    except UserError as error:
        print(f"ablate_evaluator: {error}", file=sys.stderr)
        return 1
    print(markdown(report["rows"]))
    return 0


def ablate(
    config: ExperimentConfig, output: pathlib.Path, work_dir: pathlib.Path
) -> dict[str, Any]:
    """Return the rows of all forms; those that are in the file already are not measured again.

    Raises:
        UserError: If the file is of another configuration.
    """
    # Late: a mistake is told before TensorFlow is waited for.
    report = _begun(config, output)
    from dance_tf.hardware.cost_table import load_or_build_table
    from dance_tf.supernet.space_files import make_space

    with progress("cost table") as on_progress:
        table = load_or_build_table(
            make_space(config.space), config.hardware, on_progress=on_progress
        )
    done = {row["form"] for row in report["rows"]}
    for form, changes in FORMS.items():
        if form not in done:
            changed = override(config, changes)
            report["rows"].append({"form": form, **_train(table, changed, _folder(work_dir, form))})
            write_json(output, report)
    first = next(iter(FORMS))
    for forwarding in FORWARDINGS:
        form = f"{first}, forwarding {forwarding}"
        if form not in done:
            row = _forward(table, _folder(work_dir, first), forwarding, config.seed)
            report["rows"].append({"form": form, **row})
            write_json(output, report)
    return report


def _folder(work_dir: pathlib.Path, form: str) -> str:
    """Return where the evaluator of a form is."""
    return os.fspath(work_dir / re.sub(r"\W+", "_", form))


def _begun(config: ExperimentConfig, output: pathlib.Path) -> dict[str, Any]:
    settings = config_to_json(config)
    of_evaluator = {name: settings[name] for name in ("evaluator", "space", "hardware", "seed")}
    return begun_report(output, of_evaluator) or {
        "config": of_evaluator,
        "machine": run_info.machine(),
        "versions": run_info.versions(),
        "rows": [],
    }


def _train(table: Any, config: ExperimentConfig, folder: str) -> dict[str, Any]:
    """Train one form and return its row."""
    from dance_tf.evaluator.training import train_evaluator

    began = time.perf_counter()
    with progress(os.path.basename(folder)) as on_progress:
        metrics = train_evaluator(table, config.evaluator, config.seed, folder, on_progress)
    # Of a training that was stopped and went on, only the rest.
    return {
        "train_s": time.perf_counter() - began,
        **{kind: _figures(metrics[kind]) for kind in ("one_hot", "soft")},
        "trust": metrics["trust"]["all"],
    }


def _figures(part: dict[str, Any]) -> dict[str, Any]:
    """Return what a row shows of one kind of architectures."""
    edap, products = (part["objectives"][kind] for kind in ("edap", "random_products"))
    return {
        "head_accuracy_edap": {name: head["accuracy"] for name, head in edap["heads"].items()},
        "regret_edap": edap["regret"],
        "regret_random_products": products["regret"],
        "error_end_to_end_edap": edap["error_end_to_end"],
        "error_end_to_end_random_products": products["error_end_to_end"],
        "gradient_cosine": part["gradient_cosine"],
    }


def _forward(table: Any, folder: str, forwarding: str, seed: int) -> dict[str, Any]:
    """Return the row of a trained evaluator asked with another forwarding: its gradients."""
    from dance_tf.evaluator.assessment import gradient_agreement
    from dance_tf.evaluator.dataset import sample_mixtures
    from dance_tf.evaluator.neural import NeuralEvaluator
    from dance_tf.hardware.objective import random_objectives

    evaluator = NeuralEvaluator.load(folder)
    rng = np.random.default_rng([seed, 1])
    queries = sample_mixtures(table.space, _NUM_GRADIENTS, rng)
    evaluate = functools.partial(evaluator.evaluate, forwarding=forwarding, seed=(seed, 1))
    objectives = random_objectives(_NUM_GRADIENTS, rng)
    agreement = gradient_agreement(evaluate, table, queries, objectives, num_soft_minimum=500)
    return {"soft": {"gradient_cosine": agreement}}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as a Markdown table; one-hot architectures, but gradients of soft ones."""
    lines = [_HEADER, ("---",) * len(_HEADER), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    cosine = row["soft"]["gradient_cosine"]["hard_minimum"]
    gradient = "-" if cosine["median"] is None else f"{cosine['median']:.5f}, {cosine['p1']:.5f}"
    if "one_hot" not in row:
        return (row["form"], "", "", "", "", gradient, "", "")
    figures, trust = row["one_hot"], row["trust"]
    large = f"{trust['num_large_errors']} of {trust['num']}"
    if trust["recall"] is not None:
        large += f", {100 * trust['recall']:.0f} %"
    regrets = [
        f"{100 * regret['mean']:.4f} %, {100 * regret['max']:.3f} %"
        for regret in (figures["regret_edap"], figures["regret_random_products"])
    ]
    errors = [100 * error["mean"] for error in figures["error_end_to_end_random_products"].values()]
    return (
        row["form"],
        f"{100 * min(figures['head_accuracy_edap'].values()):.2f} %",
        *regrets,
        ", ".join(f"{error:.3f}" for error in errors) + " %",
        gradient,
        large,
        f"{row['train_s']:.0f} s",
    )


if __name__ == "__main__":
    sys.exit(main())
