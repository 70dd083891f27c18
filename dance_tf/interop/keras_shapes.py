"""Layers from shapes: convolutions in Keras's order of axes, products by labelled axes.

A Keras kernel is (height, width, ...), a Layer's sides are (width, height); a
one-dimensional layer has width alone.

A product of two tensors is a 1x1 convolution: axes of the first alone are positions,
axes of the second alone output channels, what is summed over input channels, and what
both keep (heads, for example) groups.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence

import numpy as np

from dance_tf.structs import Layer

__all__ = [
    "Shape",
    "Shapes",
    "Unsupported",
    "contraction",
    "convolution",
    "einsum",
    "einsum_pairs",
    "matmul",
    "product",
]

Shape = tuple[int, ...]
Shapes = Sequence[Shape]


class Unsupported(Exception):
    """A call that multiplies and accumulates, but not in a way that a Layer describes."""


def convolution(
    name: str,
    batch: int,
    size: Sequence[int],
    kernel: Sequence[int],
    *,
    K: int,
    C: int,
    groups: int = 1,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
) -> Layer:
    """Return a layer whose sizes are in Keras's order, (height, width) or (length,).

    Args:
        name: Name of the layer.
        batch: N.
        size: Size of the output.
        kernel: Sizes of the filter.
        K: Output channels of all groups.
        C: Input channels of one group.
        groups: Number of groups; K of them with C = 1 are a depthwise layer, whatever Keras
            calls it.
        stride: Stride in the order of `size`, or one number for all.
        dilation: Dilation in the order of `size`, or one number for all.
    Raises:
        Unsupported: If there are more than two dimensions.
    """
    rank = len(size)
    if rank > 2:
        raise Unsupported(f"it has {rank} dimensions, where a layer has width and height")
    P, Q = _sides(size, rank)
    R, S = _sides(kernel, rank)
    is_depthwise = groups > 1 and groups == K and C == 1
    return Layer(
        name=name,
        kind="depthwise" if is_depthwise else "conv",
        N=batch,
        K=K,
        C=C,
        P=P,
        Q=Q,
        R=R,
        S=S,
        stride=_sides(stride, rank),
        dilation=_sides(dilation, rank),
        groups=1 if is_depthwise else groups,
    )


def _sides(values: int | Sequence[int], rank: int) -> tuple[int, int]:
    """Return (width, height) of Keras's (height, width), (length,) or one number for all."""
    numbers = [values] * rank if isinstance(values, int) else list(values)
    width, height = (*numbers[::-1], 1, 1)[:2]
    return int(width), int(height)


def product(name: str, left: str, right: str, output: str, sizes: Mapping[str, int]) -> Layer:
    """Return the product of two tensors whose axes are labelled by one letter each.

    A diagonal of an operand and a sum over an axis of it alone are taken before the product,
    and multiply nothing.
    """
    left, right = (
        "".join(t for t in dict.fromkeys(own) if t in other or t in output)
        for own, other in ((left, right), (right, left))
    )
    rows = [label for label in output if label in left and label not in right]
    columns = math.prod(sizes[label] for label in right if label in output and label not in left)
    summed = math.prod(sizes[label] for label in left if label in right and label not in output)
    groups = math.prod(sizes[label] for label in left if label in right and label in output)
    # The batch comes first; where both operands have it, it is a part of the groups.
    batch = sizes[rows.pop(0)] if rows and output.startswith(rows[0]) else 1
    width = sizes[rows.pop()] if rows else 1
    height = math.prod(sizes[label] for label in rows)
    K = columns * groups
    return convolution(name, batch, (height, width), (1, 1), K=K, C=summed, groups=groups)


def einsum(name: str, equation: str, shapes: Sequence[Shape | None]) -> Layer:
    """Return the product of two tensors by an einsum equation.

    Args:
        name: Name of the layer.
        equation: Equation such as ``abc,cd->abd``, `...` allowed.
        shapes: Shapes of both operands and the output; None where the rest tell the sizes.
    Raises:
        Unsupported: If the equation is not one of two operands and an output.
    """
    texts, sizes = _labels(equation, shapes)
    if len(texts) != 3:
        raise Unsupported(f"its equation is {equation!r}, not one of two operands and an output")
    # An operand that is repeated along an axis does not have that axis.
    left, right = (
        "".join(
            t for t, s in zip(text, shape or map(sizes.get, text), strict=True) if s == sizes[t]
        )
        for text, shape in zip(texts[:2], shapes[:2], strict=True)
    )
    return product(name, left, right, texts[2], sizes)


def einsum_pairs(
    equation: str, shapes: Sequence[Shape]
) -> list[tuple[tuple[str, str, str], tuple[Shape, Shape]]]:
    """Return an einsum of any number of operands as products of two.

    Args:
        equation: Equation such as ``ab,bc,cd->ad``, `...` allowed, the output perhaps left out.
        shapes: Shapes of the operands.
    Returns:
        For each product, in numpy's greedy order, the labels of both operands and of the
        result, and the shapes of both operands; nothing where there is one operand.
    """
    (*texts, result), sizes = _labels(equation, shapes)
    operands = list(zip(texts, shapes, strict=True))
    path = [tuple(range(len(operands)))]
    if len(operands) > 2:
        dense = [np.broadcast_to(np.float32(0), shape) for shape in shapes]
        equation = f"{','.join(texts)}->{result}"
        path = np.einsum_path(equation, *dense, optimize="greedy")[0][1:]
    found = []
    for step in path:
        taken = [operands.pop(position) for position in sorted(step, reverse=True)]
        while len(taken) > 1:
            (left, left_shape), (right, right_shape) = taken.pop(), taken.pop()
            others = result + "".join(text for text, _ in (*operands, *taken))
            kept = "".join(t for t in dict.fromkeys(left + right) if t in others)
            if not operands and not taken:
                kept = result
            found.append(((left, right, kept), (left_shape, right_shape)))
            taken.append((kept, tuple(sizes[label] for label in kept)))
        operands.append(taken[0])
    return found


def _labels(equation: str, shapes: Sequence[Shape | None]) -> tuple[list[str], dict[str, int]]:
    """Return the axes of operands and output, one letter each, and the size of each.

    Raises:
        Unsupported: If the operands are not as many as the shapes.
    """
    operands, arrow, result = equation.replace(" ", "").partition("->")
    texts = operands.split(",")
    if not arrow:
        letters = operands.replace(",", "").replace(".", "")
        result = "..." * ("..." in operands)
        result += "".join(t for t in sorted(set(letters)) if letters.count(t) == 1)
    texts.append(result)
    if len(shapes) not in (len(texts), len(texts) - 1):
        raise Unsupported(f"its equation is {equation!r}, and it has {len(shapes)} operands")
    # One letter for every axis that `...` stands for, the last axes aligned.
    spare = "".join(t for t in string.ascii_letters if t not in equation)
    sizes: dict[str, int] = {}
    longest = 0
    for i, shape in enumerate(shapes):
        if shape is not None:
            num = len(shape) - len(texts[i].replace("...", ""))
            longest = max(longest, num) if "..." in texts[i] else longest
            texts[i] = texts[i].replace("...", spare[len(spare) - num :])
            for label, size in zip(texts[i], shape, strict=True):
                sizes[label] = max(size, sizes.get(label, 1))
    return [text.replace("...", spare[len(spare) - longest :]) for text in texts], sizes


def matmul(name: str, left: Shape, right: Shape, output: Shape) -> Layer:
    """Return the product of two matrices or vectors, or of stacks of them."""
    is_vector = len(left) == 1, len(right) == 1
    first = "k" if is_vector[0] else "...pk"
    second = "k" if is_vector[1] else "...kq"
    result = "..." + "p" * (not is_vector[0]) + "q" * (not is_vector[1])
    return einsum(name, f"{first},{second}->{result}", (left, right, output))


def contraction(
    name: str, left: Shape, right: Shape, left_axes: Sequence[int], right_axes: Sequence[int]
) -> Layer:
    """Return the product that sums over pairs of axes and keeps all others, left ones first."""
    first = [chr(0x100 + i) for i in range(len(left))]
    second = [chr(0x200 + i) for i in range(len(right))]
    for i, j in zip(left_axes, right_axes, strict=True):
        second[j] = first[i]
    sizes = dict(zip((*first, *second), (*left, *right), strict=True))
    kept = [label for label in (*first, *second) if not (label in first and label in second)]
    return product(name, "".join(first), "".join(second), "".join(kept), sizes)
