"""Runs of Timeloop and Accelergy as the product's records."""

from __future__ import annotations

import pytest

from dance_tf.config import MachineConfig
from dance_tf.hardware.loopnest.mapping import mapping_from_json
from dance_tf.structs import Accelerator, Layer
from tests import reference
from tests.conformance import cases as conformance

FOLDER = conformance.shared_folder()
needs_folder = pytest.mark.skipif(
    FOLDER is None, reason="no shared folder: name it with DANCE_TF_SHARED"
)


def run_of(case: conformance.Case, **machine) -> tuple:
    """Return layer, accelerator, mapping and machine of a reference run."""
    layer = Layer(
        name=case.name,
        kind=case.layer["type"],
        **{d: case.layer[d] for d in reference.DIMENSIONS},
        stride=reference.pair(case.layer["stride"]),
        dilation=reference.pair(case.layer["dilation"]),
    )
    array = case.array
    # The relaxed mapspace is one more of output_stationary's machine.
    dataflow = array["dataflow"].removesuffix("_relaxed")
    accelerator = Accelerator(array["pe_x"], array["pe_y"], 2 * array["rf_words"], dataflow)
    settings = {
        "technology": "accelergy_2020_45nm",
        "rf_mode": array["rf_mode"],
        "dram_words_per_cycle": None,
        "accounting": case.accounting,
    }
    mapping = mapping_from_json(case.mapping)
    return layer, accelerator, mapping, MachineConfig(**settings | machine)


def reference_cases() -> list:
    """Return the runs shipped here and, where the folder is there, all of it."""
    cases = conformance.shipped_cases()
    for name in ("fixed_mappings.json", "odd_layers.json") if FOLDER else ():
        cases += conformance.shared_cases(FOLDER, name)
    return cases
