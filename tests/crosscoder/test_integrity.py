"""One flipped bit in any file that this package made is named, and nothing of the file is used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from crosscoders import StopAfter, random_batch, random_crosscoder, small_config

from crosscoder import files as integrity
from crosscoder.activations import ActivationStore, write_store
from crosscoder.checkpoints import TrainingCheckpoints, load_crosscoder, save_crosscoder
from crosscoder.config import TrainConfig
from crosscoder.errors import InputError
from crosscoder.files import (
    DamagedFileError,
    VerifiedFiles,
    read_json_object,
    sha256_file,
    unsealed,
    write_sealed_json,
)
from crosscoder.manifest import (
    HarvestSource,
    StreamManifest,
    SubjectRecord,
    read_stream_manifest,
    write_stream_manifest,
)
from crosscoder.model_files import FileHashes
from crosscoder.scaling import latent_scaling, load_scaling, save_scaling
from crosscoder.tensor_files import read_sealed_tensors, write_sealed_tensors
from crosscoder.train import train

PLACES = (0.1, 0.5, 0.75, 0.99)
NAMES = ("base", "tuned")
CONFIG = TrainConfig(epochs=1, batch_size=64, checkpoint_every=3, dead_after_tokens=100)


def flip(path: Path, place: float, bit: int = 3) -> None:
    """Turn one bit at a share of the file's length."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(content)


def make_store(directory: Path, n: int = 256) -> ActivationStore:
    return write_store(
        directory, random_batch(n).float(), model_names=NAMES, shard_tokens=64, layer=2
    )


def _store_file(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        make_store(folder)
        return folder / name

    return make


def _crosscoder_file(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        save_crosscoder(random_crosscoder(dtype=torch.float32), folder, {"corpus": "c0ffee"})
        return folder / name

    return make


def _scaling(folder: Path) -> Path:
    crosscoder = random_crosscoder(dtype=torch.float32)
    crosscoder.theta.fill_(0.25)
    save_scaling(latent_scaling(crosscoder, make_store(folder / "store")), folder / "s.safetensors")
    return folder / "s.safetensors"


def _stream(folder: Path) -> Path:
    source = HarvestSource(
        subjects=tuple(SubjectRecord(name=name, fingerprint="ab") for name in NAMES),
        layer=2,
        tokenizer_sha256="",
        template_sha256="",
        corpus_sha256="",
        config={"skip_first": 4},
    )
    manifest = StreamManifest(
        source=source,
        d_model=6,
        median_norms=(1.5, 2.5),
        n_sampled=10,
        ordinary_share=0.75,
        n_eligible=(3, 4),
    )
    write_stream_manifest(folder, manifest)
    return folder / "stream.json"


def read_all(folder: Path) -> None:
    """Use everything of a store in every way that there is."""
    store = ActivationStore.open(folder)
    list(store.shards())
    list(store.batches(32))
    list(store.batches(32, torch.Generator().manual_seed(0), buffer_bytes=1))
    store.document_tokens(range(store.n_documents))


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "manifest": (_store_file("manifest.json"), read_all),
    "documents": (_store_file("documents.json"), read_all),
    "mask": (_store_file("mask.safetensors"), read_all),
    "first shard": (_store_file("shard-00000.safetensors"), read_all),
    "last shard": (_store_file("shard-00003.safetensors"), read_all),
    "weights": (_crosscoder_file("crosscoder.safetensors"), load_crosscoder),
    "crosscoder's config": (_crosscoder_file("config.json"), load_crosscoder),
    "scaling": (_scaling, lambda folder: load_scaling(folder / "s.safetensors")),
    "stream": (_stream, read_stream_manifest),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_named_and_nothing_of_the_file_is_used(
    tmp_path: Path, kind: str, place: float
) -> None:
    make, use = KINDS[kind]
    path = make(tmp_path)
    use(tmp_path)
    flip(path, place)
    with pytest.raises(InputError, match=path.name) as caught:
        use(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("place", PLACES)
def test_no_bit_of_a_checkpoint_is_used_and_the_one_before_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: float, bit: int
) -> None:
    checkpoints = TrainingCheckpoints(tmp_path, "key")
    for step in (1, 2):
        weights = torch.arange(300, dtype=torch.float32) * step
        checkpoints.write(step, {"crosscoder.W_enc": weights, "progress": torch.tensor([step])})
    flip(tmp_path / "step-000000002.safetensors", place, bit)
    newest = checkpoints.newest()
    assert newest is not None
    assert int(newest["progress"][0]) == 1
    assert torch.equal(newest["crosscoder.W_enc"], torch.arange(300, dtype=torch.float32))
    assert "step-000000002.safetensors" in caplog.text


def test_a_checkpoint_with_numbers_that_are_not_finite_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = TrainingCheckpoints(tmp_path, "key")
    checkpoints.write(1, {"crosscoder.b_enc": torch.zeros(4)})
    checkpoints.write(2, {"crosscoder.b_enc": torch.tensor([0.0, torch.nan, torch.inf, 1.0])})
    newest = checkpoints.newest()
    assert newest is not None
    assert not newest["crosscoder.b_enc"].any()
    assert "crosscoder.b_enc holds 2 of 4 numbers that are NaN or Inf" in caplog.text


@pytest.mark.parametrize("name", ["crosscoder.safetensors", "config.json", "result.json"])
@pytest.mark.parametrize("place", PLACES)
def test_a_finished_run_whose_files_changed_is_trained_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, place: float
) -> None:
    store = make_store(tmp_path / "store").split(0.2, 0)
    config = small_config(n_latents=16, k=1)
    train(store, config, CONFIG, tmp_path / "run")
    written = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    flip(tmp_path / "run" / name, place)
    train(store, config, CONFIG, tmp_path / "run")
    assert str(tmp_path / "run" / name) in caplog.text
    weights = (tmp_path / "run" / "crosscoder.safetensors").read_bytes()
    assert weights == written["crosscoder.safetensors"]


def test_training_never_sees_a_row_of_a_changed_shard(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    flip(tmp_path / "store" / "shard-00002.safetensors", 0.75)
    store = ActivationStore.open(tmp_path / "store").split(0.2, 0)
    with pytest.raises(DamagedFileError, match=r"shard-00002\.safetensors: damaged.*set aside as"):
        train(store, small_config(n_latents=16, k=1), CONFIG, tmp_path / "run", StopAfter(99))
    assert not list((tmp_path / "run").glob("*.safetensors"))
    names = {path.name for path in (tmp_path / "store").iterdir()}
    assert "shard-00002.safetensors" not in names
    assert "shard-00002.safetensors.damaged" in names


def test_a_file_is_hashed_once_in_a_thread_of_its_own_however_often_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path)
    hashed: list[tuple[str, str]] = []

    def noting(path: Path) -> str:
        hashed.append((path.name, threading.current_thread().name))
        return sha256_file(path)

    monkeypatch.setattr(integrity, "sha256_file", noting)
    verified = VerifiedFiles()
    for _ in range(2):
        store = ActivationStore.open(tmp_path, verified)
        list(store.select_models(["tuned"]).shards())
        list(store.split(0.2, 0).batches(32, torch.Generator().manual_seed(0), "train", epochs=3))
    shards = [f"shard-{index:05d}.safetensors" for index in range(4)]
    assert sorted(name for name, _ in hashed) == ["mask.safetensors", *shards]
    assert all(thread.startswith("verify") for _, thread in hashed)


def test_the_first_rows_do_not_wait_for_the_whole_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path)
    hashed: list[str] = []
    monkeypatch.setattr(
        integrity, "sha256_file", lambda path: hashed.append(path.name) or sha256_file(path)
    )
    next(ActivationStore.open(tmp_path).batches(8))
    assert "shard-00003.safetensors" not in hashed


def test_a_file_that_was_written_again_is_hashed_again(tmp_path: Path) -> None:
    path, verified = tmp_path / "file", VerifiedFiles()
    path.write_bytes(b"one")
    one = sha256_file(path)
    assert verified.agrees(path, one)
    path.write_bytes(b"another")
    assert not verified.agrees(path, one)
    path.unlink()
    assert not verified.agrees(path, one)


def test_sealed_files_hold_what_was_written(tmp_path: Path) -> None:
    content = {"text": "naïve\n", "number": 0.1, "list": [1, None, {"a": True}]}
    write_sealed_json(tmp_path / "a.json", content)
    assert unsealed(tmp_path, read_json_object(tmp_path / "a.json", ""), "") == content
    tensors = {
        "none": torch.zeros(0, 3),
        "scalar": torch.tensor(2.0, dtype=torch.float64),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "slice": torch.arange(12).view(3, 4).T,
        "flags": torch.tensor([True, False]),
    }
    write_sealed_tensors(tmp_path / "b.safetensors", tensors, {"step": "3"})
    found, metadata = read_sealed_tensors(tmp_path / "b.safetensors", "")
    assert metadata == {"step": "3"}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', '{"a": 1, "sha256": "0"}'])
def test_a_file_without_a_right_seal_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DamagedFileError, match=r"a\.json: damaged: .*; make it again"):
        unsealed(path, read_json_object(path, "make it again"), "make it again")


def test_a_damaged_file_in_a_folder_that_cannot_be_written_is_still_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError

    make_store(tmp_path)
    flip(tmp_path / "shard-00000.safetensors", 0.5)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(DamagedFileError, match=r"shard-00000\.safetensors: damaged.*`harvest`"):
        list(ActivationStore.open(tmp_path).shards())


def test_a_whole_file_that_the_system_cannot_read_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> str:
        raise OSError(24, "Too many open files", str(path))

    store = make_store(tmp_path)
    monkeypatch.setattr(integrity, "sha256_file", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        list(store.shards())
    assert not list(tmp_path.glob("*.damaged"))


@pytest.mark.parametrize("place", PLACES)
def test_a_changed_memory_of_hashes_is_not_used(tmp_path: Path, place: float) -> None:
    model, memory = tmp_path / "model.safetensors", tmp_path / "file-hashes.json"
    model.write_bytes(b"weights")
    FileHashes(memory).sha256(model)
    flip(memory, place)
    assert FileHashes(memory).sha256(model) == sha256_file(model)
