"""The sources that study.toml names, and what of them is part of the harvest's key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tiny_models import write_jsonl

from crosscoder.files import sha256_file
from crosscoder.model_files import FileHashes
from labeler.errors import UsageError
from labeler.study.config import CorpusSection
from labeler.study.corpus_text import (
    corpus_content,
    corpus_documents,
    corpus_reading,
    missing_sources,
    text_sources,
    unread_sources,
)
from labeler.study.study_file import StudyConfig, StudyFile

HASHES = FileHashes(None)


def study_in(folder: Path) -> StudyFile:
    return StudyFile(folder / "study.toml", StudyConfig())


def section_of(**keys: Any) -> CorpusSection:
    return CorpusSection.model_validate(keys)


def test_a_plain_file_counts_by_its_content_alone(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "Rye."}])
    section = section_of(path="a.jsonl")
    assert corpus_content(study_in(tmp_path), section, HASHES) == sha256_file(path)
    assert corpus_reading(section) == {}
    assert corpus_reading(section_of(path="a.jsonl", seed=3)) == {}


@pytest.mark.parametrize(
    "keys",
    [
        {"format": "text"},
        {"columns": {"text": "body"}},
        {"preference": "rejected"},
        {"split": "test"},
        {"first": 10},
        {"sample": 10},
        {"sample": 10, "seed": 1},
        {"faulty": "drop"},
    ],
)
def test_what_decides_the_text_is_in_the_key(keys: dict[str, Any]) -> None:
    reading = corpus_reading(section_of(path="a.jsonl", **keys))
    assert reading == {"seed": 0, **keys} if "sample" in keys else reading == keys
    json.dumps(reading)


def test_a_folder_counts_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("Rye.")
    study, section = study_in(tmp_path), section_of(path="texts")
    before = corpus_content(study, section, HASHES)
    (tmp_path / "texts" / "a.txt").rename(tmp_path / "texts" / "b.txt")
    assert corpus_content(study, section, HASHES) != before


def test_weights_deal_out_the_sample(tmp_path: Path) -> None:
    rows = [{"text": f"{i}"} for i in range(40)]
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    section = section_of(
        sample=20,
        sources=[{"path": "a.jsonl", "weight": 3.0}, {"path": "b.jsonl", "name": "b"}],
    )
    documents = corpus_documents(study_in(tmp_path), section)
    names = [document.id.partition("/")[0] for document in documents]
    assert (names.count("source1"), names.count("b")) == (15, 5)
    more = section_of(sample=20, sources=[{"path": "a.jsonl"}, {"path": "b.jsonl", "name": "b"}])
    assert corpus_reading(more) != corpus_reading(section)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "path: missing; add it, or [[corpus.sources]]"),
        ({"path": "a", "sources": [{"path": "b"}]}, "path: not together with"),
        ({"format": "text", "sources": [{"path": "b"}]}, "format: with [[corpus.sources]]"),
        ({"sources": [{"path": "b", "weight": 2}]}, "source1.weight: set corpus.sample"),
        ({"sample": 5, "sources": [{"path": "b", "sample": 2}]}, "source1.sample: not together"),
        ({"sources": [{"path": "b", "name": "x"}, {"path": "c", "name": "x"}]}, "two sources"),
        ({"path": "a", "format": "xml"}, "no corpus format is called 'xml'"),
        ({"path": "a", "columns": {"text": ""}}, "text: name a column"),
    ],
)
def test_keys_that_do_not_go_together_are_named(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        section_of(**keys)
    assert words in str(caught.value)


def test_a_hub_dataset_is_never_missing_and_counts_by_its_name(tmp_path: Path) -> None:
    study, section = study_in(tmp_path), section_of(path="hf:ann/chats", split="test", sample=4)
    assert missing_sources(study, section) == []
    assert [source.path for source in unread_sources(study, section)] == ["hf:ann/chats"]
    assert corpus_content(study, section, HASHES) == "hf:ann/chats"
    assert corpus_reading(section) == {"split": "test", "sample": 4, "seed": 0}


def test_a_missing_source_is_named_by_its_key(tmp_path: Path) -> None:
    section = section_of(sources=[{"path": "none.jsonl", "name": "web"}])
    assert [each.key for each in missing_sources(study_in(tmp_path), section)] == [
        "corpus.sources web.path"
    ]
    with pytest.raises(UsageError, match=r"corpus.sources web.path: no file or folder at .*none"):
        corpus_documents(study_in(tmp_path), section)
    with pytest.raises(UsageError, match=r"corpus.path: .* is the study's own folder"):
        corpus_documents(study_in(tmp_path), section_of(path="."))
    assert len(text_sources(section)) == 1
