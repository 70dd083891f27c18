"""The one exception for mistakes that a user can mend, and the hint for a misspelt name."""

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "did_you_mean"]


class UserError(ValueError):
    """Say in one line what is wrong and how to mend it.

    Command lines print the message and exit with status 1, without a traceback.
    """


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return what a message about an unknown name ends with: the nearest name, or all."""
    names = list(names)
    match = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {match[0]!r}?" if match else f"; there are {', '.join(names)}"
