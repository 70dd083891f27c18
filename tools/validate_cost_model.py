"""Compare the cost model with runs of Timeloop + Accelergy, and its mapper with theirs.

Prints one JSON object. With --reference: the number of cases, the largest relative
errors of cycles, energy, access counts and area (and of wire energy, with --wires),
and how the cases that Timeloop extrapolated agree with walking the loops; those are
not in the errors. With --mapper_reference: the energy x cycles of our best mapping
over those of timeloop-mapper's, the median, the largest and that of each case; a
ratio below 1 means that ours is better. With both, the latter stands in the object
under mapper_reference.
"""

from __future__ import annotations

import json

from dance_tf.errors import UserError
from dance_tf.files import Json, read_json, strict_data

from . import flags as common

FLAGS = common.shared_flags()
_REFERENCE = common.define_path("reference", "JSON file of reference cases.", FLAGS)
_WIRES = common.define_path(
    "wires", "JSON file of wire energies by case name, for --reference.", FLAGS
)
_MAPPER_REFERENCE = common.define_path(
    "mapper_reference", "JSON file of the best mappings that timeloop-mapper found.", FLAGS
)


def main(argv: list[str]) -> None:
    """Validate and print."""
    del argv
    if not (_REFERENCE.value or _MAPPER_REFERENCE.value):
        raise UserError(
            "--reference and --mapper_reference are missing: name a JSON file of reference cases"
        )
    if _WIRES.value and not _REFERENCE.value:
        raise UserError("--wires goes with --reference, which is missing: its cases have the names")
    data = {
        flag.name: read_json(flag.value)
        for flag in (_REFERENCE, _WIRES, _MAPPER_REFERENCE)
        if flag.value
    }
    # A wrong file name need not wait for it.
    common.load_tensorflow()
    from dance_tf.hardware.loopnest import mapper_validation, validation

    runs, wires, mapped = None, None, None
    if _REFERENCE.value:
        runs = validation.parse_reference(data["reference"], _REFERENCE.value)
    if _WIRES.value:
        wires = validation.parse_wires(data["wires"], _WIRES.value)
    if _MAPPER_REFERENCE.value:
        mapped = mapper_validation.parse_mapper_reference(
            data["mapper_reference"], _MAPPER_REFERENCE.value
        )
    report: dict[str, Json] = {}
    if runs is not None:
        report = validation.validate(runs, wires)
    if mapped is not None:
        comparison = mapper_validation.compare_with_mapper(mapped)
        report = report | {"mapper_reference": comparison} if report else comparison
    print(json.dumps(strict_data(report), indent=2, allow_nan=False))


if __name__ == "__main__":
    common.run(main, FLAGS)
