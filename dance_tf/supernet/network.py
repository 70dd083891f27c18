"""One network of a space as a functional Keras model."""

from __future__ import annotations

from typing import Any

import keras

from dance_tf.structs import Architecture
from dance_tf.supernet.ops import apply_layers, conv_bn_layers, layer_seed, mbconv_layers
from dance_tf.supernet.search_space import NetworkSpace

__all__ = ["build_network", "fixed_keras_layers"]


def fixed_keras_layers(
    space: NetworkSpace, *, seed: int, is_for_training: bool
) -> tuple[list[keras.layers.Layer], list[keras.layers.Layer]]:
    """Return the layers that every network has, those before and those after the blocks."""
    stem, *first, head, classifier = space.fixed_layers()
    options: dict[str, Any] = {"seed": seed, "is_for_training": is_for_training}
    before = [
        keras.layers.Rescaling(2.0, -1.0, name="to_plus_minus_one"),
        *conv_bn_layers(stem, use_relu6=True, **options),
        *mbconv_layers(first, **options),
    ]
    after = [
        *conv_bn_layers(head, use_relu6=True, **options),
        keras.layers.GlobalAveragePooling2D(name="pool"),
        keras.layers.Dense(
            classifier.K,
            kernel_initializer=keras.initializers.RandomNormal(
                stddev=0.01, seed=layer_seed(seed, classifier.name)
            ),
            name=classifier.name,
        ),
    ]
    return before, after


def build_network(
    space: NetworkSpace,
    architecture: Architecture,
    *,
    seed: int = 0,
    is_for_training: bool = False,
) -> keras.Model:
    """Build one network of a space.

    Its convolutions are those of `space.layers(architecture)`, in that order.

    Args:
        space: Network space.
        architecture: One op per block.
        seed: Of the initial weights.
        is_for_training: Fast layers instead of stock ones. The weights of the two fit
            each other (`get_weights`, `set_weights`); save the stock one.
    Returns:
        From images [B, H, W, C] in 0..1 to logits [B, classes].
    Raises:
        UserError: If the architecture is not one of the space.
    """
    options: dict[str, Any] = {"seed": seed, "is_for_training": is_for_training}
    ops = space.validate(architecture).ops
    before, after = fixed_keras_layers(space, **options)
    size = space.input_size
    inputs = keras.Input((size, size, space.image_channels), name="images")
    x = apply_layers(before, inputs)
    for index, (block, op_name) in enumerate(zip(space.blocks, ops, strict=True)):
        layers = mbconv_layers(space.op_layers(index, op_name), **options)
        outputs = apply_layers(layers, x)
        if not block.is_skippable:
            x = outputs
        elif layers:
            x = keras.layers.Add(name=f"block{index}_add")([x, outputs])
    return keras.Model(inputs, apply_layers(after, x), name=space.name)
