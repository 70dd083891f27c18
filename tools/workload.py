"""Layers and an accelerator from flags, for the tools that cost a workload.

A workload is one of

    --layer=conv:K=32,C=16,P=16,Q=16,R=3,S=3      (stride=2, dilation=1x2, groups and N as
    --layer=depthwise:K=96,P=8,Q=8,R=5,S=5         needed; dimensions not given are 1; with
    --layer=dense:K=10,C=1280                      groups, K counts all channels and C those
                                                   of one group)
    --architecture=mbconv3_e3,zero,...            one op per block of the space, or
    --architecture=RUN/result.json                the result of a search
    --keras_model=FILE.keras                      or .h5; --input_shape where it leaves axes open
    --application=MobileNetV2 --input_size=224    of keras.applications

and an accelerator is

    --accelerator=pe_x=16,pe_y=16,rf_bytes=64,dataflow=row_stationary
    --accelerator=RUN/accelerator.json
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, NamedTuple

from absl import flags

from dance_tf.config import ExperimentConfig, MachineConfig, config_from_json, override
from dance_tf.errors import UserError, did_you_mean
from dance_tf.files import Json, local_path, read_json
from dance_tf.structs import DIMENSIONS, Accelerator, Architecture, Layer

from . import flags as common

__all__ = [
    "Request",
    "Workload",
    "define_workload_flags",
    "fixed_accelerator",
    "load_workload",
    "parse_accelerator",
    "parse_layer",
    "read_architecture",
    "read_request",
]

_KINDS = {
    "conv": (*DIMENSIONS, "stride", "dilation", "groups"),
    "depthwise": ("N", "K", "P", "Q", "R", "S", "stride", "dilation"),
    "dense": ("N", "K", "C"),
}
_FIELDS = tuple(field.name for field in dataclasses.fields(Accelerator))
_SOURCES = ("layer", "architecture", "keras_model", "application")


@dataclasses.dataclass(frozen=True)
class Request:
    """Workload and accelerator of a command line, checked as far as small files tell."""

    config: ExperimentConfig
    machine: MachineConfig
    accelerator: Accelerator | None
    layer: Layer | None
    architecture: Architecture | None
    keras_model: str | None
    application: str | None
    input_size: int | None
    input_shapes: tuple[tuple[int, ...], ...] | None
    is_unsafe: bool


class Workload(NamedTuple):
    """Layers to cost, and what a report says of where they are from."""

    layers: tuple[Layer, ...]
    about: dict[str, Json]
    not_costed: list[dict[str, Json]]


def define_workload_flags(values: flags.FlagValues) -> None:
    """Add the flags that name a workload and an accelerator to those of a tool."""
    for name, text in {
        "layer": "One layer, such as conv:K=32,C=16,P=16,Q=16,R=3,S=3,stride=1. With groups, K"
        " counts the output channels of all and C the input channels of one.",
        "architecture": "One network of the space: op names with commas, or a result.json (its"
        " run's config.json, if it lies beside it, is the configuration unless --preset or"
        " --config says another).",
        "application": "A model of keras.applications, such as MobileNetV2, without weights.",
        "accelerator": "Fields with commas, or a JSON file; the machine of an accelerator.json"
        " holds unless --preset, --config or --set says another.",
    }.items():
        flags.DEFINE_string(name, None, text, flag_values=values)
    text = "A .keras or .h5 file. Layers that would run code from it are refused."
    common.define_path("keras_model", text, values)
    flags.DEFINE_integer(
        "input_size",
        None,
        "Height and width of the images of --application. Otherwise its own.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "input_shape",
        [],
        "Sizes behind the batch, such as 32,32,3, where --keras_model leaves them open."
        " Repeatable, in the model's order, where it has several inputs.",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "unsafe",
        False,
        "Load layers of --keras_model that run code from the file, such as Lambda, too.",
        flag_values=values,
    )


def read_request(values: flags.FlagValues) -> Request:
    """Return what parsed flags ask for; imports no TensorFlow.

    Raises:
        UserError: If the flags do not go together, or a value or file cannot be used.
    """
    flag: dict[str, Any] = values.flag_values_dict()
    given = {name: flag[name] for name in _SOURCES if flag[name] is not None}
    if len(given) != 1:
        raise UserError(
            "give one of --layer and --architecture, or one of --keras_model and --application"
            if not given
            else f"--{' and --'.join(given)} both name what to cost: give one of them"
        )
    for name, source in (
        ("input_size", "application"),
        ("input_shape", "keras_model"),
        ("unsafe", "keras_model"),
    ):
        if flag[name] and source not in given:
            raise UserError(f"--{name} goes with --{source}")
    config, architecture = read_architecture(values)
    accelerator, machine = None, config.hardware.machine
    if flag["accelerator"]:
        accelerator, machine = _accelerator(values, config)
    keras_model = given.get("keras_model")
    if keras_model is not None and not os.path.exists(keras_model):
        raise UserError(f"{keras_model}: no such file")
    shapes = tuple(
        tuple(_integer("--input_shape", "size", size) for size in text.split(","))
        for text in flag["input_shape"]
    )
    return Request(
        config=config,
        machine=machine,
        accelerator=accelerator,
        layer=parse_layer(given["layer"]) if "layer" in given else None,
        architecture=architecture,
        keras_model=keras_model,
        application=given.get("application"),
        input_size=flag["input_size"],
        input_shapes=shapes or None,
        is_unsafe=flag["unsafe"],
    )


def load_workload(request: Request) -> Workload:
    """Return the layers that are asked for; imports TensorFlow.

    Raises:
        UserError: If the architecture or the model cannot be costed.
    """
    if request.layer is not None:
        return Workload((request.layer,), {}, [])
    if request.architecture is not None:
        from dance_tf.supernet.space_files import make_space

        layers = make_space(request.config.space).layers(request.architecture)
        return Workload(tuple(layers), {"architecture": request.architecture}, [])
    from dance_tf.interop.keras_files import load_application, load_keras_file
    from dance_tf.interop.keras_model import layers_of_keras_model

    if request.keras_model is not None:
        model = load_keras_file(request.keras_model, is_unsafe=request.is_unsafe)
    else:
        model = load_application(str(request.application), request.input_size)
    found = layers_of_keras_model(model, request.input_shapes)
    about = {
        "model": {"name": found.name, "num_parameters": found.num_parameters},
        "notes": list(found.notes),
    }
    not_costed = [
        {
            "name": entry.name,
            "class": entry.layer_class,
            "words_moved": entry.words_moved,
            "share_of_data_moved": entry.share_of_data_moved,
            "folded_into": entry.folded_into,
        }
        for entry in found.not_costed
    ]
    return Workload(found.layers, about, not_costed)


def parse_layer(text: str) -> Layer:
    """Return the layer of a text such as ``conv:K=32,C=16,P=16,Q=16,R=3,S=3,stride=2``.

    Raises:
        UserError: If kind, field or value is not one of a layer.
    """
    kind, colon, rest = text.partition(":")
    if kind not in _KINDS or not colon:
        raise UserError(f"--layer={text}: begin with one of {', '.join(f'{k}:' for k in _KINDS)}")
    values: dict[str, Json] = dict.fromkeys(DIMENSIONS, 1)
    for name, value in _assignments("--layer", rest, _KINDS[kind]).items():
        numbers = [_integer("--layer", name, number) for number in value.split("x")]
        is_pair = name in ("stride", "dilation")
        if len(numbers) > (2 if is_pair else 1):
            raise UserError(f"--layer: {name}={value} has too many numbers")
        values[name] = (numbers[0], numbers[-1]) if is_pair else numbers[0]
    return Layer(name=text, kind="depthwise" if kind == "depthwise" else "conv", **values)


def parse_accelerator(text: str, flag: str = "--accelerator") -> Accelerator:
    """Return the accelerator of ``pe_x=16,pe_y=16,rf_bytes=64,dataflow=row_stationary``.

    Raises:
        UserError: If a field is missing, unknown or bad.
    """
    values: dict[str, Json] = _assignments(flag, text, _FIELDS)
    missing = [name for name in _FIELDS if name not in values]
    if missing:
        raise UserError(f"{flag}={text}: {', '.join(missing)} missing")
    for name in _FIELDS[:3]:
        values[name] = _integer(flag, name, values[name])
    return Accelerator(**values)


def fixed_accelerator(text: str) -> Accelerator:
    """Return the accelerator that --fixed_accelerator names.

    Raises:
        UserError: If a field is missing, unknown or bad, or the file has no accelerator.
    """
    if not text.endswith(".json"):
        return parse_accelerator(text, "--fixed_accelerator")
    data = read_json(local_path(text, "--fixed_accelerator"))
    fields = data.get("accelerator", data) if isinstance(data, dict) else None
    return Accelerator.from_json(fields, text)


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
    if not text.isascii() or not text.strip().isdigit() or int(text) < 1:
        raise UserError(f"{flag}: {name}={text} is not a positive integer")
    return int(text)


def read_architecture(
    values: flags.FlagValues,
) -> tuple[ExperimentConfig, Architecture | None]:
    """Return the configuration, and the architecture where --architecture asks for one.

    Raises:
        UserError: If either cannot be read.
    """
    text = values["architecture"].value
    if text is None:
        return common.experiment_config(values), None
    if not text.endswith(".json"):
        from dance_tf.supernet.space_files import name_of

        config = common.experiment_config(values)
        return config, Architecture(
            name_of(config.space), tuple(op.strip() for op in text.split(","))
        )
    path = local_path(text, "--architecture")
    data = read_json(path)
    fields = data.get("architecture") if isinstance(data, dict) else None
    architecture = Architecture.from_json(fields, text)
    beside = os.path.join(os.path.dirname(path), "config.json")
    says = values["preset"].value or values["config"].value
    if not says and os.path.exists(beside):
        config = config_from_json(read_json(beside))
        return override(config, values["set"].value or []), architecture
    return common.experiment_config(values), architecture


def _accelerator(
    values: flags.FlagValues, config: ExperimentConfig
) -> tuple[Accelerator, MachineConfig]:
    """Return accelerator and machine."""
    text = str(values["accelerator"].value)
    if not text.endswith(".json"):
        return parse_accelerator(text), config.hardware.machine
    data = read_json(local_path(text, "--accelerator"))
    fields = data.get("accelerator", data) if isinstance(data, dict) else None
    accelerator = Accelerator.from_json(fields, text)
    says = any(values[name].value for name in ("preset", "config", "set"))
    if says or "machine" not in data:
        return accelerator, config.hardware.machine
    recorded = config_from_json({"hardware": {"machine": data["machine"]}})
    _check_source(data.get("cost_source"), recorded.hardware.machine, text)
    return accelerator, recorded.hardware.machine


def _check_source(source: Json, machine: MachineConfig, text: str) -> None:
    """Refuse the machine of an accelerator.json whose costs came from other figures."""
    from dance_tf.hardware.technology import technology

    if not isinstance(source, dict):  # a file from elsewhere need not say
        return
    folder = os.path.dirname(text) or "."
    if source.get("kind") == "measured":
        raise UserError(
            f"{text}: its costs were measured ({source.get('name')}), not computed: say the"
            " machine to compute with by --preset, --config or --set"
        )
    if technology(machine.technology).sha256 != source.get("sha256"):
        raise UserError(
            f"{text}: technology {machine.technology} has changed since; what it was then:"
            f" --config={folder}/config.json"
            f" --set=hardware.machine.technology={folder}/technology.json"
        )
