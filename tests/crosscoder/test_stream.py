"""Batches straight from the models: each row once an epoch, and exactly on from a cursor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscoder.activations import ActivationStore
from crosscoder.corpus import Document
from crosscoder.errors import InputError
from crosscoder.harvest import HarvestConfig, harvest
from crosscoder.model_files import SubjectSpec
from crosscoder.sources import Put, slot_plan
from crosscoder.stream import ActivationStream, open_stream, sample_documents
from crosscoder.training_sources import StreamBatches, StreamSource

CONFIG = HarvestConfig(
    layer=1, batch_tokens=64, shard_tokens=60, max_length=50, skip_first=2, device="cpu"
)
COLUMNS = ("activations", "token_ids", "roles", "document", "position", "mask")
DOCUMENTS = [
    Document(
        f"d{i}",
        text=f"{37 * i} is it. Mix {i} cups of flour, water and salt, wait {i * i} hours. "
        * (1 + i % 3),
    )
    for i in range(30)
]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 25), max_size=8),
    st.integers(1, 6),
    st.integers(2, 5),
    st.integers(0, 9),
)
def test_a_plan_draws_every_row_at_most_once_in_whole_batches(
    counts: list[int], batch_size: int, factor: int, seed: int
) -> None:
    capacity = factor * batch_size
    held: dict[int, tuple[int, int]] = {}
    drawn: list[tuple[int, int]] = []
    generator = torch.Generator().manual_seed(seed)
    for event in slot_plan(len(counts), counts.__getitem__, capacity, batch_size, generator):
        if isinstance(event, Put):
            for offset, slot in enumerate(event.slots.tolist()):
                assert slot not in held
                held[slot] = (event.group, event.first + offset)
        else:
            assert len(event.slots) == batch_size
            drawn += [held.pop(slot) for slot in event.slots.tolist()]
    assert len(set(drawn)) == len(drawn)
    assert len(drawn) == sum(counts) // batch_size * batch_size
    assert set(drawn) <= {(g, row) for g, n in enumerate(counts) for row in range(n)}


class CountedGroups:
    """Rows that name their epoch, group and place; counts how often a group is read."""

    sizes: tuple[int, ...] = (7, 0, 12, 5, 30, 9, 4, 11)

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []

    def n_groups(self, epoch: int) -> int:
        return len(self.sizes)

    def read(self, epoch: int, group: int) -> torch.Tensor:
        self.reads.append((epoch, group))
        rows = torch.arange(self.sizes[group])
        return torch.stack([rows + 0 * epoch, rows * 0 + 100 * group], 1)[:, None].float()


def batches(
    groups: CountedGroups, cursor: dict[str, torch.Tensor] | None = None, total: int = 40
) -> StreamBatches:
    return StreamBatches(groups, (1, 2), 4, total, 16, 5, cursor)


def test_an_epoch_reads_every_group_once_and_hands_out_every_row_once() -> None:
    groups = CountedGroups()
    rows = torch.cat(list(batches(groups, total=19))).flatten(1)
    assert groups.reads == [(0, group) for group in range(8)]
    assert len(rows.unique(dim=0)) == len(rows) == 76


def test_a_stream_goes_on_into_the_next_epoch_until_it_has_handed_out_its_total() -> None:
    groups = CountedGroups()
    assert len(list(batches(groups, total=40))) == 40
    assert {epoch for epoch, _ in groups.reads} == {0, 1, 2}


@pytest.mark.parametrize("taken", [0, 1, 4, 7, 12, 18, 19, 20, 33, 39])
def test_a_stream_goes_on_from_its_cursor_with_the_same_batches(taken: int) -> None:
    whole = list(batches(CountedGroups()))
    stopped = batches(CountedGroups())
    for _ in range(taken):
        next(stopped)
    groups = CountedGroups()
    rest = list(batches(groups, stopped.cursor()))
    assert len(rest) == 40 - taken
    for ours, theirs in zip(rest, whole[taken:], strict=True):
        assert torch.equal(ours, theirs)


def test_only_what_is_still_in_the_buffer_is_read_again() -> None:
    stopped = batches(CountedGroups())
    for _ in range(17):
        next(stopped)
    groups = CountedGroups()
    resumed = batches(groups, stopped.cursor())
    assert groups.reads
    # Rows of the first groups may linger by chance; most groups are never read again.
    assert len(groups.reads) < 6
    next(resumed)


def test_chosen_documents_are_read_alike_from_stream_and_store(
    stream: ActivationStream, specs: list[SubjectSpec], tmp_path: Path
) -> None:
    harvest(specs, DOCUMENTS, CONFIG, tmp_path)
    store = ActivationStore.open(tmp_path)
    chosen = [1, 4, 5, 17, 29]
    whole = {name: torch.cat([getattr(s, name) for s in store.shards()]) for name in COLUMNS}
    kept = torch.isin(whole["document"], torch.tensor(chosen))
    for source in (store, stream):
        parts = list(source.read_documents(chosen))
        for name in COLUMNS:
            found = torch.cat([getattr(part, name) for part in parts])
            torch.testing.assert_close(found, whole[name][kept], rtol=1e-5, atol=1e-6)


def test_a_corpus_smaller_than_a_batch_is_refused() -> None:
    class Few(CountedGroups):
        sizes = (1, 2)

    with pytest.raises(InputError, match=r"lower train\.batch_size"):
        next(batches(Few()))


@pytest.fixture(scope="module")
def specs(subject_folder: Path) -> list[SubjectSpec]:
    return [SubjectSpec(name, str(subject_folder / name)) for name in ("base", "tuned")]


@pytest.fixture(scope="module")
def stream(specs: list[SubjectSpec], tmp_path_factory: pytest.TempPathFactory) -> ActivationStream:
    return open_stream(specs, DOCUMENTS, CONFIG, tmp_path_factory.mktemp("stream"))


def test_a_stream_reads_what_a_store_keeps(
    stream: ActivationStream, specs: list[SubjectSpec], tmp_path: Path
) -> None:
    harvest(specs, DOCUMENTS, CONFIG, tmp_path)
    store = ActivationStore.open(tmp_path)
    assert store.document_ids == stream.document_ids
    assert store.n_tokens == stream.n_tokens
    n_shards = 0
    for stored, read in zip(store.shards(), stream.shards(), strict=True):
        torch.testing.assert_close(stored.activations, read.activations, rtol=1e-5, atol=1e-6)
        for column in ("token_ids", "roles", "document", "position", "mask"):
            assert torch.equal(getattr(stored, column), getattr(read, column))
        n_shards += 1
    assert n_shards > 3
    wanted = [0, 7, 29]
    for index, tokens in store.document_tokens(wanted).items():
        streamed = stream.document_tokens(wanted)[index]
        assert tokens.token_ids.tolist() == streamed.token_ids.tolist()
        assert tokens.roles.tolist() == streamed.roles.tolist()


def test_the_sample_is_looked_at_once(
    specs: list[SubjectSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_stream(specs, DOCUMENTS, CONFIG, tmp_path)
    monkeypatch.setattr("crosscoder.reading.load_subject", None)
    assert open_stream(specs, DOCUMENTS, CONFIG, tmp_path).manifest == first.manifest
    with pytest.raises(InputError, match="a stream of other models, text or settings"):
        open_stream(specs, DOCUMENTS[:-1], CONFIG, tmp_path)


def test_a_sample_is_of_whole_documents_and_the_same_on_every_call(
    stream: ActivationStream,
) -> None:
    sample = sample_documents(stream.tokenized, range(30), 200)
    assert sample == sorted(set(sample)) == sample_documents(stream.tokenized, range(30), 200)
    lengths = [stream.document_lengths[i] for i in sample]
    assert sum(lengths) >= 200 > sum(lengths) - max(lengths)


def test_the_two_sides_share_no_document_and_no_row_is_lost(stream: ActivationStream) -> None:
    source = StreamSource(stream.split(0.3, seed=2), buffer_bytes=100 * 4 * 2 * 32)
    held_out = torch.cat(list(source.held_out_batches(16)))
    assert torch.equal(held_out, torch.cat(list(source.held_out_batches(50))))
    n_total = sum(int(shard.mask.sum()) for shard in stream.shards())
    assert abs(source.n_train_tokens + len(held_out) - n_total) <= 2
    batches = list(source.train_batches(16, 1.0, seed=3))
    assert len(batches) == source.n_batches(16, 1.0)
    rows = torch.cat(batches).flatten(1)
    distances = torch.cdist(rows, held_out.flatten(1))
    assert (distances > 1e-6).all()
    other = torch.cat(list(source.train_batches(16, 1.0, seed=4))).flatten(1)
    assert not torch.equal(rows, other)
