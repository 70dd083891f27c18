"""Layers of a network as loop bounds, and their counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dance_tf.structs import Layer, Workload

__all__ = ["conv", "dense", "depthwise", "layer_key", "to_workload"]


def conv(
    name: str,
    *,
    in_channels: int,
    out_channels: int,
    output_size: int,
    kernel: int,
    stride: int = 1,
) -> Layer:
    """Return a square convolution with batch 1."""
    return Layer(
        name=name,
        kind="conv",
        N=1,
        K=out_channels,
        C=in_channels,
        P=output_size,
        Q=output_size,
        R=kernel,
        S=kernel,
        stride=(stride, stride),
    )


def depthwise(name: str, *, channels: int, output_size: int, kernel: int, stride: int = 1) -> Layer:
    """Return a square depthwise convolution with batch 1."""
    return Layer(
        name=name,
        kind="depthwise",
        N=1,
        K=channels,
        C=1,
        P=output_size,
        Q=output_size,
        R=kernel,
        S=kernel,
        stride=(stride, stride),
    )


def dense(name: str, *, in_features: int, out_features: int) -> Layer:
    """Return a fully connected layer with batch 1."""
    return conv(name, in_channels=in_features, out_channels=out_features, output_size=1, kernel=1)


def layer_key(layer: Layer) -> tuple:
    """Return what determines a layer's cost: everything but its name."""
    return (*layer.loop_bounds, *layer.stride, *layer.dilation)


def to_workload(layers: Sequence[Layer]) -> Workload:
    """Return layers as arrays, fields of shape [L] and [L, ...]."""
    return Workload(
        dims=np.asarray([layer.dims for layer in layers], np.int32).reshape(-1, 7),
        groups=np.asarray([layer.num_groups for layer in layers], np.int32),
        stride=np.asarray([layer.stride for layer in layers], np.int32).reshape(-1, 2),
        dilation=np.asarray([layer.dilation for layer in layers], np.int32).reshape(-1, 2),
    )
