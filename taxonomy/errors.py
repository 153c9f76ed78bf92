"""How work on a taxonomy ends early."""

from __future__ import annotations


class InputError(ValueError):
    """What the caller gave is wrong; the message names it and the mend in one line."""
