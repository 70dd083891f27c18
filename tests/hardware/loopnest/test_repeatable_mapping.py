"""The best mapping is one and the same however often it is asked for, and none is better."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from dance_tf.config import MachineConfig
from dance_tf.hardware.loopnest.mapper import best_mapping
from dance_tf.hardware.loopnest.mapping import mapping_to_json
from dance_tf.structs import DATAFLOWS, Accelerator, Layer
from tests import reference, reference_mappings
from tests.repo.source import ROOT

DENSE = Layer("dense", "conv", 1, 16, 16, 1, 1, 1, 1)
METRICS = {
    "energy": lambda cost: cost["energy_pj"],
    "latency": lambda cost: cost["cycles"],
    "edp": lambda cost: cost["energy_pj"] * cost["cycles"],
}


def best_as_text(dataflow: str, metric: str) -> str:
    """Return the best mapping of the dense layer as JSON."""
    machine = MachineConfig(mapping_objective=metric)
    found = best_mapping(DENSE, Accelerator(8, 8, 64, dataflow), machine)
    return json.dumps(mapping_to_json(found.mapping))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_no_candidate_is_better_and_a_repetition_finds_the_same(dataflow, metric):
    machine = MachineConfig(mapping_objective=metric)
    found = best_mapping(DENSE, Accelerator(8, 8, 64, dataflow), machine)
    reported = METRICS[metric](found.cost._asdict())
    layer = {"type": "conv", **dict(zip("NKCPQRS", DENSE.dims, strict=True))}
    layer |= {"stride": [1, 1], "dilation": [1, 1]}
    array = {"pe_x": 8, "pe_y": 8, "rf_words": 32, "dataflow": dataflow}
    num_candidates = 0
    for padded, mapping in reference_mappings.mappings(layer, array):
        counts = reference.closed_counts(padded, mapping)
        cost = reference.cost(padded, mapping, array, counts)
        assert reported <= METRICS[metric](cost) * (1 + 1e-6)
        num_candidates += 1
    assert num_candidates > 1
    again = best_as_text(dataflow, metric)
    assert again == json.dumps(mapping_to_json(found.mapping)) == best_as_text(dataflow, metric)


@pytest.mark.slow
def test_the_number_of_threads_changes_nothing():
    program = (
        "from tests.hardware.loopnest.test_repeatable_mapping import *\n"
        "print([best_as_text(d, m) for d in DATAFLOWS for m in METRICS])"
    )
    outputs = []
    for threads in ("1", "2"):
        for _ in range(2):
            environment = os.environ | {
                "TF_NUM_INTRAOP_THREADS": threads,
                "TF_NUM_INTEROP_THREADS": threads,
                "PYTHONPATH": str(ROOT),
            }
            done = subprocess.run(
                [sys.executable, "-c", program],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                check=True,
            )
            outputs.append(done.stdout)
    assert len(set(outputs)) == 1 and outputs[0].startswith(b"['[{")
