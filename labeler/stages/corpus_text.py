"""What became of the study's text in the harvest, in words: by role, with what was lost of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labeler.text import one_line, plural


def text_lines(facts: Mapping[str, Any] | None) -> tuple[str, ...]:
    """A line for each role, and one for what the chat template refuses or the length cuts.

    `facts` is the result of a harvest's run; one of an earlier version has nothing to say.
    """
    text = (facts or {}).get("text")
    if not isinstance(text, Mapping):
        return ()
    lines = [_role_line(row) for row in text["roles"]]
    lines += [f"the chat template {one_line(words)}" for words in _losses(text)]
    if text["n_refused"]:
        refused = plural(text["n_refused"], "document")
        lines.append(f"{refused} left out, refused by the chat template")
    if text["n_cut"]:
        lines.append(f"{plural(text['n_cut'], 'document')} cut at corpus.max_length")
    return tuple(lines)


def _role_line(row: Mapping[str, Any]) -> str:
    if row["role"] == "plain":
        parts = [plural(row["n_messages"], "document") + " without roles"]
    else:
        found = (
            f"{row['n_whole']:,} found whole, {row['n_in_part']:,} in part, "
            f"{row['n_absent']:,} not at all"
        )
        parts = [f"{row['role']}: {plural(row['n_messages'], 'message')}, {found}"]
    if row["n_lost"]:
        parts.append(f"{100 * row['n_lost'] / row['n_characters']:.1f}% of the characters lost")
    if row["n_cut"]:
        parts.append(f"{plural(row['n_cut'], 'token')} cut off")
    if row["n_tokens"] is not None:
        parts.append(f"{plural(row['n_tokens'], 'token')} take part")
    return "; ".join(parts)


def _losses(text: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(words for row in text["roles"] for words in row["losses"]))
