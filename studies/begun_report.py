"""Reports that a command writes as it goes, and goes on with when it is called again."""

from __future__ import annotations

import os
from typing import Any

from dance_tf.errors import UserError
from dance_tf.files import read_json

__all__ = ["begun_report"]


def begun_report(path: str | os.PathLike, config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the report in a file, or None where there is no file yet.

    Args:
        path: JSON file.
        config: Settings that its numbers depend on; its own part `config` must be equal.
    Raises:
        UserError: If the file is of another configuration.
    """
    if not os.path.exists(path):
        return None
    report = read_json(path)
    if report.get("config") != config:
        raise UserError(
            f"{os.fspath(path)} is of another configuration: delete it, or name another"
        )
    return report
