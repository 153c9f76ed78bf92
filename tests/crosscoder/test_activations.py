"""Stored activations: reading in order, splitting by documents, shuffled batches, damage."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from crosscoder.activations import ActivationStore, write_store
from crosscoder.errors import InputError, WorkError
from crosscoder.files import write_text
from crosscoder.manifest import MANIFEST_NAME
from crosscoder.sources import ShuffleBuffer
from crosscoder.tensor_files import write_tensors

N_TOKENS = 300
ROW_BYTES = 2 * 3 * 4


def numbered_activations(n: int = N_TOKENS) -> torch.Tensor:
    """(n, 2, 3) activations whose first number is the index of the token."""
    activations = torch.randn(n, 2, 3, generator=torch.Generator().manual_seed(0))
    activations[:, 0, 0] = torch.arange(n)
    return activations


def mask_of(n: int = N_TOKENS) -> torch.Tensor:
    return torch.arange(n) % 4 != 0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    """Nineteen documents of 16 tokens in seven shards, a fourth of the tokens masked."""
    return write_store(
        tmp_path_factory.mktemp("store"),
        numbered_activations(),
        mask=mask_of(),
        model_names=("base", "tuned"),
        shard_tokens=40,
    )


def tokens_in(batches: list[torch.Tensor]) -> list[int]:
    """The indices of the tokens in the batches."""
    return [int(index) for batch in batches for index in batch[:, 0, 0]]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("buffer_bytes", [1 << 20, 64 * ROW_BYTES])
@pytest.mark.parametrize("storage_dtype", ["float32", "bfloat16"])
def test_some_models_are_read_as_if_they_alone_were_stored(
    tmp_path: Path, buffer_bytes: int, storage_dtype: str
) -> None:
    three = torch.randn(N_TOKENS, 3, 3, generator=torch.Generator().manual_seed(1))
    names = ("base", "tuned", "third")
    kept = {"mask": mask_of(), "shard_tokens": 40, "storage_dtype": storage_dtype}
    whole = write_store(tmp_path / "whole", three, model_names=names, **kept)
    alone = write_store(
        tmp_path / "alone", three[:, [2, 0]], model_names=("third", "base"), **kept
    ).split(0.2, 3)
    twice = whole.select_models(("base", "third")).select_models(("third", "base"))
    for view in (whole.split(0.2, 3).select_models(("third", "base")), twice.split(0.2, 3)):
        assert (view.n_models, view.model_names) == (2, ("third", "base"))
        assert view.manifest.key == alone.manifest.key != whole.manifest.key
        for ours, theirs in zip(view.shards(), alone.shards(), strict=True):
            assert torch.equal(ours.activations, theirs.activations)
            assert torch.equal(ours.mask, theirs.mask)
        for generators in ((None, None), (seeded(), seeded())):
            ours, theirs = (
                list(one.batches(32, generator, "train", buffer_bytes=buffer_bytes))
                for one, generator in zip((view, alone), generators, strict=True)
            )
            assert all(map(torch.equal, ours, theirs))
            assert len(ours) == len(theirs) > 1
    assert whole.select_models(names).manifest == whole.manifest


def test_a_model_that_is_not_stored_is_named(store: ActivationStore) -> None:
    with pytest.raises(InputError, match="no activations of 'other'"):
        store.select_models(("base", "other"))


def test_a_store_knows_what_it_holds(store: ActivationStore) -> None:
    assert (store.n_models, store.d_model, store.model_names) == (2, 3, ("base", "tuned"))
    assert (store.n_tokens, store.n_documents) == (N_TOKENS, 19)
    assert store.n_unmasked == int(mask_of().sum())
    assert store.document_ids[3] == "document-3"
    assert store.manifest.complete


def test_shards_come_in_order_and_hold_whole_documents(store: ActivationStore) -> None:
    shards = list(store.shards())
    assert len(shards) == store.n_shards > 3
    assert torch.equal(torch.cat([s.activations for s in shards]), numbered_activations())
    assert torch.equal(torch.cat([s.mask for s in shards]), mask_of())
    documents = [set(shard.document.tolist()) for shard in shards]
    assert sum(map(len, documents)) == len(set.union(*documents)) == 19
    for shard in shards:
        assert torch.equal(shard.position, torch.arange(shard.n_tokens, dtype=torch.int32) % 16)


@pytest.mark.parametrize("storage_dtype", ["bfloat16", "float16"])
def test_narrow_storage_is_read_as_float32(tmp_path: Path, storage_dtype: str) -> None:
    activations = numbered_activations(32)
    store = write_store(tmp_path, activations, storage_dtype=storage_dtype)
    (shard,) = store.shards()
    assert shard.activations.dtype == torch.float32
    torch.testing.assert_close(shard.activations, activations, rtol=1e-2, atol=1e-2)


def test_without_generator_batches_are_the_unmasked_tokens_in_order(
    store: ActivationStore,
) -> None:
    batches = list(store.batches(32))
    assert tokens_in(batches) == mask_of().nonzero().flatten().tolist()
    assert [len(batch) for batch in batches] == [32] * 7 + [1]
    assert torch.equal(torch.cat(batches), numbered_activations()[mask_of()])


@settings(max_examples=25, deadline=None)
@given(
    batch_size=st.integers(1, 90),
    buffer_rows=st.sampled_from([0, 64, 100, 10_000]),
    epochs=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_every_epoch_serves_every_unmasked_token_once(
    store: ActivationStore, batch_size: int, buffer_rows: int, epochs: int, seed: int
) -> None:
    batches = list(
        store.batches(batch_size, seeded(seed), epochs=epochs, buffer_bytes=buffer_rows * ROW_BYTES)
    )
    assert len(batches) == store.n_batches(batch_size, epochs=epochs)
    expected = mask_of().nonzero().flatten().tolist()
    per_epoch = len(batches) // epochs
    for epoch in range(epochs):
        served = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(tokens_in(served)) == expected
        assert all(len(batch) == batch_size for batch in served[:-1])


@pytest.mark.parametrize("buffer_rows", [64, 10_000])
def test_shuffled_batches_depend_on_the_generator_alone(
    store: ActivationStore, buffer_rows: int
) -> None:
    def order(seed: int) -> list[int]:
        return tokens_in(
            list(store.batches(20, seeded(seed), buffer_bytes=buffer_rows * ROW_BYTES))
        )

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1) != sorted(order(1))


@pytest.mark.parametrize("buffer_rows", [64, 10_000])
@pytest.mark.parametrize("start", [0, 3, 12, 13, 25, 35])
def test_skipped_batches_leave_the_rest_as_it_was(
    store: ActivationStore, buffer_rows: int, start: int
) -> None:
    def run(start: int) -> list[torch.Tensor]:
        return list(
            store.batches(20, seeded(), epochs=3, start=start, buffer_bytes=buffer_rows * ROW_BYTES)
        )

    whole, rest = run(0), run(start)
    assert len(rest) == len(whole) - start
    assert all(torch.equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_an_epoch_differs_from_the_one_before(store: ActivationStore) -> None:
    batches = list(store.batches(1000, seeded(), epochs=2))
    assert tokens_in(batches[:1]) != tokens_in(batches[1:])


def test_part_of_an_epoch_can_be_asked_for(store: ActivationStore) -> None:
    assert len(list(store.batches(20, seeded(), epochs=0.5))) == 6
    assert len(list(store.batches(20, seeded(), epochs=1.5))) == 18


def test_the_small_last_batch_can_be_dropped(store: ActivationStore) -> None:
    batches = list(store.batches(20, seeded(), epochs=2, drop_last=True))
    assert [len(batch) for batch in batches] == [20] * 22
    assert len(batches) == store.n_batches(20, epochs=2, drop_last=True)


def test_a_split_parts_whole_documents(store: ActivationStore) -> None:
    parted = store.split(0.2, seed=3)
    assert parted.held_out is not None
    assert int(parted.held_out.sum()) == 4
    train = set(tokens_in(list(parted.batches(50, documents="train"))))
    held_out = set(tokens_in(list(parted.batches(50, documents="held_out"))))
    assert not train & held_out
    assert train | held_out == set(mask_of().nonzero().flatten().tolist())
    assert not {token // 16 for token in train} & {token // 16 for token in held_out}
    assert parted.n_unmasked_of("train") == len(train)


def test_a_split_depends_on_its_seed_alone(store: ActivationStore) -> None:
    def held_out(seed: int) -> list[bool]:
        parted = store.split(0.3, seed)
        assert parted.held_out is not None
        return parted.held_out.tolist()

    assert held_out(5) == held_out(5)
    assert held_out(5) != held_out(6)


def test_only_documents_with_unmasked_tokens_are_held_out(tmp_path: Path) -> None:
    mask = torch.zeros(64, dtype=torch.bool)
    mask[16:48] = True
    parted = write_store(tmp_path, numbered_activations(64), mask=mask).split(0.01, 0)
    assert parted.n_unmasked_of("held_out") == parted.n_unmasked_of("train") == 16


def test_a_single_document_cannot_be_split(tmp_path: Path) -> None:
    store = write_store(tmp_path, numbered_activations(16))
    with pytest.raises(InputError, match="fewer than two documents"):
        store.split(0.1, 0)


def test_a_side_without_a_split_is_a_mistake(store: ActivationStore) -> None:
    with pytest.raises(ValueError, match=r"needs a store from split\(\)"):
        next(store.batches(4, documents="train"))


def test_a_folder_without_activations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no activations; harvest first"):
        ActivationStore.open(tmp_path)


def test_a_missing_or_short_shard_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path, numbered_activations(64), shard_tokens=20)
    path = tmp_path / store.manifest.shards[1].file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"shard-00001\.safetensors: damaged.*`harvest` makes it"):
        ActivationStore.open(tmp_path)
    assert not path.exists()
    with pytest.raises(InputError, match=r"shard-00001\.safetensors: missing; `harvest` makes it"):
        ActivationStore.open(tmp_path)


def test_a_changed_byte_is_found_by_verify(tmp_path: Path) -> None:
    store = write_store(tmp_path, numbered_activations(64), shard_tokens=20)
    store.verify()
    path = tmp_path / store.manifest.shards[0].file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"shard-00000\.safetensors: damaged"):
        store.verify()


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path, numbered_activations(32))
    path = tmp_path / MANIFEST_NAME
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(InputError, match="format 9, this version reads 1"):
        ActivationStore.open(tmp_path)
    path.write_text("{}")
    with pytest.raises(InputError, match=r"manifest\.json: damaged.*remove .* and harvest again"):
        ActivationStore.open(tmp_path)


def test_documents_must_ascend(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must ascend"):
        write_store(tmp_path, numbered_activations(3), document=torch.tensor([0, 1, 0]))


def test_a_full_disk_ends_in_one_line_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shard.safetensors"
    write_tensors(path, {"a": torch.ones(2)})
    before = path.read_bytes()

    def full(tensors: object, target: Path, metadata: object) -> None:
        target.write_bytes(b"half of a sha")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("crosscoder.tensor_files.save_file", full)
    with pytest.raises(WorkError, match="the disk is full; free some space") as caught:
        write_tensors(path, {"a": torch.zeros(2)})
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_another_write_error_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(WorkError, match="cannot be written: Read-only file system"):
        write_text(tmp_path / "file", "text")
    assert list(tmp_path.iterdir()) == []


def test_the_shuffle_buffer_gives_back_what_was_put_in() -> None:
    buffer = ShuffleBuffer(10, (1,), seeded())
    buffer.put(torch.arange(10.0)[:, None])
    assert buffer.n_free == 0
    drawn = list(buffer.draw(3, keep=5))
    assert [len(batch) for batch in drawn] == [3]
    buffer.put(torch.arange(10.0, 13.0)[:, None])
    drawn.append(buffer.rest())
    assert sorted(torch.cat(drawn).flatten().tolist()) == list(map(float, range(13)))
    assert (buffer.n_free, buffer.n_used) == (10, 0)
