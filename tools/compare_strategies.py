"""Compare strategies of co-search at equal budgets, on networks whose accuracies are known.

Runs each strategy for a front of error and cost, and within limits, --num_seeds times; all go
by the same table of accuracies and pay for each different network that they ask for. Leaves in
--output_dir: comparison.json, comparison.svg, and runs/, from which the same command goes on
after it was killed. Prints hypervolumes as a table, and the systems as the paper lists them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from absl import flags

from dance_tf.errors import UserError, did_you_mean
from dance_tf.files import Json, write_json

from . import flags as common
from .engine_flags import define_engine, engine_of

FLAGS = common.shared_flags(
    *("preset", "config", "set", "space", "dataset", "data", "data_dir", "supernet", "cache_dir")
)
_OUTPUT_DIR = common.define_path("output_dir", "Folder of what is found.", FLAGS)
_STRATEGIES = flags.DEFINE_list(
    "strategies", [], "Strategies to compare; all if none is named.", flag_values=FLAGS
)
_BUDGETS = flags.DEFINE_list(
    "budgets",
    ["30", "68", "160", "308"],
    "Networks trained, in ascending order.",
    flag_values=FLAGS,
)
_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", 10, "Runs of each strategy for each goal.", lower_bound=1, flag_values=FLAGS
)
_ACCURACY_CSV = common.define_path(
    "accuracy_csv",
    "Table of accuracies that the strategies go by, see docs/strategies.md; the one that is"
    " shipped for the space if none is named.",
    FLAGS,
)
_JUDGE_CSV = common.define_path(
    "judge_csv",
    "Table whose mean accuracies judge what was found; the second training of --accuracy_csv,"
    " or its only one, if none is named.",
    FLAGS,
)
_INHERITED = common.define_path(
    "inherited",
    "JSON of errors with inherited weights, for dance_supernet and dance_supernet_predictor;"
    " the one that is shipped for the space if none is named.",
    FLAGS,
)
_SUPERNET_DIR = common.define_path(
    "supernet_dir",
    "Folder of train_supernet, whose inherited accuracies the strategies go by instead of a"
    " table; those on the test split judge, and shares are of the best that any run has found.",
    FLAGS,
)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 1000, "Images of an inherited accuracy.", lower_bound=1, flag_values=FLAGS
)
define_engine(FLAGS, num_jobs=0)


def main(argv: list[str]) -> int:
    """Compare what the flags name."""
    del argv
    config = common.experiment_config(FLAGS)
    common.check_effects(config, "compare_strategies", FLAGS)
    common.require(_OUTPUT_DIR)
    budgets = _budgets(_BUDGETS.value)

    engine = engine_of(FLAGS)
    if not engine.is_here:  # Each process has one thread.
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
            os.environ.setdefault(name, "1")
    common.load_tensorflow()
    from dance_tf.run import terminal
    from dance_tf.run.folder_lock import owned
    from dance_tf.run.surroundings import StopSignals
    from dance_tf.search.accuracy.inherited import shipped_inherited_path
    from dance_tf.search.accuracy.table import shipped_table_path
    from dance_tf.search.problem import make_objective
    from dance_tf.search.strategies.compare import compare
    from dance_tf.search.strategies.picture import plot_comparison
    from dance_tf.search.strategies.registry import STRATEGIES
    from dance_tf.search.strategies.runs import Setting, SupernetSetting

    name, supernet = config.space.name, None
    accuracy_csv = _ACCURACY_CSV.value or shipped_table_path(name)
    if _SUPERNET_DIR.value:
        search = dataclasses.replace(config.search, supernet_dir=_SUPERNET_DIR.value)
        supernet = SupernetSetting(dataclasses.replace(config, search=search), _NUM_IMAGES.value)
        accuracy_csv = None
    elif accuracy_csv is None:
        raise UserError(
            f"no table of accuracies is shipped for {name}: name one, --accuracy_csv, or a"
            " supernet, --supernet_dir"
        )
    inherited = _INHERITED.value or shipped_inherited_path(name)
    strategies = list(_STRATEGIES.value)
    for strategy in strategies:
        if strategy not in STRATEGIES:
            hint = did_you_mean(strategy, STRATEGIES)
            raise UserError(f"--strategies: unknown strategy {strategy!r}{hint}")
        if STRATEGIES[strategy].needs_inherited and inherited is None:
            raise UserError(f"--strategies: {strategy} needs --inherited")
    if not strategies:
        strategies = [s for s, e in STRATEGIES.items() if inherited or not e.needs_inherited]
    setting = Setting(
        space=config.space,
        hardware=config.hardware,
        accuracy_csv=accuracy_csv,
        training=0,
        supernet=supernet,
        inherited_json=inherited,
        objective=make_objective(config.search),
        cache_dir=FLAGS["cache_dir"].value,
    )
    folder = _OUTPUT_DIR.value
    with StopSignals(), engine, owned(folder), terminal.progress("comparison") as report:
        found = compare(
            setting,
            strategies,
            budgets,
            _NUM_SEEDS.value,
            os.path.join(folder, "runs"),
            judge_csv=_JUDGE_CSV.value,
            engine=engine,
            on_progress=report,
        )
        write_json(os.path.join(folder, "comparison.json"), found)
        plot_comparison(found, os.path.join(folder, "comparison.svg"))
    _show(found)
    print(f"{folder}: comparison.json, comparison.svg")
    return 0


def _budgets(texts: Sequence[str]) -> list[int]:
    if not texts or not all(text.isdigit() and int(text) > 0 for text in texts):
        raise UserError(f"--budgets={','.join(texts)}: not positive integers")
    budgets = sorted(set(map(int, texts)))
    return budgets


def _show(found: dict[str, Json]) -> None:
    """Print the hypervolumes, the best strategy first."""
    from dance_tf.run.reporting import format_table

    budgets = found["budgets"]
    rows: dict[str, dict[int, float]] = {}
    for entry in found["strategies"]:
        rows.setdefault(entry["strategy"], {})[entry["budget"]] = entry["hypervolume_median"]
    print("hypervolume, % of the exact front's, median, by networks trained")
    order = sorted(rows, key=lambda name: -rows[name][budgets[-1]])
    table = [[name, *(f"{100 * rows[name][b]:.1f}" for b in budgets)] for name in order]
    print(format_table(["strategy", *map(str, budgets)], table))
    weight = f"{found['cost_weights'][1]:g}"
    print(f"\nanswers for the least error * cost^{weight}, medians, judged by another training")
    systems = []
    for entry in found["strategies"]:
        answer = entry["answers"][weight]
        systems.append(
            [
                entry["strategy"],
                entry["method"],
                "yes" if entry["relation"] else "no",
                entry["budget"],
                _percent(answer["error_median"] and 1 - answer["error_median"]),
                _number(answer["cost_median"]),
                _percent(answer["regret_median"]),
                f"{entry['wall_s_median']:.1f}",
            ]
        )
    headers = ("system", "method", "relation", "trained", "accuracy", "cost", "regret", "s")
    print(format_table(headers, systems))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    common.run(main, FLAGS)
