"""Every model of keras.applications: MACs equal a count from the shapes of its layers."""

from __future__ import annotations

import math

import keras
import pytest

from dance_tf.interop.keras_files import application_names, load_application
from dance_tf.interop.keras_model import layers_of_keras_model

#: What the issue trackers and papers of these models agree on.
KNOWN = {
    "MobileNetV2": 300_774_272,
    "MobileNet": 568_740_352,
    "ResNet50": 3_857_973_248,
    "VGG16": 15_470_264_320,
}

#: Quick to build, and of every kind: depthwise, inverted, transformer-like, dense, open size.
FEW = ("MobileNetV2", "MobileNetV3Small", "ConvNeXtTiny", "VGG16", "ResNet50")


def counted_from_shapes(model: keras.Model) -> int:
    """Return weights of kernels times positions of outputs, layer by layer."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.Sequential):  # ConvNeXt's stem and downsampling
            total += counted_from_shapes(layer)
        elif isinstance(layer, keras.layers.Dense):
            total += math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
        elif isinstance(layer, keras.layers.SeparableConv2D):
            weights = math.prod(layer.depthwise_kernel.shape)
            weights += math.prod(layer.pointwise_kernel.shape)
            total += weights * math.prod(layer.output.shape[1:3])
        elif isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            total += math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:3])
        else:
            sizes = [max(w.shape, default=1) == math.prod(w.shape) for w in layer.weights]
            assert all(sizes), f"{layer.name} has a matrix of weights"
    return total


def check(name: str) -> None:
    model = load_application(name)
    found = layers_of_keras_model(model)
    assert found.macs == counted_from_shapes(model) == KNOWN.get(name, found.macs)
    assert found.num_parameters == model.count_params()
    names = [layer.name for layer in found.layers]
    assert len(set(names)) == len(names)
    # Every layer of the model is costed or listed.
    listed = {entry.name for entry in found.not_costed}
    costed = {name.removesuffix("/depthwise").removesuffix("/pointwise") for name in names}
    not_called = (keras.layers.InputLayer, keras.Sequential)
    own = {layer.name for layer in model.layers if not isinstance(layer, not_called)}
    assert own <= listed | costed
    assert 0 < sum(entry.share_of_data_moved for entry in found.not_costed) < 1


@pytest.mark.parametrize("name", FEW)
def test_a_few(name: str):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in application_names() if name not in FEW])
def test_all(name: str):
    check(name)


def test_batch_normalisation_of_mobilenet_is_folded():
    found = layers_of_keras_model(load_application("MobileNetV2", 96))
    norms = [e for e in found.not_costed if e.layer_class == "BatchNormalization"]
    assert len(norms) == 52 and all(e.folded_into and not e.words_moved for e in norms)


def test_sizes_of_images():
    small = layers_of_keras_model(load_application("MobileNetV2", 96)).macs
    assert small < layers_of_keras_model(load_application("MobileNetV2", 128)).macs < 300_774_272
