"""SIGTERM and SIGINT as an orderly end: finish the step, save, say how to go on."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupted", "StopSignals"]


class Interrupted(Exception):
    """The run was asked to stop; what it had done is saved.

    Attributes:
        signum: The signal; a command line exits with status 128 + signum.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum


class StopSignals:
    """Context in which SIGTERM and SIGINT raise `Interrupted`.

    At once by default. Inside `deferred()` the signal is only remembered, and `check()`
    raises, so that a loop chooses where it stops; leaving `deferred()` raises as well. A
    second signal is never deferred. Enter it in the main thread.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._is_deferring = False
        self._previous: dict[int, Any] = {}

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
