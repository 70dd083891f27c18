"""Compare the cost model with reference runs of Timeloop + Accelergy.

Prints one JSON object: the number of cases, the largest relative errors of cycles,
energy, access counts and area (and of wire energy, with --wires), and how the cases
that Timeloop extrapolated agree with walking the loops; those are not in the errors.
"""

from __future__ import annotations

import json

from absl import flags

from dance_tf.errors import UserError
from dance_tf.strict_json import read_json, strict_data
from tools import flags as common

FLAGS = common.shared_flags()
_REFERENCE = flags.DEFINE_string(
    "reference", None, "JSON file of reference cases.", flag_values=FLAGS
)
_WIRES = flags.DEFINE_string(
    "wires", None, "JSON file of wire energies by case name.", flag_values=FLAGS
)


def main(argv: list[str]) -> None:
    """Validate and print."""
    del argv
    if not _REFERENCE.value:
        raise UserError("--reference is missing: name a JSON file of reference cases")
    reference = read_json(_REFERENCE.value)
    wires = read_json(_WIRES.value) if _WIRES.value else None
    # A wrong file name need not wait for it.
    common.load_tensorflow()
    from dance_tf.hardware import validation

    report = validation.validate(
        validation.parse_reference(reference, _REFERENCE.value),
        None if wires is None else validation.parse_wires(wires, str(_WIRES.value)),
    )
    print(json.dumps(strict_data(report), indent=2, allow_nan=False))


if __name__ == "__main__":
    common.run(main, FLAGS)
