"""Encoder blocks of a transformer as candidate ops: self-attention, then a feed-forward part.

    x -> x + attention(normalised x),  x -> x + dense(relu(dense(normalised x)))

The sum of both parts is returned without x, which the network adds around every op.

Source: Vaswani et al. (2017), Attention Is All You Need, section 3.1, with the normalisation
before each part, as in Xiong et al. (2020), On Layer Normalization in the Transformer
Architecture. Differs from both: it is batch normalisation, as in the space's other ops (Yao et
al., 2021, Leveraging Batch Normalization for Vision Transformers), since in int8 the variances
of layer normalisation round to 0.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from dance_tf.hardware.layers import pointwise, products_of_attention
from dance_tf.structs import Layer
from dance_tf.supernet.candidate_ops import BlockShape

if TYPE_CHECKING:
    import keras

__all__ = ["Encoder"]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Encoder block of a transformer, normalised before attention and feed-forward part."""

    heads: int
    key_width: int
    ratio: int

    kind: ClassVar[str] = "encoder"
    pattern: ClassVar[str] = r"encoder_h(?P<heads>\d+)_k(?P<key_width>\d+)_f(?P<ratio>\d+)"

    @property
    def name(self) -> str:
        """Name of the op."""
        return f"encoder_h{self.heads}_k{self.key_width}_f{self.ratio}"

    @property
    def words(self) -> str:
        """The op in words."""
        return f"Encoder, {self.heads} heads, keys of {self.key_width}, feed-forward {self.ratio} x"

    def fits(self, block: BlockShape) -> bool:
        """Return whether the block keeps the shape of a series."""
        return block.is_skippable and block.is_series

    def layers(self, block: BlockShape, prefix: str) -> tuple[Layer, ...]:
        """Return the matrix products; softmax and normalisations are not counted."""
        channels, length = block.in_channels, block.output_shape[1]
        inner = self.ratio * channels
        size = (1, length)
        return (
            *products_of_attention(
                prefix,
                length=length,
                channels=channels,
                heads=self.heads,
                key_width=self.key_width,
            ),
            pointwise(f"{prefix}/widen", channels, inner, size),
            pointwise(f"{prefix}/narrow", inner, channels, size),
        )

    def build(self, inputs: keras.KerasTensor, block: BlockShape, prefix: str) -> keras.KerasTensor:
        """Apply the block's layers to a series as one row; see CandidateOp."""
        import keras

        height, length = block.output_shape
        channels = block.out_channels
        layers = keras.layers
        x = layers.Reshape((length, channels), name=f"{prefix}_series")(inputs)
        normalised = layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=f"{prefix}_norm1")(
            x
        )
        attended = layers.MultiHeadAttention(
            self.heads, self.key_width, name=f"{prefix}_attention"
        )(normalised, normalised)
        x = layers.Add(name=f"{prefix}_add")([x, attended])
        normalised = layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=f"{prefix}_norm2")(
            x
        )
        widened = layers.Dense(self.ratio * channels, activation="relu", name=f"{prefix}_widen")(
            normalised
        )
        narrowed = layers.Dense(channels, name=f"{prefix}_narrow")(widened)
        # Attention and feed-forward part; the inputs themselves come through the block's identity.
        outputs = layers.Add(name=f"{prefix}_sum")([attended, narrowed])
        return layers.Reshape((height, length, channels), name=f"{prefix}_row")(outputs)
