"""Agreement of the cost model with reference runs of Timeloop + Accelergy.

A reference is a list of cases: layer, accelerator, mapping, and what the run counted.
Timeloop lets iterations 0 and 1 of a loop stand for the rest; a case where that shows
is marked as extrapolated and carries the counts that walking the loops gives. Such a
case must match those, and does not enter the largest errors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.files import Json
from dance_tf.hardware.loopnest import cost_model
from dance_tf.hardware.loopnest.access_counts import AccessCounts
from dance_tf.hardware.loopnest.fills import OPERANDS
from dance_tf.hardware.loopnest.mapping import Mapping, mapping_from_json
from dance_tf.hardware.technology import technology_of
from dance_tf.structs import DIMENSIONS, Layer

__all__ = [
    "ReferenceCase",
    "machine_of_run",
    "parse_cases",
    "parse_layer",
    "parse_mapping",
    "parse_reference",
    "parse_wires",
    "positive_integer",
    "positive_number",
    "relative_error",
    "validate",
]

_Case = TypeVar("_Case")
_KINDS = ("reads", "fills", "updates", "tile_words")
_FILES = {"weights": "weight_spad", "inputs": "input_spad", "outputs": "psum_spad"}


@dataclasses.dataclass(frozen=True)
class ReferenceCase:
    """One run: what was run, and what it reported."""

    name: str
    layer: Layer
    mapping: Mapping
    pe_x: int
    pe_y: int
    rf_words: int
    is_row_stationary: bool
    machine: MachineConfig
    is_extrapolated: bool
    cycles: float
    energy_pj: float
    area_um2: float
    counts: dict[str, np.ndarray]  # level to float64 [3, 4]: operands x _KINDS
    walked: dict[str, np.ndarray]  # the same; differs where Timeloop extrapolated


def parse_reference(data: Json, where: str) -> list[ReferenceCase]:
    """Read the cases of a reference file.

    Args:
        data: Its JSON data.
        where: Name of the file, for messages.
    Raises:
        UserError: If a case is not complete; says which, and what is wrong.
    """
    return parse_cases(data, where, _case)


def parse_cases(data: Json, where: str, parse: Callable[[dict[str, Json]], _Case]) -> list[_Case]:
    """Read a list of cases, each by `parse`; an error names the file and the case.

    Raises:
        UserError: If there is no case, or one is not complete.
    """
    if not isinstance(data, list) or not data:
        raise UserError(f"{where}: not a list of reference cases")
    cases = []
    for index, item in enumerate(data):
        name = item.get("name", index) if isinstance(item, dict) else index
        try:
            cases.append(parse(item))
        except KeyError as error:
            raise UserError(f"{where}: case {name}: {error.args[0]!r} is missing") from None
        except (UserError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(f"{where}: case {name}: {error}") from None
    return cases


def parse_layer(item: dict[str, Json]) -> Layer:
    """Return the layer of a case."""
    layer = item["layer"]
    return Layer(
        name=str(layer.get("name", item["name"])),
        kind=layer["type"],
        stride=_pair(layer["stride"]),
        dilation=_pair(layer["dilation"]),
        groups=layer.get("groups", 1),
        **{dim: layer[dim] for dim in DIMENSIONS},
    )


def parse_mapping(levels: Json, layer: Layer, rf_mode: str) -> Mapping:
    """Return a mapping that multiplies out to the layer and bypasses nothing."""
    mapping = mapping_from_json(levels)
    _check_keeps(levels)
    if mapping.is_split != (rf_mode == "split"):
        raise UserError(f"rf_mode is {rf_mode!r}, which the mapping's levels do not have")
    mapping.check(layer)
    return mapping


def machine_of_run(array: dict[str, Json], accounting: str) -> MachineConfig:
    """Return the machine of a run: the technology of 2020, and no limit on DRAM."""
    for key in ("pe_x", "pe_y", "rf_words", "global_buffer_kib"):
        positive_integer(array, key)
    machine = MachineConfig(
        technology="accelergy_2020_45nm",
        rf_mode=array["rf_mode"],
        global_buffer_kib=array["global_buffer_kib"],
        dram_words_per_cycle=None,
        accounting=accounting,
    )
    # Sizes without figures show here, where the case has a name.
    tech = technology_of(machine)
    tech.register_file_pj(array["rf_words"], accounting)
    tech.global_buffer_pj(machine.global_buffer_kib, accounting)
    return machine


def positive_integer(record: dict[str, Json], key: str) -> int:
    """Return a field that counts something."""
    value = record[key]
    if type(value) is not int or value < 1:
        raise UserError(f"{key} is {value!r}, not a positive integer")
    return value


def positive_number(record: dict[str, Json], key: str) -> float:
    """Return a field that measures something."""
    value = record[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"{key} is {value!r}, not a positive number")
    return float(value)


def parse_wires(data: Json, where: str) -> dict[str, np.ndarray]:
    """Read wire energies: case name to pJ, float64 [3], by operand.

    Raises:
        UserError: If an entry is not complete.
    """
    if not isinstance(data, dict) or not data:
        raise UserError(f"{where}: not an object of case names with wire energies")
    wires = {}
    for name, entry in data.items():
        try:
            by_operand = [float(entry["by_operand"][operand]) for operand in OPERANDS]
            total = float(entry["wire_energy_pj"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: entry {name!r}: {error!r}") from None
        if abs(sum(by_operand) - total) > 1e-6 * max(total, 1.0):
            raise UserError(f"{where}: entry {name!r}: the operands do not add up to the total")
        wires[name] = np.asarray(by_operand)
    return wires


def validate(
    cases: Sequence[ReferenceCase], wires: dict[str, np.ndarray] | None = None
) -> dict[str, Json]:
    """Return the largest relative errors over all cases, as plain JSON data.

    Energy, area and cycles are those of the technology `accelergy_2020_45nm` without a
    DRAM limit, as in the runs. Wires follow Timeloop's own transfers in extrapolated cases.

    Raises:
        UserError: If a machine has no figures, or no case has a wire energy.
    """
    errors: dict[str, float] = dict.fromkeys(("cycles", "energy", "accesses", "area"), 0.0)
    extrapolated, num_wires = [], 0
    groups: dict[tuple[MachineConfig, bool], list[ReferenceCase]] = {}
    for case in cases:
        groups.setdefault((case.machine, case.mapping.is_split), []).append(case)
    for (machine, is_split), members in groups.items():
        counts, found = cost_model.cost_of_mappings(
            [case.mapping for case in members],
            [case.layer for case in members],
            machine=machine,
            **_array_fields(members),
        )
        wire_pj = _wire_pj(members, counts, machine)
        for m, case in enumerate(members):
            ours = _levels(counts, m, is_split)
            access_error = max(
                relative_error(ours[level], case.walked[level]) for level in case.walked
            )
            if case.is_extrapolated:
                extrapolated.append(
                    {
                        "name": case.name,
                        "matches_walked": access_error == 0.0,
                        "max_error_walked": access_error,
                        "max_error_extrapolated": max(
                            relative_error(ours[level], case.counts[level]) for level in case.counts
                        ),
                    }
                )
            else:
                area = cost_model.accelerator_area_um2(case.pe_x, case.pe_y, case.rf_words, machine)
                for key, value in (
                    ("cycles", relative_error(found.cycles[m], case.cycles)),
                    ("energy", relative_error(found.energy_pj[m], case.energy_pj)),
                    ("accesses", access_error),
                    ("area", relative_error(area, case.area_um2)),
                ):
                    errors[key] = max(errors[key], value)
            if wires is not None and case.name in wires:
                num_wires += 1
                expected = wires[case.name]
                error = max(
                    relative_error(wire_pj[:, m], expected),
                    relative_error(wire_pj[:, m].sum(), expected.sum()),
                )
                errors["wires"] = max(errors.get("wires", 0.0), error)
    if wires is not None and not num_wires:
        raise UserError("no case of the reference has an entry among the wires")
    report: dict[str, Json] = {"num_cases": len(cases), "num_extrapolated": len(extrapolated)}
    if wires is not None:
        report["num_wires"] = num_wires
    report |= {f"max_error_{key}": value for key, value in errors.items()}
    return report | {
        "num_extrapolated_matching_walked": sum(bool(e["matches_walked"]) for e in extrapolated),
        "extrapolated": extrapolated,
    }


def _wire_pj(
    cases: Sequence[ReferenceCase], counts: AccessCounts, machine: MachineConfig
) -> np.ndarray:
    """Return wire energies, float64 [3, M], from the transfers that the runs counted."""
    reads, updates = counts.global_buffer_reads.copy(), counts.global_buffer_updates.copy()
    for m, case in enumerate(cases):
        if case.is_extrapolated:
            reads[:, m] = case.counts["global_buffer"][:, _KINDS.index("reads")]
            updates[:, m] = case.counts["global_buffer"][:, _KINDS.index("updates")]
    counts = counts._replace(global_buffer_reads=reads, global_buffer_updates=updates)
    wired = dataclasses.replace(machine, technology="cacti_45nm")
    return np.asarray(
        cost_model.mapping_cost(counts, machine=wired, **_array_fields(cases)).wire_pj
    )


def _array_fields(cases: Sequence[ReferenceCase]) -> dict[str, np.ndarray]:
    return {
        "rf_words": np.asarray([case.rf_words for case in cases]),
        "is_row_stationary": np.asarray([case.is_row_stationary for case in cases]),
    }


def _levels(counts: AccessCounts, m: int, is_split: bool) -> dict[str, np.ndarray]:
    """Return our counts of mapping m as the reference has them: level to [3, 4]."""
    levels: dict[str, np.ndarray] = {}
    for o, operand in enumerate(OPERANDS):
        file = _FILES[operand] if is_split else "register_file"
        for level, prefix in (("dram", "dram"), ("global_buffer",) * 2, (file, "rf")):
            rows = levels.setdefault(level, np.zeros((3, len(_KINDS))))
            for k, kind in enumerate(_KINDS):
                values = getattr(counts, f"{prefix}_{kind}", None)
                rows[o, k] = 0.0 if values is None else values[o, m]
    return levels


def relative_error(ours: np.ndarray | float, expected: np.ndarray | float) -> float:
    """Return the largest relative error; where 0 is expected, the error is absolute."""
    ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
    scale = np.where(expected == 0, 1.0, np.abs(expected))
    return float(np.max(np.abs(ours - expected) / scale))


def _case(item: dict[str, Json]) -> ReferenceCase:
    array, expected = item["accelerator"], item["expected"]
    record = parse_layer(item)
    mapping = parse_mapping(item["mapping"], record, array["rf_mode"])
    counts = {level: _counts(entry["accesses"]) for level, entry in expected["levels"].items()}
    names = {level.name for level in mapping.levels}
    if set(counts) != names:
        raise UserError(f"counts are of {', '.join(counts)}, the mapping has {', '.join(names)}")
    walked = {level: rows.copy() for level, rows in counts.items()}
    for entry in item.get("walked", []):
        rows = walked[entry["level"]]
        rows[OPERANDS.index(entry["operand"]), _KINDS.index(entry["count"])] = entry["value"]
    return ReferenceCase(
        name=str(item["name"]),
        layer=record,
        mapping=mapping,
        pe_x=array["pe_x"],
        pe_y=array["pe_y"],
        rf_words=array["rf_words"],
        is_row_stationary=array["dataflow"] == "row_stationary",
        machine=machine_of_run(array, item["accounting"]),
        is_extrapolated=bool(item["extrapolated"]),
        cycles=positive_number(expected, "cycles"),
        energy_pj=positive_number(expected, "energy_pj"),
        area_um2=positive_number(expected, "area_um2"),
        counts=counts,
        walked=walked,
    )


def _counts(accesses: dict[str, dict[str, float]]) -> np.ndarray:
    rows = np.zeros((3, len(_KINDS)))
    for operand, values in accesses.items():
        rows[OPERANDS.index(operand)] = [values[kind] for kind in _KINDS]
    return rows


def _check_keeps(levels: list[dict[str, Json]]) -> None:
    """Refuse mappings that bypass a level: all operands are kept at all levels here."""
    kept = {file: {operand} for operand, file in _FILES.items()}
    for level in levels:
        wanted = kept.get(level["level"], set(OPERANDS))
        if set(level.get("keeps", wanted)) != wanted:
            raise UserError(f"{level['level']} keeps {level['keeps']}: bypassing is not modelled")


def _pair(value: Json) -> tuple[int, int]:
    """Return (width, height) of one number for both, or of two."""
    if isinstance(value, list | tuple):
        width, height = value
        return (width, height)
    return (value, value)
