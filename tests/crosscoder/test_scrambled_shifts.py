"""Scrambled fine-tunes read by the study's own dictionary: what a meaningless change shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from crosscoder.activations import ActivationStore
from crosscoder.corpus import Document
from crosscoder.errors import InputError
from crosscoder.evaluate import calibrate_theta
from crosscoder.harvest import HarvestConfig, harvest
from crosscoder.model import Crosscoder, CrosscoderConfig, fit_normaliser
from crosscoder.model_files import SubjectSpec
from crosscoder.nulls import write_scrambled
from crosscoder.scaling import latent_scaling
from crosscoder.scrambled_shifts import scrambled_shifts

CONFIG = HarvestConfig(layer=1, batch_tokens=256, max_length=50, skip_first=2, device="cpu")
PAIR = ("tuned", "base")
WORDS = ("bread", "water", "Paris", "capital", "list", "mix", "yeast", "salt", "wait", "flour")
RANDOM = np.random.default_rng(0)
DOCUMENTS = [Document(str(i), text=" ".join(RANDOM.choice(WORDS, 18))) for i in range(24)]


def models(folder: Path, *, scrambled: Path | None = None) -> list[SubjectSpec]:
    """The base and its adapter, which is scrambled itself where a folder is given for that."""
    base = SubjectSpec("base", str(folder / "base"))
    tuned = replace(base, name="tuned", adapter=str(folder / "adapter"))
    if scrambled is not None:
        tuned = write_scrambled(tuned, base, scrambled, seed=99)
    return [base, tuned]


def dictionary(specs: list[SubjectSpec], folder: Path) -> Crosscoder:
    """Random directions that both models share, firing on a few tokens in a hundred each."""
    harvest(specs, DOCUMENTS, CONFIG, folder)
    x = torch.cat(
        [shard.activations[shard.mask] for shard in ActivationStore.open(folder).shards()]
    )
    config = CrosscoderConfig(
        n_models=2,
        d_model=x.shape[-1],
        n_latents=64,
        k=8,
        model_names=("base", "tuned"),
        layer=CONFIG.layer,
    )
    crosscoder = Crosscoder(config, torch.Generator().manual_seed(0), fit_normaliser([x]))
    crosscoder.theta.fill_(calibrate_theta(crosscoder, lambda: [x], config.k))
    return crosscoder


def measured(specs: list[SubjectSpec], folder: Path, n_scrambles: int = 6) -> tuple[float, float]:
    """Spread over the latents of the true shifts, and of those of the scrambled fine-tunes."""
    crosscoder = dictionary(specs, folder)
    found = scrambled_shifts(
        crosscoder, specs, PAIR, DOCUMENTS, CONFIG, n_scrambles=n_scrambles, seed=0
    )
    true = latent_scaling(crosscoder, ActivationStore.open(folder)).pair(*PAIR).strength_shift
    assert found.shifts.shape == (n_scrambles, len(true))
    assert found.true_change > 0
    known = np.isfinite(true) & np.isfinite(found.shifts).all(axis=0)
    assert known.sum() > 40
    together = np.corrcoef(found.shifts[:, known])[np.triu_indices(n_scrambles, 1)]
    assert abs(together.mean()) < 0.3, "each is another meaningless change"
    return float(true[known].std()), float(found.shifts[:, known].std(axis=1).mean())


@pytest.mark.slow
def test_a_meaningless_change_shifts_latents_as_much_as_its_scrambles_do(
    subject_folder: Path, tmp_path: Path
) -> None:
    specs = models(subject_folder, scrambled=tmp_path / "meaningless")
    true, null = measured(specs, tmp_path / "store")
    assert 0.6 < true / null < 1.7


@pytest.mark.slow
def test_the_same_seed_gives_the_same_shifts(subject_folder: Path, tmp_path: Path) -> None:
    specs = models(subject_folder)
    crosscoder = dictionary(specs, tmp_path / "store")
    once, again, other = (
        scrambled_shifts(
            crosscoder, specs, PAIR, DOCUMENTS[:12], CONFIG, n_scrambles=4, seed=seed
        ).shifts
        for seed in (1, 1, 2)
    )
    assert np.array_equal(once, again, equal_nan=True)
    assert not np.array_equal(once, other, equal_nan=True)


def test_models_without_a_difference_and_too_few_scrambles_are_refused(
    subject_folder: Path, tmp_path: Path
) -> None:
    base = SubjectSpec("base", str(subject_folder / "base"))
    specs = [base, replace(base, name="tuned")]
    crosscoder = dictionary(models(subject_folder), tmp_path / "store")
    with pytest.raises(InputError, match="give 4 or more"):
        scrambled_shifts(crosscoder, specs, PAIR, DOCUMENTS, CONFIG, n_scrambles=2, seed=0)
    with pytest.raises(InputError, match="nothing to scramble"):
        scrambled_shifts(crosscoder, specs, PAIR, DOCUMENTS, CONFIG, n_scrambles=4, seed=0)
