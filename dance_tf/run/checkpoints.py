"""Checkpoints of a training: whole or absent, and checked before they are used.

A checkpoint is a folder `step_NNNNNNNN` with TensorFlow's files and `state.json`,
which holds the size and SHA-256 of each of them. It is written under another name and
renamed when complete, so a kill leaves either the new checkpoint or the one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence

import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.files import Json, pattern_free
from dance_tf.run import terminal
from dance_tf.run.reporting import read_history

__all__ = ["CheckpointFolder", "check_history"]

_NAME = re.compile(r"step_(\d{8})")
_STATE = "state.json"
_TENSORS = "tensors"
_NUM_KEPT = 2


def _digest(path: str) -> dict[str, Json]:
    with open(path, "rb") as file:
        content = file.read()
    return {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


class CheckpointFolder:
    """Checkpoints of one run.

    Args:
        path: Folder of the checkpoints, made at the first save.
        **trackables: Models, optimizers and variables to keep. They must have all their
            variables already.
    """

    def __init__(self, path: str, **trackables: object) -> None:
        self._path = path
        self._checkpoint = tf.train.Checkpoint(**trackables)

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, ascending."""
        if not os.path.isdir(self._path):
            return []
        matches = (_NAME.fullmatch(name) for name in os.listdir(self._path))
        return sorted(int(match[1]) for match in matches if match)

    def save(self, step: int, state: dict[str, Json]) -> None:
        """Write a checkpoint and drop all but the newest few.

        Args:
            step: Step of the checkpoint. A whole one of the same step is kept as it is;
                damaged ones of this step or later ones are dropped.
            state: JSON data that `restore` returns.
        """
        final = self._folder(step)
        if os.path.isdir(final) and not _read(final)[1]:
            return
        os.makedirs(self._path, exist_ok=True)
        self._drop_partial()  # Left by a kill during an earlier save.
        partial = os.path.join(self._path, f".partial_{step:08d}")
        os.makedirs(partial)
        with pattern_free(self._path) as writable:
            self._checkpoint.write(os.path.join(writable, os.path.basename(partial), _TENSORS))
            names = sorted(os.listdir(partial))
            files = {name: _digest(os.path.join(partial, name)) for name in names}
            with open(os.path.join(partial, _STATE), "w", encoding="utf-8") as file:
                json.dump({"step": step, "files": files, "state": state}, file, allow_nan=False)
        for later in [later for later in self.steps() if later >= step]:
            os.rename(self._folder(later), os.path.join(self._path, f".partial_old_{later:08d}"))
        os.rename(partial, final)
        self._drop_partial()
        for old in self.steps()[:-_NUM_KEPT]:
            shutil.rmtree(self._folder(old))

    def restore(self) -> tuple[int, dict[str, Json]] | None:
        """Restore the newest whole checkpoint; return its step and state, None if there is none.

        Newer ones that are damaged or incomplete are passed over, and a line on stderr says so.

        Raises:
            UserError: If there are some but none is whole, or a file may not be read, or the
                newest whole one is of another network; nothing is restored.
        """
        passed_over: list[str] = []
        for step in reversed(self.steps()):
            folder = self._folder(step)
            record, fault = _read(folder)
            if not fault:
                for line in passed_over:
                    terminal.warn(f"{line}: going on from that of step {step}")
                self._load(folder)
                return record["step"], record["state"]
            passed_over.append(f"checkpoint {folder} is not whole ({fault})")
        if passed_over:
            raise UserError(
                f"{passed_over[0]}, and no older one is: bring one back from a copy, or begin"
                " anew in another folder"
            )
        return None

    def _load(self, folder: str) -> None:
        try:
            with pattern_free(folder) as readable:
                self._checkpoint.read(os.path.join(readable, _TENSORS)).assert_consumed()
        except (AssertionError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"checkpoint {folder} does not fit this network ({reason}): it is of another"
                " configuration, or of another version of this program"
            ) from None
        except tf.errors.OpError as error:  # The files are those that were written.
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"TensorFlow cannot read checkpoint {folder}: {reason}") from None

    def _drop_partial(self) -> None:
        for name in os.listdir(self._path):
            if name.startswith(".partial"):
                shutil.rmtree(os.path.join(self._path, name))

    def fault(self) -> str:
        """Return why the newest checkpoint is not whole, or ""; reads its files alone."""
        steps = self.steps()
        return _read(self._folder(steps[-1]))[1] if steps else "there is none"

    def sha256(self) -> str:
        """Return a hash of the newest checkpoint's tensors."""
        with open(os.path.join(self._folder(self.steps()[-1]), _STATE), encoding="utf-8") as file:
            files = json.dumps(json.load(file)["files"], sort_keys=True)
        return hashlib.sha256(files.encode()).hexdigest()

    def _folder(self, step: int) -> str:
        return os.path.join(self._path, f"step_{step:08d}")


def check_history(
    path: str,
    restored_step: int | None,
    *,
    phases: Sequence[str],
    first_save: int,
    due: Iterable[int] = (),
) -> None:
    """Compare a run's history with the checkpoint that the run is about to go on from.

    Lines that are missing before the checkpoint are told of on stderr.

    Args:
        path: history.jsonl; may not exist.
        restored_step: Step of the checkpoint; None if there is none.
        phases: Phases of the history's lines that belong to the checkpoints.
        first_save: Step of the first checkpoint that such a run writes by itself.
        due: Steps of the lines that the history should have, ascending.
    Raises:
        UserError: If there is no checkpoint, but a history that shows more than one epoch.
    """
    lines = read_history(path) if os.path.exists(path) else []
    steps = {line.get("step", 0) for line in lines if line.get("phase", "") in phases}
    if restored_step is None and max(steps, default=0) > first_save:
        is_shared = any(line.get("phase", "") not in phases for line in lines)
        away = f"take its lines of {' and '.join(phases)} out" if is_shared else "move it away"
        raise UserError(
            f"{path} shows {max(steps)} steps done, but their checkpoints are gone: bring them"
            f" back, name another folder, or {away} to begin anew here"
        )
    lost = [step for step in due if step <= (restored_step or 0) and step not in steps]
    if lost:
        terminal.warn(
            f"{path} lacks {len(lost)} lines, of steps {lost[0]} to {lost[-1]}: they cannot be"
            " written again, and change no result"
        )


def _read(folder: str) -> tuple[dict[str, Json], str]:
    """Return what a checkpoint's state file holds, and why it is not whole, or "".

    Raises:
        UserError: If a file is there but may not be read.
    """
    try:
        with open(os.path.join(folder, _STATE), encoding="utf-8") as file:
            record = json.load(file)
        if not isinstance(record, dict) or not {"step", "files", "state"} <= set(record):
            return {}, f"{_STATE} lacks fields"
        for name, expected in record["files"].items():
            found = _digest(os.path.join(folder, name))
            if found["num_bytes"] != expected["num_bytes"]:
                sizes = f"{found['num_bytes']} bytes instead of {expected['num_bytes']}"
                return {}, f"{name} has {sizes}"
            if found != expected:
                return {}, f"the checksum of {name} is wrong"
    except FileNotFoundError as error:
        return {}, f"{os.path.basename(error.filename)} is missing"
    except ValueError:
        return {}, f"{_STATE} is not JSON"
    except OSError as error:
        raise UserError(f"cannot read checkpoint file {error.filename}: {error.strerror}") from None
    return record, ""
