"""Reference cases: the small set shipped here, and whatever the shared folder holds."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pathlib

DIMENSIONS = "NKCPQRS"
COUNTS = ("reads", "fills", "updates", "tile_words")


@dataclasses.dataclass(frozen=True)
class Case:
    """One run: plain data as `tests/reference.py` takes it, and what the run reported."""

    name: str
    layer: dict  # type, stride, dilation and the seven dimensions
    array: dict  # pe_x, pe_y, rf_words, rf_mode, dataflow
    mapping: list  # levels, outer to inner
    accounting: str
    is_extrapolated: bool
    cost: dict  # cycles, compute_cycles, energy_pj, area_um2 and perhaps wire_energy_pj
    counts: dict  # counts[level][operand] as the run reported them
    walked: dict  # (level, operand, count) to the right value where the run extrapolated

    @property
    def true_counts(self) -> dict:
        """The counts that walking the loops gives."""
        counts = copy.deepcopy(self.counts)
        for (level, operand, count), value in self.walked.items():
            counts[level][operand][count] = value
        return counts


def shipped_cases() -> list[Case]:
    """Return the cases of cases.json."""
    data = json.loads(pathlib.Path(__file__).with_name("cases.json").read_text("utf-8"))
    return [_shipped(case) for case in data["cases"]]


def shipped_mapper_cases() -> list[dict]:
    """Return the cases of mapper_cases.json in the layout of the shared folder's file."""
    data = json.loads(pathlib.Path(__file__).with_name("mapper_cases.json").read_text("utf-8"))
    return [
        {
            "name": case["name"],
            "layer": _layer(case["layer"]),
            "accelerator": case["array"] | {"global_buffer_kib": 128},
            "metric": "edp",
            "best": {k: case[k] for k in ("cycles", "energy_pj")}
            | {"mapping": _levels(case["mapping"])},
        }
        for case in data["cases"]
    ]


def shared_folder() -> pathlib.Path | None:
    """Return the folder with all reference runs, or None where there is none.

    DANCE_TF_SHARED names it; otherwise it is looked for beside the repository.
    """
    root = pathlib.Path(__file__).resolve().parents[2]
    shared = pathlib.Path(os.environ.get("DANCE_TF_SHARED") or root.parent / "shared")
    return shared / "timeloop" if (shared / "timeloop").is_dir() else None


def shared_cases(folder: pathlib.Path, file_name: str) -> list[Case]:
    """Return the cases of one file of the shared folder, wires included."""
    wires = json.loads((folder / "wires.json").read_text("utf-8"))
    return [_shared(case, wires) for case in json.loads((folder / file_name).read_text("utf-8"))]


def _layer(layer: dict) -> dict:
    return {
        "type": layer["kind"],
        "stride": layer["stride"],
        "dilation": layer["dilation"],
        **dict(zip(DIMENSIONS, layer["dims"], strict=True)),
    }


def _levels(mapping: list[dict]) -> list[dict]:
    kept = {"input_spad": ["inputs"], "weight_spad": ["weights"], "psum_spad": ["outputs"]}
    empty = {"temporal": [], "spatial_x": [], "spatial_y": []}
    all_operands = ["weights", "inputs", "outputs"]
    return [empty | {"keeps": kept.get(level["level"], all_operands)} | level for level in mapping]


def _shipped(case: dict) -> Case:
    counts: dict = {}
    for key, values in case["accesses"].items():
        level, operand = key.split()
        counts.setdefault(level, {})[operand] = dict(zip(COUNTS, values, strict=True))
    return Case(
        name=case["name"],
        layer=_layer(case["layer"]),
        array=case["array"],
        mapping=_levels(case["mapping"]),
        accounting=case["accounting"],
        is_extrapolated=case["is_extrapolated"],
        cost=case["cost"],
        counts=counts,
        walked={tuple(key.split()): value for key, value in case.get("walked", {}).items()},
    )


def _shared(case: dict, wires: dict) -> Case:
    expected = case["expected"]
    cost = {k: expected[k] for k in ("cycles", "compute_cycles", "energy_pj", "area_um2")}
    if case["name"] in wires:
        cost["wire_energy_pj"] = wires[case["name"]]["wire_energy_pj"]
    return Case(
        name=case["name"],
        layer=case["layer"],
        array=case["accelerator"],
        mapping=case["mapping"],
        accounting=case["accounting"],
        is_extrapolated=case["extrapolated"],
        cost=cost,
        counts={name: level["accesses"] for name, level in expected["levels"].items()},
        walked={(w["level"], w["operand"], w["count"]): w["value"] for w in case.get("walked", [])},
    )
