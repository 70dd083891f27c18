"""Checkpoints of a search: whole or absent, and checked before they are used.

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
from typing import Any

import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.paths import pattern_free

__all__ = ["CheckpointFolder"]

_NAME = re.compile(r"step_(\d{8})")
_STATE = "state.json"
_TENSORS = "tensors"
_NUM_KEPT = 2


def _digest(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        content = file.read()
    return {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        path: Folder; created at the first save.
        **trackables: What a checkpoint holds: models, optimizers, variables. They must
            have all their variables already.
    """

    def __init__(self, path: str, **trackables: Any) -> None:
        self._path = path
        self._checkpoint = tf.train.Checkpoint(**trackables)

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, ascending."""
        if not os.path.isdir(self._path):
            return []
        matches = (_NAME.fullmatch(name) for name in os.listdir(self._path))
        return sorted(int(match[1]) for match in matches if match)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint and drop all but the newest few.

        Args:
            step: Its name; a checkpoint of the same step is kept as it is.
            state: JSON data that `restore` returns.
        """
        final = self._folder(step)
        if os.path.isdir(final):
            return
        os.makedirs(self._path, exist_ok=True)
        for name in os.listdir(self._path):  # What a kill left of an earlier save.
            if name.startswith(".partial"):
                shutil.rmtree(os.path.join(self._path, name))
        partial = os.path.join(self._path, f".partial_{step:08d}")
        os.makedirs(partial)
        with pattern_free(self._path) as writable:
            self._checkpoint.write(os.path.join(writable, os.path.basename(partial), _TENSORS))
            names = sorted(os.listdir(partial))
            files = {name: _digest(os.path.join(partial, name)) for name in names}
            with open(os.path.join(partial, _STATE), "w", encoding="utf-8") as file:
                json.dump({"step": step, "files": files, "state": state}, file, allow_nan=False)
        os.rename(partial, final)
        for old in self.steps()[:-_NUM_KEPT]:
            shutil.rmtree(self._folder(old))

    def restore(self) -> tuple[int, dict[str, Any]] | None:
        """Restore the newest checkpoint; return its step and state, None if there is none.

        Raises:
            UserError: If it is truncated, altered, or of another network; nothing is restored.
        """
        steps = self.steps()
        if not steps:
            return None
        folder = self._folder(steps[-1])
        record = _read_state(folder)
        for name, expected in record["files"].items():
            path = os.path.join(folder, name)
            if not os.path.exists(path):
                raise _broken(folder, f"{name} is missing")
            found = _digest(path)
            if found["num_bytes"] != expected["num_bytes"]:
                raise _broken(
                    folder,
                    f"{name} has {found['num_bytes']} bytes instead of {expected['num_bytes']}",
                )
            if found != expected:
                raise _broken(folder, f"the checksum of {name} is wrong")
        try:
            with pattern_free(folder) as readable:
                self._checkpoint.read(os.path.join(readable, _TENSORS)).assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            reason = str(error).strip().splitlines()[0]
            raise _broken(folder, f"it does not fit this network ({reason})") from None
        return record["step"], record["state"]

    def sha256(self) -> str:
        """Return a hash of the newest checkpoint's tensors."""
        record = _read_state(self._folder(self.steps()[-1]))
        files = json.dumps(record["files"], sort_keys=True)
        return hashlib.sha256(files.encode()).hexdigest()

    def _folder(self, step: int) -> str:
        return os.path.join(self._path, f"step_{step:08d}")


def _read_state(folder: str) -> dict[str, Any]:
    try:
        with open(os.path.join(folder, _STATE), encoding="utf-8") as file:
            record = json.load(file)
    except (OSError, ValueError):
        raise _broken(folder, f"{_STATE} cannot be read") from None
    if not isinstance(record, dict) or not {"step", "files", "state"} <= set(record):
        raise _broken(folder, f"{_STATE} lacks fields")
    return record


def _broken(folder: str, reason: str) -> UserError:
    return UserError(
        f"checkpoint {folder} is damaged: {reason}; delete that folder to resume from the"
        " checkpoint before it, or start anew in another --output_dir"
    )
