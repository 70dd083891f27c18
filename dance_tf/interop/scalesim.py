"""Layers as a SCALE-Sim topology: one CSV row per convolution.

SCALE-Sim drops what stands after a row's last comma, so every row ends in one. It knows
neither padding, dilation, batches nor groups:

* padding is part of the input, whose size is the smallest that gives the output;
* a depthwise layer is one row whose name has DP in it: SCALE-Sim runs it once per channel,
  with the filters of one channel. So is a grouped layer with one input channel per group;
* other grouped layers are one row per group, and batches one row per image, but for
  1x1 convolutions without stride, whose images lie one below the other;
* a dilated filter cannot be said, and is refused.

Rows have nine fields, heights first. Version 3.0 reads eight, with one stride for both
directions, and fails on nine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dance_tf.errors import UserError
from dance_tf.structs import Layer

__all__ = ["VERSIONS", "write_scalesim"]

#: Dialects of the topology file; the first is the default.
VERSIONS = ("2", "3")

_HEADER = (
    "Layer name",
    "IFMAP Height",
    "IFMAP Width",
    "Filter Height",
    "Filter Width",
    "Channels",
    "Num Filter",
)
_STRIDES = {"2": ("Stride Height", "Stride Width"), "3": ("Strides",)}


def write_scalesim(layers: Sequence[Layer], *, version: str = "2") -> str:
    """Return the text of a topology CSV that holds the MACs of the layers, exactly.

    Args:
        layers: The network, in its order.
        version: "2": nine fields, a stride for each direction. "3": eight fields.
    Raises:
        UserError: If a layer cannot be said; names it and why.
    """
    if version not in VERSIONS:
        raise UserError(f"SCALE-Sim: version is {version!r}; accepted are {', '.join(VERSIONS)}")
    rows: list[tuple] = [(*_HEADER, *_STRIDES[version])]
    names: set[str] = set()
    for layer in layers:
        rows += [(_unique(name, names), *fields) for name, fields in _rows(layer, version)]
    return "".join(",".join(map(str, row)) + ",\n" for row in rows)


def _rows(layer: Layer, version: str) -> list[tuple[str, tuple[int, ...]]]:
    """Return name and numbers of each row of a layer."""
    for axis, taps, dilation in zip(
        ("width", "height"), (layer.R, layer.S), layer.dilation, strict=True
    ):
        if taps > 1 and dilation > 1:
            raise UserError(
                f"layer {layer.name!r}: SCALE-Sim has no dilation, here {dilation} along the {axis}"
            )
    strides = _stride_fields(layer, version)
    outputs, images = layer.Q, layer.N
    if (layer.R, layer.S) == (1, 1) and layer.stride == (1, 1):
        outputs, images = layer.Q * layer.N, 1
    height = (outputs - 1) * layer.stride[1] + layer.S
    width = (layer.P - 1) * layer.stride[0] + layer.R
    _, filters, channels, *_, groups = layer.loop_bounds
    name = re.sub(r"[^\w./-]+", "_", layer.name).strip("_") or "layer"
    # DP anywhere in a name says depthwise.
    name = re.sub("DP", "Dp", name)
    if groups > 1 and channels == 1:
        named, channels = [f"{name}_DP"], groups
    else:
        named = [f"{name}_group{group}" for group in range(groups)] if groups > 1 else [name]
    if images > 1:
        named = [f"{name}_image{image}" for name in named for image in range(images)]
    fields = (height, width, layer.S, layer.R, channels, filters, *strides)
    return [(name, fields) for name in named]


def _stride_fields(layer: Layer, version: str) -> tuple[int, ...]:
    # A direction with one output has no stride to speak of.
    width = layer.stride[0] if layer.P > 1 else layer.stride[1]
    height = layer.stride[1] if layer.Q > 1 else width
    if version == "2":
        return layer.stride[1], layer.stride[0]
    if height != width:
        raise UserError(
            f"layer {layer.name!r}: version 3 of SCALE-Sim's topology has one stride, here"
            f" {layer.stride[1]} along the height and {layer.stride[0]} along the width"
        )
    return (height,)


def _unique(name: str, names: set[str]) -> str:
    """Return the name, with a number where it is taken."""
    found, number = name, 2
    while found in names:
        found, number = f"{name}_{number}", number + 1
    names.add(found)
    return found
