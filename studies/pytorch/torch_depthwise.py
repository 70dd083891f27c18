"""Depthwise convolution in PyTorch with gradients that are convolutions themselves.

PyTorch's own gradient of the kernel reads all images anew for each tap, which for thousands
of channels of a few pixels takes longer than all the rest of the layer.

Axes: B images; C channels; H, W height and width; K x K taps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

__all__ = ["depthwise_conv"]


def depthwise_conv(
    images: torch.Tensor, kernel: torch.Tensor, stride: int, output_size: tuple[int, int]
) -> torch.Tensor:
    """Filter each channel, padded as TensorFlow's "same": the odd pixel below and right.

    Args:
        images: [B, C, H, W].
        kernel: [C, 1, K, K].
        stride: Of rows and columns.
        output_size: (H', W').
    Returns:
        [B, C, H', W'].
    """
    missing_y, missing_x = (
        max(0, (out - 1) * stride + kernel.shape[2] - size)
        for out, size in zip(output_size, images.shape[2:], strict=True)
    )
    pads = (missing_x // 2, missing_x - missing_x // 2, missing_y // 2, missing_y - missing_y // 2)
    return _Depthwise.apply(images, kernel, stride, pads)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        kernel: torch.Tensor,
        stride: int,
        pads: tuple[int, int, int, int],
    ) -> torch.Tensor:
        ctx.save_for_backward(images, kernel)
        ctx.stride, ctx.pads = stride, pads
        padded = functional.pad(images, pads)
        return functional.conv2d(padded, kernel, stride=stride, groups=len(kernel))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        images, kernel = ctx.saved_tensors
        stride, gradient = ctx.stride, gradient.contiguous()
        batch, channels, height, width = images.shape
        left, _, top, _ = ctx.pads
        size = kernel.shape[2]
        flipped = kernel.flip(2, 3)
        if stride > 1:  # As if all outputs had been computed and the others not been used.
            rows, columns = ((stride * (length - 1) + 1) for length in gradient.shape[2:])
            spread = gradient.new_zeros(batch, channels, rows, columns)
            spread[:, :, ::stride, ::stride] = gradient
            of_images = functional.conv2d(spread, flipped, padding=size - 1, groups=channels)
            of_images = of_images[:, :, top : top + height, left : left + width]
        else:
            of_images = functional.conv2d(gradient, flipped, padding=size // 2, groups=channels)
        padded = functional.pad(images, ctx.pads)
        # Each plane filtered by its own gradient, whose pixels lie as far apart as the stride.
        planes = batch * channels
        products = functional.conv2d(
            padded.view(1, planes, *padded.shape[2:]),
            gradient.view(planes, 1, *gradient.shape[2:]),
            dilation=stride,
            groups=planes,
        )
        return of_images, products.view(batch, *kernel.shape).sum(0), None, None
