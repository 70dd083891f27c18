"""The plug-in points. A user passes an object that has these methods; nothing is registered.

Axes: A accelerators, L layers, B samples, D searchable blocks, O candidate ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from dance_tf.structs import (
    Accelerators,
    Architecture,
    Array,
    Cost,
    Evaluation,
    InputDescription,
    Layer,
)

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

__all__ = [
    "AccuracySource",
    "CostModel",
    "Evaluator",
    "ExactCosts",
    "ImageDataset",
    "SearchSpace",
]


class SearchSpace(Protocol):
    """Networks that differ in one candidate op per block."""

    @property
    def name(self) -> str:
        """Name of the space, which its architectures carry."""

    @property
    def op_names(self) -> tuple[str, ...]:
        """Candidate ops in the order of their index, O of them, the same for every block."""

    @property
    def num_blocks(self) -> int:
        """Number of searchable blocks, D."""

    @property
    def num_ops(self) -> int:
        """O."""

    @property
    def op_mask(self) -> np.ndarray:
        """True for the candidate ops that each block has, bool [D, O]."""

    def fixed_layers(self) -> tuple[Layer, ...]:
        """Return the layers that every network has."""

    def op_layers(self, block_index: int, op_name: str) -> tuple[Layer, ...]:
        """Return the layers of one candidate op at one block."""

    def sample(self, num: int, seed: int) -> np.ndarray:
        """Draw op indices, int32 [num, D], uniformly over the networks of the space."""

    def validate(self, architecture: Architecture) -> Architecture:
        """Return the architecture, or raise UserError."""


class CostModel(Protocol):
    """Cost of layers on accelerators: our loop-nest model, or a table of someone's own."""

    def __call__(self, layers: Sequence[Layer], accelerators: Accelerators) -> Cost:
        """Return latency_cycles and energy_pj of shape [L, A], area_um2 of shape [A]."""

    @property
    def fingerprint(self) -> str:
        """Text that changes whenever the numbers do; part of the key of cached tables."""


class ExactCosts(Protocol):
    """Exact costs of mixtures, as far as a CostTable is asked for them."""

    @property
    def reference(self) -> np.ndarray:
        """Metrics that normalise objectives, [3]."""

    def expected_metrics(self, mixture_weights: tf.Tensor) -> tf.Tensor:
        """Return metrics on every accelerator, float32 [B, A, 3], of weights [B, D, O]."""


class Evaluator(Protocol):
    """Accelerator and cost of an architecture under an objective; frozen during search."""

    @property
    def kind(self) -> str:
        """Name of the kind, as result.json and run_info.json give it."""

    def evaluate(self, mixture_weights: Array, objective_vectors: Array) -> Evaluation:
        """Evaluate mixture weights float32 [B, D, O] under objectives float32 [B, 4]."""

    def estimate(self, mixture_weights: Array, accelerator_index: Array) -> tf.Tensor:
        """Return the metrics, float32 [B, 3], on one accelerator per row, int32 [B]."""


class AccuracySource(Protocol):
    """Errors of networks, and what it costs to ask for them."""

    @property
    def kind(self) -> str:
        """Name of the kind, as results give it: "table", "training" or "supernet"."""

    def errors(self, op_indices: np.ndarray) -> np.ndarray:
        """Return the shares of images classified wrong, float64 [B], of networks int [B, D]."""


class ImageDataset(Protocol):
    """Images or series with labels in three splits."""

    name: str
    num_classes: int
    image_shape: tuple[int, ...]  # (H, W, C) of images, (T, C) of series of T steps

    @property
    def input_description(self) -> InputDescription:
        """From stored images to what a network is fed."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines about the data that whoever uses them should read."""

    def num_images(self, split: str) -> int:
        """Return the size of "train", "architecture" or "test"."""

    def split(self, name: str, *, batch_size: int, seed: int | None = None) -> tf.data.Dataset:
        """Return a tf.data.Dataset of (float32 [B, *image_shape] in 0..1, int32 [B]).

        With a seed: shuffled, and augmented where the data set has it, both fixed by
        the seed; the incomplete last batch is dropped. Without: in order, complete.
        """
