"""Known traps of comparing two models' activations, each by its name.

Further ones lie with what they concern: the orientation of published tables in
tests/labeler/exchange/test_feature_df.py, layouts in test_published.py, soft caps in
test_models.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from evidence_data import WordTokenizer, coordinate_crosscoder
from tiny_models import save_tiny_model

from crosscoder.activations import write_store
from crosscoder.corpus import Document, TokenRole
from crosscoder.errors import InputError
from crosscoder.evidence import EvidenceConfig, collect_evidence
from crosscoder.harvest import HarvestConfig, harvest
from crosscoder.isolation import select_latents
from crosscoder.isolation_rules import isolation_rule
from crosscoder.model import Crosscoder, Normaliser
from crosscoder.model_files import SubjectSpec
from crosscoder.scaling import delta_norm, latent_scaling
from crosscoder.training_sources import StoreSource


@pytest.fixture
def crosscoder() -> Crosscoder:
    return coordinate_crosscoder()


def test_trap_7_a_latent_without_norms_has_no_delta_norm_and_is_never_chosen(
    crosscoder: Crosscoder, tmp_path: Path
) -> None:
    both = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 2.0])
    assert np.isnan(delta_norm(*both)[0])
    assert delta_norm(*both)[1:].tolist() == [1.0, 0.0]
    x = torch.rand(320, 2, 6, generator=torch.Generator().manual_seed(0)) + 0.6
    store = write_store(tmp_path, x, model_names=("a", "b"))
    with torch.no_grad():
        crosscoder.W_dec[3] = 0
    scaling = latent_scaling(crosscoder, store)
    pair = scaling.pair("a", "b")
    assert np.isnan(pair.delta_norm[3])
    assert scaling.n_active[3] == 0
    for kind in ("strict", "significant", "ranked"):
        rule = isolation_rule(kind=kind, max_density=1.0, min_documents=1, top=6)
        assert 3 not in select_latents(pair, rule).latent_indices


def test_trap_11_normalising_twice_is_not_normalising_once_and_the_map_is_undone() -> None:
    generator = torch.Generator().manual_seed(1)
    mean, x = torch.randn(2, 4, generator=generator), torch.randn(9, 2, 4, generator=generator)
    normaliser = Normaliser(mean, torch.tensor([2.0, 0.5]))
    kept = x.clone()
    z = normaliser.normalise(x)
    assert torch.equal(x, kept)
    torch.testing.assert_close(normaliser.denormalise(z), x)
    assert not torch.allclose(normaliser.normalise(z), z)


def test_trap_13_models_whose_tokens_differ_are_never_paired(
    subject_folder: Path, tmp_path: Path
) -> None:
    other = save_tiny_model(tmp_path / "other", text=["Ein ganz anderer Text, eins, zwei, drei."])
    specs = [SubjectSpec("base", str(subject_folder / "base")), SubjectSpec("other", str(other))]
    config = HarvestConfig(layer=1, device="cpu")
    with pytest.raises(InputError, match="have different tokenizers"):
        harvest(specs, [Document("d", text="Some text.")], config, tmp_path / "out")


def test_trap_14_outlier_tokens_are_masked_alike_in_training_scaling_and_evidence(
    crosscoder: Crosscoder, tmp_path: Path
) -> None:
    # Latent 0 fires a thousandfold on the first token of every document, and mildly elsewhere.
    n_documents, length = 40, 8
    x = torch.zeros(n_documents, length, 2, 6)
    x[:, 0, :, 0] = 1000.0
    x[::2, 5, 0, 0] = 1.0
    mask = torch.ones(n_documents, length, dtype=torch.bool)
    mask[:, 0] = False
    roles = torch.full((n_documents, length), int(TokenRole.PLAIN))
    roles[:, 0] = int(TokenRole.BOS)
    store = write_store(
        tmp_path,
        x.flatten(0, 1),
        document=torch.arange(n_documents * length) // length,
        token_ids=torch.arange(n_documents * length),
        roles=roles.flatten(),
        mask=mask.flatten(),
        model_names=("a", "b"),
    ).split(0.2, seed=0)
    source = StoreSource(store)
    for batches in (
        source.train_batches(16, 1.0, seed=0),
        source.normaliser_batches(16),
        source.held_out_batches(16),
    ):
        assert max(float(batch.max()) for batch in batches) == 1.0
    assert latent_scaling(crosscoder, store).max_activation[0] == 1.0
    found = collect_evidence(crosscoder, store, WordTokenizer(), [0], EvidenceConfig(window=8))
    assert found
    assert max(item.max_activation for item in found) == 1.0
    assert all(item.activations[0] == 0 for item in found if item.start == 0)
