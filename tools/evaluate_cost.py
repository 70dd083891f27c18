"""Say what one layer, or one network, costs on one accelerator, and where the cost goes.

Prints cycles, latency, energy and area by component, utilisation, the bounding resource
and the best mapping as a loop nest. Leakage is not counted.

    --layer=conv:K=32,C=16,P=16,Q=16,R=3,S=3      (stride=2, dilation=1x2 and N as needed;
    --layer=depthwise:K=96,P=8,Q=8,R=5,S=5         dimensions not given are 1)
    --layer=dense:K=10,C=1280
    --architecture=mbconv3_e3,zero,...            one op per block of the space, or
    --architecture=RUN/result.json                the result of a search
    --accelerator=pe_x=16,pe_y=16,rf_bytes=64,dataflow=row_stationary
    --accelerator=RUN/accelerator.json
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from absl import flags

from dance_tf.config import ExperimentConfig, MachineConfig, config_from_json, override
from dance_tf.errors import UserError, did_you_mean
from dance_tf.strict_json import read_json, strict_data
from dance_tf.structs import DIMENSIONS, Accelerator, Architecture, Layer
from tools import flags as common

FLAGS = common.shared_flags("preset", "config", "set")
_LAYER = flags.DEFINE_string(
    "layer",
    None,
    "One layer, such as conv:K=32,C=16,P=16,Q=16,R=3,S=3,stride=1.",
    flag_values=FLAGS,
)
_ARCHITECTURE = flags.DEFINE_string(
    "architecture",
    None,
    "One network: op names with commas, or a result.json (its run's config.json, if it lies"
    " beside it, is the configuration unless --preset or --config says another).",
    flag_values=FLAGS,
)
_ACCELERATOR = flags.DEFINE_string(
    "accelerator",
    None,
    "Fields with commas, or a JSON file; the machine of an accelerator.json holds unless"
    " --preset, --config or --set says another.",
    flag_values=FLAGS,
)
_JSON = flags.DEFINE_boolean("json", False, "Print JSON instead of tables.", flag_values=FLAGS)

_KINDS = {
    "conv": (*DIMENSIONS, "stride", "dilation"),
    "depthwise": ("N", "K", "P", "Q", "R", "S", "stride", "dilation"),
    "dense": ("N", "K", "C"),
}
_FIELDS = tuple(field.name for field in dataclasses.fields(Accelerator))


def main(argv: list[str]) -> None:
    """Evaluate and print."""
    del argv
    if (_LAYER.value is None) == (_ARCHITECTURE.value is None):
        raise UserError("give one of --layer and --architecture")
    if not _ACCELERATOR.value:
        raise UserError(
            "--accelerator is missing, such as pe_x=16,pe_y=16,rf_bytes=64,dataflow=..."
        )
    # What is read from flags and files alone is refused before TensorFlow is waited for.
    config, architecture = _configuration()
    accelerator, machine = _accelerator(_ACCELERATOR.value, config)
    layer = parse_layer(_LAYER.value) if _LAYER.value is not None else None

    common.load_tensorflow()
    from dance_tf.hardware.accelerator import AcceleratorSpace
    from dance_tf.hardware.breakdown import break_down
    from dance_tf.supernet.search_space import make_space

    try:
        AcceleratorSpace(config.hardware.accelerators).encode(accelerator)
    except UserError as error:
        raise UserError(f"{error}; --set=hardware.accelerators.FIELD=[VALUE] widens it") from None
    space = make_space(config.space)
    layers = space.layers(architecture) if architecture else (layer,) if layer else ()
    report = {"architecture": architecture} if architecture else {}
    report |= break_down(layers, accelerator, machine)
    if _JSON.value:
        print(json.dumps(strict_data(report), indent=2, allow_nan=False))
    else:
        print(_format(report))


def parse_layer(text: str) -> Layer:
    """Return the layer of a text such as ``conv:K=32,C=16,P=16,Q=16,R=3,S=3,stride=2``.

    Raises:
        UserError: If kind, field or value is not one of a layer.
    """
    kind, colon, rest = text.partition(":")
    if kind not in _KINDS or not colon:
        raise UserError(f"--layer={text}: begin with one of {', '.join(f'{k}:' for k in _KINDS)}")
    values: dict[str, Any] = dict.fromkeys(DIMENSIONS, 1)
    for name, value in _assignments("--layer", rest, _KINDS[kind]).items():
        numbers = [_integer("--layer", name, number) for number in value.split("x")]
        is_pair = name in ("stride", "dilation")
        if len(numbers) > (2 if is_pair else 1):
            raise UserError(f"--layer: {name}={value} has too many numbers")
        values[name] = (numbers[0], numbers[-1]) if is_pair else numbers[0]
    return Layer(name=text, kind="depthwise" if kind == "depthwise" else "conv", **values)


def parse_accelerator(text: str) -> Accelerator:
    """Return the accelerator of ``pe_x=16,pe_y=16,rf_bytes=64,dataflow=row_stationary``.

    Raises:
        UserError: If a field is missing, unknown or bad.
    """
    values: dict[str, Any] = _assignments("--accelerator", text, _FIELDS)
    missing = [name for name in _FIELDS if name not in values]
    if missing:
        raise UserError(f"--accelerator={text}: {', '.join(missing)} missing")
    for name in _FIELDS[:3]:
        values[name] = _integer("--accelerator", name, values[name])
    return Accelerator(**values)


def _assignments(flag: str, text: str, names: tuple[str, ...]) -> dict[str, str]:
    values: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise UserError(f"{flag}: expected NAME=VALUE, got {part!r}")
        if name not in names:
            raise UserError(f"{flag}: no field {name!r}{did_you_mean(name, names)}")
        if name in values:
            raise UserError(f"{flag}: {name} is given twice")
        values[name] = value
    return values


def _integer(flag: str, name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UserError(f"{flag}: {name}={text} is not a positive integer")
    return int(text)


def _configuration() -> tuple[ExperimentConfig, Architecture | None]:
    """Return the configuration, and the architecture where one is asked for."""
    text = _ARCHITECTURE.value
    if text is None:
        return common.experiment_config(FLAGS), None
    if not text.endswith(".json"):
        config = common.experiment_config(FLAGS)
        return config, Architecture(config.space.name, tuple(op.strip() for op in text.split(",")))
    path = os.path.expanduser(text)
    data = read_json(path)
    try:
        architecture = Architecture(
            str(data["architecture"]["space"]), tuple(map(str, data["architecture"]["ops"]))
        )
    except (KeyError, TypeError):
        raise UserError(f"{text}: has no architecture with space and ops") from None
    beside = os.path.join(os.path.dirname(path), "config.json")
    says = FLAGS["preset"].value or FLAGS["config"].value
    if not says and os.path.exists(beside):
        config = config_from_json(read_json(beside))
        return override(config, FLAGS["set"].value or []), architecture
    return common.experiment_config(FLAGS), architecture


def _accelerator(text: str, config: ExperimentConfig) -> tuple[Accelerator, MachineConfig]:
    """Return accelerator and machine."""
    if not text.endswith(".json"):
        return parse_accelerator(text), config.hardware.machine
    data = read_json(os.path.expanduser(text))
    fields = data.get("accelerator", data) if isinstance(data, dict) else None
    if not isinstance(fields, dict) or not set(_FIELDS) <= set(fields):
        raise UserError(f"{text}: has no accelerator with {', '.join(_FIELDS)}")
    accelerator = Accelerator(**{name: fields[name] for name in _FIELDS})
    says = any(FLAGS[name].value for name in ("preset", "config", "set"))
    if says or "machine" not in data:
        return accelerator, config.hardware.machine
    recorded = config_from_json({"hardware": {"machine": data["machine"]}})
    return accelerator, recorded.hardware.machine


def _format(report: dict[str, Any]) -> str:
    """Return the report as tables for a reader."""
    from dance_tf.reporting import format_table

    array = report["accelerator"]
    sections = [
        f"{array['pe_x']} x {array['pe_y']} PEs, {array['rf_bytes']} B register file,"
        f" {array['dataflow']}, {report['technology']} (leakage not counted)",
        format_table(
            ["", "total"],
            [
                ["MACs", report["macs"]],
                ["cycles", report["latency_cycles"]],
                ["latency, ms", report["latency_ms"]],
                ["energy, uJ", report["energy_pj"] * 1e-6],
                ["area, mm2", report["area_um2"] * 1e-6],
                ["utilisation, %", 100 * report["utilisation"]],
                ["utilisation without waiting, %", 100 * report["array_utilisation"]],
            ],
        ),
        f"bound by {report['bound_by']}: "
        + ", ".join(
            f"{100 * cycles / report['latency_cycles']:.0f} % of the cycles by {name}"
            for name, cycles in report["cycles_bound_by"].items()
            if cycles
        ),
        _shares("energy", "uJ", report["energy_by_component_pj"]),
        _shares("area", "mm2", report["area_by_component_um2"]),
    ]
    if len(report["layers"]) > 1:
        headers = ["layer", "MACs", "cycles", "energy, uJ", "utilisation, %", "bound by"]
        rows = [
            [
                entry["layer"]["name"],
                entry["macs"],
                entry["latency_cycles"],
                entry["energy_pj"] * 1e-6,
                100 * entry["utilisation"],
                entry["bound_by"],
            ]
            for entry in report["layers"]
        ]
        sections.append(format_table(headers, rows))
    for entry in report["layers"]:
        real, padded = entry["layer"], entry["padded_layer"]
        grown = [f"{d} {real[d]} -> {padded[d]}" for d in DIMENSIONS if real[d] != padded[d]]
        note = f" (padded: {', '.join(grown)})" if grown else ""
        sections.append(f"mapping of {real['name']}{note}\n{entry['loop_nest']}")
    return "\n\n".join(sections)


def _shares(what: str, unit: str, parts: dict[str, float]) -> str:
    from dance_tf.reporting import format_table

    total = sum(parts.values())
    rows = [[name, value * 1e-6, 100 * value / total] for name, value in parts.items()]
    return format_table([what, unit, "%"], rows)


if __name__ == "__main__":
    common.run(main, FLAGS)
