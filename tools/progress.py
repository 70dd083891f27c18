"""Progress of library calls that report (done, total, **values)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

__all__ = ["progress"]


@contextlib.contextmanager
def progress(phase: str) -> Iterator[Callable[..., None]]:
    """Give a callback that draws a progress line from its first call on.

    What takes no time reports nothing, and what goes on half-way begins there.
    """
    from dance_tf.reporting import ProgressLine

    lines: list[ProgressLine] = []

    def report(done: int, total: int, **values: float) -> None:
        if not lines:
            lines.append(ProgressLine(phase, total, start_step=done))
        lines[0].update(done, **values)

    try:
        yield report
    finally:
        for line in lines:
            line.close()
