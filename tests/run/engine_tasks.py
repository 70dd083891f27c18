"""Tasks for the tests of the engines; other processes import them by name."""

from __future__ import annotations

import os
import pathlib
import signal
import time

from dance_tf.errors import Interrupted, UserError

_started: list[bool] = []


def note_start() -> None:
    """Note that this process has been prepared."""
    _started.append(True)


def double(data):
    """Return twice a value, and which process has computed it."""
    return {
        "doubled": 2 * data["value"],
        "process": os.getpid(),
        "has_started": bool(_started),
    }


def refuse(message):
    """Refuse."""
    raise UserError(message)


def stop(signum):
    """Stop as at a signal."""
    raise Interrupted(signum)


def die(data):
    """Leave a file for each beginning, and kill this process at the first ones."""
    folder, name = pathlib.Path(data["folder"]), data["name"]
    before = len(list(folder.glob(f"{name}.*")))
    (folder / f"{name}.{before}").touch()
    if before < data["num_kills"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def wait(data):
    """Write the process's number and wait."""
    pathlib.Path(data["path"]).write_text(str(os.getpid()))
    time.sleep(data["seconds"])
