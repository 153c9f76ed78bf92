"""Detects text that a program decoded wrongly, and refuses such files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from labeler.errors import UsageError
from labeler.exchange.labels_csv import plain_signs
from labeler.text import clip, plural

ENCODINGS = {
    "cp1252": "Windows-1252", "latin-1": "Latin-1", "mac_roman": "Mac Roman",
    "cp1250": "Windows-1250", "cp1251": "Windows-1251", "cp437": "DOS 437", "cp850": "DOS 850",
}  # fmt: skip
"""Encodings that spreadsheets and editors assume without a byte-order mark, by Python's names."""
_LOST = "?"
"""Stands in comparisons for a character that an encoding lacks."""


def misread(text: str, encoding: str) -> str:
    """The text as a program shows it that decodes its UTF-8 as `encoding`.

    Bytes that the encoding does not define become control characters, as in Windows.
    """
    return "".join(_decoded(byte, encoding) for byte in text.encode("utf-8", "replace"))


def garbled_from(old: str, new: str) -> str | None:
    """The encoding that turned `old` into `new`; None where there is none.

    Recognises text decoded wrongly once or twice, even if edited, and text whose characters were
    replaced because the encoding lacks them.
    """
    outside = sorted({sign for sign in old if not sign.isascii()})
    if not outside or old == new:
        return None
    for encoding, name in ENCODINGS.items():
        for sign in outside:
            for seen in _misread_sign(sign, encoding):
                if len(seen) > 1 and seen in new and seen not in old:
                    return name
        seen = misread(old, encoding)
        if _is_same(seen, new) or _is_same(_without_controls(seen), new):
            return name
        lossy = old.encode(encoding, "replace").decode(encoding)
        if lossy != old and _is_same(lossy, new):
            return name
    if _is_same(old.encode("ascii", "replace").decode("ascii"), new):
        return "ASCII"
    return None


def looks_misread(text: str) -> bool:
    """Whether text outside ASCII becomes valid UTF-8 when encoded again, rare by chance."""
    if text.isascii():
        return False
    for encoding in ENCODINGS:
        try:
            right = text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
        if right != text:
            return True
    return False


def first_misread(texts: Iterable[tuple[int, str]]) -> int | None:
    """The number of the first text outside ASCII where all of those look misread; else None.

    In a file that was decoded wrongly, no such character is right. A file that only quotes garbled
    text has other characters as well.
    """
    outside = [(number, text) for number, text in texts if not text.isascii()]
    if outside and all(looks_misread(text) for _, text in outside):
        return outside[0][0]
    return None


@lru_cache(maxsize=4096)
def _misread_sign(sign: str, encoding: str) -> tuple[str, ...]:
    """The character decoded wrongly once, and a second time in every way."""
    once = misread(sign, encoding)
    return once, *(misread(once, other) for other in ENCODINGS)


@lru_cache(maxsize=4096)
def _decoded(byte: int, encoding: str) -> str:
    try:
        return bytes([byte]).decode(encoding)
    except UnicodeDecodeError:
        return chr(byte)


def _is_same(one: str, other: str) -> bool:
    return _skeleton(one) == _skeleton(other)


def _without_controls(text: str) -> str:
    """The text without C1 control characters, which some programs drop."""
    return "".join(sign for sign in text if not "\x7f" <= sign <= "\x9f")


def _skeleton(text: str) -> str:
    """The text without differences between programs that lose characters or change spaces."""
    kept = [
        _LOST if "\x7f" <= sign <= "\x9f" or sign in "\ufffd_" else sign
        for sign in text.replace("\xa0", " ")
    ]
    return " ".join("".join(kept).split())


FEWEST_CHANGED, CHANGED_SHARE = 20, 0.9
"""Changed rows, and share of the rows with text, from which an import asks for --all-changed."""
_FIX = (
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
    """UsageError for text that was decoded wrongly, naming the first row.

    Also, unless `all_changed`, for a file in which nearly all text changed.
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
            f" the file for {encoding}{more} ({clip(row.new, 60)!r}); {_FIX}"
        )
    if all_changed:
        return
    written = ((row.number, text) for row in rows for text in _new_texts(row))
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
    """UsageError where every text outside ASCII looks misread; `texts` are (row number, text)."""
    number = first_misread(texts)
    if number is not None:
        raise UsageError(
            f"{source}: row {number}: the text is garbled, as by a program that read UTF-8 in"
            f" another encoding, and no sign in the file is right; {_FIX}; {option} takes it"
            " as it is"
        )


def _new_texts(row: ComparedText) -> list[str]:
    """A reviewer's new text in the row."""
    return [text for text in (row.new if row.new != row.old else "", row.note or "") if text]
