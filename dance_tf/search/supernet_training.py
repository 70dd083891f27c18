"""A supernet trained once, for any number of searches.

Its weights are trained on uniformly drawn paths, as in the warm-up of a search, with a
cosine of their own; the architecture parameters stay as they are. Beside the weights lies
`supernet.json`, which says of what space, kind and images they are. It is written last, so
a folder without it holds no finished supernet.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable

import numpy as np

from dance_tf.config import ExperimentConfig
from dance_tf.errors import Interrupted, UserError
from dance_tf.files import Json, local_path, read_json, write_json
from dance_tf.protocols import ImageDataset
from dance_tf.run import reporting, terminal
from dance_tf.run.checkpoints import CheckpointFolder, check_history
from dance_tf.run.folder_lock import owned
from dance_tf.run.installation import tool_command
from dance_tf.run.surroundings import StopSignals
from dance_tf.search.problem import make_objective
from dance_tf.search.steps import CoSearchSteps, batches, stateless_seed
from dance_tf.supernet.inherited import InheritedAccuracy
from dance_tf.supernet.search_space import NetworkSpace
from dance_tf.supernet.supernet import Supernet

__all__ = ["finished_supernet", "load_supernet", "read_supernet_record", "train_supernet"]

_RECORD = "supernet.json"
_WEIGHTS = "weights"
_SCHEMA_VERSION = 1
_PHASE = "supernet"

#: Uniformly drawn networks and held-out images that the accuracies of the record are of.
_NUM_JUDGED_NETWORKS = 8
_NUM_JUDGED_IMAGES = 1000


def train_supernet(
    space: NetworkSpace,
    dataset: ImageDataset,
    config: ExperimentConfig,
    output_dir: str,
    *,
    is_resuming: bool = False,
    stop: StopSignals | None = None,
) -> dict[str, Json]:
    """Train a supernet for `search.epochs` epochs and write it; return its record.

    Args:
        space: Network space.
        dataset: Images; the split `architecture` is held out.
        config: Configuration, of which the seed and the supernet, epochs and learning rate
            of `search` are used.
        output_dir: Folder of checkpoints, history.jsonl, the weights and supernet.json.
        is_resuming: Go on from the newest checkpoint; without one, start.
        stop: Signals to honour at the next step boundary.
    Raises:
        UserError: If the loss is not finite or a checkpoint is damaged.
        Interrupted: After a signal; a checkpoint has been written.
    """
    with owned(output_dir):
        run = _Run(space, dataset, config)
        run.train(output_dir, is_resuming, stop)
        folder = _weights_of(output_dir, run.supernet)
        folder.save(run.total_steps, {})
        networks = space.sample(_NUM_JUDGED_NETWORKS, config.seed)
        num_images = min(_NUM_JUDGED_IMAGES, dataset.num_images("architecture"))
        accuracies = InheritedAccuracy(run.supernet, dataset, num_images)(networks)
        record = {
            "schema_version": _SCHEMA_VERSION,
            **_identity(space, dataset, config),
            "seed": config.seed,
            "epochs": config.search.epochs,
            "num_steps": run.total_steps,
            "train_s": run.elapsed_s,
            "weights_sha256": folder.sha256(),
            "accuracy": {
                "split": "architecture",
                "num_images": num_images,
                "networks": [list(space.from_indices(row).ops) for row in networks],
                "values": accuracies.tolist(),
            },
        }
        write_json(os.path.join(output_dir, _RECORD), record)
        return record


def finished_supernet(
    output_dir: str, space: NetworkSpace, dataset: ImageDataset, config: ExperimentConfig
) -> dict[str, Json] | None:
    """Return the record of a training that is finished and has its weights, or None.

    Weights that a finished training has lost are told of on stderr.
    """
    if not os.path.exists(os.path.join(output_dir, _RECORD)):
        return None
    record = read_supernet_record(output_dir, space, dataset, config)
    weights = os.path.join(output_dir, _WEIGHTS)
    fault = CheckpointFolder(weights).fault()
    if fault:
        terminal.warn(f"{weights}, of a finished training: {fault}: made again")
        return None
    return record


def read_supernet_record(
    supernet_dir: str, space: NetworkSpace, dataset: ImageDataset, config: ExperimentConfig
) -> dict[str, Json]:
    """Return the record of a trained supernet that a search can start from.

    Raises:
        UserError: If the folder holds none, or one of another space, kind or other images.
    """
    supernet_dir = local_path(supernet_dir, "search.supernet_dir")
    path = os.path.join(supernet_dir, _RECORD)
    if not os.path.exists(path):
        raise UserError(
            f"{supernet_dir} has no {_RECORD}: name the folder of a finished"
            f" `{tool_command('train_supernet')}`"
        )
    record = read_json(path)
    if not isinstance(record, dict) or record.get("schema_version") != _SCHEMA_VERSION:
        raise UserError(f"{path} is not a supernet's record of this version")
    if isinstance(record.get("space"), dict):  # An older record is of the only activation then.
        record["space"] = {"activation": "relu6", **record["space"]}
    for name, wanted in _identity(space, dataset, config).items():
        if record.get(name) != wanted:
            raise UserError(
                f"{supernet_dir} is a supernet of another {name}: {_shown(record.get(name))},"
                f" this search has {_shown(wanted)}"
            )
    return record


def load_supernet(
    supernet_dir: str, space: NetworkSpace, dataset: ImageDataset, config: ExperimentConfig
) -> Supernet:
    """Return a trained supernet, with new architecture parameters of the config's seed.

    Raises:
        UserError: If there is none that fits, or its files are damaged.
    """
    record = read_supernet_record(supernet_dir, space, dataset, config)
    supernet_dir = local_path(supernet_dir, "search.supernet_dir")
    supernet = Supernet(space, config.seed, config.search.supernet)
    folder = _weights_of(supernet_dir, supernet)
    if folder.restore() is None:
        raise UserError(f"{supernet_dir}: the weights are missing; train the supernet anew")
    if folder.sha256() != record.get("weights_sha256"):
        raise UserError(f"{supernet_dir}: the weights are not those that {_RECORD} is of")
    supernet.reset_architecture(config.seed)
    return supernet


def _weights_of(output_dir: str, supernet: Supernet) -> CheckpointFolder:
    return CheckpointFolder(os.path.join(output_dir, _WEIGHTS), supernet=supernet)


def _identity(
    space: NetworkSpace, dataset: ImageDataset, config: ExperimentConfig
) -> dict[str, Json]:
    """Return what a search must share with the training of its supernet."""
    sha256 = getattr(dataset, "content_sha256", None)
    return {
        "space": space.description(),
        "kind": config.search.supernet,
        "data": {
            "name": dataset.name,
            "num_train": dataset.num_images("train"),
            "num_architecture": dataset.num_images("architecture"),
            **({} if sha256 is None else {"sha256": sha256}),
        },
    }


def _shown(value: Json) -> str:
    """Return a part of an identity in a few words."""
    if not isinstance(value, dict):
        return str(value)
    of_space = ("name", "input_size", "num_classes", "width_multiplier")
    names = (*of_space, "num_train", "num_architecture", "sha256")
    return ", ".join(f"{name} {value[name]}" for name in names if name in value)


class _Run:
    """One training from its first step, or its checkpoint, to its last."""

    def __init__(
        self, space: NetworkSpace, dataset: ImageDataset, config: ExperimentConfig
    ) -> None:
        self._dataset, self._config = dataset, config
        num_images = dataset.num_images("train")
        self._batch_size = min(config.search.batch_size, num_images)
        self.steps_per_epoch = num_images // self._batch_size
        self.total_steps = config.search.epochs * self.steps_per_epoch
        self.supernet = Supernet(space, config.seed, config.search.supernet)
        self._steps = CoSearchSteps(  # The weight step alone is used.
            supernet=self.supernet,
            evaluator=None,
            objective=make_objective(config.search),
            reference=np.ones(3),
            config=config.search,
            total_steps=self.total_steps,
        )
        self.step, self.elapsed_s = 0, 0.0
        self._sums = [0.0, 0.0]  # of loss and accuracy, since the last epoch's end

    def train(self, output_dir: str, is_resuming: bool, stop: StopSignals | None) -> None:
        folder = CheckpointFolder(
            os.path.join(output_dir, "checkpoints"),
            supernet=self.supernet,
            optimizer=self._steps.weight_optimizer,
        )
        path = os.path.join(output_dir, "history.jsonl")
        restored = folder.restore() if is_resuming else None
        if is_resuming:
            every = self.steps_per_epoch
            due = range(every, self.total_steps + 1, every)
            step = restored and restored[0]
            check_history(path, step, phases=[_PHASE], first_save=every, due=due)
        if restored is not None:
            self.step, state = restored
            self.elapsed_s, self._sums = state["elapsed_s"], state["sums"]
        os.makedirs(output_dir, exist_ok=True)
        with contextlib.ExitStack() as stack:
            history = reporting.HistoryWriter(path, resume_step=self.step if restored else None)
            stack.enter_context(history)
            stack.enter_context(stop.deferred() if stop else contextlib.nullcontext())
            self._loop(folder, stop, history.write)

    def _loop(
        self,
        folder: CheckpointFolder,
        stop: StopSignals | None,
        write: Callable[[dict[str, Json]], None],
    ) -> None:
        seed = self._config.seed
        train = batches(
            self._dataset, "train", batch_size=self._batch_size, seed=seed, start=self.step
        )
        began = time.monotonic() - self.elapsed_s
        progress = terminal.ProgressLine(_PHASE, self.total_steps, start_step=self.step)
        with contextlib.closing(progress):
            while self.step < self.total_steps:
                path_seed = stateless_seed(seed, "weight_path", self.step + 1)
                path = self._steps.sample_path(path_seed, is_uniform=True)
                loss, accuracy = map(float, self._steps.weight_step(*next(train), path))
                self.step += 1
                if not math.isfinite(loss):
                    raise UserError(
                        f"training stopped at step {self.step}: the loss is {loss}; lower"
                        " search.weight_learning_rate"
                        f" ({self._config.search.weight_learning_rate:g})"
                    )
                self._sums = [self._sums[0] + loss, self._sums[1] + accuracy]
                self.elapsed_s = time.monotonic() - began
                is_epoch_end = self.step % self.steps_per_epoch == 0
                if is_epoch_end:
                    write(self._end_epoch())
                progress.update(self.step, loss=loss, accuracy=accuracy)
                signum = stop.requested if stop else None
                if is_epoch_end or signum is not None:
                    folder.save(self.step, {"elapsed_s": self.elapsed_s, "sums": self._sums})
                if signum is not None:
                    raise Interrupted(signum)

    def _end_epoch(self) -> dict[str, Json]:
        cross_entropy, accuracy = (total / self.steps_per_epoch for total in self._sums)
        self._sums = [0.0, 0.0]
        return {
            "step": self.step,
            "epoch": self.step // self.steps_per_epoch,
            "phase": _PHASE,
            "cross_entropy": cross_entropy,
            "accuracy": accuracy,
        }
