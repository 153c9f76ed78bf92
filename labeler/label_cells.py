"""What the cells of a file of labels mean, whatever a spreadsheet did to their outside."""

from __future__ import annotations

import unicodedata

from labeler.errors import UsageError
from taxonomy.tree import Taxonomy

SEPARATOR = ";"
"""Between the slugs of one cell, the primary one first."""
RESERVED = ("none", "uninterpretable")
_TYPED = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "...", "\xa0": " ",
    "\u202f": " ", "\u2013": "-", "\u2014": "--",
})  # fmt: skip


def plain_text(text: str) -> str:
    """The text without what spreadsheets change unasked: outer space, line ends, normal form."""
    lines = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.rstrip() for line in lines).strip()


def plain_signs(text: str) -> str:
    """The text with the signs of a typewriter where programs set typographic ones unasked."""
    return plain_text(text.translate(_TYPED))


def category_cell(text: str) -> str:
    """The parts of a cell without outer space and without empty ones."""
    parts = (part.strip() for part in text.split(SEPARATOR))
    return SEPARATOR.join(part for part in parts if part)


def slugs_of(category: str) -> tuple[str, ...]:
    """The slugs of a cell; none of them for a reserved word."""
    return () if category in RESERVED else tuple(category.split(SEPARATOR))


def by_slug(category: str, taxonomy: Taxonomy) -> str:
    """The cell with the slug where a title stands, or a slug in another case.

    What is neither stays as it is; UsageError for a title that several categories have.
    """
    return SEPARATOR.join(_slug(part, taxonomy) for part in category.split(SEPARATOR) if part)


def _slug(part: str, taxonomy: Taxonomy) -> str:
    folded = part.casefold()
    if part in taxonomy or part in RESERVED:
        return part
    if folded in taxonomy or folded in RESERVED:
        return folded
    named = [each.slug for each in taxonomy.categories if each.name.casefold() == folded]
    if len(named) > 1:
        raise UsageError(
            f"category {part!r} is the title of several; write the slug: {' or '.join(named)}"
        )
    return named[0] if named else part
