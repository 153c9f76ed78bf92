"""Keys of judge servers: read from the environment when they are used, and kept nowhere."""

from __future__ import annotations

import os

from labeler.errors import UsageError


def read_key(variable: str | None, key: str = "judge.api_key_env") -> str | None:
    """The value of an environment variable; None where the config names no variable.

    Raises UsageError that names the config's key where the variable is not set or no key at all.
    """
    if variable is None:
        return None
    value = os.environ.get(variable)
    if not value:
        raise UsageError(f"{key}: environment variable {variable} is not set; export it first")
    if not (value.isascii() and value.isprintable()):
        # An HTTP header cannot hold it, and the client's own error would print it.
        raise UsageError(
            f"{key}: the key in {variable} holds a line break or a character outside ASCII; "
            "export it anew"
        )
    return value


def without_key(words: str, variable: str | None) -> str:
    """The words with the key blotted out: servers repeat a wrong key in their error."""
    value = os.environ.get(variable) if variable is not None else None
    return words.replace(value, "***") if value else words
