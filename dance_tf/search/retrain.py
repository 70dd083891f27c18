"""Train the derived network anew and test it.

It starts from random weights or from those that it inherits from the supernet.
SGD with Nesterov momentum, a cosine after a short linear warm-up, label smoothing, and
weight decay on kernels. The training images are those of `train` and `architecture`
together: the search held the second out, retraining has no use for that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dance_tf.config import RetrainConfig
from dance_tf.errors import Interrupted, UserError
from dance_tf.export.int8 import fake_quantised
from dance_tf.files import Json
from dance_tf.protocols import ImageDataset
from dance_tf.run import reporting, terminal
from dance_tf.run.checkpoints import CheckpointFolder, check_history
from dance_tf.run.folder_lock import owned
from dance_tf.run.installation import tool_command
from dance_tf.run.replicas import Replicas
from dance_tf.run.surroundings import StopSignals
from dance_tf.search.predictions import accuracy_of, infer, predict
from dance_tf.search.result import Accuracy
from dance_tf.structs import Architecture
from dance_tf.supernet.search_space import NetworkSpace
from dance_tf.supernet.sgd import RowSGD
from dance_tf.supernet.supernet import Supernet, build_network

__all__ = [
    "INHERITS_NOTHING",
    "PHASE",
    "QUANTISATION",
    "RetrainRecord",
    "RetrainResult",
    "fine_tune",
    "measure_accuracy",
    "retrain",
    "retrain_work",
]

#: Phases of the lines that retraining, and a fine-tune for 8 bits, write to history.jsonl.
PHASE, QUANTISATION = "retrain", "quantisation"

#: Message where a network has no trained supernet to inherit weights from.
INHERITS_NOTHING = (
    "retrain.initial_weights=inherited needs a trained supernet: name the folder of a"
    f" `{tool_command('train_supernet')}` as search.supernet_dir, or leave it at random"
)

_SPLITS = ("train", "architecture")
_WARMUP_SHARE = 0.05  # of all steps
_TEST_SHARE = 0.1  # of images trained on: so many are tested on along the way
_FINE_TUNE_RATE = 0.1  # learning rate of a fine-tune, in that of the retraining


@dataclasses.dataclass(frozen=True)
class RetrainRecord:
    """One epoch, as a line of history.jsonl; no times, so two runs write the same."""

    step: int  # done since the beginning of the retraining
    epoch: int  # done, from 1
    phase: str
    cross_entropy: float  # mean over the epoch, smoothed labels
    accuracy: float  # mean over the epoch's augmented training images
    test_accuracy: float | None = None  # nothing is chosen by it; not measured at every epoch


class RetrainResult(NamedTuple):
    """A trained network of stock Keras layers, its accuracy, and how it got there."""

    network: keras.Model  # images [B, H, W, C] in 0..1 to logits
    accuracy: Accuracy
    history: tuple[RetrainRecord, ...]
    elapsed_s: float  # training alone, interruptions left out


def retrain(
    space: NetworkSpace,
    architecture: Architecture,
    dataset: ImageDataset,
    config: RetrainConfig,
    seed: int,
    output_dir: str | None,
    *,
    supernet: Supernet | None = None,
    resume: bool = False,
    stop: StopSignals | None = None,
    on_progress: Callable[[RetrainRecord], None] | None = None,
    replicas: Replicas | None = None,
) -> RetrainResult:
    """Train a network on train + architecture and test it on test.

    Each epoch is a function of (seed, epoch), so a resumed run ends as the
    uninterrupted one.

    Args:
        space: Network space.
        architecture: Network of the space to train.
        dataset: Images of the space's input size.
        config: Schedule of the training.
        seed: Seed of random initial weights and of the order of images.
        output_dir: Run folder: a checkpoint after each epoch, and a line for each in
            history.jsonl, after those of a search; and the network's predictions on the
            test images, as predictions.json. None writes nothing.
        supernet: Trained supernet, where the config has the network inherit its initial
            weights.
        resume: Whether to go on from the newest checkpoint, if there is one.
        stop: Signals to honour at the next step boundary.
        on_progress: Function called with each epoch's record.
        replicas: Replicas that share each batch; the chief alone writes, and the others only
            read the folder's checkpoint. None: one replica.
    Raises:
        UserError: If the loss is not finite, a checkpoint is damaged, the images do not fit
            the space, or there is no supernet to inherit from.
        Interrupted: After a signal; a checkpoint has been written.

    >>> from dance_tf import Architecture, load_images, make_space
    >>> from dance_tf.config import DataConfig, RetrainConfig, SpaceConfig
    >>> space = make_space(SpaceConfig("tiny_mbconv"))
    >>> architecture = space.validate(Architecture(space.name, ("mbconv3_e3", "zero")))
    >>> images = load_images(DataConfig("digits"), input_size=space.input_size)
    >>> trained = retrain(
    ...     space, architecture, images, RetrainConfig(epochs=30), seed=0, output_dir=None
    ... )  # doctest: +SKIP
    >>> trained.network.save("network.keras")  # doctest: +SKIP
    """
    if tuple(dataset.image_shape) != space.input_shape or dataset.num_classes > space.num_classes:
        raise UserError(
            f"{dataset.name} has {dataset.num_classes} classes of inputs"
            f" {tuple(dataset.image_shape)}; {space.name} takes {space.num_classes} of"
            f" {space.input_shape}"
        )
    replicas = replicas or Replicas()
    run = _Run(space, architecture, dataset, config, seed, replicas)
    if config.initial_weights == "inherited":
        if supernet is None:
            raise UserError(INHERITS_NOTHING)
        run.network.set_weights(supernet.inherited_network(architecture).get_weights())
    run.do(output_dir, is_resuming=resume, stop=stop, on_progress=on_progress)
    network = run.stock_network()
    tested = predict(network, dataset)
    if output_dir is not None and replicas.is_chief:
        tested.save(output_dir)
    return RetrainResult(network, tested.accuracy, tuple(run.history), run.elapsed_s)


def fine_tune(
    space: NetworkSpace,
    architecture: Architecture,
    network: keras.Model,
    dataset: ImageDataset,
    config: RetrainConfig,
    seed: int,
    output_dir: str | None,
    *,
    resume: bool = False,
    stop: StopSignals | None = None,
) -> keras.Model:
    """Return a network trained further while it is computed with the errors of 8-bit words.

    `config.quantisation_epochs` epochs with a tenth of the learning rate; the statistics of
    batch normalisation stay. See `export.int8.fake_quantised`. Of the arguments, those that
    `retrain` has are the same; the test accuracy in the history is that with the errors.

    Args:
        network: Trained network of the architecture; left as it is.
        seed: Seed of the order of images.
    Raises:
        UserError, Interrupted: See `retrain`.
    """
    short = dataclasses.replace(
        config,
        epochs=config.quantisation_epochs,
        learning_rate=_FINE_TUNE_RATE * config.learning_rate,
    )
    run = _Run(space, architecture, dataset, short, seed, Replicas(), QUANTISATION)
    run.network.set_weights(network.get_weights())
    run.do(output_dir, is_resuming=resume, stop=stop)
    return run.stock_network()


def retrain_work(config: RetrainConfig, dataset: ImageDataset) -> float:
    """Return the work of a retraining, in the unit of `steps.SearchPlan.work`."""
    return 3.0 * config.epochs * sum(dataset.num_images(split) for split in _SPLITS)


def measure_accuracy(network: keras.Model, dataset: ImageDataset, split: str = "test") -> Accuracy:
    """Return the share of a split's images whose largest logit is the label's.

    Raises:
        UserError: If the split is empty.
    """
    return predict(network, dataset, split).accuracy


class _Run:
    """One training from its first step (or its checkpoint) to its last."""

    def __init__(
        self,
        space: NetworkSpace,
        architecture: Architecture,
        dataset: ImageDataset,
        config: RetrainConfig,
        seed: int,
        replicas: Replicas,
        phase: str = PHASE,
    ) -> None:
        self._dataset, self._config, self._seed, self._phase = dataset, config, seed, phase
        self._space, self._architecture = space, architecture
        self._replicas = replicas
        self._batch_size = min(config.batch_size, dataset.num_images("train"))
        if self._batch_size == 0:
            raise UserError(f"{dataset.name}: its train split is empty")
        replicas.check(self._batch_size, "retrain.batch_size")
        self._num_batches = [dataset.num_images(s) // self._batch_size for s in _SPLITS]
        self.steps_per_epoch = sum(self._num_batches)
        self.total_steps = config.epochs * self.steps_per_epoch
        with replicas.scope():
            self.network = build_network(space, architecture, seed=seed, is_for_training=True)
        for layer in self.network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = replicas.number > 1  # read by the stock layer alone
        num_tested, num_trained = (
            dataset.num_images("test"),
            self.steps_per_epoch * self._batch_size,
        )
        self._test_every = max(1, math.ceil(num_tested / (_TEST_SHARE * num_trained)))  # epochs
        self._in_training: Callable[[tf.Tensor], tf.Tensor]
        if phase == QUANTISATION:
            self._in_training = fake_quantised(self.network)
            self._infer = tf.function(self._in_training, autograph=False, reduce_retracing=True)
        else:
            self._in_training = functools.partial(self.network, training=True)
            self._infer = infer(self.network)
        warmup_steps = math.ceil(_WARMUP_SHARE * self.total_steps)
        with replicas.scope():
            self.optimizer = RowSGD(
                keras.optimizers.schedules.CosineDecay(
                    config.learning_rate / warmup_steps,
                    max(1, self.total_steps - warmup_steps),
                    warmup_target=config.learning_rate,
                    warmup_steps=warmup_steps,
                ),
                weight_decay=config.weight_decay,
            )
            self.optimizer.build(self.network.trainable_variables)
        self.step = 0
        self.elapsed_s = 0.0
        self.history: list[RetrainRecord] = []
        self._sums = [0.0, 0.0]  # cross-entropy and accuracy since the epoch began

    def do(
        self,
        output_dir: str | None,
        *,
        is_resuming: bool,
        stop: StopSignals | None,
        on_progress: Callable[[RetrainRecord], None] | None = None,
    ) -> None:
        """Train to the end; the chief leaves checkpoints and lines in a run folder."""
        is_chief = self._replicas.is_chief
        with contextlib.ExitStack() as stack:
            listeners: list[Callable[[RetrainRecord], None]] = []
            folder = None
            if output_dir is not None:
                if is_chief:
                    stack.enter_context(owned(output_dir))
                path = os.path.join(output_dir, "checkpoints", self._phase)
                folder = CheckpointFolder(path, network=self.network, optimizer=self.optimizer)
                lines = os.path.join(output_dir, "history.jsonl")
                if is_resuming:
                    self.restore(folder, lines)
                elif is_chief:  # Checkpoints of an earlier training must not pass for this one's.
                    shutil.rmtree(path, ignore_errors=True)
            if output_dir is not None and is_chief:
                os.makedirs(output_dir, exist_ok=True)
                # The checkpoint has the lines so far; those in the file may be of later steps,
                # or gone with the end of a search that had to go back.
                history = reporting.HistoryWriter(lines, resume_step=0, phase=self._phase)
                stack.enter_context(history)
                for record in self.history:
                    history.write(dataclasses.asdict(record))
                listeners.append(lambda record: history.write(dataclasses.asdict(record)))
            listeners += [on_progress] if on_progress else []
            stack.enter_context(stop.deferred() if stop else contextlib.nullcontext())
            stack.enter_context(self._replicas.telling_of_losses())
            self._replicas.check_step(self.step)
            self.train(folder if is_chief else None, stop, listeners)

    def stock_network(self) -> keras.Model:
        """Return the network as it is now, of stock layers."""
        network = build_network(self._space, self._architecture)
        network.set_weights(self.network.get_weights())
        return network

    def restore(self, folder: CheckpointFolder, history: str) -> None:
        """Go on from the newest checkpoint, if there is one."""
        restored = folder.restore()
        step = restored and restored[0]
        check_history(history, step, phases=[self._phase], first_save=self.steps_per_epoch)
        if restored is None:
            return
        self.step, state = restored
        self.elapsed_s, self._sums = state["elapsed_s"], state["sums"]
        self.history = [RetrainRecord(**record) for record in state["history"]]

    def train(
        self,
        folder: CheckpointFolder | None,
        stop: StopSignals | None,
        listeners: list[Callable[[RetrainRecord], None]],
    ) -> None:
        """Do the steps that are left."""
        began = time.monotonic() - self.elapsed_s
        batches = self._batches()
        with terminal.ProgressLine(self._phase, self.total_steps, start_step=self.step) as progress:
            while self.step < self.total_steps:
                shared = self._replicas.shared(*next(batches))
                loss, accuracy = (float(value) for value in self._train_step(*shared))
                self.step += 1
                if not math.isfinite(loss):
                    raise UserError(
                        f"retraining stopped at step {self.step}: the loss is {loss}; lower"
                        f" retrain.learning_rate ({self._config.learning_rate:g})"
                    )
                self._sums = [self._sums[0] + loss, self._sums[1] + accuracy]
                self.elapsed_s = time.monotonic() - began
                is_epoch_end = self.step % self.steps_per_epoch == 0
                if is_epoch_end:
                    self._end_epoch(listeners)
                epoch = math.ceil(self.step / self.steps_per_epoch)
                progress.update(self.step, epoch=epoch, loss=loss, accuracy=accuracy)
                signum = stop.requested if stop else None
                if folder and (is_epoch_end or signum is not None):
                    folder.save(self.step, self._state())
                if signum is not None:
                    raise Interrupted(signum)

    def _state(self) -> dict[str, Json]:
        history = [dataclasses.asdict(record) for record in self.history]
        return {"elapsed_s": self.elapsed_s, "sums": self._sums, "history": history}

    def _end_epoch(self, listeners: list[Callable[[RetrainRecord], None]]) -> None:
        cross_entropy, accuracy = (total / self.steps_per_epoch for total in self._sums)
        self._sums = [0.0, 0.0]
        epoch = self.step // self.steps_per_epoch
        is_tested = epoch % self._test_every == 0 or self.step == self.total_steps
        tested = accuracy_of(self._infer, self._dataset, "test").value if is_tested else None
        record = RetrainRecord(
            step=self.step,
            epoch=epoch,
            phase=self._phase,
            cross_entropy=cross_entropy,
            accuracy=accuracy,
            test_accuracy=tested,
        )
        self.history.append(record)
        for listener in listeners:
            listener(record)

    def _batches(self) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """Yield the batches that follow; those of the two splits of an epoch are mixed."""
        epoch, skip = divmod(self.step, self.steps_per_epoch)
        while True:
            words = np.random.SeedSequence([self._seed, epoch]).generate_state(2)
            sources = [
                self._dataset.split(split, batch_size=self._batch_size, seed=int(words[0]))
                for split, number in zip(_SPLITS, self._num_batches, strict=True)
                if number
            ]
            order = np.repeat(np.arange(2), self._num_batches).astype(np.int64)
            # RandomState's streams, unlike Generator's, are promised never to change.
            np.random.RandomState(words[1]).shuffle(order)
            choices = tf.data.Dataset.from_tensor_slices(order)
            is_empty = skip == 0
            for batch in tf.data.Dataset.choose_from_datasets(sources, choices).skip(skip):
                is_empty = False
                yield batch
            if is_empty:  # The next epochs would be too.
                raise UserError(f"{self._dataset.name}: its splits give no batch of images")
            epoch, skip = epoch + 1, 0

    @tf.function(autograph=False, reduce_retracing=True)
    def _train_step(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return self._replicas.mean(self._step, (images, labels))

    def _step(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Train on a replica's share of a batch; return cross-entropy and accuracy on it."""
        weights = [variable.value for variable in self.network.trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            logits = self._in_training(images)
            losses = keras.losses.categorical_crossentropy(
                tf.one_hot(labels, logits.shape[-1]),
                logits,
                from_logits=True,
                label_smoothing=self._config.label_smoothing,
            )
            loss = tf.reduce_mean(losses)
            share = loss / self._replicas.number  # The optimizer adds the replicas' gradients.
        self.optimizer.apply(tape.gradient(share, weights), self.network.trainable_variables)
        hits = tf.equal(tf.argmax(logits, axis=-1, output_type=labels.dtype), labels)
        return loss, tf.reduce_mean(tf.cast(hits, tf.float32))
