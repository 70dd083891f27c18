"""Train a supernet of a space with known accuracies, and see how well it ranks as it learns.

    python -m studies.supernet_ranking --kind=superkernel --sampling=fair \\
        --phases=16x20,32x4 --output_dir=runs/ranking --output=ranking.json

A phase "16x20" is 20 epochs with images of 16x16 pixels: the weights of convolutions fit any
size, and small images take a quarter of the time. After every few epochs the inherited
accuracies of drawn networks are compared with those that the table gives: Kendall's rank
correlation over all of them, and over the half that the table has as the better one. Beside it
stands what the number of multiply-accumulates says. With --inherited the errors of many more
networks are written after the training, for dance_supernet of compare-strategies. Killed
anywhere, the same command goes on.
"""

from __future__ import annotations

import math
import os
import time
from typing import Any

import numpy as np
from absl import flags

from dance_tf.errors import UserError
from dance_tf.files import read_json, write_json
from tools import flags as common

FLAGS = common.shared_flags("space", "dataset", "data_dir", "seed")
_KIND = flags.DEFINE_enum(
    "kind", "superkernel", ["superkernel", "proxyless"], "Kind of the supernet.", flag_values=FLAGS
)
_SAMPLING = flags.DEFINE_enum(
    "sampling",
    "fair",
    ["fair", "uniform"],
    "Paths of the training: uniform draws, or fair ones.",
    flag_values=FLAGS,
)
_PHASES = flags.DEFINE_list("phases", ["32x10"], "SIZExEPOCHS, in order.", flag_values=FLAGS)
_BATCH = flags.DEFINE_integer("batch_size", 128, "Images of a step.", flag_values=FLAGS)
_RATE = flags.DEFINE_float("learning_rate", 0.1, "First learning rate.", flag_values=FLAGS)
_EVERY = flags.DEFINE_integer("every", 4, "Epochs between comparisons.", flag_values=FLAGS)
_NUM_NETWORKS = flags.DEFINE_integer(
    "num_networks", 96, "Networks that are compared.", flag_values=FLAGS
)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 1000, "Held-out images of an inherited accuracy.", flag_values=FLAGS
)
_NUM_INHERITED = flags.DEFINE_integer(
    "num_inherited", 600, "Networks of --inherited.", flag_values=FLAGS
)
_INHERITED = common.define_path("inherited", "JSON file of inherited errors to write.", FLAGS)
_OUTPUT_DIR = common.define_path("output_dir", "Folder of the checkpoints.", FLAGS)
_OUTPUT = common.define_path("output", "JSON file to write, or to go on with.", FLAGS)


def main(argv: list[str]) -> int:
    """Train, compare now and then, and write what was found."""
    del argv
    common.require(_OUTPUT_DIR, _OUTPUT)
    phases = [_phase(text) for text in _PHASES.value]
    config = common.experiment_config(FLAGS)
    common.load_tensorflow()
    from dance_tf.run.surroundings import make_deterministic

    make_deterministic(config.seed)
    training = _Training(config, phases)
    training.run()
    if _INHERITED.value:
        training.write_inherited(_INHERITED.value)
    return 0


def _phase(text: str) -> tuple[int, int]:
    size, _, epochs = text.partition("x")
    if not (size.isdigit() and epochs.isdigit() and int(size) and int(epochs)):
        raise UserError(f"--phases: {text!r} is not SIZExEPOCHS, such as 16x20")
    return int(size), int(epochs)


class _Training:
    """One training through all phases, on one set of weights."""

    def __init__(self, config: Any, phases: list[tuple[int, int]]) -> None:
        import dataclasses

        from dance_tf.data.datasets import load_images
        from dance_tf.run.checkpoints import CheckpointFolder
        from dance_tf.search.accuracy.table import AccuracyTable, shipped_table_path
        from dance_tf.search.problem import make_objective
        from dance_tf.search.steps import CoSearchSteps
        from dance_tf.supernet.space_files import make_space
        from dance_tf.supernet.supernet import Supernet

        self.config, self.phases = config, phases
        search = dataclasses.replace(
            config.search,
            weight_learning_rate=_RATE.value,
            label_smoothing=0.0,
            weight_decay=1e-4,
            batch_size=_BATCH.value,
        )
        self.spaces, self.datasets = {}, {}
        for size, _ in phases:
            at_size = dataclasses.replace(config.space, input_size=size)
            self.datasets[size] = load_images(config.data, input_size=size)
            self.spaces[size] = make_space(at_size, self.datasets[size].num_classes)
        space = self.spaces[phases[0][0]]
        path = shipped_table_path(space.name)
        if path is None:
            raise UserError(f"space {space.name} has no table of accuracies")
        self.table = AccuracyTable.read(space, path)
        first = self.datasets[phases[0][0]]
        self.steps_per_epoch = first.num_images("train") // _BATCH.value
        self.total_epochs = sum(epochs for _, epochs in phases)
        # One supernet for each size, all of one set of variables.
        self.supernets = {
            size: Supernet(space, config.seed, _KIND.value) for size, space in self.spaces.items()
        }
        self.supernet = self.supernets[phases[0][0]]
        self.steps = {
            size: CoSearchSteps(
                supernet=supernet,
                evaluator=None,
                objective=make_objective(search),
                reference=np.ones(3),
                config=search,
                total_steps=self.total_epochs * self.steps_per_epoch,
            )
            for size, supernet in self.supernets.items()
        }
        self.size = phases[0][0]
        self.folder_of = lambda size: CheckpointFolder(
            os.path.join(_OUTPUT_DIR.value, "checkpoints"),
            supernet=self.supernets[size],
            optimizer=self.steps[size].weight_optimizer,
        )
        rng = np.random.default_rng(0)
        chosen = rng.choice(len(self.table), min(_NUM_NETWORKS.value, len(self.table)), False)
        self.networks = self.table.op_indices[chosen]
        self.truth = 1.0 - self.table.errors(self.networks)
        self.report: dict[str, Any] = {
            "space": space.name,
            "kind": _KIND.value,
            "sampling": _SAMPLING.value,
            "phases": [f"{size}x{epochs}" for size, epochs in phases],
            "batch_size": _BATCH.value,
            "num_networks": len(self.networks),
            "num_images": _NUM_IMAGES.value,
            "macs": self._kendalls(
                np.asarray(
                    [
                        sum(layer.macs for layer in space.layers(space.from_indices(row)))
                        for row in self.networks
                    ]
                )
            ),
            "curve": [],
        }

    def size_of(self, epoch: int) -> int:
        """Return the size of images in an epoch, from 0."""
        for size, epochs in self.phases:
            if epoch < epochs:
                return size
            epoch -= epochs
        return self.phases[-1][0]

    def run(self) -> None:
        """Train from the newest checkpoint, or from the start, to the end."""
        if os.path.exists(_OUTPUT.value):
            self.report["curve"] = read_json(_OUTPUT.value)["curve"]
        step, elapsed_s = 0, 0.0
        restored = self.folder_of(self.size).restore()
        if restored is not None:
            step, elapsed_s = restored[0], restored[1]["elapsed_s"]
        self.report["curve"] = [
            row for row in self.report["curve"] if row["epoch"] * self.steps_per_epoch <= step
        ]
        for epoch in range(step // self.steps_per_epoch, self.total_epochs):
            began = time.monotonic()
            self._enter(self.size_of(epoch))
            loss, accuracy = self._epoch(epoch)
            elapsed_s += time.monotonic() - began
            done = epoch + 1
            self.folder_of(self.size).save(done * self.steps_per_epoch, {"elapsed_s": elapsed_s})
            row = {"epoch": done, "size": self.size, "loss": loss, "accuracy": accuracy}
            row["train_s"] = elapsed_s
            if done % _EVERY.value == 0 or done == self.total_epochs:
                inherited = self._inherited()
                row["inherited_mean"] = float(inherited.mean())
                row |= self._kendalls(inherited)
            self.report["curve"].append(row)
            write_json(_OUTPUT.value, self.report)
            print(row, flush=True)

    def write_inherited(self, path: str) -> None:
        """Write the inherited errors of drawn networks, in parts of 50."""
        from dance_tf.supernet.inherited import InheritedAccuracy

        record: dict[str, Any] = {
            "space": self.report["space"],
            **{name: self.report[name] for name in ("kind", "sampling", "phases", "num_images")},
            "epochs": self.total_epochs,
            "errors": read_json(path)["errors"] if os.path.exists(path) else [],
        }
        judge = InheritedAccuracy(self.supernet, self.datasets[self.size], _NUM_IMAGES.value)
        networks = self.supernet.space.sample(_NUM_INHERITED.value, seed=1)
        for start in range(len(record["errors"]), len(networks), 50):
            part = networks[start : start + 50]
            errors = 1.0 - judge(part)
            record["errors"] += [
                [o, e] for o, e in zip(part.tolist(), errors.tolist(), strict=True)
            ]
            write_json(path, record)
            print(f"inherited errors: {len(record['errors'])} of {len(networks)}", flush=True)

    def _enter(self, size: int) -> None:
        """Go on at another size, with the same weights and the same momenta."""
        if size == self.size:
            return
        for ours, theirs in (
            (self.supernets[size].variables, self.supernets[self.size].variables),
            (
                self.steps[size].weight_optimizer.variables,
                self.steps[self.size].weight_optimizer.variables,
            ),
        ):
            for variable, value in zip(ours, theirs, strict=True):
                variable.assign(value)
        self.size, self.supernet = size, self.supernets[size]

    def _epoch(self, epoch: int) -> tuple[float, float]:
        from dance_tf.search.steps import batches, stateless_seed

        steps, supernet, seed = self.steps[self.size], self.supernet, self.config.seed
        start = epoch * self.steps_per_epoch
        stream = batches(
            self.datasets[self.size], "train", batch_size=_BATCH.value, seed=seed, start=start
        )
        losses, accuracies = [], []
        for step in range(start, start + self.steps_per_epoch):
            if _SAMPLING.value == "fair":
                group, index = divmod(step, supernet.space.num_ops)
                path = supernet.sample_fair(stateless_seed(seed, "weight_path", group), index)
            else:
                path = supernet.sample_uniform(stateless_seed(seed, "weight_path", step))
            loss, accuracy = map(float, steps.weight_step(*next(stream), path))
            if not math.isfinite(loss):
                raise UserError(f"the loss is {loss} at step {step}: lower --learning_rate")
            losses.append(loss)
            accuracies.append(accuracy)
        return float(np.mean(losses)), float(np.mean(accuracies))

    def _inherited(self) -> np.ndarray:
        from dance_tf.supernet.inherited import InheritedAccuracy

        judge = InheritedAccuracy(self.supernet, self.datasets[self.size], _NUM_IMAGES.value)
        return judge(self.networks)

    def _kendalls(self, values: np.ndarray) -> dict[str, float]:
        from scipy import stats

        better = self.truth >= np.median(self.truth)
        return {
            "kendall": float(stats.kendalltau(values, self.truth).statistic),
            "kendall_better_half": float(
                stats.kendalltau(values[better], self.truth[better]).statistic
            ),
        }


if __name__ == "__main__":
    common.run(main, FLAGS)
