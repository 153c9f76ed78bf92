"""How work on a taxonomy ends early."""

from __future__ import annotations


class InputError(ValueError):
    """The caller's input is wrong; the message names it and the fix in one line."""
