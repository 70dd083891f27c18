"""Many networks of a space trained as one PyTorch program: their channels lie side by side.

One network of a small space keeps little of a GPU busy. Side by side, the pointwise
convolutions of N networks are one batched matrix product, their depthwise convolutions and
normalisations one call over all channels. The networks share nothing else: loss, gradient
and update of each are those of a training of its own.

The recipe is that of `dance_tf.search.retrain`: initial distributions, normalisation,
schedule, optimizer, decay and augmentation. The random numbers are others. Import this
module only where PyTorch is installed.

Axes: B images; N networks; S seeds; C, H, W channels, height and width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from dance_tf.config import RetrainConfig
from dance_tf.structs import Layer
from dance_tf.supernet.search_space import NetworkSpace
from examples.image_file import Images
from examples.torch_depthwise import depthwise_conv

__all__ = ["SideBySide", "Trained", "learning_rate", "measure_accuracies", "train"]

_MOMENTUM = 0.9  # of the optimizer
_WARMUP_SHARE = 0.05  # of all steps
_MOVED = 0.1  # share of a batch in the moving statistics
_EPSILON = 1e-3
_TEST_BATCH_SIZE = 500


class Trained(NamedTuple):
    """What came of one network."""

    test_accuracy: float
    train_accuracy: float  # mean over the last epoch's augmented images
    cross_entropy: float  # the same, of smoothed labels


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
        weights: float32 [all weights of all networks], a leaf of autograd.
    """

    def __init__(
        self, space: NetworkSpace, op_indices: np.ndarray, seeds: Sequence[int], device: str
    ) -> None:
        self._space, self._device = space, device
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
        stem, *first, head, classifier = space.fixed_layers()
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


def learning_rate(step: int, total_steps: int, peak: float) -> float:
    """Return the learning rate of a step: a linear warm-up, then a cosine to zero."""
    warmup_steps = math.ceil(_WARMUP_SHARE * total_steps)
    first = peak / warmup_steps
    if step < warmup_steps:
        return first + (peak - first) * step / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 0.5 * peak * (1.0 + math.cos(math.pi * done))


def train(
    space: NetworkSpace,
    op_indices: np.ndarray,
    seeds: Sequence[int],
    images: Images,
    config: RetrainConfig,
    *,
    device: str,
    on_epoch: Callable[[int, int], None],
) -> list[Trained]:
    """Train networks from scratch on the training images and test them.

    Args:
        space: Network space.
        op_indices: int [N, D].
        seeds: Of initial weights and of the order and augmentation of images, [N].
        images: Of the space's input size.
        config: Schedule.
        device: Of PyTorch.
        on_epoch: Called with epochs done and all epochs.
    Raises:
        FloatingPointError: If a loss is not finite.
    """
    networks = SideBySide(space, op_indices, seeds, device)
    run = _Run(networks, seeds, _Batches(images, sorted(set(seeds)), config, device), config)
    step = _recorded(run) if torch.device(device).type == "cuda" else run.step
    for epoch in range(config.epochs):
        run.batches.draw(epoch)
        run.sums.zero_()
        for _ in range(run.batches.steps_per_epoch):
            step()
        means = (run.sums / run.batches.steps_per_epoch).cpu().numpy()
        if not np.isfinite(means).all():
            raise FloatingPointError(f"a loss is not finite in epoch {epoch + 1}")
        on_epoch(epoch + 1, config.epochs)
    accuracies = measure_accuracies(networks, images, device)
    return [
        Trained(float(test), float(hits), float(loss))
        for test, loss, hits in zip(accuracies, *means, strict=True)
    ]


class _Run:
    """A training; everything that its steps use and change is in tensors of the device."""

    def __init__(
        self,
        networks: SideBySide,
        seeds: Sequence[int],
        batches: _Batches,
        config: RetrainConfig,
    ) -> None:
        self._networks, self.batches, self._config = networks, batches, config
        device = networks.weights.device
        distinct = sorted(set(seeds))
        self._which = torch.tensor([distinct.index(seed) for seed in seeds], device=device)
        total_steps = config.epochs * batches.steps_per_epoch
        rates = [learning_rate(s, total_steps, config.learning_rate) for s in range(total_steps)]
        self._rates = torch.tensor(rates, device=device)
        self._done = torch.zeros(1, dtype=torch.long, device=device)
        #: Cross-entropies and hit rates of an epoch's steps, added up, [2, N].
        self.sums = torch.zeros(2, len(seeds), device=device)

    def step(self) -> None:
        """Train on the next batch."""
        images, labels = self.batches.batch(self._done % self.batches.steps_per_epoch)
        labels = labels.index_select(0, self._which)
        logits = self._networks.logits(images, self._which, training=True)
        losses = functional.cross_entropy(
            logits.flatten(0, 1),
            labels.flatten(),
            reduction="none",
            label_smoothing=self._config.label_smoothing,
        )
        losses = losses.view(labels.shape).mean(1)
        (gradient,) = torch.autograd.grad(losses.sum(), self._networks.weights)
        self._networks.update(
            gradient, self._rates.index_select(0, self._done), self._config.weight_decay
        )
        hits = (logits.detach().argmax(2) == labels).float().mean(1)
        self.sums += torch.stack([losses.detach(), hits])
        self._done += 1

    def state(self) -> list[torch.Tensor]:
        """Return all that a step changes."""
        return [*self._networks.state(), self._done, self.sums]


def _recorded(run: _Run) -> Callable[[], None]:
    """Return what does a step on the GPU without the time that Python takes to ask for it."""
    run.batches.draw(0)
    before = [tensor.detach().clone() for tensor in run.state()]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # PyTorch wants some steps off the record first.
        for _ in range(3):
            run.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run.step()
    with torch.no_grad():
        for tensor, value in zip(run.state(), before, strict=True):
            tensor.copy_(value)
    return graph.replay


def measure_accuracies(networks: SideBySide, images: Images, device: str) -> np.ndarray:
    """Return each network's share of hits among the test images, [N]."""
    num_hits: np.ndarray | int = 0
    for start in range(0, len(images.test), _TEST_BATCH_SIZE):
        rows = slice(start, start + _TEST_BATCH_SIZE)
        inputs = torch.as_tensor(images.test[rows]).to(device).movedim(3, 1) / 255.0
        with torch.no_grad():
            logits = networks.logits(inputs[None], torch.zeros_like(networks._back), False)
        labels = torch.as_tensor(images.test_labels[rows]).to(device)
        num_hits = num_hits + (logits.argmax(2) == labels).sum(1).cpu().numpy()
    return num_hits / len(images.test)


class _Batches:
    """Shuffled, shifted and mirrored training images, in each seed's own way."""

    def __init__(
        self, images: Images, seeds: Sequence[int], config: RetrainConfig, device: str
    ) -> None:
        self._images, self._seeds = images, seeds
        num_images, size, pad = *images.train.shape[:2], images.pad
        border = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        padded = np.pad(images.train, border).transpose(0, 3, 1, 2)
        self._padded = torch.as_tensor(np.ascontiguousarray(padded)).to(device)
        self._labels = torch.as_tensor(images.train_labels).long().to(device)
        self.steps_per_epoch = num_images // config.batch_size
        self._rows = torch.arange(config.batch_size, device=device)
        self._pixels = torch.arange(size, device=device)
        # Of the epoch: image, shift down and right, and whether it is mirrored. Always in the
        # same place, where recorded steps look for it.
        self._drawn = torch.zeros(4, len(seeds), num_images, dtype=torch.long, device=device)

    def draw(self, epoch: int) -> None:
        """Draw everything random about an epoch."""
        num_images = len(self._images.train)
        for place, seed in enumerate(self._seeds):
            random = np.random.default_rng([seed, epoch])
            order = random.permutation(num_images)
            shifts = random.integers(0, 2 * self._images.pad + 1, size=(2, num_images))
            is_mirrored = random.integers(0, 2, size=num_images) * self._images.use_flip
            drawn = np.stack([order, *shifts, is_mirrored])
            self._drawn[:, place].copy_(torch.as_tensor(drawn))

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float32 [S, B, C, H, W] in 0..1 and int64 [S, B] of a step of the epoch."""
        rows = index * len(self._rows) + self._rows
        image, down, right, is_mirrored = self._drawn.index_select(2, rows)[..., None].unbind(0)
        columns = torch.where(is_mirrored == 1, self._pixels.flip(0), self._pixels) + right
        lines = self._pixels + down
        chosen = self._padded[image[..., 0]].flatten(3)
        width = self._padded.shape[3]
        pixels = (lines[..., :, None] * width + columns[..., None, :]).flatten(2)[:, :, None]
        cropped = chosen.gather(3, pixels.expand(-1, -1, chosen.shape[2], -1))
        size = self._images.train.shape[1:3]
        return cropped.unflatten(3, size) / 255.0, self._labels[image[..., 0]]
