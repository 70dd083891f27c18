"""Networks of every op that ships, as SavedModel, Keras and TFLite files."""

from __future__ import annotations

import numpy as np
import pytest

from dance_tf.export.networks import export_network
from dance_tf.supernet.supernet import build_network
from tests.own_spaces import SPACES


@pytest.mark.parametrize(
    ("name", "ops"),
    [
        ("images", ("conv3_g2_hswish", "mbconv3_e2_se_hswish")),
        ("images", ("residual3_relu6_w0.5", "separable5")),
        ("series", ("mbconv9_e2_se", "encoder_h2_k4_f2")),
    ],
)
def test_every_format_computes_the_network(name, ops, tmp_path):
    space = SPACES[name]
    network = build_network(space, space.from_indices([space.op_names.index(op) for op in ops]))
    random = np.random.RandomState(0)
    for weights in network.weights:
        if "variance" not in weights.path:
            weights.assign(random.normal(0, 0.5, weights.shape))
    inputs = random.rand(32, *space.input_shape).astype(np.float32)
    report = export_network(network, str(tmp_path), calibration_images=inputs)
    for key in ("saved_model", "keras", "tflite"):
        assert report[key]["top1_agreement"] == 1.0, key
    assert report["tflite_int8"]["top1_agreement"] > 0.8
