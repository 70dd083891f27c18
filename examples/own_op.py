"""Search with an op, a space and images of one's own, from Python; docs/own_space.md shows it.

`python -m examples.own_op runs/own_op`
"""

import dataclasses
import sys

import keras
import numpy as np
from sklearn.datasets import load_digits

import dance_tf
from dance_tf.data.images import Augmentation
from dance_tf.hardware.layers import conv, depthwise


class Ghost:
    """Half of the channels by a 1x1 convolution, the other half by filtering the first."""

    name = "ghost3"

    def fits(self, block):
        """Return whether a block may have the op."""
        return block.out_channels % 2 == 0

    def layers(self, block, prefix):
        """Return what the cost model counts."""
        half = block.out_channels // 2
        return (
            conv(
                f"{prefix}/primary",
                in_channels=block.in_channels,
                out_channels=half,
                output_size=block.output_shape,
                kernel=1,
                stride=block.stride,
            ),
            depthwise(f"{prefix}/cheap", channels=half, output_size=block.output_shape, kernel=3),
        )

    def build(self, inputs, block, prefix):
        """Apply stock Keras layers."""
        half, kl = block.out_channels // 2, keras.layers
        x = kl.Conv2D(half, 1, block.stride, use_bias=False, name=f"{prefix}_primary")(inputs)
        x = kl.ReLU(name=f"{prefix}_relu")(kl.BatchNormalization(name=f"{prefix}_bn")(x))
        y = kl.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"{prefix}_cheap")(x)
        y = kl.BatchNormalization(name=f"{prefix}_cheap_bn")(y)
        return kl.Concatenate(name=f"{prefix}_both")([x, y])


# A space of two blocks for grey images, whose ops are the own one and two that are shipped.
space = dance_tf.NetworkSpace(
    name="ghosts",
    input_size=8,
    image_channels=1,
    num_classes=10,
    width_multiplier=1.0,
    stem_channels=8,
    first_channels=None,
    head_channels=32,
    blocks=(dance_tf.Block(8, 16, 4, stride=2), dance_tf.Block(16, 16, 4, stride=1)),
    op_names=("ghost3", "conv3", "zero"),
    own_ops=(Ghost(),),
)

# Images as arrays: bytes, with labels, in three splits.
digits = load_digits()
images = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)
parts = np.split(np.random.default_rng(0).permutation(len(images)), [1100, 1400])
splits = ("train", "architecture", "test")
dataset = dance_tf.ArrayImages(
    {name: (images[part], digits.target[part]) for name, part in zip(splits, parts, strict=True)},
    name="grey_digits",
    num_classes=10,
    augmentation=Augmentation(pad=1, use_flip=False),
    split_sources=dict.fromkeys(splits, "load_digits"),
)

if __name__ == "__main__":
    config = dataclasses.replace(dance_tf.preset("tiny"), retrain=dance_tf.preset("quick").retrain)
    result, paths = dance_tf.run_experiment(
        config, space=space, dataset=dataset, output_dir=sys.argv[1]
    )
    print(f"{' '.join(result.architecture.ops)} on {result.accelerator}")
    print(f"{result.exact_cost.latency_ms:.4f} ms, accuracy {result.accuracy.value:.3f}")
    print(f"for TensorFlow Lite: {paths['tflite']}")
