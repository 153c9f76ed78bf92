"""The two errors of this package: wrong input, and work that failed."""

from __future__ import annotations


class InputError(ValueError):
    """The caller's input is wrong; the message names it and the fix in one line."""


class WorkError(RuntimeError):
    """The input was right, but the work failed; finished parts are kept."""
