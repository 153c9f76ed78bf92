"""Reads a report's page as a browser would: tags, ids, links, text."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Page:
    """What a page contains."""

    tags: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str]] = field(default_factory=list)
    text: str = ""
    rows: dict[str, list[str]] = field(default_factory=dict)
    """Cells of the change table by category."""
    values: dict[str, list[str]] = field(default_factory=dict)
    """Unrounded values of the change table by category."""
    marks: list[tuple[str, str]] = field(default_factory=list)
    """Highlighted text and its style."""


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page()
        self._row: str | None = None
        self._mark: str | None = None
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.page.tags.append(tag)
        self.page.attributes += values.items()
        self._skipped += tag == "style"
        if "id" in values:
            self.page.ids.append(values["id"])
        if tag == "a":
            self.page.links.append(values["href"])
        if tag == "tr":
            self._row = values.get("data-category")
            if self._row is not None:
                self.page.rows[self._row] = []
                self.page.values[self._row] = []
        if tag in ("td", "th") and self._row is not None:
            self.page.rows[self._row].append("")
        if tag == "data" and self._row is not None:
            self.page.values[self._row].append(values["value"])
        if tag == "mark":
            self._mark = values["style"]
            self.page.marks.append(("", values["style"]))

    def handle_endtag(self, tag: str) -> None:
        self._skipped -= tag == "style"
        if tag == "tr":
            self._row = None
        if tag == "mark":
            self._mark = None

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        self.page.text += data
        if self._row is not None and self.page.rows[self._row]:
            self.page.rows[self._row][-1] += data
        if self._mark is not None:
            text, style = self.page.marks[-1]
            self.page.marks[-1] = (text + data, style)


def read_page(html: str) -> Page:
    """The contents of a page."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    for cells in reader.page.rows.values():
        cells[:] = [" ".join(cell.split()) for cell in cells]
    return reader.page
