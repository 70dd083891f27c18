"""Passive records that the packages hand to each other: fields, shapes and units.

Value records are frozen dataclasses that check themselves; records that carry
arrays or tensors are NamedTuples. Importing this module imports no TensorFlow.

Axes: A accelerators, L layers, M mappings, B samples, D searchable blocks,
O candidate ops.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

from dance_tf.errors import UserError

__all__ = [
    "DATAFLOWS",
    "DIMENSIONS",
    "LOOPS",
    "METRICS",
    "OBJECTIVES",
    "Accelerator",
    "Accelerators",
    "Architecture",
    "Cost",
    "Evaluation",
    "InputDescription",
    "Layer",
    "Trust",
    "Workload",
    "check_objective",
]

#: Loop dimensions of a layer: batch, output channels, input channels, output
#: width, output height, filter width, filter height. The order of every axis of
#: length 7.
DIMENSIONS = ("N", "K", "C", "P", "Q", "R", "S")

#: Loops that run a layer: K and C of one group, and G over the groups. The order of
#: every axis of length 8.
LOOPS = (*DIMENSIONS, "G")

#: Dataflows in the order of their integer code.
DATAFLOWS = ("weight_stationary", "output_stationary", "row_stationary")

#: The order of every axis of length 3 that holds metrics.
METRICS = ("latency_ms", "energy_mj", "area_mm2")

#: Objectives by name: a linear sum, or a product of powers, of metrics that are divided by
#: a reference's; and the weights or powers in the order of METRICS, None where the user
#: gives them. In `latency`, `energy` and `area` one metric counts four times as much as
#: each other one. All weights sum to 3: a change of all metrics at the reference by a per
#: cent then changes each objective as much as it changes EDAP, and lambda_2 keeps its
#: meaning. A metric alone is `linear` with the other weights 0.
OBJECTIVES: dict[str, tuple[str, tuple[float, float, float] | None]] = {
    "EDAP": ("product", (1.0, 1.0, 1.0)),
    "latency": ("linear", (2.0, 0.5, 0.5)),
    "energy": ("linear", (0.5, 2.0, 0.5)),
    "area": ("linear", (0.5, 0.5, 2.0)),
    "linear": ("linear", None),
    "product": ("product", None),
}


#: Objectives are computed in float32, of metrics within some thousandfold of the reference.
_MAX_POWERS, _MAX_WEIGHT, _MIN_WEIGHT = 12.0, 1e30, 1e-30


def check_objective(kind: str, weights: tuple[float, float, float]) -> None:
    """Refuse an objective that is none, or that float32 cannot hold.

    Args:
        kind: "product" or "linear".
        weights: Powers or weights in the order of METRICS.
    Raises:
        UserError: Says how to mend it.
    """
    if kind not in ("product", "linear"):
        raise UserError(f"objective: kind is {kind!r}, not 'product' or 'linear'")
    if len(weights) != 3 or not all(0 <= weight < math.inf for weight in weights):
        raise UserError(
            f"objective: weights are {weights}, not three non-negative numbers, all finite"
        )
    if not any(weights):
        raise UserError(f"objective: weights are {weights}, all three of them 0")
    most, what = (
        (_MAX_POWERS, "powers add up to") if kind == "product" else (_MAX_WEIGHT, "weights sum to")
    )
    mend = "divide all of them by the same number, which changes no order"
    if sum(weights) > most:
        raise UserError(
            f"objective: {what} {sum(weights):g} (they are {weights}), more than {most:g}, which"
            f" float32 cannot be relied on to hold: {mend}"
        )
    for weight in weights:
        if 0 < weight < _MIN_WEIGHT:
            raise UserError(
                f"objective: weight {weight:g} of {weights} is below {_MIN_WEIGHT:g}, which"
                " float32 may not tell from 0: write 0, or multiply all of them by the same number"
            )


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution-like layer as seven loop bounds.

    K counts the output channels of all groups, C the input channels of one group. A
    depthwise layer has K channels and C = 1; `groups` is for other grouped convolutions.
    A dense layer has P = Q = R = S = 1. Padding is folded into the input size. Stride
    and dilation are (width, height).
    """

    name: str
    kind: str  # "conv" or "depthwise"
    N: int
    K: int
    C: int
    P: int
    Q: int
    R: int
    S: int
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("conv", "depthwise"):
            raise UserError(
                f"layer {self.name!r}: kind is {self.kind!r}, not 'conv' or 'depthwise'"
            )
        for field in (*DIMENSIONS, "stride", "dilation", "groups"):
            value = getattr(self, field)
            values = value if isinstance(value, tuple) else (value,)
            if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in values):
                raise UserError(
                    f"layer {self.name!r}: {field} is {value!r}, not a positive integer"
                )
            if max(values) >= 2**31:
                raise UserError(f"layer {self.name!r}: {field} is {value}, above 2**31 - 1")
        if self.kind == "depthwise" and self.C != 1:
            raise UserError(f"layer {self.name!r}: a depthwise layer has C = 1, not {self.C}")
        if self.kind == "depthwise" and self.groups != 1:
            raise UserError(f"layer {self.name!r}: the groups of a depthwise layer are its K")
        if self.K % self.groups:
            raise UserError(f"layer {self.name!r}: {self.groups} groups do not divide K = {self.K}")

    @property
    def dims(self) -> tuple[int, ...]:
        """Bounds in the order of DIMENSIONS."""
        return tuple(getattr(self, d) for d in DIMENSIONS)

    @property
    def num_groups(self) -> int:
        """Groups that share no channel: K of a depthwise layer."""
        return self.K if self.kind == "depthwise" else self.groups

    @property
    def loop_bounds(self) -> tuple[int, ...]:
        """Bounds in the order of LOOPS; what a depthwise layer calls K is its G."""
        n, k, *rest = self.dims
        return (n, k // self.num_groups, *rest, self.num_groups)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the layer."""
        product = 1
        for bound in self.dims:
            product *= bound
        return product


class Workload(NamedTuple):
    """Layers as arrays. Rows of zeros in `dims` are padding and cost nothing."""

    dims: Any  # int32 [L, 7], in the order of DIMENSIONS
    groups: Any  # int32 [L]; K where the layer is depthwise
    stride: Any  # int32 [L, 2], (width, height)
    dilation: Any  # int32 [L, 2], (width, height)


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One accelerator: PE array, register file per PE in bytes, dataflow by name."""

    pe_x: int
    pe_y: int
    rf_bytes: int
    dataflow: str

    def __post_init__(self) -> None:
        for field in ("pe_x", "pe_y", "rf_bytes"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"accelerator: {field} is {value!r}, not a positive integer")
        if self.dataflow not in DATAFLOWS:
            raise UserError(
                f"accelerator: dataflow is {self.dataflow!r}, not one of {', '.join(DATAFLOWS)}"
            )


class Accelerators(NamedTuple):
    """Many accelerators as arrays of shape [A]."""

    pe_x: Any  # int32
    pe_y: Any  # int32
    rf_bytes: Any  # int32
    dataflow: Any  # int32, index into DATAFLOWS


class Cost(NamedTuple):
    """Cost of running something on accelerators; infinite where it cannot run."""

    latency_cycles: Any
    energy_pj: Any
    area_um2: Any


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One network of a space: the name of the chosen candidate op per searchable block."""

    space: str
    ops: tuple[str, ...]


class Evaluation(NamedTuple):
    """What an evaluator says of architectures.

    `metrics` is differentiable in the mixture weights; `accelerator_index` is not.
    """

    metrics: Any  # float32 [B, 3] in the order of METRICS
    accelerator_index: Any  # int32 [B], row of the accelerator space


class Trust(NamedTuple):
    """How far an evaluator's answer can be relied on."""

    predicted_regret: Any  # float32 [B], objective over that of the best candidate, less 1
    error_bound: Any  # float32 [B], no metric is further off, relative; infinite if unknown
    is_trusted: Any  # bool [B], both are below what is usual


@dataclasses.dataclass(frozen=True)
class InputDescription:
    """What a network is fed, and how stored images become it: all that a caller has to repeat.

    A stored value v becomes (v - source low) / (source high - source low) within 0..1, then
    value_range by the same rule; values beyond source_range take its ends.
    """

    height: int  # pixels
    width: int
    channels: int
    value_range: tuple[float, float]  # of what the network is fed
    source_range: tuple[float, float]  # values of stored images that become value_range
    source_shape: tuple[int | None, ...]  # (H, W, C) of stored images; None where they differ
    resize: str | None  # a phrase such as "averaged by area to 16x16"; None: the size is kept
    crop: str | None  # a phrase such as "the largest central square"; None: all of the image
    channel_order: str  # "RGB", "grey", or "RGB, all three the same grey"
    class_names: tuple[str, ...] | None  # in the order of the labels, if they have names
