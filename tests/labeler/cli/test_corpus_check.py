"""`difflens corpus check`: what is recognised, what is faulty, and the exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tiny_models import write_jsonl

from crosscoder import corpus_check
from crosscoder.corpus_check import check_source
from crosscoder.corpus_settings import SourceSettings
from crosscoder.corpus_sources import Source
from labeler.cli.main import run

Capture = pytest.CaptureFixture[str]
ENGLISH = "We mix the flour with water and salt, and then we wait until the dough has risen."
GERMAN = "Wir mischen das Mehl mit Wasser und Salz und warten dann, bis der Teig gegangen ist."


def study_of(folder: Path, corpus: str) -> str:
    (folder / "study.toml").write_text(f"[corpus]\n{corpus}\n", "utf-8")
    return str(folder / "study.toml")


def checked(folder: Path, corpus: str, capsys: Capture) -> tuple[int, str, str]:
    status = run(["corpus", "check", study_of(folder, corpus)])
    found = capsys.readouterr()
    return status, found.out, found.err


def test_what_is_recognised_is_printed_source_by_source(tmp_path: Path, capsys: Capture) -> None:
    chat = [{"from": "human", "value": "Bread?"}, {"from": "gpt", "value": ENGLISH}]
    write_jsonl(
        tmp_path / "a.jsonl",
        [*[{"conversations": chat, "n": i} for i in range(3)], {"text": GERMAN * 30}],
    )
    (tmp_path / "b.txt").write_text(f"{GERMAN}\n\n{GERMAN} Ja.\n", "utf-8")
    corpus = '[[corpus.sources]]\npath = "a.jsonl"\n[[corpus.sources]]\npath = "b.txt"\nname = "b"'
    status, out, err = checked(tmp_path, corpus, capsys)
    assert (status, err) == (0, "")
    first, second = out.split("b: b.txt\n")
    lines = dict(line.strip().split(maxsplit=1) for line in first.splitlines())
    assert lines["source1:"] == "a.jsonl"
    assert lines["rows"] == "4, in 1 file of json"
    assert lines["format"] == "sharegpt 75.0%, text 25.0%"
    assert lines["keys"] == "conversations (in 3), n (in 3), text (in 1)"
    assert lines["user"] == "3 messages, 18 characters, about 4 tokens"
    assert lines["plain"].startswith("1 texts, ")
    assert lines["cut"] == "about 1 documents (25.0%), at corpus.max_length = 512"
    assert lines["language"] == "en 75.0%, de 25.0% (guessed from 4 documents)"
    assert lines["duplicates"].startswith("2 documents")
    assert "language    de (guessed from 2 documents)" in second


def test_faulty_rows_are_counted_by_reason_with_the_first(tmp_path: Path, capsys: Capture) -> None:
    rows = [{"messages": [{"role": f"boss {i}", "content": "x"}]} for i in range(3)]
    write_jsonl(tmp_path / "a.jsonl", [{"text": ENGLISH, "language": "en"}, *rows, {"text": ""}])
    status, out, err = checked(tmp_path, 'path = "a.jsonl"', capsys)
    assert status == 1
    assert "  refused     4 rows:\n    3, the first: " in out
    assert "a.jsonl:2: messages[0].role is 'boss 0'" in out
    assert "language    en (as the documents state it)" in out
    assert err.count("\n") == 1
    assert (
        "`harvest` would refuse: 4 rows cannot be read (correct them, or set corpus.faulty" in err
    )
    status, out, err = checked(tmp_path, 'path = "a.jsonl"\nfaulty = "drop"', capsys)
    assert (status, err) == (0, "")
    assert "dropped     4 rows:" in out


def test_an_id_that_is_used_twice_is_refused(tmp_path: Path, capsys: Capture) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"id": "x", "text": "a"}, {"id": "x", "text": "b"}])
    status, _, err = checked(tmp_path, 'path = "a.jsonl"', capsys)
    assert status == 1
    assert "1 document with the id of an earlier one" in err


@pytest.mark.parametrize(
    ("corpus", "words"),
    [
        ('path = "none.jsonl"', "corpus.path: no file or folder at"),
        ('path = "bad.json"', "bad.json: item 1: no valid JSON"),
        ('path = "bad.json"\ncolumns = { txt = "a" }', "corpus.columns: 'auto' reads no 'txt'"),
        ('path = "bad.json"\nformat = "xml"', "no corpus format is called 'xml'"),
    ],
)
def test_what_stops_the_check_is_one_line(
    tmp_path: Path, corpus: str, words: str, capsys: Capture
) -> None:
    (tmp_path / "bad.json").write_text("[nope]")
    status, _, err = checked(tmp_path, corpus, capsys)
    assert status == 2
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "library"),
    [("a.jsonl.zst", "zstandard"), ("a.parquet", "pyarrow"), ("hf:ann/chats", "datasets")],
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    tmp_path: Path, path: str, library: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / path.replace("/", "-")).touch()
    status, _, err = checked(tmp_path, f'path = "{path}"', capsys)
    assert status == 2
    assert err == (
        f'difflens: corpus: needs {library}, which is not installed; pip install "difflens[data]"\n'
    )


def test_control_characters_of_a_corpus_are_made_visible(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"\x1b[31m": 1, "text": ENGLISH}) + "\n")
    _, out, _ = checked(tmp_path, 'path = "a.jsonl"', capsys)
    assert "\x1b" not in out
    assert "\u241b[31m" in out


def test_kinds_and_texts_are_bounded_whatever_a_file_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_check, "_MAX_KINDS", 5)
    monkeypatch.setattr(corpus_check, "SAMPLED_TEXTS", 10)
    rows = [{f"key {i}": 1, "text": f"x {i}"} for i in range(400)]
    check = check_source(Source(write_jsonl(tmp_path / "a.jsonl", rows), SourceSettings()))
    assert check.n_documents == check.keys.total() == 400
    assert len(check.keys) <= 6
    assert 5 <= len(check.sampled_texts) <= 20
