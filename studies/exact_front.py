"""Find the front of error and cost of a trained supernet, by evolution with a large budget.

    python -m studies.exact_front --supernet_dir=runs/supernet --num_evaluations=2000 \\
        --objective=EDAP --objective=latency --memo=runs/memo.jsonl --output=front.json

The error of a network is that with inherited weights on held-out images; its cost is that
on its own exact best accelerator under the objective. Where several objectives are
given, each has an evolution of its own, and the front of each is that of all networks
that any of them evaluated. The searches by gradients over the same supernet are held
against it.

Accuracies are kept in --memo, one line for each network as soon as it is measured: the
same command goes on where it was stopped or killed, and ends as it would have. Prints a
table; the JSON file has what each point is.
"""

from __future__ import annotations

import sys
from typing import Any

from absl import flags

from dance_tf.errors import UserError
from dance_tf.files import write_json
from dance_tf.structs import METRICS, OBJECTIVES
from tools import flags as common

FLAGS = common.shared_flags(
    "preset", "config", "set", "space", "dataset", "data_dir", "seed", "supernet", "cache_dir"
)
_SUPERNET_DIR = common.define_path(
    "supernet_dir",
    "Folder of a finished train_supernet, whose configuration is used without another one.",
    FLAGS,
)
_OUTPUT = common.define_path("output", "JSON file to write.", FLAGS)
_MEMO = common.define_path(
    "memo", "JSONL file of measured accuracies, to begin or to go on with.", FLAGS
)
_OBJECTIVE = flags.DEFINE_multi_string(
    "objective",
    ["EDAP"],
    f"One of {', '.join(OBJECTIVES)}, the last two with weights of latency, energy and area such"
    " as linear:1,0,0. Repeatable.",
    flag_values=FLAGS,
)
_NUM_EVALUATIONS = flags.DEFINE_integer(
    "num_evaluations", 2000, "Different networks of each evolution.", flag_values=FLAGS
)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 2000, "Held-out images that an accuracy is of.", flag_values=FLAGS
)
_POPULATION_SIZE = flags.DEFINE_integer(
    "population_size", 64, "Networks that may become parents, beside the front.", flag_values=FLAGS
)
_TOURNAMENT_SIZE = flags.DEFINE_integer(
    "tournament_size", 8, "Networks of which the best becomes a parent.", flag_values=FLAGS
)


def main(argv: list[str]) -> int:
    """Evolve under each objective, write the fronts and print them."""
    del argv
    common.require(_SUPERNET_DIR, _OUTPUT, _MEMO)
    common.start_from_config_in(_SUPERNET_DIR.value, FLAGS)
    config = common.experiment_config(FLAGS)
    common.load_tensorflow()
    from dance_tf.config import config_to_json
    from dance_tf.hardware.cost_table import load_or_build_table
    from dance_tf.run import run_info
    from dance_tf.run.reporting import format_table
    from dance_tf.run.surroundings import make_deterministic
    from dance_tf.run.terminal import progress
    from dance_tf.search.accuracy_memo import supernet_memo
    from dance_tf.search.pipeline import load_space_and_images
    from studies.evolution import EvolutionConfig

    objectives = {text: _objective(text) for text in _OBJECTIVE.value}
    evolution = EvolutionConfig(
        _NUM_EVALUATIONS.value, _POPULATION_SIZE.value, _TOURNAMENT_SIZE.value
    )
    make_deterministic(config.seed)
    space, dataset = load_space_and_images(config)
    with supernet_memo(
        _MEMO.value, _SUPERNET_DIR.value, space, dataset, config, _NUM_IMAGES.value
    ) as memo:
        with progress("cost table") as on_progress:
            table = load_or_build_table(
                space, config.hardware, cache_dir=FLAGS["cache_dir"].value, on_progress=on_progress
            )
        fronts = exact_fronts(table, memo.accuracies, objectives, evolution, config.seed)
        print(f"exact_front: {memo.num_measured} networks measured now", file=sys.stderr)
        settings = config_to_json(config)
        settings["data"].pop("data_dir")
        report = {
            "config": {name: settings[name] for name in ("space", "hardware", "data", "seed")},
            "supernet": memo.identity,
            "cost_table_sha256": table.content_hash,
            "evolution": evolution,
            **fronts,
            "machine": run_info.machine(),
            "versions": run_info.versions(),
        }
    write_json(_OUTPUT.value, report)
    headers = ("error", *METRICS, "accelerator", "ops")
    for name, found in report["objectives"].items():
        print(f"{name}: front of {found['num_evaluations']} networks")
        print(format_table(headers, map(_cells, found["front"])))
    return 0


def exact_fronts(
    table: Any, accuracies: Any, objectives: dict[str, Any], evolution: Any, seed: int
) -> dict[str, Any]:
    """Return the front under each objective, as JSON data.

    Args:
        table: A CostTable.
        accuracies: Of op indices [B, D], their accuracies [B].
        objectives: Name to Objective.
        evolution: An EvolutionConfig.
        seed: Of all evolutions.
    """
    from dance_tf.run.terminal import progress
    from studies.evolution import evolve, exact_costs

    runs = {}
    for name, objective in objectives.items():
        with progress(f"evolution {name}") as on_progress:
            runs[name] = evolve(table, accuracies, objective, evolution, seed, on_progress)
    found = {
        tuple(row): error
        for run in runs.values()
        for row, error in zip(run.op_indices.tolist(), run.errors.tolist(), strict=True)
    }
    return {
        "num_networks": len(found),
        "objectives": {
            name: {
                "kind": objective.kind,
                "weights": objective.weights,
                "num_evaluations": len(runs[name].errors),
                "hypervolume_by_evaluations": _growth(runs[name]),
                "front": _front(
                    exact_costs(list(found), list(found.values()), table, objective), table
                ),
            }
            for name, objective in objectives.items()
        },
    }


def _growth(evaluated: Any) -> list[dict[str, Any]]:
    """Return the hypervolume of error and log objective after parts of an evolution.

    As shares of that after all of it: where the last are close to 1, more evaluations would
    hardly move the front.
    """
    from dance_tf.search.sweep.fronts import hypervolume

    corner, total = evaluated.points.max(axis=0), len(evaluated.points)
    counts = [max(1, total * eighths // 8) for eighths in range(1, 9)]
    volumes = [hypervolume(evaluated.points[:count], corner) for count in counts]
    return [
        {"num_evaluations": count, "share": volume / volumes[-1] if volumes[-1] else 0.0}
        for count, volume in zip(counts, volumes, strict=True)
    ]


def _front(evaluated: Any, table: Any) -> list[dict[str, Any]]:
    """Return the networks that none beats in error and objective, the most accurate first."""
    from dance_tf.hardware.accelerator import accelerator_to_json
    from dance_tf.search.sweep.fronts import front_rows

    points = []
    for row in front_rows(evaluated.points):
        metrics = [float(value) for value in evaluated.metrics[row]]
        accelerator = table.accelerators.decode(int(evaluated.accelerator_index[row]))
        points.append(
            {
                "ops": table.space.from_indices(evaluated.op_indices[row]).ops,
                "accelerator": accelerator_to_json(accelerator),
                "error": float(evaluated.errors[row]),
                **dict(zip(METRICS, metrics, strict=True)),
                "edap_ms_mj_mm2": metrics[0] * metrics[1] * metrics[2],
                "objective": float(evaluated.values[row]),
            }
        )
    return points


def _objective(text: str) -> Any:
    """Return the Objective that a value of --objective names."""
    from dance_tf.hardware.objective import Objective

    name, _, texts = text.partition(":")
    kind, weights = OBJECTIVES.get(name, (None, None))
    try:
        if kind is None or (texts and weights is not None):
            raise ValueError
        if texts:
            latency, energy, area = map(float, texts.split(","))
            weights = (latency, energy, area)
    except ValueError:
        raise UserError(
            f"--objective={text}: neither one of {', '.join(OBJECTIVES)} nor linear or product"
            " with three weights, such as linear:1,0,0"
        ) from None
    return Objective(kind, weights or (1.0, 1.0, 1.0))


def _cells(point: dict[str, Any]) -> tuple[Any, ...]:
    accelerator = point["accelerator"]
    size = f"{accelerator['pe_x']}x{accelerator['pe_y']}, {accelerator['rf_bytes']} B"
    return (
        point["error"],
        *(point[metric] for metric in METRICS),
        f"{size}, {accelerator['dataflow']}",
        " ".join(op.removeprefix("mbconv") for op in point["ops"]),
    )


if __name__ == "__main__":
    common.run(main, FLAGS)
