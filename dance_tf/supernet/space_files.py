"""Network spaces as JSON files: those that are shipped, and a user's own.

A file holds, with channels before the width multiplier:

    schema_version    1
    name              name that architectures carry: letters, digits, `_`, `-`
    source            where the space comes from, in words
    input_shape       [H, W, C] of images, or [T, C] of series
    width_multiplier  factor of all channel counts
    activation        relu6, relu or hard_swish, where an op does not name its own
    stem              channels, kernel, stride; positions: whether a vector that is learnt for
                      each place is added
    first_channels    channels of a 3x3 MBConv of expansion 1 after the stem; null: none
    stages            blocks, channels, stride (of the first block); ops: the candidate ops of
                      its blocks, where these are not all; widths: factors of inner channels,
                      each of which makes one more candidate of every mbconv and residual
    head_channels     channels of a 1x1 convolution after the blocks; null: none
    ops               names of the candidate ops, in the order of their index; see
                      candidate_ops.py
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from dance_tf.config import SpaceConfig
from dance_tf.errors import UserError, did_you_mean
from dance_tf.files import Json, read_json
from dance_tf.supernet.candidate_ops import CandidateOp
from dance_tf.supernet.op_kinds import MBConv, Residual
from dance_tf.supernet.op_names import parse_op
from dance_tf.supernet.search_space import Block, NetworkSpace

__all__ = ["SPACES", "format_space", "make_space", "name_of", "read_space", "space_data"]

_FOLDER = pathlib.Path(__file__).with_name("spaces")

#: Names of the shipped spaces. `tiny_mbconv` is small enough to enumerate, for a first look.
SPACES = tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))

_SCHEMA_VERSION = 1

_STEM = {"channels": None, "kernel": 3, "stride": 1, "positions": False}
_STAGE = {"blocks": None, "channels": None, "stride": 1, "ops": None, "widths": None}

#: Fields of a file and their values where it does not say; None: it has to.
_FIELDS: dict[str, Json] = {
    "schema_version": None,
    "name": None,
    "source": "",
    "input_shape": None,
    "width_multiplier": 1.0,
    "activation": "relu6",
    "stem": None,
    "first_channels": 0,
    "stages": None,
    "head_channels": 0,
    "ops": None,
}


def make_space(
    config: SpaceConfig, num_classes: int = 10, *, own_ops: Sequence[CandidateOp] = ()
) -> NetworkSpace:
    """Build a space, with the config's numbers in place of its own where given.

    >>> import dance_tf
    >>> space = dance_tf.make_space(dance_tf.preset("cifar10").space)
    >>> space.name, space.input_size, space.num_blocks
    ('cifar_mbconv', 32, 9)

    Args:
        config: Name of a shipped space or path of a .json file, and numbers that replace its
            own.
        num_classes: Number of classes of the data set, where the config does not say it.
        own_ops: Ops of a user's own that the file names; see candidate_ops.CandidateOp.
    Raises:
        UserError: If the name is unknown, the file is not a space or a number does not fit.
    """
    data = space_data(config.name)
    width = data["width_multiplier"] if config.width_multiplier is None else config.width_multiplier
    classes = num_classes if config.num_classes is None else config.num_classes
    if not width > 0:
        raise UserError(f"space.width_multiplier is {width}, not positive")
    if classes < 2:
        raise UserError(f"space.num_classes is {classes}, not at least 2")
    return _built(data, width, config.input_size, classes, tuple(own_ops))


def read_space(
    path: str | os.PathLike, num_classes: int = 10, *, own_ops: Sequence[CandidateOp] = ()
) -> NetworkSpace:
    """Return the space of a file; see `make_space`."""
    return make_space(SpaceConfig(os.fspath(path)), num_classes, own_ops=own_ops)


def name_of(config: SpaceConfig) -> str:
    """Return the name that the architectures of a space carry; see `space_data`."""
    name: str = space_data(config.name)["name"]
    return name


def space_data(name: str) -> dict[str, Json]:
    """Return what the file of a space holds, with every field.

    Args:
        name: Name of a shipped space, or a path that ends in .json.
    Raises:
        UserError: If there is no such space, or the file is not one.
    """
    if name.endswith(".json"):
        return _checked(read_json(os.path.expanduser(name)), name)
    if name not in SPACES:
        raise UserError(
            f"unknown space {name!r}{did_you_mean(name, SPACES)}; the path of a file ends in .json"
        )
    return dict(_shipped(name))


@functools.cache
def _shipped(name: str) -> dict[str, Json]:
    return _checked(read_json(_FOLDER / f"{name}.json"), name)


def format_space(data: Mapping[str, Json]) -> str:
    """Return the text of a space's file: one line for each field, stage and op."""
    lines = []
    for key, value in data.items():
        if key in ("stages", "ops"):
            rows = ",\n".join(f"    {json.dumps(row)}" for row in value)
            lines.append(f'  "{key}": [\n{rows}\n  ]')
        else:
            lines.append(f'  "{key}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _checked(data: Json, where: str) -> dict[str, Json]:
    """Return the fields of a file, typed, with what it does not say."""
    if not isinstance(data, dict) or data.get("schema_version") != _SCHEMA_VERSION:
        version = data.get("schema_version") if isinstance(data, dict) else None
        raise UserError(
            f"{where}: schema_version is {version!r}, this reads network spaces of"
            f" {_SCHEMA_VERSION}"
        )
    values = _filled(data, _FIELDS, where)
    if not isinstance(values["name"], str) or not re.fullmatch(r"[\w-]+", values["name"]):
        raise UserError(f"{where}: name is {values['name']!r}, not letters, digits, _ and -")
    for field in ("source", "activation"):
        if not isinstance(values[field], str):
            raise UserError(f"{where}: {field} is {values[field]!r}, not a text")
    shape = values["input_shape"]
    if not isinstance(shape, list) or len(shape) not in (2, 3):
        raise UserError(f"{where}: input_shape is {shape!r}, not [H, W, C] of images or [T, C]")
    for side in shape:
        _count(side, "input_shape", where)
    _positive(values["width_multiplier"], "width_multiplier", where)
    values["stem"] = _filled(values["stem"], _STEM, f"{where}: stem")
    for field in ("channels", "kernel", "stride"):
        _count(values["stem"][field], field, f"{where}: stem")
    if values["stem"]["kernel"] % 2 == 0:
        raise UserError(f"{where}: stem: kernel is {values['stem']['kernel']}, which is not odd")
    if not isinstance(values["stem"]["positions"], bool):
        raise UserError(f"{where}: stem: positions is not true or false")
    for field in ("first_channels", "head_channels"):
        values[field] = values[field] or None
        if values[field] is not None:
            _count(values[field], field, where)
    _names(values["ops"], "ops", where)
    stages = values["stages"]
    if not isinstance(stages, list) or not stages:
        raise UserError(f"{where}: stages is not a list of stages")
    values["stages"] = [_stage(s, f"{where}: stage {i}") for i, s in enumerate(stages)]
    return values


def _stage(data: Json, where: str) -> dict[str, Json]:
    values = _filled(data, _STAGE, where, optional=("ops", "widths"))
    for field in ("blocks", "channels", "stride"):
        _count(values[field], field, where)
    if values["ops"] is not None:
        _names(values["ops"], "ops", where)
    if values["widths"] is not None:
        if not isinstance(values["widths"], list) or not values["widths"]:
            raise UserError(f"{where}: widths is {values['widths']!r}, not a list of factors")
        for width in values["widths"]:
            _positive(width, "widths", where)
    return {key: value for key, value in values.items() if value is not None}


def _filled(
    data: Json, fields: Mapping[str, Json], where: str, optional: Sequence[str] = ()
) -> dict[str, Json]:
    if not isinstance(data, dict):
        raise UserError(f"{where} is not an object of {', '.join(fields)}")
    for key in data:
        if key not in fields:
            raise UserError(f"{where}: unknown field {key!r}{did_you_mean(key, fields)}")
    values = {key: data.get(key, usual) for key, usual in fields.items()}
    for key, value in values.items():
        if value is None and fields[key] is None and key not in optional:
            raise UserError(f"{where}: {key} is missing")
    return values


def _count(value: Json, field: str, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10**6:
        raise UserError(f"{where}: {field} is {value!r}, not an integer of 1 to 1000000")


def _positive(value: Json, field: str, where: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 1e-3 <= value <= 1e3:
        raise UserError(f"{where}: {field} is {value!r}, not a number of 0.001 to 1000")


def _names(value: Json, field: str, where: str) -> None:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise UserError(f"{where}: {field} is {value!r}, not a list of names of ops")


def _built(
    data: Mapping[str, Json],
    width: float,
    input_size: int | None,
    num_classes: int,
    own_ops: tuple[CandidateOp, ...],
) -> NetworkSpace:
    *sides, image_channels = data["input_shape"]
    is_series = len(sides) == 1
    if input_size is not None:  # of the longer side; the form of the input is kept
        sides = [_scaled(side, input_size, max(sides)) for side in sides]
    stem, stages = data["stem"], data["stages"]
    total_stride = stem["stride"] * math.prod(stage["stride"] for stage in stages)
    for side in sides:
        if side % total_stride:
            what = "space.input_size" if input_size else "input_shape"
            raise UserError(f"{what} is {side}, not a positive multiple of {total_stride}")

    def channels(count: int) -> int:
        return max(1, round(count * width))

    own_names = {op.name for op in own_ops}
    names = list(data["ops"])
    # Where a width makes candidates of a stage's own, each stage says which it has.
    has_widths = any("widths" in stage for stage in stages)
    stage_names: list[tuple[str, ...] | None] = []
    for stage in stages:
        candidates = _with_widths(stage.get("ops") or data["ops"], stage.get("widths"), own_names)
        stage_names.append(candidates if has_widths or stage.get("ops") else None)
        names += [op for op in candidates if op not in names]
    blocks = []
    shape = (1 if is_series else sides[0] // stem["stride"], sides[-1] // stem["stride"])
    previous = channels(data["first_channels"] or stem["channels"])
    for stage, own in zip(stages, stage_names, strict=True):
        for position in range(stage["blocks"]):
            stride = stage["stride"] if position == 0 else 1
            shape = (shape[0] if is_series else shape[0] // stride, shape[1] // stride)
            size = shape[0] if shape[0] == shape[1] and not is_series else shape
            block = Block(previous, channels(stage["channels"]), size, stride, own, is_series)
            blocks.append(block)
            previous = channels(stage["channels"])
    sides = [1, *sides] if is_series else sides
    return NetworkSpace(
        name=data["name"],
        input_size=sides[0] if sides[0] == sides[1] and not is_series else (sides[0], sides[1]),
        num_classes=num_classes,
        width_multiplier=width,
        stem_channels=channels(stem["channels"]),
        first_channels=data["first_channels"] and channels(data["first_channels"]),
        head_channels=data["head_channels"] and channels(data["head_channels"]),
        blocks=tuple(blocks),
        op_names=tuple(names),
        image_channels=image_channels,
        activation=data["activation"],
        stem_kernel=stem["kernel"],
        stem_stride=stem["stride"],
        has_positions=stem["positions"],
        is_series=is_series,
        own_ops=own_ops,
    )


def _scaled(side: int, input_size: int, longest: int) -> int:
    if side * input_size % longest:
        raise UserError(f"space.input_size {input_size} does not keep the form of the input")
    return side * input_size // longest


def _with_widths(
    names: Sequence[str], widths: Sequence[float] | None, own_names: set[str]
) -> tuple[str, ...]:
    """Return candidates with each width of their inner channels in place of their own."""
    found = []
    for name in names:
        op = None if name in own_names else parse_op(name)
        if isinstance(op, MBConv | Residual) and widths:
            found += [dataclasses.replace(op, width=float(w)).name for w in widths]
        else:
            found.append(name)
    return tuple(dict.fromkeys(found))
