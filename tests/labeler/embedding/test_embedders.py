from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from stub_server import Received, Step, StubServer

from labeler.embedding import embedders
from labeler.embedding.base import CachedEmbedder, Vectors, normalised
from labeler.embedding.embedders import (
    MiniLmEmbedder,
    ServerEmbedder,
    TfidfEmbedder,
    find_minilm,
    make_embedder,
)
from labeler.errors import UsageError, WorkError
from labeler.study.judge_config import EmbeddingSection

TEXTS = (
    "I'm sorry, but I can't help with that.",
    "I cannot assist with that request, sorry.",
    "Chop the onions and fry them in butter.",
    "The train to Hamburg leaves at nine.",
    "Fry the garlic and the onions in oil.",
)


class Counting:
    name = "counting"
    fingerprint = "1"

    def __init__(self) -> None:
        self.read: list[str] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.read.extend(texts)
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32).reshape(-1, 2)


def tiny_bert(folder: Path) -> Path:
    """A sentence model with random weights and a vocabulary of characters."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz.,'"
    words += [*letters, *(f"##{letter}" for letter in letters)]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def test_rows_have_length_one_and_zeros_stay_zero() -> None:
    vectors = normalised(np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]


def test_tfidf_puts_like_texts_together() -> None:
    vectors = TfidfEmbedder(TEXTS).embed(TEXTS)
    similarity = vectors @ vectors.T
    assert similarity[2, 4] > similarity[2, 3]
    assert similarity[0, 1] > similarity[0, 3]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_tfidf_is_the_same_for_the_same_texts_in_any_order() -> None:
    first, second = TfidfEmbedder(TEXTS), TfidfEmbedder([*TEXTS[::-1], TEXTS[0]])
    assert first.fingerprint == second.fingerprint
    assert np.array_equal(first.embed(TEXTS), second.embed(TEXTS))
    assert TfidfEmbedder(TEXTS[:3]).fingerprint != first.fingerprint


def test_tfidf_takes_strange_text() -> None:
    embedder = TfidfEmbedder(TEXTS)
    vectors = embedder.embed(["", "\ud800", "漢字", "zzzqqq"])
    assert np.isfinite(vectors).all()
    assert np.array_equal(vectors[0], np.zeros_like(vectors[0]))
    assert embedder.embed([]).shape == (0, vectors.shape[1])


def test_tfidf_without_words_is_a_users_mistake() -> None:
    with pytest.raises(UsageError, match="hold no words"):
        TfidfEmbedder(["!", "?"])


def test_the_cache_asks_once_and_forgets_the_least_used() -> None:
    inner = Counting()
    cached = CachedEmbedder(inner, capacity=2)
    assert cached.embed(["a", "bb", "a"])[:, 0].tolist() == [1, 2, 1]
    assert inner.read == ["a", "bb"]
    cached.embed(["a"])
    cached.embed(["ccc"])
    cached.embed(["a", "bb"])
    assert inner.read == ["a", "bb", "ccc", "bb"]
    assert (cached.name, cached.fingerprint) == ("counting", "1")
    assert len(cached.embed([])) == 0


def test_a_sentence_model_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "model")
    texts = ["a", "a longer text, with many words.", "", "\ud800", "middle one"]
    whole = MiniLmEmbedder(folder).embed(texts)
    single = MiniLmEmbedder(folder, batch_size=1).embed(texts)
    assert np.allclose(whole, single, atol=1e-5)
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    assert MiniLmEmbedder(folder).embed([]).shape == (0, 16)


def test_a_sentence_model_is_known_by_its_weights(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "model")
    before = MiniLmEmbedder(folder).fingerprint
    assert before == MiniLmEmbedder(folder).fingerprint
    (folder / "more.bin").write_bytes(b"1")
    assert MiniLmEmbedder(folder).fingerprint != before


@pytest.mark.parametrize("content", [None, "{", '{"model_type": "unheard-of"}'])
def test_a_folder_without_a_model_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=r"embedding\.path: .*" + tmp_path.name):
        make_embedder(EmbeddingSection(path=tmp_path.name), TEXTS, tmp_path.parent)


def test_a_missing_folder_is_named_and_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"embedding\.path: .*nowhere is no folder"):
        make_embedder(EmbeddingSection(path="nowhere"), TEXTS, tmp_path)


def test_without_the_sentence_model_it_is_tfidf_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedders, "find_minilm", lambda: None)
    with caplog.at_level(logging.WARNING):
        embedder = make_embedder(EmbeddingSection(), TEXTS)
    assert embedder.name == "tfidf"
    assert "embedding.path" in caplog.text


def test_the_sentence_model_of_the_demo_cache_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(embedders, "MINILM_PACKAGE", "no_such_package_anywhere")
    monkeypatch.setattr(embedders, "cached_minilm", lambda: tmp_path)
    assert find_minilm() == tmp_path


def vectors_reply(request: Received) -> Step:
    rows = [
        {"object": "embedding", "index": number, "embedding": [float(len(each)), 0.0]}
        for number, each in enumerate(request.body["input"])
    ]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    body = {"object": "list", "data": rows[::-1], "model": "e", "usage": usage}
    return Step(body=json.dumps(body))


def test_a_server_is_asked_in_batches_and_its_order_does_not_matter() -> None:
    with StubServer(lambda request, _: vectors_reply(request)).running() as server:
        embedder = make_embedder(
            EmbeddingSection(kind="openai", base_url=server.url, model="e"), TEXTS
        )
        texts = [f"text {number}" for number in range(70)]
        vectors = embedder.embed([*texts, ""])
    assert vectors.shape == (71, 2)
    assert np.allclose(vectors[:, 0], 1)
    assert [len(each.body["input"]) for each in server.received] == [64, 7]
    assert embedder.name == "openai:e"


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step(status=401, body='{"error": {"message": "wrong key"}}'), "wrong key"),
        (Step(body='{"object": "list", "data": []}'), "0 vectors for 1 texts|[Nn]o embedding"),
    ],
)
def test_a_server_that_gives_no_vectors_stops_the_work(step: Step, words: str) -> None:
    with StubServer(lambda *_: step).running() as server:
        embedder = ServerEmbedder(server.url, "e", max_retries=0)
        with pytest.raises(WorkError, match=words):
            embedder.embed(["a"])


def test_a_busy_server_is_asked_again_with_the_key_also_from_within_a_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMBED_KEY", "secret")
    busy = Step(status=429, body="{}", headers={"retry-after": "0.01"})
    steps = [busy, Step(status=500, body="{}", headers={"retry-after": "0.01"})]

    async def embed(url: str) -> np.ndarray:
        return ServerEmbedder(url, "e", "EMBED_KEY").embed(["a"])

    def answer(request: Received, number: int) -> Step:
        return steps[number] if number < len(steps) else vectors_reply(request)

    with StubServer(answer).running() as server:
        assert asyncio.run(embed(server.url)).shape == (1, 2)
    assert [each.headers["authorization"] for each in server.received] == ["Bearer secret"] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step(reset=True), "ServerDisconnected|reset"),
        (Step(body="{}", delay_s=1), "Timeout"),
        (Step(body="x" * 3000), "longer than"),
    ],
)
def test_a_connection_that_fails_is_tried_again_and_named(
    monkeypatch: pytest.MonkeyPatch, step: Step, words: str
) -> None:
    monkeypatch.setattr("labeler.embedding.embedders.MAX_VECTORS_BYTES", 2000)
    with StubServer(lambda *_: step).running() as server:
        embedder = ServerEmbedder(server.url, "e", timeout_s=0.2, max_retries=1)
        with pytest.raises(WorkError, match=f"^embedding server {server.url}: .*({words})"):
            embedder.embed(["a"])
    assert len(server.received) == 2


@pytest.mark.parametrize("key", ["base_url", "model"])
def test_a_missing_address_or_model_is_named(key: str) -> None:
    values = {"base_url": "http://127.0.0.1:1/v1", "model": "e"} | {key: None}
    with pytest.raises(UsageError, match=rf"embedding\.{key}: missing"):
        make_embedder(EmbeddingSection(kind="openai", **values))  # type: ignore[arg-type]


def test_the_servers_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMBED_KEY", raising=False)
    with pytest.raises(UsageError, match=r"embedding\.api_key_env: .*EMBED_KEY"):
        ServerEmbedder("http://127.0.0.1:1/v1", "e", "EMBED_KEY")
