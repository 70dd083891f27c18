"""Exceptions that command lines answer in one line, and words that messages share."""

import difflib
import signal
from collections.abc import Iterable, Sequence

__all__ = ["Interrupted", "UserError", "did_you_mean", "first_few"]

#: Ends of names that are units, as far as one may be taken for another.
_UNITS = frozenset(
    (
        *("s", "ms", "us", "ns", "min", "h", "cycles", "w", "mw", "hz", "khz", "mhz", "ghz"),
        *("j", "mj", "uj", "nj", "pj", "fj", "m2", "cm2", "mm2", "um2", "nm2"),
        *("bits", "bytes", "words", "kb", "kib", "mb", "mib", "gb", "gib"),
    )
)


class UserError(ValueError):
    """Say in one line what is wrong and how to mend it.

    Command lines print the message and exit with status 1, without a traceback.

    >>> from dance_tf.presets import preset
    >>> try:
    ...     preset("digit")
    ... except UserError as error:
    ...     print(error)
    unknown preset 'digit'; did you mean 'digits'?
    """


class Interrupted(Exception):
    """The run was asked to stop; what it had done is saved.

    Attributes:
        signum: The signal; a command line exits with status 128 + signum.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest name, or all.

    Where the nearest name is of another unit, the hint says so: to rename a column of
    microseconds would make a thousandfold of all its numbers.
    """
    names = list(names)
    match = difflib.get_close_matches(name, names, n=1)
    if not match:
        return f"; there are {', '.join(names)}"
    units = [text.rpartition("_")[2].lower() for text in (name, match[0])]
    if units[0] != units[1] and set(units) <= _UNITS:
        return f"; {match[0]!r} is in {units[1]}, not in {units[0]}: convert the number"
    return f"; did you mean {match[0]!r}?"


def first_few(texts: Sequence[str], num: int = 3) -> str:
    """Return the first of many things that a message names, and how many more there are."""
    more = [f"and {len(texts) - num} more"] if len(texts) > num else []
    return "; ".join([*texts[:num], *more])
