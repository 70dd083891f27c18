"""Layers of a network as loop bounds, and their counts."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dance_tf.protocols import SearchSpace
from dance_tf.structs import Layer

__all__ = [
    "conv",
    "dense",
    "depthwise",
    "different_layers",
    "layer_key",
    "op_macs",
    "pointwise",
    "products_of_attention",
    "space_layers",
]


def conv(
    name: str,
    *,
    in_channels: int,
    out_channels: int,
    output_size: int | tuple[int, int],
    kernel: int | tuple[int, int],
    stride: int = 1,
    groups: int = 1,
) -> Layer:
    """Return a convolution with batch 1.

    Args:
        name: Name of the layer.
        in_channels: Input channels of all groups.
        out_channels: Output channels of all groups.
        output_size: Height and width of the output, or one number for both.
        kernel: Height and width of the filter, or one number for both.
        stride: Stride in both directions.
        groups: Number of groups.
    """
    (height, width), (filter_height, filter_width) = _pair(output_size), _pair(kernel)
    return Layer(
        name=name,
        kind="conv",
        N=1,
        K=out_channels,
        C=in_channels // groups,
        P=width,
        Q=height,
        R=filter_width,
        S=filter_height,
        stride=(stride, stride),
        groups=groups,
    )


def depthwise(
    name: str,
    *,
    channels: int,
    output_size: int | tuple[int, int],
    kernel: int | tuple[int, int],
    stride: int = 1,
) -> Layer:
    """Return a depthwise convolution with batch 1; sizes as `conv` takes them."""
    (height, width), (filter_height, filter_width) = _pair(output_size), _pair(kernel)
    return Layer(
        name=name,
        kind="depthwise",
        N=1,
        K=channels,
        C=1,
        P=width,
        Q=height,
        R=filter_width,
        S=filter_height,
        stride=(stride, stride),
    )


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def pointwise(
    name: str,
    in_channels: int,
    out_channels: int,
    output_size: int | tuple[int, int],
    *,
    stride: int = 1,
    groups: int = 1,
) -> Layer:
    """Return a 1x1 convolution with batch 1; see `conv`."""
    return conv(
        name,
        in_channels=in_channels,
        out_channels=out_channels,
        output_size=output_size,
        kernel=1,
        stride=stride,
        groups=groups,
    )


def dense(name: str, *, in_features: int, out_features: int) -> Layer:
    """Return a fully connected layer with batch 1."""
    return pointwise(name, in_features, out_features, 1)


def products_of_attention(
    prefix: str, *, length: int, channels: int, heads: int, key_width: int
) -> tuple[Layer, ...]:
    """Return the matrix products of self-attention over a series, batch 1.

    Args:
        prefix: Beginning of the layers' names.
        length: Length of the series.
        channels: Channels of inputs and outputs.
        heads: Number of heads.
        key_width: Channels of the queries, keys and values of a head.
    """
    inner = heads * key_width

    def product(name: str, in_channels: int, out_channels: int, groups: int = 1) -> Layer:
        return pointwise(f"{prefix}/{name}", in_channels, out_channels, (1, length), groups=groups)

    return (
        *(product(name, channels, inner) for name in ("query", "key", "value")),
        # What each head keeps to itself makes groups of a 1x1 convolution.
        product("scores", inner, heads * length, heads),
        product("weighted", heads * length, inner, heads),
        product("output", inner, channels),
    )


def layer_key(layer: Layer) -> tuple[int, ...]:
    """Return what determines a layer's cost: everything but its name."""
    return (*layer.loop_bounds, *layer.stride, *layer.dilation)


def different_layers(layers: Iterable[Layer]) -> list[Layer]:
    """Return the first of the layers of each shape."""
    found: dict[tuple[int, ...], Layer] = {}
    for layer in layers:
        found.setdefault(layer_key(layer), layer)
    return list(found.values())


def op_macs(space: SearchSpace) -> tuple[float, np.ndarray]:
    """Return the MACs of the layers that all networks have, and of each op, float64 [D, O].

    Those of an op that a block lacks are 0.
    """
    per_op = [
        [
            float(sum(layer.macs for layer in space.op_layers(block, op))) if is_there else 0.0
            for op, is_there in zip(space.op_names, row, strict=True)
        ]
        for block, row in enumerate(space.op_mask)
    ]
    return float(sum(layer.macs for layer in space.fixed_layers())), np.asarray(per_op)


def space_layers(space: SearchSpace) -> list[Layer]:
    """Return the layers of different shape that the networks of a space are made of.

    >>> import dance_tf
    >>> layers = space_layers(dance_tf.make_space(dance_tf.preset("tiny").space))
    >>> len(layers)
    24
    >>> layers[0]
    Layer(name='stem', ...)
    """
    layers = list(space.fixed_layers())
    for block in range(space.num_blocks):
        for op, name in enumerate(space.op_names):
            if space.op_mask[block, op]:
                layers += space.op_layers(block, name)
    return different_layers(layers)
