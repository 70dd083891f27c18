"""Search again and again on one trained supernet, and show what accuracy costs.

Runs a search for each objective, lambda_2 and seed, from the supernet of train_supernet,
whose weights stay as they are, so that each takes minutes; or by a predictor
(--set=search.accuracy=predictor), for which networks are trained or looked up, and whose
errors then stand for the inherited ones. Leaves in --output_dir: config.json, run_info.json,
pareto.json with every point, the front of (error, latency, energy, area) and its hypervolume,
pareto.html to look at, pareto.svg, searches/ and retrained/. Prints the front as a table.
After SIGTERM or Ctrl-C, --resume goes on; with other objectives, values or seeds it adds to
the sweep.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from absl import flags

from dance_tf.config import config_to_json
from dance_tf.errors import UserError
from dance_tf.files import Json
from dance_tf.run.installation import tool_command

from . import flags as common
from .engine_flags import define_engine, engine_of
from .workload import fixed_accelerator

FLAGS = common.shared_flags(
    *common.EXPERIMENT, "supernet", "fixed_accelerator", "output_dir", "resume"
)
_SUPERNET_DIR = common.define_path("supernet_dir", "Folder of train_supernet.", FLAGS)
_OBJECTIVES = flags.DEFINE_list(
    "objectives", ["EDAP"], "Values of search.objective to sweep.", flag_values=FLAGS
)
_LAMBDAS = flags.DEFINE_list(
    "lambdas",
    ["0", "0.01", "0.03", "0.1", "0.3", "1"],
    "Values of search.lambda_2 to sweep; 0 searches for accuracy alone.",
    flag_values=FLAGS,
)
_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", 1, "Searches of each kind: seeds from --seed up.", lower_bound=1, flag_values=FLAGS
)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images",
    2000,
    "Held-out images on which the networks found are compared; all, if there are fewer.",
    lower_bound=1,
    flag_values=FLAGS,
)
_NUM_RETRAINED = flags.DEFINE_integer(
    "num_retrained",
    0,
    "How many networks of this command's points to retrain, those of the front first.",
    lower_bound=0,
    flag_values=FLAGS,
)
_LIVE = flags.DEFINE_boolean(
    "live", False, "Draw pareto.svg anew after each search and retraining.", flag_values=FLAGS
)
define_engine(FLAGS)

_HEADERS = (
    "objective",
    "lambda_2",
    "seed",
    "inherited error",
    "retrained error",
    "latency_ms",
    "energy_mj",
    "area_mm2",
    "EDAP",
    "predicted EDAP",
    "accelerator",
)


def main(argv: list[str]) -> int:
    """Sweep what the flags describe."""
    del argv
    config = common.experiment_config(FLAGS)
    changes: dict[str, Json] = {}
    if config.search.accuracy == "supernet":
        if not _SUPERNET_DIR.value:
            raise UserError(
                "--supernet_dir is missing: name the folder of a"
                f" `{tool_command('train_supernet')}`, or search with a predictor"
                " (--set=search.accuracy=predictor)"
            )
        changes = {"supernet_dir": _SUPERNET_DIR.value, "supernet_weights": "frozen"}
    if FLAGS["fixed_accelerator"].value:
        changes["fixed_accelerator"] = fixed_accelerator(FLAGS["fixed_accelerator"].value)
    config = dataclasses.replace(config, search=dataclasses.replace(config.search, **changes))
    common.check_effects(config, "pareto", FLAGS, retrains=_NUM_RETRAINED.value > 0)
    lambdas = _numbers(_LAMBDAS.value)
    output_dir = common.output_dir(FLAGS)
    is_resuming, engine = bool(FLAGS["resume"].value), engine_of(FLAGS)

    common.load_tensorflow()
    from dance_tf.report.sweep_page import write_sweep_page
    from dance_tf.run.surroundings import StopSignals, open_run
    from dance_tf.search import pipeline
    from dance_tf.search.judge import Judge
    from dance_tf.search.sweep import sweep
    from dance_tf.search.sweep.plot import plot_sweep
    from dance_tf.search.sweep.tasks import prepare_task

    searches = sweep.plan_sweep(_OBJECTIVES.value, lambdas, _NUM_SEEDS.value, config.seed)
    for search in searches:
        # Refuses an unknown objective, and weights that it does not take.
        search.config(config).search.objective_terms()

    def draw(found: dict[str, Json]) -> None:
        plot_sweep(found, os.path.join(output_dir, "pareto.svg"))

    with engine, open_run(config, output_dir, is_resuming=is_resuming) as run:
        engine.prepare(
            prepare_task, {"config": config_to_json(config), "cache_dir": FLAGS["cache_dir"].value}
        )
        problem = pipeline.prepare(config, cache_dir=FLAGS["cache_dir"].value)
        # Refuses limits out of reach, and what is not in the space.
        Judge(searches[0].config(config).search, problem)
        run.begin(pipeline.cost_facts(config, problem))
        with StopSignals() as stop:
            found = sweep.run_sweep(
                searches,
                config,
                problem,
                output_dir,
                num_images=_NUM_IMAGES.value,
                num_retrained=_NUM_RETRAINED.value,
                stop=stop,
                engine=engine,
                cache_dir=FLAGS["cache_dir"].value,
                on_found=draw if _LIVE.value else None,
            )
        draw(found)
        run.end()
        write_sweep_page(output_dir, table=problem.table)
    _show(found)
    print(f"{output_dir}: pareto.html, pareto.json, pareto.svg")
    return 0


def _numbers(texts: Sequence[str]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError:
        raise UserError(f"--lambdas={','.join(texts)}: not numbers") from None


def _show(found: dict[str, Json]) -> None:
    """Print the front, by error, and the hypervolume."""
    from dance_tf.run.reporting import format_table

    retrained = found["retrained"]
    rows = [_row(found["points"][i]) for i in (retrained or found)["front"]]
    print(format_table(_HEADERS, rows))
    print(
        f"hypervolume {found['hypervolume']:.4f} by inherited error, {len(found['points'])} points"
    )
    if retrained:
        print(
            f"hypervolume {retrained['hypervolume']:.4f} by retrained error,"
            f" {retrained['num_points']} points; {len(retrained['left'])} of"
            f" {len(retrained['front_by_inherited'])} left the front, {len(retrained['entered'])}"
            " entered it"
        )


def _row(point: dict[str, Json]) -> list[Json]:
    search, accelerator = point["search"], point["accelerator"]
    retrained = point["retrained_error"]
    return [
        search["objective"],
        search["lambda_2"],
        search["seed"],
        point["inherited_error"],
        "" if retrained is None else retrained,
        point["latency_ms"],
        point["energy_mj"],
        point["area_mm2"],
        point["edap_ms_mj_mm2"],
        point["predicted_edap_ms_mj_mm2"],
        "{pe_x}x{pe_y} {rf_bytes}B {dataflow}".format(**accelerator),
    ]


if __name__ == "__main__":
    common.run(main, FLAGS)
