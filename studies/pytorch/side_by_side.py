"""Many networks of a space as one PyTorch program: their channels lie side by side.

One network of a small space keeps little of a GPU busy. Side by side, the pointwise
convolutions of N networks are one batched matrix product, their depthwise convolutions and
normalisations one call over all channels. The networks share nothing else: loss, gradient
and update of each are those of a training of its own.

Import this module only where PyTorch is installed.

Axes: B images; N networks, n of them with one op; S seeds; C, H, W channels, height and width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from dance_tf.structs import Layer
from dance_tf.supernet.search_space import NetworkSpace
from studies.pytorch.torch_depthwise import depthwise_conv

__all__ = ["SideBySide"]

_MOMENTUM = 0.9  # of the optimizer
_MOVED = 0.1  # share of a batch in the moving statistics
_EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class _Unit:
    """One layer of n networks side by side, with the normalisation that follows it."""

    layer: Layer
    num_networks: int
    use_relu6: bool
    first_part: int  # of its kernels; then gamma and beta, of the classifier the bias
    moving_mean: torch.Tensor
    moving_variance: torch.Tensor

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Return [n K, 1, S, R] of a depthwise convolution, else [n, K, C S R]."""
        layer = self.layer
        if layer.kind == "depthwise":
            return self.num_networks * layer.K, 1, layer.S, layer.R
        return self.num_networks, layer.K, layer.C * layer.S * layer.R


class SideBySide:
    """N networks, their weights in one vector.

    Args:
        space: Network space.
        op_indices: int [N, D].
        seeds: Of the initial weights, [N].
        device: Of PyTorch.

    Attributes:
        num_networks: N.
        weights: float32 [all weights of all networks], a leaf of autograd.
    """

    def __init__(
        self, space: NetworkSpace, op_indices: np.ndarray, seeds: Sequence[int], device: str
    ) -> None:
        self._space, self._device = space, device
        self.num_networks = len(op_indices)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        parts: list[torch.Tensor] = []
        decays: list[torch.Tensor] = []

        def add(layers: Sequence[Layer], members: Sequence[int], ends_linear: bool) -> list[_Unit]:
            units = []
            for layer in layers:
                use_relu6 = not (ends_linear and layer is layers[-1])
                units.append(self._add(layer, members, use_relu6, parts, decays))
            return units

        order = np.arange(len(op_indices))
        stem, *first = space.layers_before()
        head, classifier = space.layers_after()
        self._before = add([stem], order, False) + add(first, order, True)
        # Of each block: what brings the networks into the order of their ops, how many have
        # each, and its layers.
        self._blocks: list[tuple[torch.Tensor, list[int], list[list[_Unit]]]] = []
        for block in range(space.num_blocks):
            change = np.argsort(op_indices[order, block], kind="stable")
            order = order[change]
            ops, counts = np.unique(op_indices[order, block], return_counts=True)
            units = [
                add(
                    space.op_layers(block, space.op_names[op]),
                    order[op_indices[order, block] == op],
                    True,
                )
                for op in ops
            ]
            self._blocks.append((torch.as_tensor(change).to(device), counts.tolist(), units))
        (self._head,) = add([head], order, False)
        self._classifier = self._add(classifier, order, False, parts, decays, is_classifier=True)
        self._back = torch.as_tensor(np.argsort(order)).to(device)
        self._sizes = [len(part) for part in parts]
        self.weights = torch.cat(parts).to(device).requires_grad_()
        self._is_kernel = torch.cat(decays).to(device)
        self._velocity = torch.zeros_like(self.weights)

    def _add(
        self,
        layer: Layer,
        members: Sequence[int],
        use_relu6: bool,
        parts: list[torch.Tensor],
        decays: list[torch.Tensor],
        is_classifier: bool = False,
    ) -> _Unit:
        """Draw the initial weights of a layer of some networks."""
        num_channels = len(members) * layer.K
        ones, zeros = torch.ones(num_channels), torch.zeros(num_channels)
        unit = _Unit(
            layer,
            len(members),
            use_relu6,
            len(parts),
            zeros.clone().to(self._device),
            ones.clone().to(self._device),
        )
        fan_out = layer.R * layer.S * (1 if layer.kind == "depthwise" else layer.K)
        deviation = 0.01 if is_classifier else math.sqrt(2.0 / fan_out)
        size = math.prod(unit.kernel_shape) // len(members)
        kernels = [torch.randn(size, generator=self._generators[n]) for n in members]
        parts.append(deviation * torch.cat(kernels))
        decays.append(torch.ones_like(parts[-1]))
        for part in (zeros,) if is_classifier else (ones, zeros):
            parts.append(part)
            decays.append(torch.zeros_like(part))
        return unit

    def logits(self, images: torch.Tensor, which: torch.Tensor, training: bool) -> torch.Tensor:
        """Return what the networks say.

        Args:
            images: float32 [S, B, C, H, W] in 0..1.
            which: int64 [N], of the S the one that each network sees.
            training: Normalise by the batch, and move the statistics.
        Returns:
            float32 [N, B, classes].
        """
        parts = self.weights.split(self._sizes)
        stem = self._before[0].layer
        size = (stem.Q, stem.P)
        padded = functional.pad(2.0 * images - 1.0, [stem.R // 2] * 2 + [stem.S // 2] * 2)
        taps = [
            padded[..., y : y + size[0], x : x + size[1]]
            for y in range(stem.S)
            for x in range(stem.R)
        ]
        # One product per network and image serves as the stem's convolution.
        x = torch.stack(taps, dim=3).flatten(2, 3).flatten(3).transpose(0, 1)
        x = x.index_select(1, which).unflatten(3, size)
        for unit in self._before:
            x = self._run(unit, x, parts, training)
        for block, (change, counts, ops) in zip(self._space.blocks, self._blocks, strict=True):
            outputs = []
            for before, units in zip(x.index_select(1, change).split(counts, 1), ops, strict=True):
                after = before
                for unit in units:
                    after = self._run(unit, after, parts, training)
                outputs.append(before + after if block.is_skippable and units else after)
            x = torch.cat(outputs, dim=1)
        pooled = self._run(self._head, x, parts, training).mean((3, 4)).transpose(0, 1)
        unit = self._classifier
        kernel, bias = parts[unit.first_part : unit.first_part + 2]
        kernel = kernel.view(unit.kernel_shape).transpose(1, 2)
        logits = torch.baddbmm(bias.view(len(pooled), 1, -1), pooled, kernel)
        return logits.index_select(0, self._back)

    def _run(
        self, unit: _Unit, x: torch.Tensor, parts: Sequence[torch.Tensor], training: bool
    ) -> torch.Tensor:
        """Convolve [B, n, C, H, W], normalise and, where the unit has it, clip."""
        kernel, gamma, beta = parts[unit.first_part : unit.first_part + 3]
        layer, kernel = unit.layer, kernel.view(unit.kernel_shape)
        if layer.kind == "depthwise":
            x = depthwise_conv(x.flatten(1, 2), kernel, layer.stride[0], (layer.Q, layer.P))
        else:
            size, x = x.shape[3:], x.flatten(3)
            if x.shape[3] > x.shape[2]:
                x = torch.matmul(kernel, x)
            else:  # Few pixels, many channels: one product per network rather than per image.
                x = torch.einsum("nkc,bncp->bnkp", kernel, x)
            x = x.flatten(1, 2).unflatten(2, size)
        x = functional.batch_norm(
            x, unit.moving_mean, unit.moving_variance, gamma, beta, training, _MOVED, _EPSILON
        )
        if unit.use_relu6:
            x = functional.hardtanh(x, 0.0, 6.0, inplace=True)
        return x.unflatten(1, (unit.num_networks, layer.K))

    def update(self, gradient: torch.Tensor, rate: torch.Tensor, weight_decay: float) -> None:
        """Do one step of dance_tf.supernet.sgd.RowSGD."""
        with torch.no_grad():
            step = rate * gradient.addcmul(self._is_kernel, self.weights, value=weight_decay)
            self._velocity.mul_(_MOMENTUM).sub_(step)
            self.weights.add_(self._velocity, alpha=_MOMENTUM).sub_(step)

    def state(self) -> list[torch.Tensor]:
        """Return all that a training step changes."""
        units = [*self._before, self._head, *(u for b in self._blocks for op in b[2] for u in op)]
        moving = [t for unit in units for t in (unit.moving_mean, unit.moving_variance)]
        return [self.weights, self._velocity, *moving]
