"""Terminal of a run: notes, warnings, stages and progress on stderr while it lasts.

Results go to stdout and to files, whatever `set_verbosity` says.
"""

from __future__ import annotations

import collections
import contextlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

__all__ = [
    "ProgressLine",
    "Stages",
    "begin_stage",
    "note",
    "progress",
    "set_verbosity",
    "show_value",
    "warn",
]

_verbosity = 0
_running: list[Stages] = []  # those inside `with`, the innermost last
_unfinished: list[ProgressLine] = []  # the line on a terminal whose end is not written yet


def set_verbosity(level: int) -> None:
    """Say how much is told: 0 all, -1 no notes and no progress, -2 no warnings either."""
    global _verbosity
    _verbosity = level


def note(text: str) -> None:
    """Tell what happens in a line of its own."""
    _say(text, 0)


def warn(text: str) -> None:
    """Tell what may make a result another than the one that is wanted."""
    _say(f"warning: {text}", -1)


def _say(text: str, level: int) -> None:
    if _verbosity < level:
        return
    for line in _unfinished[:]:
        line.close()
    with contextlib.suppress(OSError):  # A log without room must not end the run.
        print(text, file=sys.stderr, flush=True)


class Stages:
    """Stages of a run, in order: each is named as it begins, and all count as time left.

    Inside `with`, a ProgressLine or `progress` of a stage's name begins that stage, and
    `begin_stage` does so for what has no progress. A resumed run passes over the stages that
    it finds done.

    Args:
        *names: The stages.
    """

    def __init__(self, *names: str) -> None:
        self._names = names
        self._index = -1
        self._work: dict[str, float] = {}
        self._kinds: dict[str, str] = {}
        self._paces: dict[str, float] = {}  # kind to seconds per work, the newest last

    def expect(self, work: Mapping[str, float], kind: str = "") -> None:
        """Say how much work some stages are, in a unit that all of them share.

        The time of a stage ahead follows from the pace of one of its kind, if one has run, or
        else from that of the last that has; a stage of unknown work is told by its name alone.
        """
        self._work |= work
        self._kinds |= dict.fromkeys(work, kind)

    def begin(self, name: str) -> None:
        """Name the stage that begins; what is no stage of these belongs to the present one."""
        if name in self._names and self._names.index(name) != self._index:
            self._index = self._names.index(name)
            note(f"stage {self._index + 1} of {len(self._names)}: {name}")

    def left(self, seconds_left: float, seconds_of_stage: float) -> str:
        """Return the time left as text: of the stage that runs, and of all.

        Args:
            seconds_left: Seconds left of the stage that runs.
            seconds_of_stage: Seconds that all of this stage takes at its present pace.
        """
        present = self._names[self._index] if self._index >= 0 else ""
        if self._work.get(present, 0.0) > 0:
            kind = self._kinds[present]
            self._paces.pop(kind, None)
            self._paces[kind] = seconds_of_stage / self._work[present]
        ahead, unknown = 0.0, []
        for name in self._names[self._index + 1 :]:
            if name in self._work and self._paces:
                newest = next(reversed(self._paces.values()))
                ahead += self._work[name] * self._paces.get(self._kinds[name], newest)
            elif self._work.get(name) != 0:
                unknown.append(name)
        text = f"{_clock(seconds_left)} left"
        if ahead > 0:
            text += f", {_clock(seconds_left + ahead)} in all"
        if len(unknown) > 4:
            text += f" + {len(unknown)} stages"
        elif unknown:
            text += f" + {', '.join(unknown)}"
        return text

    def __enter__(self) -> Stages:
        _running.append(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        _running.remove(self)


def begin_stage(name: str) -> None:
    """Name a stage of the run that has no progress to tell; outside of `Stages` a no-op."""
    if _running:
        _running[-1].begin(name)


class _Pace:
    """Seconds per step, from recent steps.

    The first step, and later ones that take a second or more and ten times as long as their
    neighbours, compile something that the rest does not compile again.
    """

    _NUM_RECENT = 100

    def __init__(self, step: int, now: float) -> None:
        self._step, self._time, self._is_first = step, now, True
        # (seconds, steps) between one report and the next.
        self._parts: collections.deque[tuple[float, int]] = collections.deque(
            maxlen=self._NUM_RECENT
        )

    def add(self, step: int, now: float) -> None:
        if step <= self._step:  # waiting, or told again
            return
        if not self._is_first:
            self._parts.append((now - self._time, step - self._step))
        self._step, self._time, self._is_first = step, now, False

    def seconds_per_step(self) -> float | None:
        """Return the mean, or None where too little is known: one step may be a compiling one."""
        if len(self._parts) < 2:
            return None
        paces = sorted(seconds / steps for seconds, steps in self._parts)
        usual = paces[(len(paces) - 1) // 2]
        kept = [
            (seconds, steps)
            for seconds, steps in self._parts
            if seconds < 1.0 or seconds / steps <= 10 * usual
        ]
        total = sum(seconds for seconds, _ in kept)
        return total / sum(steps for _, steps in kept) if total > 0 else None


class ProgressLine:
    """Say on stderr how far a phase is: one line, rewritten on a terminal.

    ``search  42%  0:24 left, 1:10 in all + export  step 210/500  12.3 steps/s  loss 1.234``

    Elsewhere (a file, a pipe) plain lines, one per interval, and always the last step.
    """

    def __init__(
        self,
        phase: str,
        total_steps: int,
        *,
        start_step: int = 0,
        interval_s: float | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._phase, self._total = phase, max(int(total_steps), 1)
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = self._stream.isatty()
        self._interval_s = interval_s or (0.2 if self._is_terminal else 10.0)
        self._clock = clock
        # A resumed run must not count old steps as fast ones.
        self._pace = _Pace(start_step, clock())
        self._last_time, self._last_step = -math.inf, -1
        self._values: dict[str, float | str | None] = {}
        self._stages = _running[-1] if _running else Stages()
        self._stages.begin(phase)

    def update(self, step: int, **values: float | str | None) -> None:
        """Report that `step` steps are done.

        Args:
            step: Steps done, 0..total_steps.
            **values: Values to show by name; one that was shown stays until it is given anew.
                Floats are shown with four digits, None is left out.
        """
        self._values.update(values)
        now = self._clock()
        self._pace.add(step, now)
        is_last = step >= self._total and self._last_step < self._total
        if _verbosity < 0 or (now - self._last_time < self._interval_s and not is_last):
            return
        self._last_time, self._last_step = now, step
        line = self._line(step)
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1  # a wrapped line cannot be rewritten
            line = "\r" + line[:width] + "\x1b[K" + ("\n" if step >= self._total else "")
            _unfinished[:] = [self] if step < self._total else []
        else:
            line += "\n"
        self._write(line)

    def close(self) -> None:
        """End the line, so that what follows on the terminal begins a new one."""
        if self in _unfinished:
            _unfinished.remove(self)
            self._write("\n")

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # A log without room must not end what it is of.
            self._stream.write(text)
            self._stream.flush()

    def _line(self, step: int) -> str:
        parts = [f"{self._phase} {min(100 * step // self._total, 100):3d}%"]
        pace_s = self._pace.seconds_per_step()
        if pace_s is not None:
            seconds_left = max(self._total - step, 0) * pace_s
            parts.append(self._stages.left(seconds_left, self._total * pace_s))
        parts.append(f"step {step}/{self._total}")
        if pace_s is not None:
            parts.append(f"{1 / pace_s:.3g} steps/s")
        parts += [f"{k} {show_value(v)}" for k, v in self._values.items() if v is not None]
        return "  ".join(parts)


@contextlib.contextmanager
def progress(phase: str) -> Iterator[Callable[..., None]]:
    """Give a callback (done, total, **values) that draws a line from its first call on.

    The stage of this name begins there too. What takes no time reports nothing, and what goes
    on half-way begins there.
    """
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


def _clock(seconds: float) -> str:
    whole = math.ceil(round(seconds, 3))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def show_value(value: object) -> str:
    """Return a cell or a progress value as text: floats with four digits, None as a dash."""
    if value is None:
        return "-"
    if hasattr(value, "item"):  # a numpy or TensorFlow scalar
        value = value.item()
    elif hasattr(value, "numpy"):
        value = value.numpy().item()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
