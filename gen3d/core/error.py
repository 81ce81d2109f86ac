"""Mistakes that a user can mend: one line that says what, where, what was expected and how to mend it."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A failure with one clear line for the user; the command line prints it and exits with 1."""

    exit_code = 1


class UsageError(UserError):
    """A wrong option, name or configuration key; the command line prints it and exits with 2."""

    exit_code = 2


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known name closest to ``name``, or an empty string."""
    close = get_close_matches(name, [str(k) for k in known], n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
