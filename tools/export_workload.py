"""Write layers or a network for another tool: Timeloop, SCALE-Sim or ZigZag.

    python -m tools.export_workload --to=scalesim --application=MobileNetV2 --output_dir=OUT
    python -m tools.export_workload --to=timeloop --layer=conv:K=8,C=4,P=6,Q=6,R=3,S=3 ...
        --accelerator=pe_x=8,pe_y=8,rf_bytes=64,dataflow=row_stationary --output_dir=OUT

timeloop: per layer a folder with arch.yaml, problem.yaml, map.yaml (the best mapping),
ERT.yaml and ART.yaml, in the order of timeloop-model's arguments, and expected.json with
what the cost model says. scalesim: topology.csv. zigzag: workload.yaml.

Workloads and accelerators are named as for evaluate_cost. The folder must be new or empty;
it appears whole or not at all. Prints one JSON object that says what was written.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence

from absl import flags

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.files import Json, strict_data, write_folder
from dance_tf.interop import scalesim, timeloop, zigzag
from dance_tf.structs import DIMENSIONS, Accelerator, Layer

from . import flags as common
from .workload import define_workload_flags, load_workload, read_request

FLAGS = common.shared_flags("preset", "config", "set", "output_dir")
define_workload_flags(FLAGS)
_TO = flags.DEFINE_enum(
    "to", None, ["timeloop", "scalesim", "zigzag"], "What to write for.", flag_values=FLAGS
)
_VERSION = flags.DEFINE_string(
    "version",
    None,
    "Of the format: 0.3 (default) or 0.4 of Timeloop's, 2 (default) or 3 of SCALE-Sim's.",
    flag_values=FLAGS,
)


#: Versions of each format, the first being the default; ZigZag's has none of its own.
_VERSIONS = {"timeloop": timeloop.VERSIONS, "scalesim": scalesim.VERSIONS, "zigzag": ("",)}


def main(argv: list[str]) -> None:
    """Write the files and print what was written."""
    del argv
    to = _TO.value
    if to is None:
        raise UserError("--to is missing: timeloop, scalesim or zigzag")
    version = _VERSION.value or _VERSIONS[to][0]
    if version not in _VERSIONS[to]:
        accepted = ", ".join(_VERSIONS[to]) or "none"
        raise UserError(f"--version={version}: of {to} there are {accepted}")
    request = read_request(FLAGS)
    unread = {} if request.architecture else {"space": "--architecture"}
    if request.accelerator is None:
        unread["hardware.machine"] = "--accelerator"
    common.check_effects(request.config, "export_workload", FLAGS, unread=unread)
    if (to == "timeloop") != (request.accelerator is not None):
        raise UserError("--accelerator goes with --to=timeloop, which maps the layers to it")
    folder = common.output_dir(FLAGS, is_owned=False)
    if os.path.isdir(folder) and os.listdir(folder):
        raise UserError(f"--output_dir={folder} is not empty: name a new folder")

    common.load_tensorflow()
    workload = load_workload(request)
    if not workload.layers:
        raise UserError("there is no layer to write: nothing in the model is costed")
    files: dict[str, Json]
    if to == "scalesim":
        files = {"topology.csv": scalesim.write_scalesim(workload.layers, version=version)}
    elif to == "zigzag":
        bits = request.machine.word_bits
        files = {"workload.yaml": zigzag.write_zigzag(workload.layers, word_bits=bits)}
    else:
        assert request.accelerator is not None
        files = _timeloop_files(workload.layers, request.accelerator, request.machine, version)
    write_folder(folder, files)
    report = workload.about | {
        "to": to,
        "version": version or None,
        "output_dir": folder,
        "files": list(files),
        "num_layers": len(workload.layers),
        "macs": sum(layer.macs for layer in workload.layers),
        "not_costed": workload.not_costed,
    }
    print(json.dumps(strict_data(report), indent=2, allow_nan=False))


def _timeloop_files(
    layers: Sequence[Layer], accelerator: Accelerator, machine: MachineConfig, version: str
) -> dict[str, Json]:
    """Return path to content of every file: one folder per layer, in the network's order."""
    from dance_tf.hardware.layer_costs import break_down
    from dance_tf.hardware.loopnest.mapping import mapping_from_json
    from dance_tf.interop.timeloop_write import write_timeloop

    costs = break_down(layers, accelerator, machine)
    files: dict[str, Json] = {}
    width = len(str(len(layers) - 1))
    for index, (layer, cost) in enumerate(zip(layers, costs["layers"], strict=True)):
        mapping = mapping_from_json(cost["mapping"])
        sizes = {name: cost["padded_layer"][name] for name in (*DIMENSIONS, "groups")}
        padded = dataclasses.replace(layer, **sizes)
        texts = write_timeloop(
            layer, accelerator, mapping, machine, padded_layer=padded, version=version
        )
        name = re.sub(r"[^\w.-]+", "_", layer.name).strip("._")
        folder = f"{index:0{width}}_{name}"
        files |= {f"{folder}/{path}": text for path, text in texts.items()}
        files[f"{folder}/expected.json"] = {
            "layer": layer,
            "accelerator": accelerator,
            "machine": machine,
            "macs": layer.macs,
            "padded_layer": padded,
            "padded_macs": padded.macs,
            "latency_cycles": cost["latency_cycles"],
            "energy_pj": cost["energy_pj"],
            "energy_by_component_pj": cost["energy_by_component_pj"],
            "area_um2": costs["area_um2"],
            "mapping": cost["mapping"],
        }
    return files


if __name__ == "__main__":
    common.run(main, FLAGS)
