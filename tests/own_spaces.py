"""Spaces of every op that ships: of images that are not square, and of series."""

from __future__ import annotations

from dance_tf.supernet.search_space import Block, NetworkSpace

#: Every kind of op with every suffix, beside MBConvs that a superkernel shares.
IMAGE_OPS = (
    *("mbconv3_e2", "mbconv5_e3", "mbconv3_e2_w0.5", "mbconv3_e2_se", "mbconv3_e2_se_hswish"),
    *("mbconv3_e2_relu6", "conv3", "conv1", "conv3_g2_hswish", "residual3", "residual3_relu6_w0.5"),
    *("separable5", "separable3_relu6", "identity", "zero"),
)
SERIES_OPS = (
    *("mbconv3_e2", "mbconv7_e3", "mbconv9_e2_se", "conv5", "residual3", "separable9"),
    *("encoder_h2_k4_f2", "identity", "zero"),
)

IMAGES = NetworkSpace(
    name="images",
    input_size=(4, 6),
    num_classes=3,
    width_multiplier=1.0,
    stem_channels=4,
    first_channels=None,
    head_channels=None,
    blocks=(Block(4, 6, (2, 3), 2), Block(6, 6, (2, 3), 1)),
    op_names=IMAGE_OPS,
    image_channels=2,
    activation="relu",
)
SERIES = NetworkSpace(
    name="series",
    input_size=(1, 12),
    num_classes=3,
    width_multiplier=1.0,
    stem_channels=4,
    first_channels=4,
    head_channels=8,
    blocks=(
        Block(4, 6, (1, 6), 2, is_series=True),
        Block(6, 6, (1, 6), 1, is_series=True),
    ),
    op_names=SERIES_OPS,
    image_channels=2,
    has_positions=True,
    is_series=True,
)
SPACES = {"images": IMAGES, "series": SERIES}
