"""Surroundings of a run: its folder, its determinism, its record, the signals that end it.

with open_run(config, output_dir, is_resuming=True) as run, StopSignals() as stop:
    ...  # Refuse what can be refused: the folder is as it was.
    run.begin(facts)  # config.json and run_info.json are there.
    ...  # Work; save where `stop` asks for it.
    run.end()  # run_info.json says when.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, TracebackType

import keras
import tensorflow as tf

from dance_tf.config import ExperimentConfig, config_from_json, config_to_json
from dance_tf.errors import Interrupted, UserError
from dance_tf.files import Json, is_partial, read_json, write_json
from dance_tf.run import run_info, terminal
from dance_tf.run.folder_lock import names_in, owned

__all__ = [
    "RunFolder",
    "StopSignals",
    "check_output_dir",
    "make_deterministic",
    "open_run",
]


@contextlib.contextmanager
def open_run(
    config: ExperimentConfig, output_dir: str, *, is_resuming: bool = False
) -> Iterator[RunFolder]:
    """Own the folder of a run and make the process deterministic; the folder stays as it is.

    Args:
        config: Configuration of the run.
        output_dir: New, empty, or the folder of the run to resume.
        is_resuming: Whether to go on from what the folder holds.
    Raises:
        UserError: If another process owns the folder; see also `check_output_dir`.
    """
    started = run_info.now()
    with owned(output_dir):
        check_output_dir(config, output_dir, is_resuming)
        make_deterministic(config.seed)
        yield RunFolder(config, output_dir, started)


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and switch TensorFlow's op determinism on."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


class RunFolder:
    """Folder of a deterministic run that is going on; `open_run` makes it.

    Attributes:
        path: The folder.
        info: Content of run_info.json since `begin`.
    """

    def __init__(
        self, config: ExperimentConfig, output_dir: str, started: datetime.datetime
    ) -> None:
        self.path = output_dir
        self.info: dict[str, Json] = {}
        self._config, self._started = config, started
        self._facts: dict[str, Json] = {}

    def begin(self, facts: Mapping[str, Json]) -> None:
        """Make the folder and write config.json and run_info.json.

        Files that a kill left half-written are removed, and a number of threads other than the
        interrupted run's is warned of.

        Args:
            facts: Entries of run_info.json beside those of `run_info.collect`.
        Raises:
            UserError: If the facts of the run to resume were others; nothing is touched.
        """
        path = os.path.join(self.path, "run_info.json")
        before = read_json(path) if os.path.exists(path) else {}
        _check_origin(self.path, before, facts)
        os.makedirs(self.path, exist_ok=True)
        for folder, _, names in os.walk(self.path):
            for name in filter(is_partial, names):
                os.remove(os.path.join(folder, name))
        now = run_info.num_threads()
        was = before.get("num_threads", now)
        if was != now:
            terminal.warn(
                f"{path} is of {was} threads, this is of {now}, which round otherwise, so"
                f" the result may be another; TF_NUM_INTRAOP_THREADS={was} brings them back"
            )
        write_json(os.path.join(self.path, "config.json"), config_to_json(self._config))
        self._facts = dict(facts)
        self._write(None)

    def end(self) -> dict[str, Json]:
        """Write the end of the run into run_info.json.

        Returns:
            `wall_s`, seconds, `started_at` and `ended_at`, ISO 8601. Of a run that was
            interrupted they are those of its last part.
        """
        ended = run_info.now()
        self._write(ended)
        return {
            "wall_s": round((ended - self._started).total_seconds(), 3),
            "started_at": self._started.isoformat(),
            "ended_at": ended.isoformat(),
        }

    def _write(self, ended: datetime.datetime | None) -> None:
        collected = run_info.collect(
            self._config.seed, self._started, ended=ended, is_deterministic=True
        )
        self.info = collected | self._facts
        run_info.write(os.path.join(self.path, "run_info.json"), self.info)


def check_output_dir(config: ExperimentConfig, output_dir: str, is_resuming: bool) -> None:
    """Refuse a run folder that is of another run; touches nothing.

    Raises:
        UserError: If it holds something and is not to be resumed, or holds a run of
            another config.
    """
    if not os.path.exists(output_dir):
        return
    if not os.path.isdir(output_dir):
        raise UserError(f"--output_dir={output_dir} is a file: name a folder")
    if all(map(is_partial, names_in(output_dir))):  # Left by a kill at the very start.
        return
    if not is_resuming:
        raise UserError(
            f"--output_dir={output_dir} is not empty: add --resume to go on with the run in it,"
            " or name another folder"
        )
    path = os.path.join(output_dir, "config.json")
    if not os.path.exists(path):
        raise UserError(f"--resume: {output_dir} has no config.json, so it holds no run")
    stored = config_from_json(read_json(path))
    # Where the images lie does not change them; those of a path are known by their content.
    there = config.data.path if stored.data.path and config.data.path else stored.data.path
    data = dataclasses.replace(stored.data, data_dir=config.data.data_dir, path=there)
    stored = dataclasses.replace(stored, data=data)
    difference = _first_difference(_comparable(stored), _comparable(config))
    if difference:
        name, old, new = difference
        raise UserError(
            f"--resume: {path} has {name} = {old!r}, this run {new!r}: give the same"
            " configuration, or name another --output_dir"
        )


def _check_origin(output_dir: str, before: Mapping[str, Json], facts: Mapping[str, Json]) -> None:
    """Refuse to go on with a run whose costs, weights or images were others.

    A folder without a run_info.json, and one of a version that did not note a fact, is taken
    to be of the same.
    """
    mend = "or name another --output_dir"
    for name, now in facts.items():
        was = before.get(name, now)
        if name == "cost_table_sha256" and was != now:
            source = before.get("cost_source", {})
            raise UserError(
                f"--resume: costs have changed since the run in {output_dir} began; they came"
                f" from {source.get('name')} as it was then (SHA-256 {source.get('sha256')}):"
                f" bring it back, {mend}"
            )
        if name == "supernet_sha256" and was != now:
            raise UserError(
                f"--resume: the supernet of the run in {output_dir} had other weights (SHA-256"
                f" {was}): bring it back, {mend}"
            )
        if name == "data_sha256" and was != now:
            raise UserError(
                f"--resume: files or labels of the data have changed since the run in {output_dir}"
                f" began: bring them back, {mend}"
            )
        if name in ("evaluator", "input") and (difference := _first_difference(was, now, name)):
            name, old, new = difference
            raise UserError(
                f"--resume: the run in {output_dir} began with {name} = {old!r}, which is"
                f" {new!r} now: bring back the evaluator or the data set, {mend}"
            )


def _comparable(config: ExperimentConfig) -> dict[str, Json]:
    """Return a config as JSON data, the evaluator "auto" as "neural".

    Runs of before "auto" had the neural one; run_info.json says which one a run came to.
    """
    data = config_to_json(config)
    if data["evaluator"]["kind"] == "auto":
        data["evaluator"]["kind"] = "neural"
    return data


def _first_difference(old: Json, new: Json, name: str = "") -> tuple[str, Json, Json] | None:
    """Return the dotted name and the two values of the first field that differs."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return None if old == new else (name, old, new)
    for key in [*old, *(key for key in new if key not in old)]:
        path = f"{name}.{key}" if name else key
        difference = _first_difference(old.get(key), new.get(key), path)
        if difference:
            return difference
    return None


class StopSignals:
    """Context in which SIGTERM and SIGINT raise `Interrupted`.

    At once by default. Inside `deferred()` the signal is only remembered, and `check()`
    raises, so that a loop chooses where it stops; leaving `deferred()` raises as well. A
    second signal is never deferred. Enter it in the main thread.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._is_deferring = False
        self._previous: dict[int, signal.Handlers | int | Callable | None] = {}

    def __enter__(self) -> StopSignals:
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        if self.requested is not None and error and not isinstance(error, Interrupted):
            # Raised inside a library that made another error of it.
            raise Interrupted(self.requested) from error

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        del frame
        is_first = self.requested is None
        self.requested = signum
        if not (self._is_deferring and is_first):
            raise Interrupted(signum)

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.requested is not None:
            raise Interrupted(self.requested)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Remember a signal instead of raising it."""
        self._is_deferring = True
        try:
            yield
        finally:
            self._is_deferring = False
        self.check()
