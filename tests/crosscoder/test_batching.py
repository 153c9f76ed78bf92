"""Batches waste as little as can be; one thread writes and its failures are heard."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscoder import harvest as shard_writer
from crosscoder.errors import WorkError
from crosscoder.harvest import ShardWriter
from crosscoder.manifest import HarvestManifest, HarvestSource, read_manifest
from crosscoder.reading import BATCH_COST, plan_batches
from crosscoder.shards import ShardTokens


def cost(lengths: list[int], batches: list[list[int]]) -> int:
    return sum(len(b) * max(lengths[i] for i in b) + BATCH_COST for b in batches)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=7), st.integers(1, 500))
def test_no_way_to_cut_the_sorted_documents_reads_fewer_positions(
    lengths: list[int], batch_tokens: int
) -> None:
    found = cost(lengths, list(plan_batches(lengths, batch_tokens)))
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for n_cuts in range(len(order)):
        for cuts in itertools.combinations(range(1, len(order)), n_cuts):
            edges = [0, *cuts, len(order)]
            batches = [order[a:b] for a, b in itertools.pairwise(edges)]
            padded = [len(b) * max(lengths[i] for i in b) for b in batches]
            if all(p <= batch_tokens or len(b) == 1 for p, b in zip(padded, batches, strict=True)):
                assert found <= cost(lengths, batches)


def empty_manifest() -> HarvestManifest:
    source = HarvestSource(
        subjects=(),
        layer=0,
        tokenizer_sha256="",
        template_sha256="",
        corpus_sha256="",
        config={},
    )
    return HarvestManifest(source=source, d_model=2, n_documents=3)


def shard(document: int) -> ShardTokens:
    return ShardTokens(
        activations=torch.zeros(2, 2, 2),
        norms=torch.zeros(2, 2),
        token_ids=torch.zeros(2, dtype=torch.int32),
        roles=torch.zeros(2, dtype=torch.uint8),
        document=torch.full((2,), document, dtype=torch.int32),
        position=torch.arange(2, dtype=torch.int32),
    )


def write_one(folder: Path, then: BaseException | None = None) -> None:
    with ShardWriter(folder, empty_manifest()) as writer:
        writer.put(0, shard(0))
        if then is not None:
            raise then


def test_the_manifest_names_every_shard_in_order(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, empty_manifest()) as writer:
        for index in range(3):
            writer.put(index, shard(index))
    assert [record.first_document for record in writer.manifest.shards] == [0, 1, 2]
    assert read_manifest(tmp_path) == writer.manifest


def test_a_failed_write_is_raised_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise WorkError("the disk is full")

    monkeypatch.setattr(shard_writer, "write_shard", full)
    with ShardWriter(tmp_path, empty_manifest()) as writer:
        writer.put(0, shard(0))
        with pytest.raises(WorkError, match="full"):
            writer.put(1, shard(1))


def test_a_failed_last_write_is_raised_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise WorkError("the disk is full")

    monkeypatch.setattr(shard_writer, "write_shard", full)
    with pytest.raises(WorkError, match="full"):
        write_one(tmp_path)


def test_an_interrupted_harvest_keeps_the_shard_that_was_being_written(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_one(tmp_path, KeyboardInterrupt())
    kept = read_manifest(tmp_path)
    assert kept is not None
    assert len(kept.shards) == 1
