from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

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
from crosscoder.errors import InputError
from crosscoder.evaluate import restrict
from crosscoder.evidence import Evidence, EvidenceConfig, collect_evidence
from crosscoder.model import Crosscoder


@pytest.fixture(scope="module")
def crosscoder() -> Crosscoder:
    return coordinate_crosscoder()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return make_store(tmp_path_factory.mktemp("store"))


def collect(
    crosscoder: Crosscoder,
    store: ActivationStore,
    latents: Sequence[int] = (0, 1, 2, 3),
    config: EvidenceConfig = CONFIG,
) -> list[Evidence]:
    return collect_evidence(crosscoder, store, WordTokenizer(), latents, config)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def evidence(crosscoder: Crosscoder, store: ActivationStore) -> list[Evidence]:
    return collect(crosscoder, store)


@pytest.fixture(scope="module")
def dense(crosscoder: Crosscoder, store: ActivationStore) -> torch.Tensor:
    """(documents, tokens, F) activations by the dense form, 0 where masked."""
    shards = list(store.shards())
    x = torch.cat([shard.activations for shard in shards])
    mask = torch.cat([shard.mask for shard in shards])
    codes = crosscoder.encode_thresholded(crosscoder.normalise(x)).dense(len(x), 6)
    return (codes * mask[:, None]).view(N_DOCUMENTS, LENGTH, 6)


def test_top_windows_are_the_strongest_documents_in_order(
    evidence: list[Evidence], dense: torch.Tensor
) -> None:
    maxima = dense[:, :, 0].max(dim=1).values
    expected = maxima.argsort(descending=True)[:6].tolist()
    top = of_kind(evidence, 0, "top")
    assert [document_of(item) for item in top] == expected
    assert [item.max_activation for item in top] == pytest.approx(maxima[expected].tolist())


def test_activations_tokens_and_roles_are_those_of_the_document(
    evidence: list[Evidence], dense: torch.Tensor, store: ActivationStore
) -> None:
    token_ids = torch.cat([shard.token_ids for shard in store.shards()]).view(-1, LENGTH)
    assert len(evidence) > 40
    for item in evidence:
        document, rows = document_of(item), slice(item.start, item.start + 8)
        assert list(item.activations) == dense[document, rows, item.latent_index].tolist()
        assert list(item.token_ids) == token_ids[document, rows].tolist()
        assert item.tokens == tuple(f" w{i}" for i in item.token_ids)
        positions = range(item.start, item.start + 8)
        assert item.roles == tuple("template" if p < 3 else "user" for p in positions)


def test_window_is_centred_on_the_strongest_token_and_stays_inside(
    evidence: list[Evidence], dense: torch.Tensor
) -> None:
    for item in of_kind(evidence, 0, "top") + of_kind(evidence, 3, "quantile"):
        at = int(dense[document_of(item), :, item.latent_index].argmax())
        assert item.start == min(max(0, at - 4), LENGTH - 8)
        assert len(item.tokens) == 8


def test_latent_never_fires_anywhere_in_a_negative_document(
    evidence: list[Evidence], dense: torch.Tensor
) -> None:
    for latent in (0, 1, 2):
        negatives = of_kind(evidence, latent, "negative")
        assert len(negatives) == 6
        for item in negatives:
            assert dense[document_of(item), :, latent].max() == 0


def test_latent_that_fires_everywhere_has_no_negatives(evidence: list[Evidence]) -> None:
    assert len(of_kind(evidence, 3, "top")) == 6
    assert of_kind(evidence, 3, "negative") == []


def test_latent_that_never_fires_gets_no_evidence(
    crosscoder: Crosscoder, store: ActivationStore
) -> None:
    assert collect(crosscoder, store, latents=[5]) == []


def test_strata_are_even_and_lie_below_the_top(
    evidence: list[Evidence], dense: torch.Tensor
) -> None:
    windows = of_kind(evidence, 0, "quantile")
    assert Counter(item.quantile for item in windows) == {0: 2, 1: 2, 2: 2, 3: 2}
    weakest_top = min(item.max_activation for item in of_kind(evidence, 0, "top"))
    strength: dict[int, list[float]] = {}
    for item in windows:
        maximum = float(dense[document_of(item), :, 0].max())
        assert item.quantile is not None
        assert 0 < maximum <= weakest_top
        strength.setdefault(item.quantile, []).append(maximum)
    for stratum in range(3):
        assert max(strength[stratum]) <= min(strength[stratum + 1])


def test_a_document_of_a_latent_lies_in_one_half_and_one_window(evidence: list[Evidence]) -> None:
    pairs = Counter((item.latent_index, item.document_id) for item in evidence)
    assert set(pairs.values()) == {1}


def test_halves_are_balanced_within_each_kind(evidence: list[Evidence]) -> None:
    for latent in (0, 1, 2, 3):
        for kind in ("top", "quantile", "negative"):
            splits = Counter(item.split for item in of_kind(evidence, latent, kind))
            assert abs(splits["explain"] - splits["score"]) <= 1


def test_top_and_negative_windows_are_of_similar_length(
    crosscoder: Crosscoder, tmp_path: Path
) -> None:
    # Half of the documents have 6 tokens, half 42; the latent fires in long ones only.
    lengths = torch.tensor([6, 42]).repeat(30)
    document = torch.arange(60).repeat_interleave(lengths)
    n = len(document)
    x = torch.zeros(n, 2, 6)
    x[(document % 4 == 1), 0, 0] = 1
    store = write_store(
        tmp_path, x, document=document, token_ids=torch.arange(n), model_names=("a", "b")
    )
    found = collect(crosscoder, store, [0], EvidenceConfig(top=4, negative=4, window=32))
    negatives = of_kind(found, 0, "negative")
    assert len(negatives) == 4
    assert {len(item.tokens) for item in negatives} == {32}


def test_identical_texts_are_used_once_per_latent_and_may_be_shared_by_two(
    crosscoder: Crosscoder, tmp_path: Path
) -> None:
    store = make_store(tmp_path, token_ids=torch.arange(LENGTH).repeat(N_DOCUMENTS))
    found = collect(crosscoder, store, [0, 4], replace_window(LENGTH))
    # All documents read alike, so each latent has one window, and the second loses none.
    assert Counter(item.latent_index for item in found) == {0: 1, 4: 1}
    assert {item.kind for item in found} == {"top"}


def test_repeated_text_is_replaced_by_the_next_document(
    crosscoder: Crosscoder, tmp_path: Path, dense: torch.Tensor
) -> None:
    first, second, third = dense[:, :, 0].max(dim=1).values.argsort(descending=True)[:3].tolist()
    token_ids = torch.arange(N_DOCUMENTS * LENGTH).view(N_DOCUMENTS, LENGTH)
    token_ids[second] = token_ids[first]
    store = make_store(tmp_path, token_ids=token_ids.flatten())
    top = of_kind(collect(crosscoder, store, [0], replace_window(LENGTH)), 0, "top")
    assert [document_of(item) for item in top[:2]] == [first, third]
    assert len(top) == 6


def replace_window(window: int) -> EvidenceConfig:
    return CONFIG.model_copy(update={"window": window})


def test_evidence_does_not_depend_on_shard_sizes_or_the_other_latents(
    crosscoder: Crosscoder, tmp_path: Path, evidence: list[Evidence]
) -> None:
    whole = make_store(tmp_path / "whole", shard_tokens=100_000)
    assert whole.n_shards == 1
    assert collect(crosscoder, whole) == evidence
    alone = [item for item in evidence if item.latent_index == 2]
    assert collect(crosscoder, whole, [2]) == alone


def test_seed_changes_the_draws_and_not_the_top(
    crosscoder: Crosscoder, store: ActivationStore, evidence: list[Evidence]
) -> None:
    other = collect(crosscoder, store, config=CONFIG.model_copy(update={"seed": 8}))
    assert [replace(item, split="explain") for item in of_kind(other, 0, "top")] == [
        replace(item, split="explain") for item in of_kind(evidence, 0, "top")
    ]
    assert of_kind(other, 0, "negative") != of_kind(evidence, 0, "negative")


def test_short_document_is_shown_whole(crosscoder: Crosscoder, store: ActivationStore) -> None:
    for item in collect(crosscoder, store, [1], replace_window(100)):
        assert item.start == 0
        assert len(item.tokens) == len(item.activations) == len(item.roles) == LENGTH


def test_unknown_latent_is_named(crosscoder: Crosscoder, store: ActivationStore) -> None:
    with pytest.raises(InputError, match="latent 6: this crosscoder has latents 0 to 5"):
        collect(crosscoder, store, [0, 6])


def test_restricted_crosscoder_encodes_as_the_whole_one(
    crosscoder: Crosscoder, store: ActivationStore
) -> None:
    z = torch.cat(list(store.batches(500)))
    whole = crosscoder.encode_thresholded(z).dense(len(z), 6)
    part = restrict(crosscoder, [4, 1])
    assert torch.equal(part.encode_thresholded(z).dense(len(z), 2), whole[:, [4, 1]])
    assert part.theta.dtype == torch.float64
