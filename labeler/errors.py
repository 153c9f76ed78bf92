"""The two ways in which a command ends early."""

from __future__ import annotations


class UsageError(ValueError):
    """The call or the config is wrong (exit status 2); one line names the key and the mend."""


class WorkError(RuntimeError):
    """The work failed (exit status 1); what was finished is kept."""
