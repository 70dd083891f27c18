"""Candidate ops: the shapes that an op is told, and what it has to give.

An op of a user's own is a class with a name and three methods; see CandidateOp. The shipped
ones are chains of convolutions (op_kinds.py) and encoder blocks (encoder.py), known by their
names (op_names.py).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from dance_tf.structs import Layer

if TYPE_CHECKING:
    import keras

__all__ = [
    "ACTIVATIONS",
    "LEFT_OUT",
    "BlockShape",
    "CandidateOp",
    "ChainOp",
    "Convolution",
    "SqueezeExcite",
    "Step",
    "leaves_out",
]

#: Activations that a space, or an op, may have after its convolutions.
ACTIVATIONS = ("relu6", "relu", "hard_swish")

#: Ops that leave a skippable block out.
LEFT_OUT = ("zero", "identity")


class BlockShape(Protocol):
    """Shapes of a block's inputs and outputs, as ops are told them; see search_space.Block."""

    @property
    def in_channels(self) -> int: ...

    @property
    def out_channels(self) -> int: ...

    @property
    def stride(self) -> int: ...

    @property
    def is_series(self) -> bool: ...

    @property
    def is_skippable(self) -> bool: ...

    @property
    def output_shape(self) -> tuple[int, int]: ...

    @property
    def input_shape(self) -> tuple[int, int]: ...


class CandidateOp(Protocol):
    """One way to compute a block: an op of this package, or one of a user's own.

    An own op has no random numbers and ends in the shape of the block's outputs. Its
    variables named "kernel" decay.
    """

    @property
    def name(self) -> str:
        """Name of the op: letters, digits, `_` and `.`."""

    def fits(self, block: BlockShape) -> bool:
        """Return whether a block may have the op."""

    def layers(self, block: BlockShape, prefix: str) -> tuple[Layer, ...]:
        """Return what the cost model counts, batch 1, with names that begin with `prefix`/."""

    def build(self, inputs: keras.KerasTensor, block: BlockShape, prefix: str) -> keras.KerasTensor:
        """Apply stock Keras layers, whose names begin with `prefix`, to [B, H, W, C]."""


class Convolution(NamedTuple):
    """Convolution, batch normalisation and, unless it is None, an activation."""

    layer: Layer
    activation: str | None


class SqueezeExcite(NamedTuple):
    """Factor of each channel, from its mean through two dense layers, ReLU and hard sigmoid."""

    reduce: Layer
    expand: Layer


Step = Convolution | SqueezeExcite


@dataclasses.dataclass(frozen=True)
class ChainOp:
    """Op of steps one after the other, to which a 1x1 convolution may be added."""

    kind: ClassVar[str]
    pattern: ClassVar[str]

    @property
    def name(self) -> str:
        """Name of the op."""
        raise NotImplementedError

    @property
    def words(self) -> str:
        """The op in words."""
        raise NotImplementedError

    def fits(self, block: BlockShape) -> bool:
        """Return whether a block may have the op."""
        del block
        return True

    def steps(self, block: BlockShape, prefix: str, activation: str) -> tuple[Step, ...]:
        """Return the chain, in order, with the space's activation; empty for nothing."""
        raise NotImplementedError

    def shortcut(self, block: BlockShape, prefix: str) -> Layer | None:
        """Return the convolution of the inputs that is added to the chain's end, if any."""
        del block, prefix
        return None

    def layers(self, block: BlockShape, prefix: str) -> tuple[Layer, ...]:
        """Return the layers in the order in which they run; see CandidateOp."""
        found: list[Layer] = []
        for step in self.steps(block, prefix, ACTIVATIONS[0]):
            found += [step.layer] if isinstance(step, Convolution) else list(step)
        shortcut = self.shortcut(block, prefix)
        return (*found, *([] if shortcut is None else [shortcut]))


def leaves_out(op_name: str, block: BlockShape) -> bool:
    """Return whether an op leaves a block out."""
    return op_name in LEFT_OUT and block.is_skippable
