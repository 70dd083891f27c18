"""Ops that are chains of convolutions, with their parameters and the layers that they run.

The identity around a skippable block is no part of an op, and nothing activates its sum. Batch
normalisation follows each convolution. On series a kernel runs along time alone.

Source: Sandler et al. (2018), MobileNetV2; Howard et al. (2019), MobileNetV3, section 5.3, for
squeeze and excite; He et al. (2015), Deep Residual Learning, figure 5; Howard et al. (2017),
MobileNets; Cai et al. (2020), Once-for-All, for the width inside a block.
"""

from __future__ import annotations

import dataclasses

from dance_tf.hardware.layers import conv, dense, depthwise, pointwise
from dance_tf.structs import Layer
from dance_tf.supernet.candidate_ops import BlockShape, ChainOp, Convolution, SqueezeExcite, Step

__all__ = [
    "SUFFIX_OF",
    "Conv",
    "Identity",
    "MBConv",
    "Residual",
    "Separable",
    "Zero",
]

#: End of the name of an op with an activation of its own.
SUFFIX_OF = {"relu": "_relu", "relu6": "_relu6", "hard_swish": "_hswish"}
_ACTIVATION = r"(?P<activation>_relu6|_relu|_hswish)?"
_WIDTH = r"(?:_w(?P<width>[0-9]+(?:\.[0-9]+)?))?"


def _sides(kernel: int, block: BlockShape) -> tuple[int, int]:
    return (1, kernel) if block.is_series else (kernel, kernel)


@dataclasses.dataclass(frozen=True)
class MBConv(ChainOp):
    """Mobile inverted bottleneck convolution."""

    kernel: int
    expansion: int
    squeeze_excite: bool = False
    activation: str | None = None
    width: float = 1.0

    kind = "mbconv"
    pattern = rf"mbconv(?P<kernel>\d+)_e(?P<expansion>\d+)(?P<se>_se)?{_ACTIVATION}{_WIDTH}"

    @property
    def name(self) -> str:
        """Name of the op."""
        se = "_se" if self.squeeze_excite else ""
        return f"mbconv{self.kernel}_e{self.expansion}{se}{_suffixes(self)}"

    @property
    def words(self) -> str:
        """The op in words."""
        se = ", squeeze and excite" if self.squeeze_excite else ""
        return f"MBConv {self.kernel}x{self.kernel}, expansion {self.expansion}{se}{_extras(self)}"

    def inner_channels(self, block: BlockShape) -> int:
        """Return the channels of the depthwise convolution."""
        return max(1, round(block.in_channels * self.expansion * self.width))

    def steps(self, block: BlockShape, prefix: str, activation: str) -> tuple[Step, ...]:
        """Return the three convolutions, and squeeze and excite after the second."""
        inner, activation = self.inner_channels(block), self.activation or activation
        expand = pointwise(f"{prefix}/expand", block.in_channels, inner, block.input_shape)
        filtered = depthwise(
            f"{prefix}/depthwise",
            channels=inner,
            output_size=block.output_shape,
            kernel=_sides(self.kernel, block),
            stride=block.stride,
        )
        project = pointwise(f"{prefix}/project", inner, block.out_channels, block.output_shape)
        few = max(1, inner // 4)
        squeeze = SqueezeExcite(
            dense(f"{prefix}/squeeze", in_features=inner, out_features=few),
            dense(f"{prefix}/excite", in_features=few, out_features=inner),
        )
        return (
            Convolution(expand, activation),
            Convolution(filtered, activation),
            *([squeeze] if self.squeeze_excite else []),
            Convolution(project, None),
        )


@dataclasses.dataclass(frozen=True)
class Conv(ChainOp):
    """Convolution with the activation."""

    kernel: int
    groups: int = 1
    activation: str | None = None

    kind = "conv"
    pattern = rf"conv(?P<kernel>\d+)(?:_g(?P<groups>\d+))?{_ACTIVATION}"

    @property
    def name(self) -> str:
        """Name of the op."""
        groups = f"_g{self.groups}" if self.groups > 1 else ""
        return f"conv{self.kernel}{groups}{_suffixes(self)}"

    @property
    def words(self) -> str:
        """The op in words."""
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        return f"Convolution {self.kernel}x{self.kernel}{groups}{_extras(self)}"

    def fits(self, block: BlockShape) -> bool:
        """Return whether the groups divide the block's channels."""
        return block.in_channels % self.groups == block.out_channels % self.groups == 0

    def steps(self, block: BlockShape, prefix: str, activation: str) -> tuple[Step, ...]:
        """Return the convolution."""
        layer = conv(
            f"{prefix}/conv",
            in_channels=block.in_channels,
            out_channels=block.out_channels,
            output_size=block.output_shape,
            kernel=_sides(self.kernel, block),
            stride=block.stride,
            groups=self.groups,
        )
        return (Convolution(layer, self.activation or activation),)


@dataclasses.dataclass(frozen=True)
class Residual(ChainOp):
    """Basic block of two convolutions; where the shape changes, a 1x1 convolution is added."""

    kernel: int
    activation: str | None = None
    width: float = 1.0

    kind = "residual"
    pattern = rf"residual(?P<kernel>\d+){_ACTIVATION}{_WIDTH}"

    @property
    def name(self) -> str:
        """Name of the op."""
        return f"residual{self.kernel}{_suffixes(self)}"

    @property
    def words(self) -> str:
        """The op in words."""
        return f"Basic block {self.kernel}x{self.kernel}{_extras(self)}"

    def steps(self, block: BlockShape, prefix: str, activation: str) -> tuple[Step, ...]:
        """Return the two convolutions; the second is not activated."""
        inner = max(1, round(block.out_channels * self.width))
        sides, size = _sides(self.kernel, block), block.output_shape
        first = conv(
            f"{prefix}/first",
            in_channels=block.in_channels,
            out_channels=inner,
            output_size=size,
            kernel=sides,
            stride=block.stride,
        )
        second = conv(
            f"{prefix}/second",
            in_channels=inner,
            out_channels=block.out_channels,
            output_size=size,
            kernel=sides,
        )
        return (
            Convolution(first, self.activation or activation),
            Convolution(second, None),
        )

    def shortcut(self, block: BlockShape, prefix: str) -> Layer | None:
        """Return the convolution of the inputs where the block changes their shape."""
        return None if block.is_skippable else _projection(block, prefix)


@dataclasses.dataclass(frozen=True)
class Separable(ChainOp):
    """Depthwise separable convolution; the second of the two is not activated."""

    kernel: int
    activation: str | None = None

    kind = "separable"
    pattern = rf"separable(?P<kernel>\d+){_ACTIVATION}"

    @property
    def name(self) -> str:
        """Name of the op."""
        return f"separable{self.kernel}{_suffixes(self)}"

    @property
    def words(self) -> str:
        """The op in words."""
        return f"Separable convolution {self.kernel}x{self.kernel}{_extras(self)}"

    def steps(self, block: BlockShape, prefix: str, activation: str) -> tuple[Step, ...]:
        """Return the depthwise and the 1x1 convolution."""
        filtered = depthwise(
            f"{prefix}/depthwise",
            channels=block.in_channels,
            output_size=block.output_shape,
            kernel=_sides(self.kernel, block),
            stride=block.stride,
        )
        project = pointwise(
            f"{prefix}/project", block.in_channels, block.out_channels, block.output_shape
        )
        return (
            Convolution(filtered, self.activation or activation),
            Convolution(project, None),
        )


@dataclasses.dataclass(frozen=True)
class Identity(ChainOp):
    """Nothing, or a strided 1x1 convolution where the block changes the shape."""

    kind = "identity"
    pattern = "identity"
    name = "identity"
    words = "Identity"

    def steps(self, block: BlockShape, prefix: str, activation: str) -> tuple[Step, ...]:
        """Return the convolution, if there is one."""
        del activation
        return () if block.is_skippable else (Convolution(_projection(block, prefix), None),)


@dataclasses.dataclass(frozen=True)
class Zero(ChainOp):
    """Nothing but the identity around a skippable block."""

    kind = "zero"
    pattern = "zero"
    name = "zero"
    words = "Zero"

    def fits(self, block: BlockShape) -> bool:
        """Return whether there is an identity around the block."""
        return block.is_skippable

    def steps(self, block: BlockShape, prefix: str, activation: str) -> tuple[Step, ...]:
        """Return no steps."""
        del block, prefix, activation
        return ()


def _projection(block: BlockShape, prefix: str) -> Layer:
    return pointwise(
        f"{prefix}/shortcut",
        block.in_channels,
        block.out_channels,
        block.output_shape,
        stride=block.stride,
    )


def _suffixes(op: MBConv | Conv | Residual | Separable) -> str:
    width = getattr(op, "width", 1.0)
    return SUFFIX_OF.get(op.activation or "", "") + (f"_w{width:g}" if width != 1.0 else "")


def _extras(op: MBConv | Conv | Residual | Separable) -> str:
    width = getattr(op, "width", 1.0)
    activation = f", {op.activation.replace('_', '-')}" if op.activation else ""
    return activation + (f", width {width:g}" if width != 1.0 else "")
