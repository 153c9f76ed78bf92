"""Crosscoders of several seeds in one pass over the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from crosscoders import StopAfter, random_batch, small_config
from safetensors.torch import load_file

from crosscoder.config import TrainConfig
from crosscoder.memory_store import memory_store
from crosscoder.train import of_seed, train, train_seeds
from crosscoder.training_sources import StoreBatches, StoreSource

CONFIG = TrainConfig(epochs=1.5, batch_size=64, checkpoint_every=3, seed=5)
CROSSCODER = small_config(n_latents=32, k=2)


class CountingSource(StoreSource):
    """Counts the batches that training takes, and the passes that fit the normaliser."""

    n_taken = n_fits = 0

    def train_batches(
        self,
        batch_size: int,
        epochs: float,
        seed: int,
        cursor: Mapping[str, torch.Tensor] | None = None,
    ) -> StoreBatches:
        batches = super().train_batches(batch_size, epochs, seed, cursor)
        return StoreBatches(self._counted(batches), 0 if cursor is None else int(cursor["n_taken"]))

    def normaliser_batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        self.n_fits += 1
        return super().normaliser_batches(batch_size)

    def _counted(self, batches: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        for batch in batches:
            self.n_taken += 1
            yield batch


@pytest.fixture
def source() -> CountingSource:
    rows = random_batch(800).float()
    store = memory_store(rows, torch.arange(800) // 10, ("base", "tuned"))
    return CountingSource(store.split(0.2, 0))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "crosscoder.safetensors")


def same(one: Path, other: Path) -> bool:
    mine, its = weights(one), weights(other)
    return all(torch.equal(tensor, its[name]) for name, tensor in mine.items())


def folders(folder: Path, count: int) -> list[Path]:
    return [folder / str(number) for number in range(count)]


def test_each_batch_is_read_once_for_all_seeds(source: CountingSource, tmp_path: Path) -> None:
    results = train_seeds(source, CROSSCODER, CONFIG, folders(tmp_path, 3))
    assert source.n_taken == results[0].n_steps == results[2].n_steps == 15
    assert source.n_fits == 1


def test_every_seed_is_what_it_is_alone_and_no_two_are_alike(
    source: CountingSource, tmp_path: Path
) -> None:
    together = folders(tmp_path, 3)
    train_seeds(source, CROSSCODER, CONFIG, together)
    for number, folder in enumerate(together):
        alone = tmp_path / f"alone-{number}"
        train(source, CROSSCODER, of_seed(CONFIG, number), alone)
        assert same(folder, alone)
    assert not same(together[0], together[1])
    assert not same(together[1], together[2])


@pytest.mark.parametrize("stop", [2, 4, 11])
def test_an_interrupted_pass_ends_like_an_uninterrupted_one(
    source: CountingSource, tmp_path: Path, stop: int
) -> None:
    whole, broken = folders(tmp_path / "whole", 2), folders(tmp_path / "broken", 2)
    train_seeds(source, CROSSCODER, CONFIG, whole)
    with pytest.raises(KeyboardInterrupt):
        train_seeds(source, CROSSCODER, CONFIG, broken, StopAfter(stop))
    for path in sorted((broken[1] / "checkpoints").glob("*"))[-1:]:
        path.unlink()  # as if the process was killed between the checkpoints of the two
    train_seeds(source, CROSSCODER, CONFIG, broken)
    assert all(same(*pair) for pair in zip(broken, whole, strict=True))
    lines = [len((folder / "metrics.jsonl").read_text().splitlines()) for folder in broken]
    assert lines == [len((whole[0] / "metrics.jsonl").read_text().splitlines())] * 2


def test_more_seeds_are_added_to_a_finished_training(
    source: CountingSource, tmp_path: Path
) -> None:
    both = folders(tmp_path, 2)
    train(source, CROSSCODER, CONFIG, both[0])
    written = (both[0] / "crosscoder.safetensors").stat().st_mtime_ns
    train_seeds(source, CROSSCODER, CONFIG, both)
    assert (both[0] / "crosscoder.safetensors").stat().st_mtime_ns == written
    assert not same(*both)
