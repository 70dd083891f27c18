"""Say what a layer or a network costs on an accelerator, where the cost goes, and what is best.

Prints per layer and in total: MACs, cycles, latency, energy by component, utilisation, the
bounding resource, and the best mappings as loop nests. Leakage is not counted.

    --layer=conv:K=32,C=16,P=16,Q=16,R=3,S=3      (stride=2, dilation=1x2, groups and N as
    --layer=depthwise:K=96,P=8,Q=8,R=5,S=5         needed; dimensions not given are 1; with
    --layer=dense:K=10,C=1280                      groups, K counts the channels of all and
                                                   C those of one)
    --architecture=mbconv3_e3,zero,...            one op per block of the space, or
    --architecture=RUN/result.json                the result of a search
    --keras_model=FILE.keras                      any Keras model, also FILE.h5
    --application=MobileNetV2 --input_size=224    of keras.applications
    --accelerator=pe_x=16,pe_y=16,rf_bytes=64,dataflow=row_stationary
    --accelerator=RUN/accelerator.json

With --best_accelerator, all accelerators of the space are costed: the exact best ones for
an objective and limits, and those that no other beats in latency, energy and area. Without
--accelerator, the rest of the report is then of the best one, and otherwise of 16 x 16 PEs
with 64 B, weight_stationary.

With --draw=FOLDER/ or --draw=FILE.html, the mapping of each different layer is drawn too.
"""

from __future__ import annotations

import json

from absl import flags

from dance_tf.errors import UserError
from dance_tf.files import Json, strict_data
from dance_tf.structs import METRICS, Accelerator

from . import flags as common
from .cost_drawing import check_drawable, drawing_target, write_drawings
from .objective import define_objective_flags, objective_terms
from .workload import define_workload_flags, load_workload, read_request

FLAGS = common.shared_flags("preset", "config", "set")
define_workload_flags(FLAGS)
_BEST = flags.DEFINE_boolean(
    "best_accelerator",
    False,
    "Find the best accelerators of the space too.",
    flag_values=FLAGS,
)
_TOP_K = flags.DEFINE_integer(
    "top_k", 5, "Best accelerators to list.", lower_bound=1, flag_values=FLAGS
)
define_objective_flags(FLAGS, "What the best accelerator")
_MAX_LATENCY_MS = flags.DEFINE_float(
    "max_latency_ms", None, "The most that the latency may be on the best.", flag_values=FLAGS
)
_MAX_ENERGY_MJ = flags.DEFINE_float(
    "max_energy_mj", None, "The most that the energy may be on the best.", flag_values=FLAGS
)
_MAX_AREA_MM2 = flags.DEFINE_float(
    "max_area_mm2", None, "The most that the area of the best may be.", flag_values=FLAGS
)
_FORMAT = flags.DEFINE_enum(
    "format", "table", ["table", "json"], "How to print the report.", flag_values=FLAGS
)
_DRAW = flags.DEFINE_string(
    "draw",
    None,
    "Draw the mapping of each layer, the array with what each PE holds: FOLDER/ (one SVG a"
    " layer, and index.html), FILE.html (all layers), FILE.svg (one layer) or FILE.txt (loop"
    " nests). Layers of the same shape are drawn once.",
    flag_values=FLAGS,
)

#: Where nothing else is asked for.
_DEFAULT_ACCELERATOR = Accelerator(16, 16, 64, "weight_stationary")


def main(argv: list[str]) -> None:
    """Evaluate and print."""
    del argv
    # What is read from flags and small files is refused before TensorFlow is waited for.
    request = read_request(FLAGS)
    unread = {} if request.architecture else {"space": "--architecture"}
    if request.accelerator is None and not _BEST.value:
        unread["hardware.accelerators"] = "--accelerator or --best_accelerator"
    common.check_effects(request.config, "evaluate_cost", FLAGS, unread=unread)
    kind, weights = objective_terms(FLAGS)
    limited = (_MAX_LATENCY_MS, _MAX_ENERGY_MJ, _MAX_AREA_MM2)
    names = ("objective", "objective_weights", *(flag.name for flag in (_TOP_K, *limited)))
    for name in names:
        if FLAGS[name].present and not _BEST.value:
            raise UserError(f"--{name} goes with --best_accelerator")
    draw_to = None if _DRAW.value is None else drawing_target(_DRAW.value)

    common.load_tensorflow()
    from dance_tf.hardware.accelerator import AcceleratorSpace
    from dance_tf.hardware.layer_costs import break_down
    from dance_tf.hardware.loopnest.mapper import LoopNestCostModel
    from dance_tf.hardware.objective import Limits, Objective
    from dance_tf.hardware.oracle import network_cost
    from dance_tf.hardware.technology import technology_of
    from dance_tf.run.terminal import progress

    objective = Objective(kind, weights)
    limits = Limits(*(flag.value for flag in limited))
    if request.config.hardware.measured_csv is not None:
        raise UserError(
            "hardware.measured_csv: a measured table has no parts to report;"
            " evaluate_cost is of the loop-nest model"
        )
    space = AcceleratorSpace(request.config.hardware.accelerators)
    if request.accelerator is not None:
        try:
            space.encode(request.accelerator)
        except UserError as error:
            hint = "--set=hardware.accelerators.FIELD=[VALUE] widens it"
            raise UserError(f"{error}; {hint}") from None
    workload = load_workload(request)
    if draw_to is not None:
        check_drawable(draw_to, workload.layers)
    accelerator = request.accelerator or _DEFAULT_ACCELERATOR
    found: dict[str, Json] = {}
    if _BEST.value:
        model = LoopNestCostModel(request.machine)
        with progress("accelerators") as report_progress:
            costs = network_cost(
                workload.layers,
                space,
                model,
                request.machine.cycles_per_ms,
                on_progress=report_progress,
            )
        found = {
            "objective": {
                "kind": objective.kind,
                "weights": objective.weights,
                "reference": dict(zip(METRICS, costs.reference.tolist(), strict=True)),
            },
            "best": costs.best(objective, limits, _TOP_K.value),
            "pareto": costs.pareto(objective),
        }
        if request.accelerator is None:
            fields = ("pe_x", "pe_y", "rf_bytes", "dataflow")
            accelerator = Accelerator(*(found["best"][0][field] for field in fields))
    report = break_down(workload.layers, accelerator, request.machine)
    if draw_to is not None:
        from dance_tf.hardware.loopnest.drawing import draw_layers
        from dance_tf.hardware.loopnest.mapping import mapping_from_json

        mappings = [mapping_from_json(entry["mapping"]) for entry in report["layers"]]
        drawings = draw_layers(workload.layers, mappings, accelerator)
        write_drawings(draw_to, f"Mappings on {_name(accelerator)}", drawings)
    report["layers"] = [
        {"name": layer.name, "kind": layer.kind, **entry}
        for layer, entry in zip(workload.layers, report["layers"], strict=True)
    ]
    notes = [*workload.about.get("notes", ())]
    notes += technology_of(request.machine).notes(request.machine.accounting)
    about = workload.about | ({"notes": notes} if notes else {})
    report = {**about, **report, "not_costed": workload.not_costed, **found}
    if _FORMAT.value == "json":
        print(json.dumps(strict_data(report), indent=2, allow_nan=False))
    else:
        from .cost_report import format_report

        print(format_report(report))


def _name(array: Accelerator) -> str:
    return f"{array.pe_x} x {array.pe_y} PEs, {array.rf_bytes} B, {array.dataflow}"


if __name__ == "__main__":
    common.run(main, FLAGS)
