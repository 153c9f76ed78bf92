"""Files that hold a corpus: endings, packing, tables, folders, and what is wrong with them."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import write_jsonl

from crosscoder import corpus_files
from crosscoder.corpus_files import corpus_files as files_of
from crosscoder.corpus_files import corpus_rows
from crosscoder.corpus_sources import read_corpus
from crosscoder.errors import InputError

ROWS = [{"id": "a", "text": "Rye bread."}, {"id": "b", "text": "Wheat,\n\u2028 rolls."}]
TEXTS = [row["text"] for row in ROWS]


def texts(path: Path) -> list[str | None]:
    return [document.text for document in read_corpus(path)]


def test_json_lines_and_arrays_are_told_apart_by_their_first_character(tmp_path: Path) -> None:
    for name in ("a.json", "b.jsonl", "c"):
        (tmp_path / name).write_text("\ufeff\n" + json.dumps(ROWS, indent=1), "utf-8")
        assert texts(tmp_path / name) == TEXTS
        write_jsonl(tmp_path / name, ROWS)
        assert texts(tmp_path / name) == TEXTS


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=6),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
            max_leaves=6,
        ),
        max_size=6,
    ),
    chunk=st.integers(1, 9),
)
def test_an_array_read_in_pieces_is_the_array(values: list[Any], chunk: int) -> None:
    text = json.dumps(values, ensure_ascii=False, indent=1)
    stream = io.TextIOWrapper(io.BytesIO(text.encode("utf-8", "replace")), "utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_files, "_CHUNK", chunk)
        found = list(corpus_files._ArrayItems(Path("a.json"), stream))
    assert found == json.loads(text.encode("utf-8", "replace"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"text": "a"} {"text": "b"}]', "item 2: no valid JSON (expected a comma"),
        ('[{"text": "a"}, {"text": ]', "item 2: no valid JSON"),
        ('[{"text": "a"},', "item 2: no valid JSON"),
        ('[{"text": "a"}', "item 2: no valid JSON"),
        ("[" * 100_000, "nested"),
        ("[]", "corpus is empty"),
    ],
)
def test_a_broken_array_is_named_by_its_item(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_corpus(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_text_file_has_a_document_for_each_paragraph(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfRye\r\nbread.\r\n\r\n\r\n  Rolls.\n")
    assert [(d.id, d.text) for d in read_corpus(path)] == [
        ("line-1", "Rye\nbread."),
        ("line-5", "Rolls."),
    ]


def test_each_text_file_of_a_folder_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "b.txt").write_text("Rye.\n\nBread.\n")
    (tmp_path / "in" / "a.md").write_text("Rolls.")
    (tmp_path / "notes.pdf").write_text("left out")
    write_jsonl(tmp_path / "c.jsonl", ROWS[:1])
    assert [(d.id, d.text) for d in read_corpus(tmp_path)] == [
        ("b.txt", "Rye.\n\nBread."),
        ("a", "Rye bread."),
        ("in/a.md", "Rolls."),
    ]


def test_a_text_file_of_json_lines_is_read_as_such(tmp_path: Path) -> None:
    assert texts(write_jsonl(tmp_path / "corpus.txt", ROWS)) == TEXTS


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("b.csv", ";"), ("c.tsv", "\t")])
def test_tables_of_text_are_read_by_their_header(tmp_path: Path, name: str, mark: str) -> None:
    path = tmp_path / name
    path.write_text(f'prompt{mark}response{mark}note\n"Rye,;\nbread?"{mark}Bake.{mark}\n', "utf-8")
    (document,) = read_corpus(path)
    assert document.id == "row-1"
    assert [m.content for m in document.messages or ()] == ["Rye,;\nbread?", "Bake."]


def test_a_table_with_too_many_cells_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,b\nx,y\nx,y,z\n")
    with pytest.raises(InputError, match=r":3: 3 cells under a header of 2"):
        read_corpus(path)


def test_gzip_is_read_as_it_unpacks(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    assert texts(path) == TEXTS
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match=r"a.jsonl.gz: cannot be read"):
        read_corpus(path)
    path.write_bytes(b"no gzip")
    with pytest.raises(InputError, match=r"a.jsonl.gz: cannot be read"):
        read_corpus(path)


def test_what_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n" * 100_000))
    monkeypatch.setattr(corpus_files, "MAX_CORPUS_BYTES", 50_000)
    with pytest.raises(InputError, match="unpacks to more than 50,000 bytes"):
        read_corpus(path)
    monkeypatch.setattr(corpus_files, "MAX_LINE_BYTES", 10_000)
    path.write_bytes(gzip.compress(b" " * 40_000))
    with pytest.raises(InputError, match=":1: is longer than 10,000 bytes"):
        read_corpus(path)


def test_zstd_is_read_as_it_unpacks(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "a.jsonl.zst"
    content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    path.write_bytes(zstandard.compress(content[:30]) + zstandard.compress(content[30:]))
    assert texts(path) == TEXTS
    path.write_bytes(b"no zstd")
    with pytest.raises(InputError, match="is no whole zstd file"):
        read_corpus(path)


def test_parquet_is_read_by_the_columns_that_matter(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    turns = [{"role": "user", "content": "Bread?"}]
    table = pyarrow.table({"messages": [turns, turns], "image": [b"x", b"y"], "text": [None, None]})
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path)
    documents = read_corpus(path)
    assert [d.id for d in documents] == ["row-1", "row-2"]
    (row, _) = corpus_rows(path, {"messages"})
    assert row.value() == {"messages": turns}
    with pytest.raises(InputError, match="columns found: 'messages', 'image', 'text'"):
        list(corpus_rows(path, {"body"}))
    path.write_bytes(b"PAR1" + b"\0" * 40 + b"PAR1")
    with pytest.raises(InputError, match=r"a.parquet: cannot be read as parquet"):
        read_corpus(path)


def saved_dataset(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The files that `Dataset.save_to_disk` writes, as far as they are read."""
    pyarrow = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    table = pyarrow.Table.from_pylist(rows)
    name = "data-00000-of-00001.arrow"
    with pyarrow.ipc.new_stream(str(folder / name), table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))


def test_a_saved_dataset_is_read_by_its_split(tmp_path: Path) -> None:
    saved_dataset(tmp_path / "train", ROWS)
    saved_dataset(tmp_path / "test", ROWS[:1])
    assert texts(tmp_path / "train") == TEXTS
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert texts(tmp_path) == TEXTS
    assert len(list(corpus_rows(tmp_path, (), "test"))) == 1
    with pytest.raises(InputError, match=r"has no split 'dev'; set corpus.split: train, test"):
        files_of(tmp_path, "dev")


@pytest.mark.parametrize("name", ["../a.arrow", "/a.arrow", "", 3])
def test_a_saved_dataset_reads_no_file_outside(tmp_path: Path, name: object) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(InputError, match="names no Arrow files of this folder"):
        files_of(tmp_path)


def test_a_folder_without_text_says_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file that ends in \.jsonl"):
        read_corpus(tmp_path)
