"""Common pieces of texts: right, in order, and in bounded time whatever the text."""

from __future__ import annotations

import json
import random
import time

import pytest

from crosscoder.alignment import common_pieces


def shown(sources: list[str], text: str) -> list[tuple[int, str]]:
    return [(piece.source, text[piece.start : piece.end]) for piece in common_pieces(sources, text)]


@pytest.mark.parametrize(
    ("sources", "text", "expected"),
    [
        (["one two"], "one two", [(0, "one two")]),
        (["a  b\n\nc"], "a b c", [(0, "a b c")]),
        (["<s>", "Hi", "<e>"], "<s>Hi<e>", [(0, "<s>"), (1, "Hi"), (2, "<e>")]),
        (["Input", "hello"], "Inputhello", [(0, "Input"), (1, "hello")]),
        (['say "x"\n'], 'say \\"x\\"\\n', [(0, 'say \\"x\\"\\n')]),
        (["C:\\new"], "C:\\new", [(0, "C:\\new")]),
        (["a < b & c"], "a &lt; b &amp; c", [(0, "a &lt; b &amp; c")]),
        (["&lt;"], "&amp;lt;", [(0, "&amp;lt;")]),
        (["\u65e5\u672c\U0001f600"], json.dumps("\u65e5\u672c\U0001f600")[1:-1], None),
        (["user", "<sep>", "gone"], "user<sep>", [(0, "user"), (1, "<sep>")]),
        (["The end."], "[The thinking was removed]", []),
        ([], "text", []),
        (["text"], "", []),
    ],
)
def test_pieces_lie_where_they_come_from(
    sources: list[str], text: str, expected: list[tuple[int, str]] | None
) -> None:
    assert shown(sources, text) == ([(0, text)] if expected is None else expected)


def test_a_quote_of_the_frame_is_no_frame() -> None:
    sources = ["<user>", "<user>hi</user><bot>yes</bot>", "</user><bot>", "no  thanks", "</bot>"]
    text = "<user><user>hi</user><bot>yes</bot></user><bot>no thanks</bot>"
    assert [source for source, _ in shown(sources, text)] == [0, 1, 2, 3, 4]
    assert shown(sources, text)[3] == (3, "no thanks")


WORDS = [f"word{number}" for number in range(500)]


def long_text(kind: str, n_characters: int) -> str:
    draw = random.Random(0)
    if kind == "prose":
        return " ".join(draw.choices(WORDS, k=n_characters // 8))
    if kind == "one line again and again":
        return 'the same "line"  \n' * (n_characters // 18)
    return "".join(draw.choices('ab \n"', k=n_characters))


@pytest.mark.parametrize("kind", ["prose", "one line again and again", "noise"])
def test_a_long_text_is_aligned_in_bounded_time(kind: str) -> None:
    content = long_text(kind, 300_000)
    kept = content[len(content) // 2 :].lstrip()
    text = "<s>" + json.dumps(" ".join(kept.split()))[1:-1] + "<e>"
    started = time.process_time()
    pieces = common_pieces(["<s>", content, "<e>"], text)
    assert time.process_time() - started < 30
    found = sum(piece.end - piece.start for piece in pieces if piece.source == 1)
    assert found > 0.95 * (len(text) - 6)
