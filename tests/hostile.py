"""Texts that try to break out: of a prompt's frame, a JSON string, a terminal, a page, a file.

`tests/data/hostile.jsonl` holds them as ASCII JSON, so that half characters survive every editor.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PATH = Path(__file__).parent / "data" / "hostile.jsonl"
UNSAFE_ON_A_TERMINAL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Characters that move the cursor, reorder or hide text, or are no characters at all."""


@dataclass(frozen=True)
class Hostile:
    """One text, named for what it tries."""

    name: str
    text: str

    def __str__(self) -> str:
        return self.name


@cache
def hostile_texts() -> tuple[Hostile, ...]:
    """The whole corpus, in the order of the file."""
    lines = PATH.read_text(encoding="ascii").splitlines()
    return tuple(Hostile(**json.loads(line)) for line in lines)


def storable(text: str) -> str:
    """The text as a database keeps it: NUL and every lone surrogate as U+FFFD."""
    return re.sub("[\x00\ud800-\udfff]", "\ufffd", text)
