"""Regular expressions that come with a model: tried first in a process that can be ended."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from crosscoder import limits
from crosscoder.errors import InputError

_QUICK = re.compile(r"[\w.|\-]*")
"""Patterns of names and alternatives alone, which never take long."""
_MATCH_ALL = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    compiled = re.compile(pattern)
    for name in names:
        compiled.match(name), compiled.fullmatch(name)
"""


def require_quick_patterns(
    where: str, path: Path, patterns: Iterable[str], names: Iterable[str]
) -> None:
    """InputError where the regular expressions of a file are none, or take long on these names.

    They are tried in a process that can be ended: a pattern such as (a+)+$ takes years.
    """
    doubtful = [pattern for pattern in patterns if not _QUICK.fullmatch(pattern)]
    if not doubtful:
        return
    try:
        subprocess.run(
            [sys.executable, "-I", "-c", _MATCH_ALL],
            input=json.dumps([doubtful, list(names)]),
            text=True,
            capture_output=True,
            timeout=limits.MAX_PATTERN_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{where}: {path}: its patterns take longer than {limits.MAX_PATTERN_SECONDS:g} s on "
            "the names of the model's modules; list the names instead"
        ) from None
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:]
        raise InputError(
            f"{where}: {path}: holds no valid pattern: {' '.join(last)[:300]}"
        ) from None
