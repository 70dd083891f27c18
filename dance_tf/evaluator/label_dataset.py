"""Labelled architectures as a TFDS data set, `dance_labels`, for models of a user's own.

An example is an architecture, half of them one-hot and half mixtures, with the exact best
accelerator under an objective of its own and under EDAP, and with the exact metrics on
some random accelerators. The evaluators of this package are trained on labels drawn anew
at each step (evaluator/dataset.py) and need no such set.

Every thousand architectures are a chunk and a file. A chunk follows from the seed, its
number and its size alone; its number alone decides its split. The
features are plain tensors stored as bytes, which TFDS writes three times as fast as lists
of numbers; the files are read by TFDS alone, without this code:

    builder = tfds.builder_from_directory(folder)
    examples = builder.as_dataset(split="train")
    statistics = builder.info.metadata["statistics"]
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from dance_tf.data.tfds_sets import open_prepared
from dance_tf.errors import UserError
from dance_tf.evaluator.dataset import sample_mixtures, sample_one_hot
from dance_tf.evaluator.label_statistics import describe_degeneracy, label_statistics
from dance_tf.files import Json, strict_data
from dance_tf.hardware.accelerator import HEADS
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.objective import EDAP, random_objectives
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.run.folder_lock import owned
from dance_tf.run.threads import map_in_threads
from dance_tf.structs import METRICS

__all__ = ["DanceLabels", "LabelChunk", "LabelConfig", "Labelling", "build_labels", "draw_chunk"]

_CHUNK = 1000
_NUM_SPLITS = 3
# Keeps these draws apart from those of training and of measurements with the same seed.
_STREAM = 0x1ABE15


@dataclasses.dataclass
class LabelConfig(tfds.core.BuilderConfig):
    """Cost table, seed and sizes of a set of labels, which its name is made of.

    Attributes:
        table: Exact costs of a network space on an accelerator space.
        seed: Seed of all draws.
        num_architectures: Number of architectures, N, at least 3: one for each split.
        num_accelerators_each: Number of random accelerators of each architecture, E.
    """

    name: str = ""
    table: CostTable = dataclasses.field(kw_only=True, repr=False)
    seed: int = 0
    num_architectures: int = 50_000
    num_accelerators_each: int = 36

    def __post_init__(self) -> None:
        if self.num_architectures < _NUM_SPLITS:
            raise UserError(
                f"num_architectures is {self.num_architectures}, not at least {_NUM_SPLITS}"
            )
        if self.num_accelerators_each < 1:
            raise UserError(f"num_accelerators_each is {self.num_accelerators_each}, not positive")
        # The content hash stands for the space's layers, the accelerators and their costs.
        digest = hashlib.sha256(self.table.content_hash.encode()).hexdigest()[:12]
        self.name = (
            f"{self.table.space.name}_{digest}"
            f"_seed{self.seed}_{self.num_architectures}x{self.num_accelerators_each}"
        )

    @property
    def chunk_sizes(self) -> list[int]:
        """Number of architectures of each chunk."""
        size = min(_CHUNK, self.num_architectures // _NUM_SPLITS)
        whole, rest = divmod(self.num_architectures, size)
        return [size] * whole + [rest] * (rest > 0)


class LabelChunk(NamedTuple):
    """Labelled architectures: the features of the data set, N rows each.

    Of each two objectives the first is drawn at random and the second is EDAP.
    """

    mixture_weights: np.ndarray  # float32 [N, D, O]
    objectives: np.ndarray  # float32 [N, 2, 4], see hardware.objective
    best_accelerators: np.ndarray  # int32 [N, 2]
    best_metrics: np.ndarray  # float32 [N, 2, 3]; infinite where no accelerator runs it
    accelerators: np.ndarray  # int32 [N, E], drawn uniformly
    accelerator_metrics: np.ndarray  # float32 [N, E, 3]; infinite where it does not run


def draw_chunk(config: LabelConfig, number: int) -> LabelChunk:
    """Draw and label one chunk, which depends on no other one."""
    table, size = config.table, config.chunk_sizes[number]
    rng = np.random.default_rng([config.seed, number, _STREAM])
    num_soft = size // 2
    weights = np.concatenate(
        [
            sample_one_hot(table.space, size - num_soft, rng),
            sample_mixtures(table.space, num_soft, rng),
        ]
    )[rng.permutation(size)]
    objectives = np.stack([random_objectives(size, rng), np.tile(EDAP.vector, (size, 1))], axis=1)
    drawn = rng.integers(len(table.accelerators), size=(size, config.num_accelerators_each))
    best = [best_accelerators(table, weights, column) for column in objectives.swapaxes(0, 1)]
    of_drawn = table.metrics_at(weights.repeat(drawn.shape[1], axis=0), drawn.reshape(-1))
    return LabelChunk(
        weights,
        objectives,
        np.stack([b.accelerator_index for b in best], axis=1),
        np.stack([b.metrics for b in best], axis=1),
        drawn.astype(np.int32),
        of_drawn.numpy().reshape(*drawn.shape, len(METRICS)),
    )


class Labelling:
    """All chunks of a set, labelled on all cores, and their statistics at the end."""

    def __init__(self, config: LabelConfig) -> None:
        self.config = config
        self._seen: list[LabelChunk] = []
        self._num_infinite_pairs = 0

    def __iter__(self) -> Iterator[LabelChunk]:
        """Yield the chunks in the order of their splits."""
        numbers = [number for split in _splits(self.config).values() for number in split]
        for chunk in map_in_threads(lambda number: draw_chunk(self.config, number), numbers):
            is_finite = np.isfinite(chunk.accelerator_metrics).all(axis=-1)
            self._num_infinite_pairs += int(np.sum(~is_finite))
            nothing = np.empty((0, 0))  # The pairs are most of the bytes, and are not needed.
            self._seen.append(chunk._replace(accelerators=nothing, accelerator_metrics=nothing))
            yield chunk

    def description(self) -> dict[str, Json]:
        """Return the JSON data stored beside the examples: their statistics first."""
        config, table = self.config, self.config.table
        accelerators = table.accelerators
        columns = [np.concatenate(column) for column in list(zip(*self._seen, strict=True))[:4]]
        statistics = label_statistics(table, *columns) | {
            "num_pairs": config.num_architectures * config.num_accelerators_each,
            "num_infinite_pairs": self._num_infinite_pairs,
        }
        sizes = dict(zip(HEADS, accelerators.head_sizes, strict=True))
        data = {
            "statistics": statistics,
            "warnings": describe_degeneracy(statistics, sizes),
            "seed": config.seed,
            "num_architectures": config.num_architectures,
            "num_accelerators_each": config.num_accelerators_each,
            "space": table.space.name,
            # Op o of block d is `op_names[o]`, where the block has it.
            "op_names": list(table.space.op_names),
            "ops_of_blocks": [np.flatnonzero(row).tolist() for row in table.space.op_mask],
            # Accelerator i is the i-th of their product, the last varying fastest.
            "accelerator_space": {head: getattr(accelerators.config, head) for head in HEADS},
            "reference": dict(zip(METRICS, table.reference.tolist(), strict=True)),
            "content_hash": table.content_hash,
        }
        return strict_data(data)


def _splits(config: LabelConfig) -> dict[str, list[int]]:
    """Return the chunks of each split: of ten, one is for test and one for validation."""
    splits: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for number in range(len(config.chunk_sizes)):
        splits[{1: "validation", 2: "test"}.get(number % 10, "train")].append(number)
    return splits


class DanceLabels(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Builder of `dance_labels`; TFDS reads what it has written without it.

    It is not registered: a config holds a table, so `tfds.load` could not make one by
    name, and reads the files instead. Here `DanceLabels(config=LabelConfig(table=...))`.
    """

    name = "dance_labels"
    VERSION = tfds.core.Version("1.0.0")

    #: Called with (architectures done, architectures).
    on_progress: Callable[[int, int], None] | None = None

    def _info(self) -> tfds.core.DatasetInfo:
        config: LabelConfig = self.builder_config
        space, num_each = config.table.space, config.num_accelerators_each

        def tensor(dtype: type, *shape: int) -> tfds.features.Tensor:
            return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")

        features = LabelChunk(
            mixture_weights=tensor(np.float32, space.num_blocks, space.num_ops),
            objectives=tensor(np.float32, 2, 4),
            best_accelerators=tensor(np.int32, 2),
            best_metrics=tensor(np.float32, 2, 3),
            accelerators=tensor(np.int32, num_each),
            accelerator_metrics=tensor(np.float32, num_each, 3),
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "Architectures of a network space with their exact best accelerators, under a"
                " random objective [is_linear, w_latency, w_energy, w_area] and under energy x"
                " delay x area, and with latency [ms], energy [mJ] and area [mm2] on random"
                " accelerators. metadata.json has the accelerator space and statistics."
            ),
            features=tfds.features.FeaturesDict(features._asdict()),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, Sequence[Callable[[], Iterator[tuple[int, dict[str, np.ndarray]]]]]]:
        del dl_manager  # Nothing is downloaded.
        config: LabelConfig = self.builder_config
        labelling = Labelling(config)
        chunks = iter(labelling)  # TFDS asks for the shards in this order.
        total, done = config.num_architectures, 0

        def examples() -> Iterator[tuple[int, dict[str, np.ndarray]]]:
            nonlocal done
            columns = next(chunks)._asdict()
            for row in range(len(columns["objectives"])):
                yield done + row, {name: column[row] for name, column in columns.items()}
            done += len(columns["objectives"])
            if self.on_progress is not None:
                self.on_progress(done, total)
            if done == total:
                self.info.metadata.update(labelling.description())

        return {split: [examples] * len(numbers) for split, numbers in _splits(config).items()}


def build_labels(
    config: LabelConfig,
    data_dir: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Json]:
    """Write a set of labels, unless it is there, and return its description.

    TFDS writes aside and renames, so an interrupted build leaves no set.

    Args:
        config: Cost table, seed and sizes.
        data_dir: Folder of TFDS data sets, absolute.
        on_progress: Function that is called with (architectures done, architectures).
    Returns:
        JSON data: `folder`, `was_built`, `num_examples` of each split, and the fields of
        `Labelling.description`.
    Raises:
        UserError: If the folder cannot be written, or the set in it is damaged.
    """
    folder = pathlib.Path(data_dir) / DanceLabels.name / config.name / str(DanceLabels.VERSION)
    try:
        with owned(folder.parent, is_waiting=True), _quiet():
            was_built = not folder.exists()
            if was_built:
                builder = DanceLabels(config=config, data_dir=data_dir)
                builder.on_progress = on_progress
                builder.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
                )
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write the labels {folder}: {reason}") from error
    stored = open_prepared(folder)
    return {
        "folder": str(folder),
        "was_built": was_built,
        "num_examples": {name: s.num_examples for name, s in stored.info.splits.items()},
        **dict(stored.info.metadata),
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep TFDS from reporting: stdout is a tool's for its result."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
