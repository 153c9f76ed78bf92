"""The fenced blocks of a Markdown page, with the comment before each that says how it is run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(
    r"^(?:<!-- (?P<key>\w+): (?P<value>[^>]*?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    text: str
    key: str | None
    """`in`: the folder whose copy it runs in; `needs`, `elsewhere`: why it is not run here."""
    value: str

    @property
    def commands(self) -> list[str]:
        """Lines of shell, those that go on within quotes joined."""
        lines: list[str] = []
        for line in self.text.splitlines():
            if lines and lines[-1].count('"') % 2:
                lines[-1] += f" {line.strip()}"
            else:
                lines.append(line)
        return [line for line in lines if line.strip()]


def blocks(page: Path, language: str) -> list[Block]:
    """The blocks of one language, in order."""
    return [
        Block(found["language"], found["text"], found["key"], found["value"] or "")
        for found in _BLOCK.finditer(page.read_text(encoding="utf-8"))
        if found["language"] == language
    ]


def relative_links(page: Path) -> list[str]:
    """Targets of links and pictures that are files of this repository."""
    return _LINK.findall(page.read_text(encoding="utf-8"))


def table_rows(page: Path) -> list[list[str]]:
    """Cells of the Markdown table rows, without markup for emphasis, code and spaces."""
    return [
        [cell.replace("*", "").replace("&nbsp;", "").strip(" `") for cell in line.split("|")[1:-1]]
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
