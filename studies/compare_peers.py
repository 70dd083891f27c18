"""Compare the cost model with ZigZag, where that is installed: rank correlation and time.

    pip install '.[peers]'        (ZigZag, which needs Python 3.11 or later)
    python -m studies.compare_peers --output=peers_zigzag.json

Layers of the shipped space, and one 3x3 convolution more, are costed by both on three
arrays with each dataflow; the best mapping by energy x cycles counts. ZigZag is given our
machine: PE array, one register file per PE for all operands, global buffer and DRAM, with
their words per cycle and the energies of `accelergy_2020_45nm`, in which wires cost
nothing, as in ZigZag. It spreads each layer over the array as our best mapping does
(weight_stationary C x K, output_stationary P x Q) and searches tiling and order of the
loops itself, with LOMA. What stays different: our dataflows restrict order and tiling; in
ZigZag each operand has tiles of its own; and its cycles hold the loading before the first
MAC and the unloading after the last.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import logging
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dance_tf.config import MachineConfig
from dance_tf.files import strict_data, write_json
from dance_tf.hardware.layers import conv, dense, depthwise
from dance_tf.hardware.technology import technology
from dance_tf.interop.yaml_text import format_yaml
from dance_tf.interop.zigzag import write_zigzag
from dance_tf.run import run_info
from dance_tf.structs import DATAFLOWS, Accelerator, Accelerators, Layer

MACHINE = MachineConfig(technology="accelergy_2020_45nm")
LAYERS = (
    conv("stem", in_channels=3, out_channels=32, output_size=32, kernel=3),
    conv("convolution_3x3", in_channels=64, out_channels=64, output_size=16, kernel=3),
    conv("expand", in_channels=32, out_channels=96, output_size=32, kernel=1),
    conv("project", in_channels=384, out_channels=64, output_size=16, kernel=1),
    conv("head", in_channels=128, out_channels=1280, output_size=8, kernel=1),
    dense("classifier", in_features=1280, out_features=10),
    depthwise("depthwise_3x3", channels=96, output_size=32, kernel=3),
    depthwise("depthwise_5x5", channels=192, output_size=16, kernel=5, stride=2),
    depthwise("depthwise_7x7", channels=384, output_size=8, kernel=7),
)
ARRAYS = ((8, 8, 64), (16, 16, 64), (12, 20, 256))  # pe_x, pe_y, rf_bytes

#: Parts of a search, in ZigZag's package.
_STAGES = {
    name: importlib.util.resolve_name(module, "zigzag")
    for name, module in (
        ("WorkloadParserStage", ".stages.parser.workload_parser"),
        ("AcceleratorParserStage", ".stages.parser.accelerator_parser"),
        ("WorkloadStage", ".stages.workload_iterator"),
        ("MinimalEDPStage", ".stages.results.reduce_stages"),
        ("SpatialMappingGeneratorStage", ".stages.mapping.spatial_mapping_generation"),
        ("TemporalMappingGeneratorStage", ".stages.mapping.temporal_mapping_generator_stage"),
        ("CostModelStage", ".stages.evaluation.cost_model_evaluation"),
    )
}
#: Our loops in ZigZag's words.
_LOOPS = dict(zip("NKCPQRSG", ("B", "K", "C", "OX", "OY", "FX", "FY", "G"), strict=True))
_OPERANDS = ("I1", "I2", "O")  # inputs, weights, outputs


def main() -> None:
    """Compare, print the result, and write it with every pair where asked to."""
    parser = argparse.ArgumentParser(
        prog="compare_peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", help="JSON file to write, with every pair in it")
    parser.add_argument("--lpf_limit", type=int, default=6, help="loops that LOMA permutes")
    parser.add_argument("--quick", action="store_true", help="two layers, one array, few loops")
    options = parser.parse_args()
    if importlib.util.find_spec("zigzag") is None:
        sys.exit("compare_peers: ZigZag is not installed: pip install '.[peers]' (Python 3.11 on)")
    layers = (LAYERS[0], LAYERS[-1]) if options.quick else LAYERS
    arrays = ARRAYS[:1] if options.quick else ARRAYS
    report = compare(layers, arrays, lpf_limit=3 if options.quick else options.lpf_limit)
    if options.output:
        write_json(options.output, report)
    print(json.dumps({k: v for k, v in strict_data(report).items() if k != "pairs"}, indent=2))


def compare(
    layers: Sequence[Layer], arrays: Sequence[tuple[int, int, int]], *, lpf_limit: int
) -> dict[str, Any]:
    """Cost every layer on every array with every dataflow by both models."""
    # Late: what is missing is said before TensorFlow is waited for.
    from dance_tf.hardware.loopnest.mapper import LoopNestCostModel, best_mapping

    accelerators = [Accelerator(*array, dataflow) for dataflow in DATAFLOWS for array in arrays]
    rows = Accelerators(
        *np.transpose([(*array, code) for code in range(len(DATAFLOWS)) for array in arrays])
    )
    model = LoopNestCostModel(MACHINE)
    times = [time.process_time()]
    for _ in range(2):  # the first call compiles
        ours = model(layers, rows)
        times.append(time.process_time())

    pairs, zigzag_s = [], 0.0
    for (i, layer), (j, accelerator) in itertools.product(
        enumerate(layers), enumerate(accelerators)
    ):
        mapping = best_mapping(layer, accelerator, MACHINE).mapping
        began = time.process_time()
        cycles, energy_pj = zigzag_cost(layer, accelerator, mapping.levels[1], lpf_limit)
        zigzag_s += time.process_time() - began
        pairs.append(
            {
                "layer": layer.name,
                "kind": layer.kind,
                **vars(accelerator),
                "cycles": float(ours.latency_cycles[i, j]),
                "energy_pj": float(ours.energy_pj[i, j]),
                "zigzag_cycles": cycles,
                "zigzag_energy_pj": energy_pj,
            }
        )
        done = f"{len(pairs)} of {len(layers) * len(accelerators)}"
        print(f"compare_peers: {done}: {layer.name}, {zigzag_s:.0f} CPU s", file=sys.stderr)
    return {
        "num_pairs": len(pairs),
        **agreement(pd.DataFrame(pairs)),
        # Of all threads: a machine with other work to do changes them little.
        "cpu_seconds": {
            "zigzag": zigzag_s,
            "ours": times[2] - times[1],
            "ours_with_compilation": times[1] - times[0],
        },
        "zigzag": {
            "version": importlib.metadata.version("zigzag-dse"),
            "search": "LOMA",
            "lpf_limit": lpf_limit,
        },
        "technology": MACHINE.technology,
        "machine": run_info.machine(),
        "versions": run_info.versions(),
        "pairs": pairs,
    }


def agreement(pairs: pd.DataFrame) -> dict[str, Any]:
    """Return Spearman's rank correlation and the ratios, for cycles and energy.

    Correlations are over all pairs, over those of each kind, and over the accelerators of
    each layer (the mean of the layers): what decides which accelerator is taken.
    """
    groups = {"all": pairs, **dict(list(pairs.groupby("kind")))}
    ratios, correlations = {}, {}
    for metric in ("cycles", "energy_pj"):
        both = [metric, f"zigzag_{metric}"]
        ratio = pairs[metric] / pairs[f"zigzag_{metric}"]
        ratios[metric] = {name: float(getattr(ratio, name)()) for name in ("min", "median", "max")}
        correlations[metric] = {
            **{name: _spearman(group[both]) for name, group in groups.items()},
            "within_layers": float(
                np.mean([_spearman(group[both]) for _, group in pairs.groupby("layer")])
            ),
        }
    return {"rank_correlation": correlations, "ours_over_zigzag": ratios}


def _spearman(two_columns: pd.DataFrame) -> float:
    return float(two_columns.rank().corr().iloc[0, 1])


def zigzag_cost(
    layer: Layer, accelerator: Accelerator, spread: Any, lpf_limit: int
) -> tuple[float, float]:
    """Return cycles and pJ of the best mapping that ZigZag finds.

    Args:
        layer: Layer to run.
        accelerator: Accelerator to run it on.
        spread: Level of a mapping whose spatial loops are taken over.
        lpf_limit: Loops, after merging of prime factors, that LOMA permutes.
    """
    stages = [getattr(importlib.import_module(module), name) for name, module in _STAGES.items()]
    main_stage = importlib.import_module("zigzag.stages.main").MainStage
    mapping_type = importlib.import_module("zigzag.mapping.temporal_mapping").TemporalMappingType
    logging.getLogger("zigzag").setLevel(logging.ERROR)
    texts = {
        "workload": write_zigzag([layer], word_bits=MACHINE.word_bits),
        "accelerator": format_yaml(machine_description(accelerator, MACHINE)),
        "mapping": format_yaml([_spatial_mapping(layer, spread)]),
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: pathlib.Path(folder, f"{name}.yaml") for name in texts}
        for name, text in texts.items():
            paths[name].write_text(text, encoding="utf-8")
        ((evaluation, _),) = main_stage(
            stages,
            **{name: str(path) for name, path in paths.items()},
            loma_lpf_limit=lpf_limit,
            loma_show_progress_bar=False,
            nb_mappings_generated=1,
            temporal_mapping_type=mapping_type.UNEVEN,
            # In our model every MAC reads its register file.
            access_same_data_considered_as_no_access=False,
        ).run()
    return float(evaluation.latency_total2), float(evaluation.energy_total)


def machine_description(accelerator: Accelerator, machine: MachineConfig) -> dict[str, Any]:
    """Return ZigZag's description of an accelerator; sizes in bits, costs in pJ per access.

    An access of a memory is as many words as its port moves in a cycle, and a smaller one
    costs its share. The register file has a port for each way of each operand, as it never
    bounds our cycles.
    """
    tech, bits = technology(machine.technology), machine.word_bits
    rf_words = machine.rf_words(accelerator.rf_bytes)
    file_pj = [float(pj) for pj in tech.register_file_pj(rf_words, machine.accounting)]
    read_pj, write_pj = tech.global_buffer_pj(machine.global_buffer_kib, machine.accounting)
    # ZigZag takes whole bits per cycle.
    buffer_bits = int(machine.global_buffer_words_per_cycle * bits)
    dram_bits = int(machine.dram_words_per_cycle * bits)
    dram_pj = [pj * dram_bits / bits for pj in tech.dram_pj(machine.accounting)]
    to_low = [f"{operand}, tl" for operand in _OPERANDS] + ["O, th"]
    from_high = [f"{operand}, fh" for operand in _OPERANDS] + ["O, fl"]

    def memory(size: int, read_pj: float, write_pj: float, ports: list, served: list) -> dict:
        return {
            "size": size,
            "r_cost": read_pj,
            "w_cost": write_pj,
            "area": 0.0,
            "latency": 1,
            "operands": list(_OPERANDS),
            "ports": ports,
            "served_dimensions": served,
        }

    def port(kind: str, number: int, bandwidth: int, allocation: list[str]) -> dict:
        prefix = {"read": "r", "write": "w", "read_write": "rw"}[kind]
        return {
            "name": f"{prefix}_port_{number}",
            "type": kind,
            "bandwidth_min": bits,
            "bandwidth_max": bandwidth,
            "allocation": allocation,
        }

    file_ports = [port("read", n, bits, [way]) for n, way in enumerate(to_low)]
    file_ports += [port("write", n, bits, [way]) for n, way in enumerate(from_high)]
    buffer_ports = [
        port("read", 0, buffer_bits, to_low),
        port("write", 0, buffer_bits, from_high),
    ]
    sides = ["D1", "D2"]
    return {
        "name": "accelerator",
        "memories": {
            "register_file": memory(8 * accelerator.rf_bytes, *file_pj, file_ports, []),
            "global_buffer": memory(
                8 * 1024 * machine.global_buffer_kib,
                read_pj * buffer_bits / bits,
                write_pj * buffer_bits / bits,
                buffer_ports,
                sides,
            ),
            "dram": memory(
                10**12,
                *dram_pj,
                [port("read_write", 0, dram_bits, to_low + from_high)],
                sides,
            ),
        },
        "operational_array": {
            "dimensions": sides,
            "sizes": [accelerator.pe_x, accelerator.pe_y],
            "unit_energy": tech.mac_pj.value,
            "unit_area": tech.mac_um2.value,
        },
    }


def _spatial_mapping(layer: Layer, spread: Any) -> dict[str, Any]:
    """Return what is spread over X and Y; a depthwise layer's channels are its groups."""
    loops = _LOOPS | ({"K": "G"} if layer.kind == "depthwise" else {})
    return {
        "name": "default",
        "spatial_mapping": {
            side: [f"{loops[name]}, {bound}" for name, bound in factors] or ["B, 1"]
            for side, factors in (("D1", spread.spatial_x), ("D2", spread.spatial_y))
        },
        "memory_operand_links": dict(zip(("I", "W", "O"), _OPERANDS, strict=True)),
    }


if __name__ == "__main__":
    main()
