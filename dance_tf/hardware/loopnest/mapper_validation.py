"""Our best mappings beside those that timeloop-mapper found under the same rules.

A reference is a list of cases: layer, accelerator, and the best mapping that a bounded
search of timeloop-mapper found, with the cycles and the energy that Timeloop gave it.
Each such mapping is evaluated in our model first and must get Timeloop's own numbers;
then the best of the whole mapspace, rule `timeloop`, is compared with it.

Timeloop lets iterations 0 and 1 of a loop stand for the rest, and goes on outside from
iteration 1. Where that changes a count, walking the loops decides, and our numbers of
the mapping need not be Timeloop's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.files import Json
from dance_tf.hardware.loopnest.cost_model import cost_of_mappings
from dance_tf.hardware.loopnest.mapper import best_mapping
from dance_tf.hardware.loopnest.mapping import Mapping
from dance_tf.hardware.loopnest.validation import (
    machine_of_run,
    parse_cases,
    parse_layer,
    parse_mapping,
    positive_number,
    relative_error,
)
from dance_tf.structs import DATAFLOWS, LOOPS, Accelerator, Layer

__all__ = ["MapperCase", "compare_with_mapper", "is_extrapolated", "parse_mapper_reference"]

#: Largest relative difference between Timeloop's numbers of a mapping and ours.
_TOLERANCE = 1e-3

#: Dataflows of the reference that have no mapspace here.
_OTHER_DATAFLOWS = ("output_stationary_relaxed",)


@dataclasses.dataclass(frozen=True)
class MapperCase:
    """The best mapping that timeloop-mapper found for a layer on an accelerator."""

    name: str
    layer: Layer
    pe_x: int
    pe_y: int
    rf_words: int
    dataflow: str
    machine: MachineConfig
    mapping: Mapping
    cycles: float
    energy_pj: float
    skipped_reason: str | None  # why it is not compared

    @property
    def accelerator(self) -> Accelerator:
        """Accelerator that runs the layer; for a dataflow with a mapspace."""
        rf_bytes = self.rf_words * self.machine.word_bits // 8
        return Accelerator(self.pe_x, self.pe_y, rf_bytes, self.dataflow)


def parse_mapper_reference(data: Json, where: str) -> list[MapperCase]:
    """Read the cases of a file of timeloop-mapper's best mappings.

    Args:
        data: Its JSON data.
        where: Name of the file, for messages.
    Raises:
        UserError: If a case is not complete; says which, and what is wrong.
    """
    return parse_cases(data, where, _case)


def _case(item: dict[str, Json]) -> MapperCase:
    array, best = item["accelerator"], item["best"]
    layer = parse_layer(item)
    dataflow, metric = array["dataflow"], item.get("metric", "edp")
    skipped_reason = None
    if dataflow in _OTHER_DATAFLOWS:
        skipped_reason = f"dataflow {dataflow} has no mapspace here"
    elif dataflow not in DATAFLOWS:
        names = ", ".join((*DATAFLOWS, *_OTHER_DATAFLOWS))
        raise UserError(f"dataflow is {dataflow!r}, not one of {names}")
    elif array["rf_mode"] == "split":
        skipped_reason = "split register files are not compared"
    elif metric != "edp":
        skipped_reason = f"the mapper minimised {metric}, not energy x cycles"
    return MapperCase(
        name=str(item["name"]),
        layer=layer,
        pe_x=array["pe_x"],
        pe_y=array["pe_y"],
        rf_words=array["rf_words"],
        dataflow=dataflow,
        machine=machine_of_run(array, item.get("accounting", "timeloop_2020")),
        mapping=parse_mapping(best["mapping"], layer, array["rf_mode"]),
        cycles=positive_number(best, "cycles"),
        energy_pj=positive_number(best, "energy_pj"),
        skipped_reason=skipped_reason,
    )


def compare_with_mapper(cases: Sequence[MapperCase]) -> dict[str, Json]:
    """Return how our best energy x cycles compares with timeloop-mapper's, as JSON data.

    A ratio below 1 means that our mapping is better. Both are measured by our model, so
    that one mapping has one number: Timeloop prints energy to 0.01 pJ.

    Returns:
        `num_cases` and, among them, `num_skipped` and `num_extrapolated`;
        `edp_ratio_median` and `edp_ratio_max` over those not skipped; and of each of
        `cases`, our best, the mapper's best in our model (`mapper_`) and what Timeloop
        said of that (`timeloop_`), or why it is skipped.
    Raises:
        UserError: If our numbers of a mapping are not Timeloop's, or nothing of ours fits.
    """
    compared = [case for case in cases if case.skipped_reason is None]
    entries = {id(case): entry for case, entry in zip(compared, _compare(compared), strict=True)}
    ratios = [entry["ratio"] for entry in entries.values()]
    report: dict[str, Json] = {
        "num_cases": len(cases),
        "num_skipped": len(cases) - len(compared),
        "num_extrapolated": sum(entry["is_extrapolated"] for entry in entries.values()),
        "edp_ratio_median": float(np.median(ratios)) if ratios else None,
        "edp_ratio_max": max(ratios, default=None),
    }
    if not ratios:
        report["edp_ratio_median_reason"] = "every case is skipped"
    return report | {
        "cases": [
            entries.get(id(case), {"name": case.name, "skipped_reason": case.skipped_reason})
            for case in cases
        ]
    }


def _compare(cases: Sequence[MapperCase]) -> list[dict[str, Json]]:
    theirs = _evaluate(cases)
    for case, (cycles, energy_pj) in zip(cases, theirs, strict=True):
        error = max(relative_error(cycles, case.cycles), relative_error(energy_pj, case.energy_pj))
        if error > _TOLERANCE and not is_extrapolated(case.layer, case.mapping):
            raise UserError(
                f"case {case.name}: Timeloop gives its mapping {case.cycles:.0f} cycles and"
                f" {case.energy_pj:.2f} pJ, our model {cycles:.0f} and {energy_pj:.2f}"
            )
    best = [best_mapping(c.layer, c.accelerator, c.machine, rule="timeloop") for c in cases]
    ours = [(float(b.cost.cycles), float(b.cost.energy_pj)) for b in best]
    entries = []
    for case, (cycles, energy_pj), of_mapper in zip(cases, ours, theirs, strict=True):
        entry = {
            "name": case.name,
            "ratio": cycles * energy_pj / math.prod(of_mapper),
            "cycles": cycles,
            "energy_pj": energy_pj,
            "mapper_cycles": of_mapper[0],
            "mapper_energy_pj": of_mapper[1],
            "timeloop_cycles": case.cycles,
            "timeloop_energy_pj": case.energy_pj,
            "is_extrapolated": is_extrapolated(case.layer, case.mapping),
        }
        entries.append(entry)
    return entries


def _evaluate(cases: Sequence[MapperCase]) -> list[tuple[float, float]]:
    """Return cycles and energy of each case's mapping under our model."""
    result: dict[int, tuple[float, float]] = {}
    machines = [case.machine for case in cases]
    for machine in dict.fromkeys(machines):
        rows = [row for row, other in enumerate(machines) if other == machine]
        _, cost = cost_of_mappings(
            [cases[r].mapping for r in rows],
            [cases[r].layer for r in rows],
            rf_words=np.asarray([cases[r].rf_words for r in rows]),
            is_row_stationary=np.asarray([cases[r].dataflow == "row_stationary" for r in rows]),
            machine=machine,
        )
        pairs = zip(cost.cycles, cost.energy_pj, strict=True)
        result |= {r: (float(c), float(e)) for r, (c, e) in zip(rows, pairs, strict=True)}
    return [result[row] for row in range(len(cases))]


def is_extrapolated(layer: Layer, mapping: Mapping) -> bool:
    """Return whether Timeloop's iterations 0 and 1 do not stand for the rest of a loop.

    Only boxes of inputs slide, so only their fills can differ.

    Args:
        layer: Layer that the mapping multiplies out to.
        mapping: Mapping with shared or split register files.
    """
    return any(
        _input_fills(layer, mapping, level, is_extrapolated=True)
        != _input_fills(layer, mapping, level, is_extrapolated=False)
        for level in (1, 2)
    )


def _input_fills(layer: Layer, mapping: Mapping, level: int, *, is_extrapolated: bool) -> int:
    """Return the words filled into one instance of a level, which holds a box of inputs."""
    stride, dilation = layer.stride, layer.dilation
    # Coordinate that a loop moves, and by how much.
    used = {"N": (0, 1), "G": (1, 1), "P": (3, stride[0]), "R": (3, dilation[0])}
    used |= {"Q": (4, stride[1]), "S": (4, dilation[1])}
    used["K" if layer.kind == "depthwise" else "C"] = (2, 1)
    steps = dict.fromkeys(LOOPS, 1)  # what the loops inside have covered
    box = [1] * 5
    outside: list[tuple[int, list[int]]] = []  # bound and move, inner to outer
    for position, of_level in reversed(list(enumerate(mapping.levels))):
        is_outside = position < level
        across = (*of_level.spatial_x, *of_level.spatial_y)
        loops = [(loop, True) for loop in of_level.temporal] + [(loop, False) for loop in across]
        for (dim, bound), is_temporal in reversed(loops):
            axis, scale = used.get(dim, (0, 0))
            if not is_outside:
                box[axis] += (bound - 1) * scale * steps[dim]
            elif is_temporal:
                outside.append((bound, [scale * steps[dim] * (a == axis) for a in range(5)]))
            steps[dim] *= bound
    words, direction = math.prod(box), None
    fills = words
    moved = [0] * 5
    bounds = [bound for bound, _ in outside]
    for i, (bound, move) in enumerate(outside):
        jump = [a - b for a, b in zip(move, moved, strict=True)]
        axes = [axis for axis, distance in enumerate(jump) if distance]
        part, heading = words if axes else 0, None
        if len(axes) == 1 and abs(jump[axes[0]]) < box[axes[0]]:
            slide = (axes[0], jump[axes[0]] > 0)
            if direction in (None, slide):
                part, heading = words // box[axes[0]] * abs(jump[axes[0]]), slide
        if i == 0:
            direction = heading  # what every outer step finds remembered
        fills += math.prod(bounds[i + 1 :]) * (bound - 1) * part
        last = 1 if is_extrapolated else bound - 1
        moved = [a + last * b for a, b in zip(moved, move, strict=True)]
    return fills
