"""The user's cache folder: what was fetched or converted once for every later study."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "DIFFLENS_CACHE"


def cache_folder() -> Path:
    """`$DIFFLENS_CACHE`, else `difflens` in the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "difflens"


def subject_cache() -> Path:
    """Where file hashes and dequantised GGUF models are kept."""
    return cache_folder() / "subjects"
