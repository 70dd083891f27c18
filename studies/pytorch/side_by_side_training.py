"""Train networks side by side, in PyTorch, by the recipe of `dance_tf.search.retrain`.

Initial distributions, normalisation, schedule, optimizer, decay and augmentation are the same;
the random numbers behind them are others. Import this module only where PyTorch is installed.

Axes: B images; N networks; S seeds; C, H, W channels, height and width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from dance_tf.config import RetrainConfig
from dance_tf.supernet.search_space import NetworkSpace
from studies.image_file import Images
from studies.pytorch.side_by_side import SideBySide

__all__ = ["Trained", "learning_rate", "measure_accuracies", "train"]

_WARMUP_SHARE = 0.05  # of all steps
_TEST_BATCH_SIZE = 500


class Trained(NamedTuple):
    """Result of one network's training."""

    test_accuracy: float
    train_accuracy: float  # mean over the last epoch's augmented images
    cross_entropy: float  # the same, of smoothed labels


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
    which = torch.zeros(networks.num_networks, dtype=torch.long, device=device)
    for start in range(0, len(images.test), _TEST_BATCH_SIZE):
        rows = slice(start, start + _TEST_BATCH_SIZE)
        inputs = torch.as_tensor(images.test[rows]).to(device).movedim(3, 1) / 255.0
        with torch.no_grad():
            logits = networks.logits(inputs[None], which, False)
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
        batch_size = min(config.batch_size, num_images)
        self.steps_per_epoch = num_images // batch_size
        self._rows = torch.arange(batch_size, device=device)
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
