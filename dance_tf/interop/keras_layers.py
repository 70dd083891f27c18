"""One call of a Keras layer or operation as the convolutions that it computes.

Only shapes are looked at. Padding is part of the input, so the output's size is what
counts.

Transposed convolutions are costed as the products that they are made of: every input
position meets every weight once, which is a 1x1 convolution with K * R * S output
channels over the input's positions. Adding up where the results overlap is not costed,
and no multiplication by an inserted zero is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import keras
from keras import Operation

from dance_tf.interop.keras_shapes import (
    Shape,
    Shapes,
    Unsupported,
    contraction,
    convolution,
    einsum,
    einsum_pairs,
    matmul,
    product,
)
from dance_tf.structs import Layer

__all__ = ["Unsupported", "layers_of_call", "macs_by_weights"]


def layers_of_call(
    operation: Operation, name: str, inputs: Shapes, output: Shape
) -> list[Layer] | None:
    """Return the layers of one call in the order in which they run.

    Args:
        operation: Layer or operation that was called.
        name: Name of the only layer; where there are several, each gets `/what` appended.
        inputs: Shapes of the tensors and variables that it was given, batch first.
        output: Shape of its (first) output.
    Returns:
        The layers, none where the operation only moves data or adds it up; None where it is
        not one that this module knows.
    Raises:
        Unsupported: If it is known but cannot be expressed.
    """
    for layer_class, convert in _LAYERS:
        # A subclass with a `call` of its own may compute anything.
        if isinstance(operation, layer_class) and type(operation).call is layer_class.call:
            return convert(operation, name, inputs, output)
    if type(operation).__module__.startswith("keras.src.ops."):
        convert_op = _OPERATIONS.get(type(operation).__name__)
        if convert_op is not None:
            return convert_op(operation, name, inputs, output)
    return None


def macs_by_weights(operation: Operation, inputs: Shapes, output: Shape) -> int | None:
    """Return MACs as the number of Keras's own weights times the positions that use each.

    None where the operation has no kernel, or keeps it in another form.
    """
    if getattr(operation, "quantization_mode", None) or getattr(operation, "lora_enabled", False):
        return None
    if isinstance(operation, keras.layers.EinsumDense):
        labels, _, kept = operation.equation.partition(",")[2].replace(" ", "").partition("->")
        shape = operation.kernel.shape
        shared = math.prod(s for t, s in zip(labels, shape, strict=True) if t in kept)
        return math.prod(shape) * (math.prod(output) // shared)
    if isinstance(operation, keras.layers.Dense):
        return math.prod(operation.kernel.shape) * math.prod(output[:-1])
    if isinstance(operation, _SEPARABLE):
        kernels = [operation.depthwise_kernel, operation.pointwise_kernel]
    elif isinstance(operation, (*_CONV, *_DEPTHWISE, *_TRANSPOSED)):
        kernels = [operation.kernel]
    else:
        return None
    places = inputs[0] if isinstance(operation, _TRANSPOSED) else output
    positions = places[0] * math.prod(_spatial(operation, places))
    return positions * sum(math.prod(kernel.shape) for kernel in kernels)


# Convolutions by the shapes of their kernels


def _is_channels_first(operation: Operation) -> bool:
    return (operation.data_format or keras.config.image_data_format()) == "channels_first"


def _channels(operation: Operation, shape: Shape) -> int:
    return shape[1] if _is_channels_first(operation) else shape[-1]


def _spatial(operation: Operation, shape: Shape) -> Shape:
    return shape[2:] if _is_channels_first(operation) else shape[1:-1]


def _steps(operation: Operation) -> dict[str, int | Sequence[int]]:
    return {"stride": operation.strides, "dilation": operation.dilation_rate}


def _grouped(
    operation: Operation, name: str, kernel: Shape, inputs: Shapes, output: Shape
) -> list[Layer]:
    """Return the layer of a convolution whose kernel is (..., C of a group, K)."""
    *sides, C, K = kernel
    groups = _channels(operation, inputs[0]) // C
    size = _spatial(operation, output)
    return [convolution(name, output[0], size, sides, K=K, C=C, groups=groups, **_steps(operation))]


def _per_channel(operation: Operation, name: str, kernel: Shape, output: Shape) -> list[Layer]:
    """Return the layer of a depthwise convolution whose kernel is (..., C, multiplier)."""
    *sides, groups, multiplier = kernel
    size, K = _spatial(operation, output), groups * multiplier
    return [convolution(name, output[0], size, sides, K=K, C=1, groups=groups, **_steps(operation))]


def _separable(
    operation: Operation, name: str, depthwise: Shape, pointwise: Shape, output: Shape
) -> list[Layer]:
    """Return both layers of a separable convolution with kernels of these shapes."""
    *sides, C, K = pointwise
    return [
        *_per_channel(operation, f"{name}/depthwise", depthwise, output),
        convolution(f"{name}/pointwise", output[0], _spatial(operation, output), sides, K=K, C=C),
    ]


def _transposed(operation: Operation, name: str, kernel: Shape, inputs: Shapes) -> list[Layer]:
    """Return the products of a transposed convolution whose kernel is (..., K, C)."""
    *sides, K, C = kernel
    size = _spatial(operation, inputs[0])
    ones = [1] * len(size)
    return [convolution(name, inputs[0][0], size, ones, K=K * math.prod(sides), C=C)]


# Layers


def _conv_layer(operation: Operation, name: str, inputs: Shapes, output: Shape) -> list[Layer]:
    C = _channels(operation, inputs[0]) // operation.groups
    kernel = (*operation.kernel_size, C, operation.filters)
    return _grouped(operation, name, kernel, inputs, output)


def _depthwise_kernel(operation: Operation, inputs: Shapes) -> Shape:
    channels = _channels(operation, inputs[0])
    return (*operation.kernel_size, channels, operation.depth_multiplier)


def _depthwise_layer(operation: Operation, name: str, inputs: Shapes, output: Shape) -> list[Layer]:
    return _per_channel(operation, name, _depthwise_kernel(operation, inputs), output)


def _separable_layer(operation: Operation, name: str, inputs: Shapes, output: Shape) -> list[Layer]:
    depthwise = _depthwise_kernel(operation, inputs)
    ones = [1] * len(operation.kernel_size)
    pointwise = (*ones, depthwise[-2] * depthwise[-1], operation.filters)
    return _separable(operation, name, depthwise, pointwise, output)


def _transposed_layer(
    operation: Operation, name: str, inputs: Shapes, output: Shape
) -> list[Layer]:
    kernel = (*operation.kernel_size, operation.filters, _channels(operation, inputs[0]))
    return _transposed(operation, name, kernel, inputs)


def _dense(operation: Operation, name: str, inputs: Shapes, output: Shape) -> list[Layer]:
    batch, *rows = inputs[0][:-1] or (1,)
    width = rows.pop() if rows else 1
    size = (math.prod(rows), width)
    return [convolution(name, batch, size, (1, 1), K=operation.units, C=inputs[0][-1])]


def _einsum_dense(operation: Operation, name: str, inputs: Shapes, output: Shape) -> list[Layer]:
    # The kernel's own shape is not asked for: a quantised one is packed.
    return [einsum(name, operation.equation, (inputs[0], None, output))]


# Operations


def _two(inputs: Shapes) -> Sequence[Shape]:
    if len(inputs) != 2:
        raise Unsupported(f"it has {len(inputs)} operands, not two")
    return inputs


def _matmul(operation: Operation, name: str, inputs: Shapes, output: Shape) -> list[Layer]:
    left, right = _two(inputs)
    return [matmul(name, left, right, output)]


def _einsum(operation: Operation, name: str, inputs: Shapes, output: Shape) -> list[Layer]:
    """Return a layer for each two operands; none for a transposition, a diagonal or a sum."""
    pairs = einsum_pairs(operation.subscripts, inputs)
    layers = []
    for i, ((first, second, result), (left, right)) in enumerate(pairs, start=1):
        if result[-1:] in first and result[-1:] not in second:
            # The last axis is that of the output channels, so this operand is the weights'.
            first, second, left, right = second, first, right, left
        own = name if len(pairs) == 1 else f"{name}/{i}"
        layers.append(einsum(own, f"{first},{second}->{result}", (left, right, None)))
    return layers


def _tensordot(operation: Operation, name: str, inputs: Shapes, output: Shape) -> list[Layer]:
    left, right = _two(inputs)
    axes = operation.axes
    if isinstance(axes, int):
        axes = (range(len(left) - axes, len(left)), range(axes))
    first, second = ([axis] if isinstance(axis, int) else list(axis) for axis in axes)
    return [contraction(name, left, right, first, second)]


def _is_scaling(inputs: Shapes) -> bool:
    """Say whether one operand is a number, perhaps one of Python, which has no shape."""
    return len(inputs) == 1 or () in inputs


def _dot(operation: Operation, name: str, inputs: Shapes, output: Shape) -> list[Layer]:
    if _is_scaling(inputs):
        return []
    left, right = _two(inputs)
    return [contraction(name, left, right, [-1], [-2 if len(right) > 1 else -1])]


def _inner(operation: Operation, name: str, inputs: Shapes, output: Shape) -> list[Layer]:
    if _is_scaling(inputs):
        return []
    left, right = _two(inputs)
    return [contraction(name, left, right, [-1], [-1])]


def _vdot(operation: Operation, name: str, inputs: Shapes, output: Shape) -> list[Layer]:
    left, right = ((math.prod(shape),) for shape in _two(inputs))
    return [contraction(name, left, right, [0], [0])]


def _grayscale(operation: Operation, name: str, inputs: Shapes, output: Shape) -> list[Layer]:
    shape = inputs[0] if len(inputs[0]) == 4 else (1, *inputs[0])
    size, C = _spatial(operation, shape), _channels(operation, shape)
    return [convolution(name, shape[0], size, (1, 1), K=1, C=C)]


def _moves_data(operation: Operation, name: str, inputs: Shapes, output: Shape) -> list[Layer]:
    """Return no layer: TensorFlow may use a product, but with a kernel of ones and zeros."""
    return []


def _attention(operation: Operation, name: str, inputs: Shapes, output: Shape) -> list[Layer]:
    """Return both products of query, key and value, [B, T, heads, depth] each."""
    (batch, length, heads, depth), key, value = inputs[:3]
    # Heads that share keys and values are rows of one group.
    sizes = {"b": batch, "t": length, "s": key[1], "h": key[2], "r": heads // key[2]}
    return [
        product(f"{name}/query_key", "bhrtd", "bhsd", "bhrts", {**sizes, "d": depth}),
        product(f"{name}/scores_value", "bhrts", "bhsd", "bhrtd", {**sizes, "d": value[-1]}),
    ]


def _additive_attention(
    operation: Operation, name: str, inputs: Shapes, output: Shape
) -> list[Layer] | None:
    """Return the product of scores and values, and that of tanh and a vector of scales."""
    is_additive = type(operation) is keras.layers.AdditiveAttention
    if not is_additive and not (
        type(operation) is keras.layers.Attention and operation.score_mode == "concat"
    ):
        return None  # the scores of a subclass may be of any kind
    (batch, length, depth), (_, steps, width) = inputs[:2]
    sizes = {"b": batch, "t": length, "s": steps, "d": depth, "e": width}
    layers = [product(f"{name}/scores_value", "bts", "bse", "bte", sizes)]
    if is_additive and operation.use_scale:
        layers.insert(0, product(f"{name}/scores", "btsd", "d", "bts", sizes))
    return layers


_CONV = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)

_Convert = Callable[[Operation, str, Shapes, Shape], list[Layer] | None]

#: Class of keras.layers, and what converts a call of it.
_LAYERS: tuple[tuple[type[Operation], _Convert], ...] = (
    *((layer_class, _conv_layer) for layer_class in _CONV),
    *((layer_class, _depthwise_layer) for layer_class in _DEPTHWISE),
    *((layer_class, _separable_layer) for layer_class in _SEPARABLE),
    *((layer_class, _transposed_layer) for layer_class in _TRANSPOSED),
    (keras.layers.Dense, _dense),
    (keras.layers.EinsumDense, _einsum_dense),
    (keras.layers.Attention, _additive_attention),
)

#: Class behind a function of keras.ops, and what converts a call of it.
_OPERATIONS: dict[str, _Convert] = {
    "Matmul": _matmul,
    "Dot": _dot,
    "Tensordot": _tensordot,
    "Einsum": _einsum,
    "Inner": _inner,
    "Vdot": _vdot,
    "RGBToGrayscale": _grayscale,
    "ExtractPatches": _moves_data,
    "DotProductAttention": _attention,
    "Conv": lambda op, name, inputs, output: _grouped(op, name, _two(inputs)[1], inputs, output),
    "DepthwiseConv": lambda op, name, inputs, output: _per_channel(
        op, name, _two(inputs)[1], output
    ),
    "SeparableConv": lambda op, name, inputs, output: _separable(
        op, name, inputs[1], inputs[2], output
    ),
    "ConvTranspose": lambda op, name, inputs, output: _transposed(
        op, name, _two(inputs)[1], inputs
    ),
}
