"""Samples, several sources, and datasets on the Hub."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import write_jsonl

from crosscoder import corpus_sources
from crosscoder.corpus_hub import keep_hub_rows, kept_settings
from crosscoder.corpus_settings import SourceSettings
from crosscoder.corpus_sources import Source, quotas, read_sources
from crosscoder.errors import InputError, WorkError


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "a.jsonl", [{"text": f"text {i}"} for i in range(200)])


def sampled(path: Path, seed: int = 0, **keys: Any) -> list[str]:
    source = Source(path, SourceSettings(**keys))
    return [document.id for document in read_sources([source], seed)]


def test_a_sample_is_drawn_by_its_seed_and_keeps_the_order(numbered: Path) -> None:
    once = sampled(numbered, sample=20)
    assert once == sampled(numbered, sample=20) != sampled(numbered, seed=1, sample=20)
    assert len(once) == 20
    assert once == sorted(once, key=lambda name: int(name.removeprefix("line-")))
    assert set(sampled(numbered, sample=10)) < set(once)
    assert len(sampled(numbered, sample=500)) == 200
    assert sampled(numbered, first=3) == ["line-1", "line-2", "line-3"]


def test_every_row_is_as_likely_to_be_drawn(numbered: Path) -> None:
    counts = Counter(name for seed in range(60) for name in sampled(numbered, seed, sample=50))
    expected = 60 * 50 / 200
    chi_squared = sum((counts[f"line-{i}"] - expected) ** 2 / expected for i in range(1, 201))
    # 200 cells; without replacement the sum is a little below 199.
    assert 100 < chi_squared < 260


def test_rows_outside_the_sample_are_hardly_parsed(
    numbered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []
    read = corpus_sources._readable
    monkeypatch.setattr(
        corpus_sources, "_readable", lambda row, *more: looked_at.append(row) or read(row, *more)
    )
    assert len(sampled(numbered, sample=5)) == 5
    assert len(looked_at) < 60


def test_faulty_rows_are_replaced_in_the_sample(tmp_path: Path) -> None:
    rows = [{"text": "" if i % 2 else "full"} for i in range(100)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert len(sampled(path, sample=40, faulty="drop")) == 40


def test_the_name_of_a_source_stands_before_its_ids(tmp_path: Path) -> None:
    pair = {"id": "x", "prompt": "p", "chosen": "a", "rejected": "b"}
    path = write_jsonl(tmp_path / "a.jsonl", [pair])
    both = Source(path, SourceSettings(preference="both"), "pairs")
    documents = read_sources([both, Source(path, SourceSettings(), "chosen")])
    assert [(each.id, each.prompt) for each in documents] == [
        ("pairs/x/chosen", "pairs/x"),
        ("pairs/x/rejected", "pairs/x"),
        ("chosen/x", None),
    ]


@given(st.integers(1, 10_000), st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_quotas_follow_the_weights(n: int, weights: list[float]) -> None:
    counts = quotas(n, weights)
    assert sum(counts) == n
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - n * weight / sum(weights)) < 1 + 1e-6


class FakeDataset:
    """What is used of a dataset of the `datasets` library."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.column_names = list(rows[0])

    def select_columns(self, names: list[str]) -> FakeDataset:
        return FakeDataset([{name: row[name] for name in names} for row in self.rows])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A Hub with one dataset; holds the calls."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(name: str, subset: str | None, **keys: Any) -> FakeDataset:
        calls.append((name, subset, *keys.values()))
        if name == "down/down":
            raise ConnectionError("no\nroute")
        if name != "ann/chats":
            raise ValueError(f"Dataset {name} doesn't exist")
        turns = [{"role": "user", "content": "Bread?"}]
        return FakeDataset([{"image": b"x", "messages": turns} for _ in range(30)])

    library = ModuleType("datasets")
    library.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    return calls


def test_rows_of_a_hub_dataset_are_kept_and_read_from_there(
    hub: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    settings = SourceSettings(subset="en", split="test", revision="abc", first=20, sample=5)
    target = tmp_path / "corpus" / "a.jsonl"
    keep_hub_rows("ann/chats", settings, 0, target)
    assert hub == [("ann/chats", "en", "test", "abc", True)]
    assert "image" not in target.read_text()
    documents = read_sources([Source(target, kept_settings(settings))])
    assert len(documents) == 5
    assert all(1 <= int(document.id.removeprefix("row-")) <= 20 for document in documents)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("ann/none", InputError, "hf:ann/none: cannot be read (Dataset ann/none doesn't exist)"),
        ("down/down", WorkError, "hf:down/down: the Hub cannot be reached (no route)"),
        ("../up", InputError, "hf:../up: no name of a dataset"),
    ],
)
def test_what_the_hub_does_not_give_is_one_line(
    hub: list[tuple[Any, ...]], tmp_path: Path, name: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        keep_hub_rows(name, SourceSettings(), 0, tmp_path / "a.jsonl")
    assert str(caught.value).startswith(words)
    assert list(tmp_path.iterdir()) == []
