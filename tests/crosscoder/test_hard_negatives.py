"""Hard negatives: the counterpart's text, and inactive documents with the latent's words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from evidence_data import (
    CONFIG,
    LENGTH,
    N_DOCUMENTS,
    WordTokenizer,
    coordinate_crosscoder,
    document_of,
    make_store,
    of_kind,
)

from crosscoder.activations import ActivationStore, write_store
from crosscoder.corpus import DocumentTokens
from crosscoder.errors import InputError
from crosscoder.evidence import EvidenceConfig, collect_evidence, gather
from crosscoder.evidence_plan import FiringTokens, nearest_counterparts, similar_documents
from crosscoder.model import Crosscoder


@pytest.fixture(scope="module")
def crosscoder() -> Crosscoder:
    return coordinate_crosscoder()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def maxima(crosscoder: Crosscoder, store: ActivationStore) -> torch.Tensor:
    """(documents, F) strongest activation."""
    shards = list(store.shards())
    x = torch.cat([shard.activations for shard in shards])
    mask = torch.cat([shard.mask for shard in shards])
    codes = crosscoder.encode_thresholded(crosscoder.normalise(x)).dense(len(x), 6)
    return (codes * mask[:, None]).view(N_DOCUMENTS, LENGTH, 6).max(dim=1).values


def test_other_model_evidence_is_the_counterparts_strongest_text_where_the_latent_is_inactive(
    crosscoder: Crosscoder, store: ActivationStore, maxima: torch.Tensor
) -> None:
    tokenizer = WordTokenizer()
    config = CONFIG.model_copy(update={"other_model": 5, "negative": 0, "quantile": 0})
    found = collect_evidence(crosscoder, store, tokenizer, [0], config, counterparts={0: 4})
    shown = of_kind(found, 0, "other_model")
    inactive = (maxima[:, 0] == 0).nonzero().flatten()
    ranked = inactive[maxima[inactive, 4].argsort(descending=True)]
    assert [document_of(item) for item in shown] == ranked[:5].tolist()
    assert all(maxima[document_of(item), 4] > 0 for item in shown)
    assert all(item.max_activation == 0 and len(item.tokens) == 8 for item in shown)
    assert {item.latent_index for item in found} == {0}


def test_a_latent_without_a_twin_has_no_other_model_evidence(
    crosscoder: Crosscoder, store: ActivationStore
) -> None:
    found = collect_evidence(
        crosscoder, store, WordTokenizer(), [0, 1], CONFIG, counterparts={0: 4}
    )
    assert of_kind(found, 0, "other_model")
    assert not of_kind(found, 1, "other_model")


def test_twins_are_the_nearest_directions_of_the_other_side() -> None:
    decoder = torch.zeros(5, 2, 3)
    decoder[0, 0] = torch.tensor([1.0, 0.2, 0.0])
    decoder[1, 1] = torch.tensor([0.0, 3.0, 0.1])
    decoder[2, 1] = torch.tensor([2.0, 0.0, 0.0])
    decoder[3, 0] = torch.tensor([0.0, 1.0, 0.0])
    assert nearest_counterparts(decoder, [0, 3], 0, [1, 2], 1) == {0: 2, 3: 1}
    assert nearest_counterparts(decoder, [2], 1, [2, 3], 0) == {2: 3}
    assert nearest_counterparts(decoder, [2], 1, [2], 0) == {}
    assert nearest_counterparts(decoder, [0], 0, [], 1) == {}


def test_evidence_for_all_latents_is_that_of_each_alone(
    crosscoder: Crosscoder, store: ActivationStore
) -> None:
    tokenizer = WordTokenizer()
    config = CONFIG.model_copy(update={"similar": 2})
    everything = gather(crosscoder, store, None, config)
    for latent in range(6):
        alone = collect_evidence(crosscoder, store, tokenizer, [latent], config)
        assert list(everything.evidence([latent], tokenizer)) == alone


def test_memory_of_a_pass_is_that_of_the_latents_whatever_the_data(
    crosscoder: Crosscoder, store: ActivationStore, tmp_path: Path
) -> None:
    x = torch.cat([shard.activations for shard in store.shards()])[: 4 * LENGTH]
    small = write_store(
        tmp_path, x, document=torch.arange(len(x)) // LENGTH, model_names=("a", "b")
    )
    assert (
        gather(crosscoder, small, None, CONFIG).n_bytes
        == gather(crosscoder, store, None, CONFIG).n_bytes
    )


def test_similar_negatives_use_the_words_the_latent_fires_on(
    crosscoder: Crosscoder, tmp_path: Path
) -> None:
    n_documents, length = 40, 10
    ids = torch.arange(n_documents * length).view(n_documents, length) + 100
    x = torch.zeros(n_documents, length, 2, 6)
    x[:10, 5, 0, 0] = 1.0
    ids[:10, 5] = 7
    ids[30:33, 3] = 7
    store = write_store(
        tmp_path,
        x.flatten(0, 1),
        document=torch.arange(n_documents * length) // length,
        token_ids=ids.flatten(),
        model_names=("a", "b"),
    )
    config = EvidenceConfig(top=4, quantile=0, negative=6, similar=3, window=4)
    found = collect_evidence(crosscoder, store, WordTokenizer(), [0], config)
    negatives = of_kind(found, 0, "negative")
    assert [document_of(item) for item in negatives[:3]] == [30, 31, 32]
    assert all(7 in item.token_ids for item in negatives[:3])
    assert len(negatives) == 6


def test_a_document_is_as_similar_as_the_weight_of_the_words_it_shares() -> None:
    def text(*ids: int) -> DocumentTokens:
        return DocumentTokens(
            np.array(ids, np.int32), np.zeros(len(ids), np.uint8), np.ones(len(ids), bool)
        )

    firing = FiringTokens.of(
        [(np.array([3, 5, 9], np.int32), np.array([2.0, 0.0, 1.0], np.float32))]
    )
    texts = {0: text(9, 9, 9), 1: text(1, 3), 2: text(5, 5), 3: text(3, 9, 4)}
    found = list(similar_documents(firing, [0, 1, 2, 3], texts))
    assert [(row.document, row.position) for row in found] == [(3, 0), (1, 1), (0, 0)]


def test_more_similar_negatives_than_negatives_are_refused() -> None:
    with pytest.raises(ValueError, match="similar: 5 of 4 negatives"):
        EvidenceConfig(negative=4, similar=5)


def test_an_unknown_twin_is_refused(crosscoder: Crosscoder, store: ActivationStore) -> None:
    with pytest.raises(InputError, match="latent 6: this crosscoder has latents 0 to 5"):
        gather(crosscoder, store, [0], CONFIG, counterparts={0: 6})
