"""The two ways in which work on a crosscoder ends early."""

from __future__ import annotations


class InputError(ValueError):
    """What the caller gave is wrong; the message names it and the mend in one line."""


class WorkError(RuntimeError):
    """The input was right and the work failed; what was finished is kept."""
