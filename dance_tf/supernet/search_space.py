"""The shipped network spaces as plain data: blocks, candidate ops, layer shapes.

Source of `cifar_mbconv`: the DANCE authors' slides (13 layers, nine searchable
blocks in three stages, MBConv kernel 3/5/7 x expansion 3/6 plus Zero). Source of
`nas_bench_macro`: Su et al. (2021), arXiv 2103.11922, every network of which has been
trained (see search/accuracy).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dance_tf.config import SpaceConfig
from dance_tf.errors import UserError, did_you_mean
from dance_tf.hardware.layers import conv, dense, depthwise
from dance_tf.structs import Architecture, Layer

__all__ = [
    "ACTIVATIONS",
    "OP_NAMES",
    "SPACES",
    "Block",
    "NetworkSpace",
    "make_space",
    "op_kernel_expansion",
]

#: Activations that a space may have after its convolutions.
ACTIVATIONS = ("relu6", "relu")

#: Ops that are no MBConv. `zero` is nothing but the identity around a skippable block;
#: `identity` is that too, and a strided 1x1 convolution where the block changes the shape.
_OTHER_OPS = ("zero", "identity")

#: Candidate ops in the order of their index, where a space does not name its own.
OP_NAMES = (
    "mbconv3_e3",
    "mbconv3_e6",
    "mbconv5_e3",
    "mbconv5_e6",
    "mbconv7_e3",
    "mbconv7_e6",
    "zero",
)


def op_kernel_expansion(op_name: str) -> tuple[int, int] | None:
    """Return kernel size and expansion of an MBConv op, None of `zero` and `identity`.

    Raises:
        UserError: If it is not the name of an op.
    """
    if op_name in _OTHER_OPS:
        return None
    found = re.fullmatch(r"mbconv([1-9][0-9]*)_e([1-9][0-9]*)", str(op_name))
    if found is None or int(found[1]) % 2 == 0:
        raise UserError(
            f"unknown op {op_name!r}; there are zero, identity and mbconvK_eE, of an odd kernel"
            f" size K and an expansion E, such as {OP_NAMES[0]}"
        )
    return int(found[1]), int(found[2])


def _check_positive(record: Block | NetworkSpace, names: Sequence[str], where: str) -> None:
    for name in names:
        value = getattr(record, name)
        is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not is_integer or value < 1:
            raise UserError(f"{where}: {name} is {value!r}, not a positive integer")


@dataclasses.dataclass(frozen=True)
class Block:
    """One searchable position of a network, with the shapes of its inputs and outputs."""

    in_channels: int
    out_channels: int
    output_size: int
    stride: int

    def __post_init__(self) -> None:
        _check_positive(self, ("in_channels", "out_channels", "output_size", "stride"), "block")

    @property
    def is_skippable(self) -> bool:
        """Whether the block has an identity around it, so that it may be skipped by Zero."""
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclasses.dataclass(frozen=True)
class NetworkSpace:
    """A chain network with searchable blocks between fixed layers.

    Fixed: a 3x3 convolution to `stem_channels`, a 3x3 MBConv of expansion 1 to
    `first_channels` unless that is None, and after the blocks a 1x1 convolution to
    `head_channels`, global average pooling and a dense layer. Channels are after the width
    multiplier.

    >>> import dance_tf
    >>> space = dance_tf.make_space(dance_tf.preset("tiny").space)
    >>> architecture = space.from_indices([3, 6])
    >>> architecture.ops
    ('mbconv5_e6', 'zero')
    >>> [layer.name for layer in space.layers(architecture)][3:6]
    ['block0/mbconv5_e6/expand', 'block0/mbconv5_e6/depthwise', 'block0/mbconv5_e6/project']
    >>> space.num_architectures
    42
    """

    name: str
    input_size: int
    num_classes: int
    width_multiplier: float
    stem_channels: int
    first_channels: int | None
    head_channels: int
    blocks: tuple[Block, ...]
    op_names: tuple[str, ...] = OP_NAMES
    image_channels: int = 3
    activation: str = "relu6"

    def __post_init__(self) -> None:
        where = f"space {self.name!r}"
        sizes = ["input_size", "num_classes", "stem_channels", "head_channels", "image_channels"]
        sizes += [] if self.first_channels is None else ["first_channels"]
        _check_positive(self, sizes, where)
        if self.activation not in ACTIVATIONS:
            hint = did_you_mean(str(self.activation), ACTIVATIONS)
            raise UserError(f"{where}: unknown activation {self.activation!r}{hint}")
        if not self.blocks or not self.op_names:
            raise UserError(f"{where} has no {'ops' if self.blocks else 'blocks'}")
        for op in self.op_names:
            try:
                op_kernel_expansion(op)
            except UserError as error:
                raise UserError(f"{where}, all of its blocks: {error}") from None
            if self.op_names.count(op) > 1:
                raise UserError(f"{where}: op {op!r} is there twice")
        channels, size = self.first_channels or self.stem_channels, self.input_size
        for index, block in enumerate(self.blocks):
            if block.in_channels != channels:
                raise UserError(
                    f"{where}: block {index} takes {block.in_channels} channels, what is before"
                    f" it gives {channels}"
                )
            if block.output_size * block.stride != size:
                raise UserError(
                    f"{where}: block {index} with stride {block.stride} gives an output of"
                    f" {block.output_size}, what is before it one of {size}: the first times the"
                    " stride has to be the second"
                )
            if set(self.op_names) == {"zero"} and not block.is_skippable:
                raise UserError(
                    f"{where}: block {index} has no op: zero needs an identity around it, that"
                    " is stride 1 and as many channels out as in"
                )
            channels, size = block.out_channels, block.output_size

    @property
    def num_blocks(self) -> int:
        """Number of searchable blocks, D."""
        return len(self.blocks)

    @property
    def num_ops(self) -> int:
        """Number of candidate ops, O."""
        return len(self.op_names)

    @property
    def op_mask(self) -> np.ndarray:
        """True for the candidate ops that each block has, bool [D, O]."""
        return np.asarray(
            [[op != "zero" or b.is_skippable for op in self.op_names] for b in self.blocks]
        )

    @property
    def skip_mask(self) -> np.ndarray:
        """True for the ops that leave a skippable block out, bool [D, O]."""
        return np.asarray(
            [[op in _OTHER_OPS and b.is_skippable for op in self.op_names] for b in self.blocks]
        )

    @property
    def num_architectures(self) -> int:
        """Number of networks in the space."""
        product = 1
        for count in self.op_mask.sum(axis=1):
            product *= int(count)
        return product

    def fixed_layers(self) -> tuple[Layer, ...]:
        """Return the layers that every network of the space has; the last two end it."""
        size = self.input_size
        last = self.blocks[-1]
        stem, first, head = self.stem_channels, self.first_channels, self.head_channels
        first_layers: tuple[Layer, ...] = ()
        if first is not None:
            project = dict(in_channels=stem, out_channels=first, output_size=size, kernel=1)
            first_layers = (
                depthwise("first/depthwise", channels=stem, output_size=size, kernel=3),
                conv("first/project", **project),
            )
        return (
            conv(
                "stem",
                in_channels=self.image_channels,
                out_channels=stem,
                output_size=size,
                kernel=3,
            ),
            *first_layers,
            conv(
                "head",
                in_channels=last.out_channels,
                out_channels=head,
                output_size=last.output_size,
                kernel=1,
            ),
            dense("classifier", in_features=head, out_features=self.num_classes),
        )

    def op_layers(self, block_index: int, op_name: str) -> tuple[Layer, ...]:
        """Return the layers of one candidate op at one block; none where it is left out."""
        block = self.blocks[block_index]
        prefix = f"block{block_index}/{op_name}"
        kernel_expansion = op_kernel_expansion(op_name)
        if kernel_expansion is None:
            if op_name == "zero" or block.is_skippable:
                return ()
            shortcut = conv(
                f"{prefix}/shortcut",
                in_channels=block.in_channels,
                out_channels=block.out_channels,
                output_size=block.output_size,
                kernel=1,
                stride=block.stride,
            )
            return (shortcut,)
        kernel, expansion = kernel_expansion
        hidden = block.in_channels * expansion
        return (
            conv(
                f"{prefix}/expand",
                in_channels=block.in_channels,
                out_channels=hidden,
                output_size=block.output_size * block.stride,
                kernel=1,
            ),
            depthwise(
                f"{prefix}/depthwise",
                channels=hidden,
                output_size=block.output_size,
                kernel=kernel,
                stride=block.stride,
            ),
            conv(
                f"{prefix}/project",
                in_channels=hidden,
                out_channels=block.out_channels,
                output_size=block.output_size,
                kernel=1,
            ),
        )

    def layers(self, architecture: Architecture) -> tuple[Layer, ...]:
        """Return all layers of a network, in the order in which they run."""
        fixed = self.fixed_layers()
        searched = [
            layer
            for index, op in enumerate(self.validate(architecture).ops)
            for layer in self.op_layers(index, op)
        ]
        return (*fixed[:-2], *searched, *fixed[-2:])

    def validate(self, architecture: Architecture) -> Architecture:
        """Return the architecture if it is a network of this space.

        Raises:
            UserError: If the space, the number of blocks or an op does not fit.
        """
        if architecture.space != self.name:
            raise UserError(f"architecture is of space {architecture.space!r}, not {self.name!r}")
        if len(architecture.ops) != self.num_blocks:
            raise UserError(
                f"architecture has {len(architecture.ops)} ops; {self.name} has"
                f" {self.num_blocks} blocks"
            )
        for index, op in enumerate(architecture.ops):
            if op not in self.op_names:
                hint = did_you_mean(str(op), self.op_names)
                raise UserError(f"architecture: unknown op {op!r} at block {index}{hint}")
            if not self.op_mask[index, self.op_names.index(op)]:
                raise UserError(
                    f"architecture: op {op!r} is not allowed at block {index}, which changes"
                    " the size or the number of channels"
                )
        return architecture

    def from_indices(self, op_indices: Sequence[int]) -> Architecture:
        """Return the architecture of op indices [D]."""
        return self.validate(
            Architecture(self.name, tuple(self.op_names[int(i)] for i in op_indices))
        )

    def to_indices(self, architecture: Architecture) -> np.ndarray:
        """Return the op indices, int32 [D], of an architecture."""
        ops = self.validate(architecture).ops
        return np.asarray([self.op_names.index(op) for op in ops], np.int32)

    def sample(self, num: int, seed: int) -> np.ndarray:
        """Draw op indices, int32 [num, D], uniformly over the networks of the space."""
        rng = np.random.default_rng(seed)
        columns = [rng.choice(np.flatnonzero(row), size=num) for row in self.op_mask]
        return np.stack(columns, axis=-1).astype(np.int32)


class _SpaceData(NamedTuple):
    """Shape of a shipped space; channels are before the width multiplier."""

    width_multiplier: float
    input_size: int
    stem: int
    first: int | None  # channels of the MBConv after the stem; None: there is none
    stages: tuple[tuple[int, int, int], ...]  # blocks, channels, stride of the first block
    head: int
    op_names: tuple[str, ...] = OP_NAMES
    activation: str = "relu6"


_CIFAR_STAGES = ((3, 32, 1), (3, 64, 2), (3, 128, 2))

#: Shipped spaces by name. `tiny_mbconv` is small enough to enumerate, for a first look.
SPACES = {
    "cifar_mbconv": _SpaceData(1.0, 32, 32, 16, _CIFAR_STAGES, 1280),
    "cifar_mbconv_small": _SpaceData(0.5, 16, 32, 16, _CIFAR_STAGES, 1280),
    "tiny_mbconv": _SpaceData(1.0, 8, 8, 8, ((1, 16, 2), (1, 16, 1)), 32),
    "nas_bench_macro": _SpaceData(
        1.0,
        32,
        32,
        None,
        ((2, 64, 2), (3, 128, 2), (3, 256, 2)),
        1280,
        op_names=("identity", "mbconv3_e3", "mbconv5_e6"),
        activation="relu",
    ),
}


def make_space(config: SpaceConfig, num_classes: int = 10) -> NetworkSpace:
    """Build a shipped space, with the config's numbers in place of its own where given.

    >>> import dance_tf
    >>> space = dance_tf.make_space(dance_tf.preset("cifar10").space)
    >>> space.name, space.input_size, space.num_blocks
    ('cifar_mbconv', 32, 9)

    Args:
        config: Name of the space, and numbers that replace its own.
        num_classes: Number of classes of the data set, where the config does not say it.
    Raises:
        UserError: If the name is unknown or a number does not fit the space.
    """
    if config.name not in SPACES:
        raise UserError(f"unknown space {config.name!r}{did_you_mean(config.name, SPACES)}")
    data = SPACES[config.name]
    width = data.width_multiplier if config.width_multiplier is None else config.width_multiplier
    size = data.input_size if config.input_size is None else config.input_size
    classes = num_classes if config.num_classes is None else config.num_classes
    if not width > 0:
        raise UserError(f"space.width_multiplier is {width}, not positive")
    if classes < 2:
        raise UserError(f"space.num_classes is {classes}, not at least 2")
    total_stride = int(np.prod([stride for _, _, stride in data.stages]))
    if size < total_stride or size % total_stride:
        raise UserError(f"space.input_size is {size}, not a positive multiple of {total_stride}")

    def channels(count: int) -> int:
        return max(1, round(count * width))

    blocks = []
    previous, resolution = channels(data.first or data.stem), size
    for num, stage_channels, stage_stride in data.stages:
        for position in range(num):
            stride = stage_stride if position == 0 else 1
            resolution //= stride
            blocks.append(Block(previous, channels(stage_channels), resolution, stride))
            previous = channels(stage_channels)
    return NetworkSpace(
        name=config.name,
        input_size=size,
        num_classes=classes,
        width_multiplier=width,
        stem_channels=channels(data.stem),
        first_channels=None if data.first is None else channels(data.first),
        head_channels=channels(data.head),
        blocks=tuple(blocks),
        op_names=data.op_names,
        activation=data.activation,
    )
