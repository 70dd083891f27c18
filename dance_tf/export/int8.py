"""Networks in 8-bit words: converted to int8 TFLite, and computed in Keras with the same errors.

Post-training quantisation takes the ranges of values from calibration images. A kernel has a
scale for each output channel, so that batch normalisation, which the conversion folds into the
kernel, changes nothing about its rounding; other tensors have one scale.

Source: Jacob et al. (2018), Quantization and training of neural networks for efficient
integer-arithmetic-only inference.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from dance_tf.export.signatures import Images, export_saved_model, layer_names
from dance_tf.export.tflite import TFLiteClassifier, convert_to_tflite

__all__ = ["as_int8", "fake_quantised", "int8_content"]

#: Least scale, of tensors that are all zeros.
_TINY = 1e-30

#: Layers with kernels, whose outputs TFLite does not keep when one of `_FUSED` follows.
_WITH_KERNELS = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.Dense,
    keras.layers.EinsumDense,
)

#: Layers that TFLite computes together with the layer before them, by that layer.
_FUSED: dict[type[keras.layers.Layer], tuple[type[keras.layers.Layer], ...]] = {
    keras.layers.BatchNormalization: _WITH_KERNELS,
    keras.layers.ReLU: (*_WITH_KERNELS, keras.layers.BatchNormalization, keras.layers.Add),
}


def int8_content(model: keras.Model, calibration_images: Images) -> bytes:
    """Return a network as an int8 TFLite file, input and output too.

    Args:
        model: Functional network.
        calibration_images: Images [N, H, W, C], from which the ranges are taken; N >= 1.
    Raises:
        UserError: If the converter refuses the network.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "saved_model")
        export_saved_model(model, path)
        return convert_to_tflite(path, calibration_images, layer_names=layer_names(model))


@contextlib.contextmanager
def as_int8(model: keras.Model, calibration_images: Images) -> Iterator[TFLiteClassifier]:
    """Give a network as its int8 TFLite network, whose file goes with the context.

    Args and errors are those of `int8_content`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "network_int8.tflite")
        with open(path, "wb") as file:
            file.write(int8_content(model, calibration_images))
        yield TFLiteClassifier(path)


def fake_quantised(model: keras.Model, word_bits: int = 8) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a network as a function that rounds its kernels and tensors to words of few bits.

        x -> s * round(x / s), of a kernel: s = max(abs(x)) / (2 ** (word_bits - 1) - 1)
                               of a tensor: s = (max(x, 0) - min(x, 0)) / (2 ** word_bits - 1)

    The scale of a kernel is its output channel's, that of a tensor the batch's. The gradient
    passes a rounding as if it was none. Batch normalisation goes by the moving statistics.

    >>> import keras
    >>> import tensorflow as tf
    >>> inputs = keras.Input((2,))
    >>> network = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="ones")(inputs))
    >>> fake_quantised(network, word_bits=2)(tf.constant([[1.0, 0.4]])).numpy()
    array([[1.3333334]], dtype=float32)

    Args:
        model: Functional network; the function reads its variables when it is called.
        word_bits: Width of a word, at most 16 bits.
    Returns:
        Function from a batch of images to the outputs, differentiable in the variables.
    """
    levels = 2**word_bits - 1
    made_by: dict[int, keras.Operation] = {}  # of tensors that are not rounded yet

    def call(operation: keras.Operation, *args: object, **kwargs: object) -> object:
        def rounded(tensor: object) -> object:
            if not isinstance(tensor, keras.KerasTensor):
                return tensor
            maker = made_by.get(id(tensor))
            is_fused = isinstance(maker, _FUSED.get(type(operation), ()))
            return tensor if is_fused else ToWords(levels)(tensor)

        outputs = operation(*keras.tree.map_structure(rounded, args), **kwargs)
        made_by.update((id(tensor), operation) for tensor in keras.tree.flatten(outputs))
        return outputs

    copy = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)
    network = keras.Model(copy.input, keras.tree.map_structure(ToWords(levels), copy.output))
    depthwise = {
        id(layer.kernel)
        for layer in model.layers
        if isinstance(layer, keras.layers.DepthwiseConv2D)
    }

    def run(images: tf.Tensor) -> tf.Tensor:
        weights = []
        for variable in network.trainable_variables:
            value = tf.convert_to_tensor(variable.value)
            if variable.name == "kernel":
                num_channel_axes = 2 if id(variable) in depthwise else 1
                axes = list(range(len(value.shape) - num_channel_axes))
                largest = tf.reduce_max(tf.abs(value), axes, keepdims=True)
                value = _rounded(value, largest / (levels // 2))
            weights.append(value)
        others = [variable.value for variable in network.non_trainable_variables]
        return network.stateless_call(weights, others, images, training=False)[0]

    return run


class ToWords(keras.layers.Layer):
    """Rounding of a tensor to the words of its range."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self._levels = levels

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        high, low = tf.reduce_max(inputs), tf.reduce_min(inputs)
        width = tf.maximum(high, 0.0) - tf.minimum(low, 0.0)
        return _rounded(inputs, width / self._levels)


def _rounded(values: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Round to whole multiples of a scale, with the gradient of the identity."""
    scale = tf.maximum(scale, _TINY)
    return values + tf.stop_gradient(tf.round(values / scale) * scale - values)
