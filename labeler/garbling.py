"""Text that a program read with the wrong encoding: how it looks, and how it is told from edits.

A UTF-8 file opened as Windows-1252 or Mac Roman shows each sign outside ASCII as two or three
others; saved again, that is what it holds. Saved in an encoding that lacks the signs, it holds `?`
in their place. Neither is anything that a person wrote.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

ENCODINGS = {
    "cp1252": "Windows-1252", "latin-1": "Latin-1", "mac_roman": "Mac Roman",
    "cp1250": "Windows-1250", "cp1251": "Windows-1251", "cp437": "DOS 437", "cp850": "DOS 850",
}  # fmt: skip
"""What spreadsheets and editors take a file without a mark for, by their names in Python."""
_LOST = "?"
"""How comparisons write what an encoding has no sign for, however a program wrote it."""


def misread(text: str, encoding: str) -> str:
    """The text as a program shows it that takes its UTF-8 for `encoding`.

    Bytes that the encoding leaves undefined stay control characters, as in Windows.
    """
    return "".join(_decoded(byte, encoding) for byte in text.encode("utf-8", "replace"))


def garbled_from(old: str, new: str) -> str | None:
    """The encoding that `old` went through to become `new`, if it was one; else None.

    Found is text read wrongly once or twice, also where it was edited then or before, and text
    whose signs were all replaced because the encoding lacks them.
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
    """Whether text outside ASCII is, wrongly encoded, right UTF-8: chance hardly makes that."""
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

    A file that was read wrongly has no sign left that is right; one that merely speaks of garbled
    text has others beside.
    """
    outside = [(number, text) for number, text in texts if not text.isascii()]
    if outside and all(looks_misread(text) for _, text in outside):
        return outside[0][0]
    return None


@lru_cache(maxsize=4096)
def _misread_sign(sign: str, encoding: str) -> tuple[str, ...]:
    """The sign read wrongly once, and then once more in any way."""
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
    """The text as a program keeps it that drops what it cannot show."""
    return "".join(sign for sign in text if not "\x7f" <= sign <= "\x9f")


def _skeleton(text: str) -> str:
    """The text without what differs between programs that lose signs or move spaces."""
    kept = [
        _LOST if "\x7f" <= sign <= "\x9f" or sign in "\ufffd_" else sign
        for sign in text.replace("\xa0", " ")
    ]
    return " ".join("".join(kept).split())
