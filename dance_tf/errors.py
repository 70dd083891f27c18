"""The one exception for mistakes that a user can mend."""

__all__ = ["UserError"]


class UserError(ValueError):
    """Say in one line what is wrong and how to mend it.

    Command lines print the message and exit with status 1, without a traceback.
    """
