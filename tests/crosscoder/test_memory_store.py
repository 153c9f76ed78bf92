from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crosscoder.activations import ActivationStore, write_store
from crosscoder.memory_store import MemoryStore, memory_store

NAMES = ("a", "b")


def data(n: int = 700) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, 2, 4, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(n) // 7


@pytest.fixture
def stores(tmp_path: Path) -> tuple[MemoryStore, ActivationStore]:
    x, document = data()
    memory = memory_store(x, document, NAMES).split(0.2, 1)
    disk = write_store(tmp_path, x, document=document, model_names=NAMES).split(0.2, 1)
    assert isinstance(memory, MemoryStore)
    return memory, disk


@pytest.mark.parametrize("documents", ["train", "held_out", "all"])
@pytest.mark.parametrize("seed", [None, 3])
def test_batches_are_those_of_the_same_activations_on_disk(
    stores: tuple[MemoryStore, ActivationStore], documents: str, seed: int | None
) -> None:
    found = []
    for store in stores:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        found.append(list(store.batches(64, generator, documents, epochs=2, start=3)))  # type: ignore[arg-type]
    memory, disk = found
    assert [len(batch) for batch in memory] == [len(batch) for batch in disk]
    assert all(torch.equal(one, other) for one, other in zip(memory, disk, strict=True))


def test_pieces_hold_whole_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosscoder.memory_store.SHARD_TOKENS", 100)
    x, document = data()
    store = memory_store(x, document, NAMES)
    pieces = list(store.shards())
    assert len(pieces) > 5
    assert store.n_tokens == store.n_unmasked == 700
    assert torch.equal(torch.cat([piece.activations for piece in pieces]), x)
    ends = [int(piece.document[-1]) for piece in pieces]
    starts = [int(piece.document[0]) for piece in pieces]
    assert starts[1:] == [end + 1 for end in ends[:-1]]
    assert pieces[0].position[:8].tolist() == [0, 1, 2, 3, 4, 5, 6, 0]


def test_key_follows_the_content() -> None:
    x, document = data()
    one = memory_store(x, document, NAMES).manifest.key
    assert one == memory_store(x.clone(), document, NAMES).manifest.key
    assert one != memory_store(x + 1, document, NAMES).manifest.key
    assert one != memory_store(x, torch.arange(700) // 10, NAMES).manifest.key


def test_sizes_that_differ_are_refused() -> None:
    x, document = data()
    with pytest.raises(ValueError, match="size"):
        memory_store(x, document[:-1], NAMES)
    with pytest.raises(ValueError, match="ascend"):
        memory_store(x, document.flip(0), NAMES)
