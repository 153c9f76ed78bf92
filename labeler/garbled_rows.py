"""Refuses files of labels whose text a program garbled: no decision is made from such a cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from labeler.errors import UsageError
from labeler.garbling import first_misread, garbled_from
from labeler.label_cells import plain_signs
from labeler.text import clip, plural

FEWEST_CHANGED, CHANGED_SHARE = 20, 0.9
"""Rows, and share of the rows with text, from which on a change of all is no work of a reviewer."""
_MEND = (
    "nothing imported; export again, open the file as UTF-8 and save it as"
    " CSV UTF-8, or export to .jsonl"
)


@dataclass(frozen=True)
class ComparedText:
    """A row's explanation as it is in the database and in the file."""

    number: int
    old: str
    new: str
    note: str | None = None


def refuse_garbled(source: Path, rows: Sequence[ComparedText], all_changed: bool = False) -> None:
    """UsageError that names the first row whose text went through a wrong encoding, and one for a
    file of which nearly all text changed, unless `all_changed`.
    """
    garbled = [
        (row, encoding)
        for row in rows
        if row.new and (encoding := garbled_from(row.old, row.new)) is not None
    ]
    if garbled:
        row, encoding = garbled[0]
        more = f", as are {plural(len(garbled) - 1, 'further row')}" if len(garbled) > 1 else ""
        raise UsageError(
            f"{source}: row {row.number}: the explanation is garbled, as by a program that took"
            f" the file for {encoding}{more} ({clip(row.new, 60)!r}); {_MEND}"
        )
    if all_changed:
        return
    written = ((row.number, text) for row in rows for text in _written(row))
    refuse_misread(source, written, "--all-changed")
    texts = [row for row in rows if row.old]
    changed = [row for row in texts if plain_signs(row.old) != plain_signs(row.new)]
    if len(changed) >= max(FEWEST_CHANGED, CHANGED_SHARE * len(texts)):
        raise UsageError(
            f"{source}: row {changed[0].number}: {len(changed)} of {plural(len(texts), 'row')}"
            " have another explanation, as a program makes them that changes text unasked;"
            " nothing imported; look at the file, and if all of it is meant add --all-changed"
        )


def refuse_misread(source: Path, texts: Iterable[tuple[int, str]], option: str) -> None:
    """UsageError where every text outside ASCII looks misread; `texts` by the number of the row."""
    number = first_misread(texts)
    if number is not None:
        raise UsageError(
            f"{source}: row {number}: the text is garbled, as by a program that read UTF-8 in"
            f" another encoding, and no sign in the file is right; {_MEND}; {option} takes it"
            " as it is"
        )


def _written(row: ComparedText) -> list[str]:
    """What a reviewer wrote in the row: text that the database does not know."""
    return [text for text in (row.new if row.new != row.old else "", row.note or "") if text]
