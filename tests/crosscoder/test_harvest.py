"""Harvest: the same numbers as the full model, one mask, resumable, and clear about bad input."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import save_tiny_model, tiny_llama

from crosscoder import harvest as harvest_module
from crosscoder import harvest as shard_writer
from crosscoder import reading as corpus_reader
from crosscoder.activations import ActivationStore
from crosscoder.corpus import Document, Message, TokenizedDocument, TokenRole
from crosscoder.errors import InputError, WorkError
from crosscoder.harvest import HarvestConfig, content_tokens, harvest, median_norms, token_mask
from crosscoder.manifest import MANIFEST_NAME, ShardRecord, write_manifest
from crosscoder.models import SubjectSpec, load_subject
from crosscoder.reading import ResidualReader, decoder_blocks, pad, plan_batches, plan_shards
from crosscoder.shards import ShardTokens, write_shard

LAYER = 1
CONFIG = HarvestConfig(
    layer=LAYER, batch_tokens=64, shard_tokens=40, max_length=50, skip_first=2, device="cpu"
)
DOCUMENTS = [
    Document("bread", messages=(Message("user", "How do I bake bread?"),)),
    Document("plain", text="La capitale de la France est Paris."),
    Document(
        "brief",
        messages=(
            Message("system", "Be brief."),
            Message("user", "Colours?"),
            Message("assistant", "Red, green, blue and every other colour that there is."),
        ),
    ),
    Document("short", text="Hi"),
    Document("list", text="Mix flour, water, salt and yeast, wait, and bake it for an hour."),
]


@pytest.fixture
def specs(subject_folder: Path) -> list[SubjectSpec]:
    return [SubjectSpec(name, str(subject_folder / name)) for name in ("base", "tuned")]


@pytest.fixture(scope="module")
def harvested(subject_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    folder = tmp_path_factory.mktemp("harvest") / "activations"
    models = [SubjectSpec(name, str(subject_folder / name)) for name in ("base", "tuned")]
    harvest(models, DOCUMENTS, CONFIG, folder)
    return ActivationStore.open(folder)


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_activations_are_the_full_models_hidden_states(
    harvested: ActivationStore, specs: list[SubjectSpec]
) -> None:
    subjects = [load_subject(spec) for spec in specs]
    seen = 0
    for shard in harvested.shards():
        for document in shard.document.unique():
            rows = shard.document == document
            ids = shard.token_ids[rows].long()[None]
            for m, subject in enumerate(subjects):
                with torch.no_grad():
                    states = subject.model(ids, output_hidden_states=True).hidden_states
                torch.testing.assert_close(
                    shard.activations[rows, m], states[LAYER + 1][0], rtol=1e-4, atol=1e-5
                )
            seen += 1
    assert seen == len(DOCUMENTS)


def test_a_document_reads_the_same_alone_and_padded(specs: list[SubjectSpec]) -> None:
    reader = ResidualReader(load_subject(specs[0]), LAYER)
    documents = [np.arange(5, 5 + n, dtype=np.int32) for n in (3, 11, 7)]
    together = reader.read(pad(documents))
    alone = torch.cat([reader.read(pad([document])) for document in documents])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_the_forward_pass_ends_at_the_block(specs: list[SubjectSpec]) -> None:
    subject = load_subject(specs[0])
    reached: list[str] = []
    subject.model.model.layers[0].register_forward_hook(lambda *_: reached.append("block 0"))
    subject.model.model.norm.register_forward_hook(lambda *_: reached.append("norm"))
    subject.model.lm_head.register_forward_hook(lambda *_: reached.append("head"))
    reader = ResidualReader(subject, LAYER)
    for _ in range(2):
        reader.read(pad([np.arange(4, dtype=np.int32)]))
    assert reached == ["block 0", "block 0"]
    assert len(subject.model.model.layers) == LAYER + 1


def test_blocks_are_found_in_another_architecture() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=2, n_head=2))
    assert decoder_blocks(model, 2, "gpt2") is model.transformer.h


def test_an_architecture_without_blocks_is_refused() -> None:
    with pytest.raises(InputError, match="found 0 lists of 7 decoder blocks"):
        decoder_blocks(tiny_llama(20), 7, "base")


def test_the_manifest_tells_where_the_numbers_come_from(
    harvested: ActivationStore, specs: list[SubjectSpec]
) -> None:
    source = harvested.manifest.source
    assert [subject.name for subject in source.subjects] == ["base", "tuned"]
    assert len({subject.fingerprint for subject in source.subjects}) == 2
    assert source.layer == LAYER
    assert source.config["skip_first"] == 2
    assert all(
        len(value) == 64
        for value in (source.tokenizer_sha256, source.template_sha256, source.corpus_sha256)
    )
    assert harvested.document_ids == tuple(document.id for document in DOCUMENTS)
    harvested.verify()


def test_only_content_after_the_first_tokens_takes_part(harvested: ActivationStore) -> None:
    for shard in harvested.shards():
        content = content_tokens(shard.roles)
        assert not (shard.mask & ~content).any()
        for document in shard.document.unique():
            rows = (shard.document == document) & content
            assert not shard.mask[rows][:2].any()
    roles = torch.cat([shard.roles[shard.mask] for shard in harvested.shards()])
    assert set(roles.tolist()) == {TokenRole.USER, TokenRole.ASSISTANT, TokenRole.PLAIN}
    assert sum(harvested.documents.n_unmasked) == len(roles) == harvested.n_unmasked


def test_a_complete_harvest_is_not_done_again(
    harvested: ActivationStore, specs: list[SubjectSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_reader, "load_subject", _never)
    manifest = harvest(specs, DOCUMENTS, CONFIG, harvested.directory)
    assert manifest == harvested.manifest
    faster = CONFIG.model_copy(update={"batch_tokens": 7})
    assert harvest(specs, DOCUMENTS, faster, harvested.directory) == harvested.manifest


@pytest.mark.parametrize("whole_shards", [0, 1, 2])
def test_a_stopped_harvest_goes_on_after_its_last_whole_shard(
    harvested: ActivationStore,
    specs: list[SubjectSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole_shards: int,
) -> None:
    folder = tmp_path / "activations"
    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "write_shard", _killed_after(whole_shards))
        with pytest.raises(KeyboardInterrupt):
            harvest(specs, DOCUMENTS, CONFIG, folder)
    with pytest.raises(InputError, match="unfinished"):
        ActivationStore.open(folder)
    (folder / ".shard-00001.safetensors.1.partial").write_bytes(b"half a shard")
    written: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "write_shard", _noting(written))
        harvest(specs, DOCUMENTS, CONFIG, folder)
    assert written == list(range(whole_shards, harvested.n_shards))
    assert content_of(folder) == content_of(harvested.directory)


def test_shards_of_other_tokens_are_harvested_again(
    specs: list[SubjectSpec], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, fresh = tmp_path / "activations", tmp_path / "fresh"
    harvest(specs, DOCUMENTS, CONFIG, fresh)
    manifest = harvest(specs, DOCUMENTS, CONFIG, folder)
    assert manifest.plan is not None
    plan = manifest.plan.model_copy(update={"sha256": "0" * 64})
    write_manifest(folder, manifest.model_copy(update={"plan": plan, "mask": None}))
    again = harvest(specs, DOCUMENTS, CONFIG, folder)
    assert "other tokens than the stored shards" in caplog.text
    assert content_of(folder) == content_of(fresh)
    assert again.plan == manifest.plan


def test_a_resumed_harvest_keeps_the_day_on_which_it_was_begun(
    specs: list[SubjectSpec], tmp_path: Path
) -> None:
    first, second = dt.date(2024, 12, 31), dt.date(2025, 1, 1)
    manifest = harvest(specs, DOCUMENTS, CONFIG, tmp_path, today=first)
    write_manifest(tmp_path, manifest.model_copy(update={"mask": None}))
    resumed = harvest(specs, DOCUMENTS, CONFIG, tmp_path, today=second)
    assert resumed.plan is not None
    assert resumed.plan.date == first
    assert resumed == manifest


def test_a_harvest_stopped_before_its_mask_only_masks(
    harvested: ActivationStore,
    specs: list[SubjectSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "activations"
    with monkeypatch.context() as patch:
        patch.setattr(harvest_module, "write_masks", _never)
        with pytest.raises(AssertionError):
            harvest(specs, DOCUMENTS, CONFIG, folder)
    monkeypatch.setattr(corpus_reader, "load_subject", _never)
    harvest(specs, DOCUMENTS, CONFIG, folder)
    assert content_of(folder) == content_of(harvested.directory)


def test_a_full_disk_keeps_the_whole_shards(
    specs: list[SubjectSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(directory: Path, index: int, tokens: ShardTokens) -> ShardRecord:
        if index == 1:
            raise WorkError("the disk is full")
        return write_shard(directory, index, tokens)

    folder = tmp_path / "activations"
    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "write_shard", full)
        with pytest.raises(WorkError, match="disk is full"):
            harvest(specs, DOCUMENTS, CONFIG, folder)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    assert [shard["file"] for shard in manifest["shards"]] == ["shard-00000.safetensors"]
    assert manifest["mask"] is None


@pytest.mark.parametrize("place", [0.1, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("name", ["shard-00001.safetensors", "mask.safetensors", "documents.json"])
def test_only_what_was_damaged_is_made_again(
    harvested: ActivationStore,
    specs: list[SubjectSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    place: float,
) -> None:
    folder = tmp_path / "activations"
    shutil.copytree(harvested.directory, folder)
    content = bytearray((folder / name).read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    (folder / name).write_bytes(content)
    written: list[int] = []
    monkeypatch.setattr(shard_writer, "write_shard", _noting(written))
    assert harvest(specs, DOCUMENTS, CONFIG, folder) == harvested.manifest
    assert written == ([1] if name.startswith("shard") else [])
    assert content_of(folder) == content_of(harvested.directory)
    assert not list(folder.glob("*.damaged"))
    assert name in caplog.text


def test_a_lost_shard_is_harvested_again(specs: list[SubjectSpec], tmp_path: Path) -> None:
    manifest = harvest(specs, DOCUMENTS, CONFIG, tmp_path)
    before = content_of(tmp_path)
    (tmp_path / manifest.shards[1].file).unlink()
    harvest(specs, DOCUMENTS, CONFIG, tmp_path)
    assert content_of(tmp_path) == before


@pytest.mark.parametrize("change", ["text", "model", "layer", "mask"])
def test_another_source_never_mixes_with_what_is_there(
    harvested: ActivationStore, specs: list[SubjectSpec], change: str
) -> None:
    documents, config = DOCUMENTS, CONFIG
    if change == "text":
        documents = [*DOCUMENTS[:-1], Document("list", text="Another text.")]
    elif change == "model":
        specs = [specs[1], specs[0]]
    elif change == "layer":
        config = CONFIG.model_copy(update={"layer": 0})
    else:
        config = CONFIG.model_copy(update={"skip_first": 3})
    with pytest.raises(InputError, match="activations of other models, text or settings"):
        harvest(specs, documents, config, harvested.directory)


def test_an_adapter_and_a_gguf_file_are_harvested_like_any_model(
    subject_folder: Path, tmp_path: Path
) -> None:
    models = [
        SubjectSpec("base", str(subject_folder / "base")),
        SubjectSpec("file", str(subject_folder / "base.gguf")),
        SubjectSpec(
            "adapted", str(subject_folder / "base"), adapter=str(subject_folder / "adapter")
        ),
    ]
    harvest(models, DOCUMENTS, CONFIG, tmp_path / "store", cache_dir=tmp_path / "cache")
    store = ActivationStore.open(tmp_path / "store")
    assert store.model_names == ("base", "file", "adapted")
    activations = torch.cat([shard.activations for shard in store.shards()])
    assert torch.equal(activations[:, 0], activations[:, 1])
    assert (activations[:, 0] - activations[:, 2]).abs().max() > 0.01


def test_progress_counts_every_token_once(specs: list[SubjectSpec], tmp_path: Path) -> None:
    class Counter:
        def __init__(self) -> None:
            self.total = self.done = 0

        @contextmanager
        def task(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
            self.total = total

            def advance(n: int) -> None:
                self.done += n

            yield advance

        def say(self, line: str) -> None:
            pass

    counter = Counter()
    manifest = harvest(specs, DOCUMENTS, CONFIG, tmp_path, counter)
    assert counter.total == counter.done == manifest.n_tokens


def test_a_corpus_of_first_tokens_only_is_refused(specs: list[SubjectSpec], tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"skip_first": 40})
    with pytest.raises(InputError, match=r"more than harvest\.skip_first = 40 tokens"):
        harvest(specs, DOCUMENTS, config, tmp_path)


def test_a_document_longer_than_the_model_reads_is_refused(
    specs: list[SubjectSpec], tmp_path: Path
) -> None:
    documents = [Document("long", text="bread " * 400)]
    config = CONFIG.model_copy(update={"max_length": 400})
    with pytest.raises(InputError, match=r"set corpus\.max_length to at most 256"):
        harvest(specs, documents, config, tmp_path)


def test_a_token_that_a_model_does_not_have_is_refused(specs: list[SubjectSpec]) -> None:
    reader = ResidualReader(load_subject(specs[0]), LAYER)
    with pytest.raises(InputError, match="token 320, the model only 320"):
        reader.require_reach(320, 10)


@pytest.mark.parametrize(
    ("raised", "expected", "words"),
    [
        (RuntimeError("shape '[1]' is\ninvalid"), InputError, r"cannot read the text: shape .* in"),
        (TypeError("no number"), InputError, "cannot read the text: no number"),
        (RuntimeError("CUDA out of memory."), WorkError, "does not fit into memory"),
    ],
)
def test_a_forward_pass_that_fails_is_one_line(
    specs: list[SubjectSpec], raised: Exception, expected: type[Exception], words: str
) -> None:
    subject = load_subject(specs[0])

    def fails(*inputs: object, **options: object) -> None:
        raise raised

    subject.model.get_input_embeddings().forward = fails
    with pytest.raises(expected, match=rf"^model 'base' {words}") as caught:
        ResidualReader(subject, LAYER).read(pad([np.arange(5, 9, dtype=np.int32)]))
    assert "\n" not in str(caught.value)


def test_activations_that_overflow_are_refused(specs: list[SubjectSpec]) -> None:
    subject = load_subject(specs[0])
    with torch.no_grad():
        subject.model.model.embed_tokens.weight.fill_(torch.inf)
    reader = ResidualReader(subject, LAYER)
    with pytest.raises(InputError, match=r"activations overflow in torch\.float32"):
        reader.read(pad([np.arange(4, dtype=np.int32)]))
    with pytest.raises(InputError, match=r"storage_dtype: .* do not fit into float16"):
        reader.stored(torch.full((1, 32), 1e6), "float16")


def test_a_pair_of_different_widths_is_refused_before_any_weights_are_read(
    specs: list[SubjectSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_reader, "load_subject", _never)
    wide = save_tiny_model(tmp_path / "wide", d_model=64)
    with pytest.raises(InputError, match="different widths"):
        harvest([specs[0], SubjectSpec("wide", str(wide))], DOCUMENTS, CONFIG, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=30), st.integers(1, 60))
def test_batches_hold_every_document_once_within_the_limit(
    lengths: list[int], batch_tokens: int
) -> None:
    batches = list(plan_batches(lengths, batch_tokens))
    assert sorted(i for batch in batches for i in batch) == [
        i for i, length in enumerate(lengths) if length
    ]
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert len(batch) == 1 or padded <= batch_tokens


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=30), st.integers(1, 60))
def test_shards_hold_every_document_in_order(lengths: list[int], shard_tokens: int) -> None:
    documents = [
        TokenizedDocument(i, str(i), np.zeros(n, np.int32), np.zeros(n, np.uint8))
        for i, n in enumerate(lengths)
    ]
    plan = plan_shards(documents, shard_tokens)
    held = [i for members in plan for i in members]
    assert held == list(range(len(held)))
    assert sum(lengths[i] for i in held) == sum(lengths)
    for members in plan[:-1]:
        assert sum(lengths[i] for i in members) >= shard_tokens


def test_the_mask_counts_content_tokens_of_each_document() -> None:
    T, U, P = TokenRole.TEMPLATE, TokenRole.USER, TokenRole.PLAIN
    roles = torch.tensor([T, U, T, U, U, P, P, P], dtype=torch.uint8)
    document = torch.tensor([0, 0, 0, 0, 0, 3, 3, 3], dtype=torch.int32)
    norms = torch.ones(8, 2)
    norms[6, 1] = 4.5
    mask = token_mask(norms, roles, document, torch.ones(2), skip_first=1, max_norm_ratio=4.0)
    assert mask.tolist() == [False, False, False, True, True, False, False, True]


def test_median_norms_are_those_of_content_alone() -> None:
    roles = torch.tensor([TokenRole.BOS, TokenRole.USER, TokenRole.PLAIN, TokenRole.SYSTEM])
    norms = torch.tensor([[1e6, 1e6], [1.0, 10.0], [3.0, 30.0], [1e6, 1e6]])
    medians = median_norms([norms[:2], norms[2:]], [roles[:2], roles[2:]])
    assert medians.tolist() == [1.0, 10.0]
    assert median_norms([norms[:1]], [roles[:1]]).isnan().all()


def _never(*args: object) -> None:
    raise AssertionError("must not be called")


def _killed_after(
    n_shards: int,
) -> Callable[[Path, int, ShardTokens], ShardRecord]:
    def write(directory: Path, index: int, tokens: ShardTokens) -> ShardRecord:
        if index == n_shards:
            raise KeyboardInterrupt
        return write_shard(directory, index, tokens)

    return write


def _noting(written: list[int]) -> Callable[[Path, int, ShardTokens], ShardRecord]:
    def write(directory: Path, index: int, tokens: ShardTokens) -> ShardRecord:
        written.append(index)
        return write_shard(directory, index, tokens)

    return write
