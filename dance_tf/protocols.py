"""The plug-in points. A user passes an object that has these methods; nothing is registered.

Axes: A accelerators, L layers, B samples, D searchable blocks, O candidate ops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from dance_tf.structs import (
    Accelerators,
    Architecture,
    Cost,
    Evaluation,
    InputDescription,
    Layer,
    Workload,
)

__all__ = [
    "CostModel",
    "Evaluator",
    "ImageDataset",
    "Objective",
    "SearchSpace",
    "SearchStrategy",
]


class SearchSpace(Protocol):
    """Networks that differ in one candidate op per block."""

    @property
    def name(self) -> str:
        """What architectures of the space are marked with."""

    @property
    def op_names(self) -> tuple[str, ...]:
        """Candidate ops in the order of their index, O of them, the same for every block."""

    @property
    def num_blocks(self) -> int:
        """D."""

    @property
    def op_mask(self) -> Any:
        """Which candidate ops each block has, bool [D, O]."""

    def fixed_layers(self) -> tuple[Layer, ...]:
        """Return the layers that every network has."""

    def op_layers(self, block_index: int, op_name: str) -> tuple[Layer, ...]:
        """Return the layers of one candidate op at one block."""

    def validate(self, architecture: Architecture) -> Architecture:
        """Return the architecture, or raise UserError."""


class CostModel(Protocol):
    """Cost of layers on accelerators: our loop-nest model, or a table of someone's own."""

    def __call__(self, workload: Workload, accelerators: Accelerators) -> Cost:
        """Return latency_cycles and energy_pj of shape [L, A], area_um2 of shape [A]."""

    @property
    def fingerprint(self) -> str:
        """Text that changes whenever the numbers do; part of the key of cached tables."""


class Objective(Protocol):
    """One number per row of metrics; differentiable, lower is better."""

    def __call__(self, metrics: Any, reference: Any) -> Any:
        """Return float32 [...] from metrics float32 [..., 3] and reference [3]."""


class Evaluator(Protocol):
    """Accelerator and cost of an architecture under an objective; frozen during search."""

    @property
    def kind(self) -> str:
        """Name of the kind, as result.json and run_info.json give it."""

    def evaluate(self, mixture_weights: Any, objective_vectors: Any) -> Evaluation:
        """Evaluate mixture weights float32 [B, D, O] under objectives float32 [B, 4]."""

    def estimate(self, mixture_weights: Any, accelerator_index: Any) -> Any:
        """Return the metrics, float32 [B, 3], on one accelerator per row, int32 [B]."""


class ImageDataset(Protocol):
    """Images with labels in three splits."""

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]

    @property
    def input_description(self) -> InputDescription:
        """From stored images to what a network is fed."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines about the data that whoever uses them should read."""

    def num_images(self, split: str) -> int:
        """Return the size of "train", "architecture" or "test"."""

    def split(self, name: str, *, batch_size: int, seed: int | None = None) -> Any:
        """Return a tf.data.Dataset of (float32 [B, H, W, C] in 0..1, int32 [B]).

        With a seed: shuffled, and augmented where the data set has it, both fixed by
        the seed; the incomplete last batch is dropped. Without: in order, complete.
        """


class SearchStrategy(Protocol):
    """A way to search; returns a search.result.SearchResult."""

    def search(self, problem: Any, on_step: Callable[[Any], None] | Iterable | None = None) -> Any:
        """Search and return the result."""
