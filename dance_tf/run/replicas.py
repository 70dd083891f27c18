"""Replicas: devices that share each batch of a training, by a strategy of tf.distribute.

Every replica has the same weights and a slice of the batch; gradients are added up, so that a
step is that of one replica with the whole batch, but for rounding. Each process reads the whole
stream of batches and takes its slices, so the order of the data is that of one replica.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import tensorflow as tf

from dance_tf.errors import UserError

__all__ = ["Replicas", "open_replicas"]


class Replicas:
    """Replicas of one training.

    Args:
        strategy: Strategy of tf.distribute; None: one replica, as without any.

    Attributes:
        number: Number of replicas, of all processes.
        is_chief: Whether this process writes what all have done.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None) -> None:
        self._strategy = strategy
        self.number = 1 if strategy is None else int(strategy.num_replicas_in_sync)
        resolver = None if strategy is None else strategy.cluster_resolver
        task = (None, 0) if resolver is None else (resolver.task_type, resolver.task_id)
        self.is_chief = task[0] in (None, "chief") or (task[0] == "worker" and task[1] == 0)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Let variables that are made inside be one for all replicas."""
        with contextlib.nullcontext() if self._strategy is None else self._strategy.scope():
            yield

    def check(self, batch_size: int, field: str) -> None:
        """Refuse a batch that cannot be shared equally.

        Raises:
            UserError: Naming the field of the configuration.
        """
        if batch_size % self.number:
            raise UserError(
                f"a batch of {batch_size} cannot be shared by {self.number} replicas: choose a"
                f" multiple of {self.number} as {field}"
            )

    def shared(self, *batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Return the arrays of a batch, each as a value that differs by replica."""
        if self._strategy is None:
            return batch
        slices = [tf.split(array, self.number) for array in batch]
        return tuple(
            self._strategy.experimental_distribute_values_from_function(
                lambda context, parts=parts: parts[context.replica_id_in_sync_group]
            )
            for parts in slices
        )

    def mean(
        self, step: Callable[..., tuple[tf.Tensor, ...]], arguments: tuple[tf.Tensor, ...]
    ) -> tuple[tf.Tensor, ...]:
        """Run a step on every replica and return the means of its scalars."""
        if self._strategy is None:
            return step(*arguments)
        found = self._strategy.run(step, args=arguments)
        mean = tf.distribute.ReduceOp.MEAN
        return tuple(self._strategy.reduce(mean, value, axis=None) for value in found)

    def check_step(self, step: int) -> None:
        """Refuse to begin where processes have read different checkpoints.

        Raises:
            UserError: If another process is at another step.
        """
        (mean,) = self.mean(lambda own: (own,), (tf.constant(step, tf.float32),))
        if float(mean) != step:
            raise UserError(
                f"this process has read the checkpoint of step {step}, others another: all need"
                " one --output_dir on a shared file system, and --resume for all or none"
            )

    @contextlib.contextmanager
    def telling_of_losses(self) -> Iterator[None]:
        """Turn the error of a lost process into one line.

        Raises:
            UserError: If another process has ended.
        """
        try:
            yield
        except (
            tf.errors.UnavailableError,
            tf.errors.AbortedError,
            tf.errors.InternalError,
            tf.errors.CancelledError,
            tf.errors.DeadlineExceededError,
        ) as error:
            if self._strategy is None:
                raise
            raise UserError(
                f"another process of this training was lost ({type(error).__name__}); --resume goes"
                " on from the last checkpoint, with as many processes as there are"
            ) from None


def open_replicas(kind: str, *, num_cpu_devices: int = 1) -> Replicas:
    """Return the replicas of this process, before TensorFlow has done anything else.

    Args:
        kind: "none"; "mirrored": a replica on each visible GPU, or on each logical device of
            the CPU; "multiworker": those of all processes that TF_CONFIG names.
        num_cpu_devices: Logical devices that the CPU is split into, for trials without GPUs.
    Raises:
        UserError: If the processes do not find each other, or TensorFlow has begun.
    """
    if num_cpu_devices > 1:
        device = tf.config.LogicalDeviceConfiguration()
        (cpu,) = tf.config.list_physical_devices("CPU")
        try:
            tf.config.set_logical_device_configuration(cpu, [device] * num_cpu_devices)
        except RuntimeError as error:
            raise UserError(f"--num_cpu_devices={num_cpu_devices}: {error}") from None
    if kind == "none":
        return Replicas()
    if kind == "mirrored":
        gpus = tf.config.list_logical_devices("GPU")
        devices = [d.name for d in gpus or tf.config.list_logical_devices("CPU")]
        return Replicas(tf.distribute.MirroredStrategy(devices))
    try:
        return Replicas(tf.distribute.MultiWorkerMirroredStrategy())
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        line = str(error).strip().splitlines()[0][:200]
        raise UserError(f"--distribute=multiworker: {line}") from None
