"""Network spaces: blocks, candidate ops, layer shapes.

The shipped spaces are files; see space_files.py.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence

import numpy as np

from dance_tf.errors import UserError, did_you_mean
from dance_tf.files import Json
from dance_tf.hardware.layers import conv, dense, depthwise, pointwise
from dance_tf.structs import Architecture, Layer
from dance_tf.supernet.candidate_ops import ACTIVATIONS, CandidateOp, ChainOp, leaves_out
from dance_tf.supernet.op_names import parse_op

__all__ = ["Block", "NetworkSpace"]


def _check_positive(record: Block | NetworkSpace, names: Sequence[str], where: str) -> None:
    for name in names:
        value = getattr(record, name)
        numbers = value if isinstance(value, tuple) and name.endswith("size") else (value,)
        are_integers = all(
            isinstance(n, int | np.integer) and not isinstance(n, bool) for n in numbers
        )
        if not are_integers or min(numbers) < 1:
            raise UserError(f"{where}: {name} is {value!r}, not a positive integer")


@dataclasses.dataclass(frozen=True)
class Block:
    """One searchable position of a network, with the shapes of its inputs and outputs.

    Attributes:
        in_channels, out_channels: Channels of inputs and outputs.
        output_size: Height and width of the outputs, one number where they are the same; (1, T)
            for a series of length T.
        stride: Stride in both directions, along time for a series.
        op_names: Candidate ops of this block alone, among those of the space; None: all.
    """

    in_channels: int
    out_channels: int
    output_size: int | tuple[int, int]
    stride: int
    op_names: tuple[str, ...] | None = None
    is_series: bool = False

    def __post_init__(self) -> None:
        _check_positive(self, ("in_channels", "out_channels", "output_size", "stride"), "block")

    @property
    def is_skippable(self) -> bool:
        """Whether the block has an identity around it, so that it may be skipped by Zero."""
        return self.stride == 1 and self.in_channels == self.out_channels

    @property
    def output_shape(self) -> tuple[int, int]:
        """Height and width of the outputs."""
        return _height_width(self.output_size)

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width of the inputs."""
        height, width = self.output_shape
        return (1 if self.is_series else height * self.stride), width * self.stride


def _height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size[0], size[1]) if isinstance(size, tuple) else (size, size)


@dataclasses.dataclass(frozen=True)
class NetworkSpace:
    """A chain network with searchable blocks between fixed layers.

    Fixed: a convolution to `stem_channels`, a 3x3 MBConv of expansion 1 to `first_channels`
    unless that is None, and after the blocks a 1x1 convolution to `head_channels` unless that
    is None, global average pooling and a dense layer. Channels are after the width multiplier.

    >>> import dance_tf
    >>> space = dance_tf.make_space(dance_tf.preset("tiny").space)
    >>> architecture = space.from_indices([3, 6])
    >>> architecture.ops
    ('mbconv5_e6', 'zero')
    >>> [layer.name for layer in space.layers(architecture)][3:6]
    ['block0/mbconv5_e6/expand', 'block0/mbconv5_e6/depthwise', 'block0/mbconv5_e6/project']
    >>> space.num_architectures
    42

    Attributes:
        input_size: Height and width of the images, one number where they are the same; (1, T)
            for series of length T.
        op_names: Candidate ops of all blocks; see candidate_ops.py.
        image_channels: Channels of images or series.
        activation: Activation where an op does not name its own.
        stem_kernel, stem_stride: Kernel size and stride of the first convolution.
        has_positions: Whether a vector that is learnt for each place is added after the stem.
        is_series: Whether the inputs are series [B, T, C], not images [B, H, W, C].
        own_ops: Ops of a user's own, which `op_names` may name.
    """

    name: str
    input_size: int | tuple[int, int]
    num_classes: int
    width_multiplier: float
    stem_channels: int
    first_channels: int | None
    head_channels: int | None
    blocks: tuple[Block, ...]
    op_names: tuple[str, ...]
    image_channels: int = 3
    activation: str = "relu6"
    stem_kernel: int = 3
    stem_stride: int = 1
    has_positions: bool = False
    is_series: bool = False
    own_ops: tuple[CandidateOp, ...] = ()

    def __post_init__(self) -> None:
        where = f"space {self.name!r}"
        sizes = ["input_size", "num_classes", "stem_channels", "head_channels", "image_channels"]
        sizes += ["first_channels", "stem_kernel", "stem_stride"]
        _check_positive(self, [s for s in sizes if getattr(self, s) is not None], where)
        if self.activation not in ACTIVATIONS:
            hint = did_you_mean(str(self.activation), ACTIVATIONS)
            raise UserError(f"{where}: unknown activation {self.activation!r}{hint}")
        if not self.blocks or not self.op_names:
            raise UserError(f"{where} has no {'ops' if self.blocks else 'blocks'}")
        for op in self.op_names:
            try:
                self.op(op)
            except UserError as error:
                raise UserError(f"{where}, all of its blocks: {error}") from None
            if self.op_names.count(op) > 1:
                raise UserError(f"{where}: op {op!r} is there twice")
        self._check_chain(where)

    def _check_chain(self, where: str) -> None:
        channels, size = self.first_channels or self.stem_channels, self.stem_shape
        for side, shape in zip(size, self.size, strict=True):
            if side * self.stem_stride != shape and not (self.is_series and shape == 1):
                raise UserError(f"{where}: stem_stride {self.stem_stride} does not divide {shape}")
        for index, block in enumerate(self.blocks):
            if block.in_channels != channels:
                raise UserError(
                    f"{where}: block {index} takes {block.in_channels} channels, what is before"
                    f" it gives {channels}"
                )
            if block.is_series != self.is_series:
                raise UserError(f"{where}: block {index} is not of the space's kind of input")
            if block.input_shape != size:
                raise UserError(
                    f"{where}: block {index} with stride {block.stride} gives an output of"
                    f" {_text(block.output_shape)}, what is before it one of {_text(size)}: the"
                    " first times the stride has to be the second"
                )
            for op in block.op_names or ():
                if op not in self.op_names:
                    hint = did_you_mean(str(op), self.op_names)
                    raise UserError(f"{where}: block {index} has no op {op!r}{hint}")
            if not self.op_mask[index].any():
                raise UserError(
                    f"{where}: block {index} has no op: zero needs an identity around it, that"
                    " is stride 1 and as many channels out as in, and so does an encoder, on a"
                    " series; the groups of a convolution have to divide its channels"
                )
            channels, size = block.out_channels, block.output_shape

    def op(self, name: str) -> CandidateOp | ChainOp:
        """Return the op of a name.

        Raises:
            UserError: If there is none.
        """
        for op in self.own_ops:
            if op.name == name:
                return op
        return parse_op(name)

    def description(self) -> dict[str, Json]:
        """Return what tells the space from others, as plain JSON data.

        Fields that came later are left out where they have their usual value, so that what
        was written before them can still be compared.
        """
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        described = {name: getattr(self, name) for name in usual if name != "own_ops"}
        for name in ("stem_kernel", "stem_stride", "has_positions", "is_series"):
            if described[name] == usual[name]:
                del described[name]
        described["blocks"] = [
            [b.in_channels, b.out_channels, b.output_size, b.stride, *filter(None, [b.op_names])]
            for b in self.blocks
        ]
        if self.own_ops:
            described["own_ops"] = {
                op.name: [
                    [index, [_recorded(x, op.name) for x in op.layers(block, op.name)]]
                    for index, block in enumerate(self.blocks)
                    if op.fits(block)
                ]
                for op in self.own_ops
            }
        data: dict[str, Json] = json.loads(json.dumps(described))
        return data

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the inputs; (1, T) for series."""
        return _height_width(self.input_size)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of what a network takes: (H, W, C), or (T, C) for series."""
        height, width = self.size
        channels = self.image_channels
        return (width, channels) if self.is_series else (height, width, channels)

    @property
    def stem_shape(self) -> tuple[int, int]:
        """Height and width of the first convolution's outputs."""
        height, width = (side // self.stem_stride for side in self.size)
        return (1 if self.is_series else height), width

    @property
    def num_blocks(self) -> int:
        """Number of searchable blocks, D."""
        return len(self.blocks)

    @property
    def num_ops(self) -> int:
        """Number of candidate ops, O."""
        return len(self.op_names)

    @functools.cached_property
    def op_mask(self) -> np.ndarray:
        """True for the candidate ops that each block has, bool [D, O]."""
        mask = np.asarray(
            [
                [
                    self.op(name).fits(block) and name in (block.op_names or self.op_names)
                    for name in self.op_names
                ]
                for block in self.blocks
            ]
        )
        mask.flags.writeable = False
        return mask

    @property
    def skip_mask(self) -> np.ndarray:
        """True for the ops that leave a skippable block out, bool [D, O]."""
        return np.asarray([[leaves_out(op, b) for op in self.op_names] for b in self.blocks])

    @property
    def num_architectures(self) -> int:
        """Number of networks in the space."""
        product = 1
        for count in self.op_mask.sum(axis=1):
            product *= int(count)
        return product

    def fixed_layers(self) -> tuple[Layer, ...]:
        """Return the layers that every network of the space has, in order."""
        return (*self.layers_before(), *self.layers_after())

    def layers_before(self) -> tuple[Layer, ...]:
        """Return the layers before the blocks: stem, positions and first MBConv, as there are."""
        stem, first, size = self.stem_channels, self.first_channels, self.stem_shape
        kernel = self.stem_kernel
        first_layers: tuple[Layer, ...] = ()
        if first is not None:
            sides = (1, 3) if self.is_series else 3
            first_layers = (
                depthwise("first/depthwise", channels=stem, output_size=size, kernel=sides),
                pointwise("first/project", stem, first, size),
            )
        return (
            conv(
                "stem",
                in_channels=self.image_channels,
                out_channels=stem,
                output_size=size,
                kernel=(1, kernel) if self.is_series else kernel,
                stride=self.stem_stride,
            ),
            *([pointwise("positions", stem, stem, size)] if self.has_positions else []),
            *first_layers,
        )

    def layers_after(self) -> tuple[Layer, ...]:
        """Return the layers after the blocks; the last is the dense one."""
        last, head = self.blocks[-1], self.head_channels
        of_head = []
        if head is not None:
            of_head.append(pointwise("head", last.out_channels, head, last.output_shape))
        features = head or last.out_channels
        return *of_head, dense("classifier", in_features=features, out_features=self.num_classes)

    def op_layers(self, block_index: int, op_name: str) -> tuple[Layer, ...]:
        """Return the layers of one candidate op at one block; none where it is left out.

        There are none either where the block lacks the op.
        """
        block, op = self.blocks[block_index], self.op(op_name)
        return op.layers(block, f"block{block_index}/{op_name}") if op.fits(block) else ()

    def layers(self, architecture: Architecture) -> tuple[Layer, ...]:
        """Return all layers of a network, in the order in which they run."""
        searched = [
            layer
            for index, op in enumerate(self.validate(architecture).ops)
            for layer in self.op_layers(index, op)
        ]
        return (*self.layers_before(), *searched, *self.layers_after())

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
                    f"architecture: op {op!r} is not allowed at block {index}: it is not among"
                    " the block's own ops, or does not fit its channels and stride"
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


def _recorded(layer: Layer, prefix: str) -> dict[str, Json]:
    """Return a layer as data, its name without the prefix that it was asked for with."""
    return {**dataclasses.asdict(layer), "name": layer.name.removeprefix(f"{prefix}/")}


def _text(shape: tuple[int, int]) -> str:
    """Return a height and a width in short."""
    height, width = shape
    return str(width) if height in (1, width) else f"{height}x{width}"
