"""Passive records that the packages hand to each other: fields, shapes and units.

Value records are frozen dataclasses that check themselves; records that carry
arrays or tensors are NamedTuples. Importing this module imports no TensorFlow.

Axes: A accelerators, L layers, M mappings, B samples, D searchable blocks,
O candidate ops.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from dance_tf.errors import UserError
from dance_tf.files import Json

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

__all__ = [
    "DATAFLOWS",
    "DIMENSIONS",
    "LOOPS",
    "METRICS",
    "OBJECTIVES",
    "Accelerator",
    "Accelerators",
    "Architecture",
    "Array",
    "Cost",
    "Evaluation",
    "InputDescription",
    "Layer",
    "Preprocessing",
    "Trust",
    "check_objective",
]

#: A NumPy array or a TensorFlow tensor.
Array: TypeAlias = "np.ndarray | tf.Tensor"

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
        UserError: If it is refused; the message says how to mend it.
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

    >>> stem = Layer("stem", "conv", N=1, K=16, C=3, P=16, Q=16, R=3, S=3, stride=(2, 2))
    >>> stem.macs
    110592
    >>> dict(zip(LOOPS, Layer("spatial", "depthwise", 1, 16, 1, 8, 8, 3, 3).loop_bounds))
    {'N': 1, 'K': 1, 'C': 1, 'P': 8, 'Q': 8, 'R': 3, 'S': 3, 'G': 16}
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


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One accelerator: PE array, register file per PE in bytes, dataflow by name.

    >>> Accelerator(pe_x=16, pe_y=8, rf_bytes=64, dataflow="row_stationary").num_pes
    128
    >>> Accelerator(16, 8, 64, "rs")
    Traceback (most recent call last):
    dance_tf.errors.UserError: accelerator: dataflow is 'rs', not one of weight_stationary, ...
    """

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

    @property
    def num_pes(self) -> int:
        """Processing elements of the array."""
        return self.pe_x * self.pe_y

    @classmethod
    def from_json(cls, data: Json, where: str) -> Accelerator:
        """Read an accelerator from an object of JSON; entries of other names are left alone.

        Args:
            data: The object.
            where: Name of the file, for messages.
        Raises:
            UserError: If a field is missing or bad.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(data, dict) or not set(names) <= set(data):
            raise UserError(f"{where}: has no accelerator with {', '.join(names)}")
        try:
            return cls(**{name: data[name] for name in names})
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


class Accelerators(NamedTuple):
    """Many accelerators as arrays of shape [A]."""

    pe_x: np.ndarray  # int32
    pe_y: np.ndarray  # int32
    rf_bytes: np.ndarray  # int32
    dataflow: np.ndarray  # int32, index into DATAFLOWS


class Cost(NamedTuple):
    """Cost of running something on accelerators; infinite where it cannot run."""

    latency_cycles: np.ndarray
    energy_pj: np.ndarray
    area_um2: np.ndarray


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One network of a space: the name of the chosen candidate op per searchable block.

    >>> Architecture("tiny_mbconv", ("mbconv5_e3", "zero"))
    Architecture(space='tiny_mbconv', ops=('mbconv5_e3', 'zero'))
    """

    space: str
    ops: tuple[str, ...]

    @classmethod
    def from_json(cls, data: Json, where: str) -> Architecture:
        """Read an architecture from an object of JSON; entries of other names are left alone.

        Args:
            data: The object.
            where: Name of the file, for messages.
        Raises:
            UserError: If `space` is not a text or `ops` not a list of texts.
        """
        space, ops = (data.get("space"), data.get("ops")) if isinstance(data, dict) else (0, 0)
        if not isinstance(space, str) or not isinstance(ops, list):
            raise UserError(f"{where}: has no architecture with space and ops")
        if not all(isinstance(op, str) for op in ops):
            raise UserError(f"{where}: architecture: ops is {ops!r}, not a list of names")
        return cls(space, tuple(ops))


class Evaluation(NamedTuple):
    """Metrics and accelerators that an evaluator predicts for B architectures.

    `metrics` is differentiable in the mixture weights; `accelerator_index` is not.
    """

    metrics: tf.Tensor  # float32 [B, 3] in the order of METRICS
    accelerator_index: tf.Tensor  # int32 [B], row of the accelerator space


class Trust(NamedTuple):
    """Estimated reliability of an evaluator's answers for B architectures."""

    predicted_regret: tf.Tensor  # float32 [B], objective over that of the best candidate, less 1
    error_bound: tf.Tensor  # float32 [B], no metric is further off, relative; infinite if unknown
    is_trusted: tf.Tensor  # bool [B], both are below what is usual


@dataclasses.dataclass(frozen=True)
class InputDescription:
    """Input of a network, and the preparation of stored images that a caller has to repeat.

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


class Preprocessing(NamedTuple):
    """Way of stored images to those that a network is fed, computed by TensorFlow."""

    spec: tf.TensorSpec  # of stored images, [B, H, W, C] with free H and W, or series [B, T, C]
    apply: Callable[[tf.Tensor], tf.Tensor]  # from those to float32 [B, ...] in 0..1
    stored: Callable[[int], list[np.ndarray]]  # the first stored images of the test split
