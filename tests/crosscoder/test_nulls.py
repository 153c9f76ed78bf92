"""Null models: the size of the true change, none of its directions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crosscoder.corpus import Document, Message
from crosscoder.errors import InputError
from crosscoder.harvest import HarvestConfig
from crosscoder.model import Crosscoder, CrosscoderConfig, Normaliser
from crosscoder.model_files import SubjectSpec
from crosscoder.models import load_subject
from crosscoder.nulls import (
    FIT_TOLERANCE,
    fitted_scramble,
    random_dictionary,
    relative_change,
    write_rounded,
    write_scaled,
    write_scrambled,
)

CONFIG = HarvestConfig(layer=1, batch_tokens=64, max_length=50, skip_first=2, device="cpu")
DOCUMENTS = [
    Document("bread", messages=(Message("user", "How do I bake bread?"),)),
    Document("plain", text="La capitale de la France est Paris."),
    Document("list", text="Mix flour, water, salt and yeast, wait, and bake it for an hour."),
]
Pair = tuple[SubjectSpec, SubjectSpec]


@pytest.fixture(params=["adapter", "model"])
def pair(request: pytest.FixtureRequest, subject_folder: Path) -> Pair:
    """Target and reference; the target is an adapter or a model of its own."""
    base = SubjectSpec("base", str(subject_folder / "base"))
    if request.param == "adapter":
        return replace(base, name="tuned", adapter=str(subject_folder / "adapter")), base
    return SubjectSpec("tuned", str(subject_folder / "tuned")), base


def differences(model: SubjectSpec, reference: SubjectSpec) -> dict[str, torch.Tensor]:
    theirs = dict(load_subject(reference).model.named_parameters())
    return {
        name: parameter - theirs[name]
        for name, parameter in load_subject(model).model.named_parameters()
    }


def test_scrambled_differences_keep_their_singular_values_and_lose_their_directions(
    pair: Pair, tmp_path: Path
) -> None:
    target, reference = pair
    scrambled = write_scrambled(target, reference, tmp_path / "null", seed=1)
    assert (scrambled.adapter is None) == (target.adapter is None)
    true, null = differences(target, reference), differences(scrambled, reference)
    changed = [name for name, each in true.items() if each.ndim == 2 and each.norm() > 1e-4]
    assert changed
    cosines = []
    for name in changed:
        values = torch.linalg.svdvals(true[name])
        assert torch.allclose(torch.linalg.svdvals(null[name]), values, atol=2e-3 * values[0])
        cosines.append(torch.cosine_similarity(true[name].flatten(), null[name].flatten(), dim=0))
    assert torch.stack(cosines).abs().mean() < 0.2


def test_scrambling_depends_on_the_seed_alone(pair: Pair, tmp_path: Path) -> None:
    target, reference = pair
    first, again, other = (
        differences(write_scrambled(target, reference, tmp_path / str(i), seed), reference)
        for i, seed in enumerate((1, 1, 2))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.slow
def test_fitted_scramble_moves_the_residual_stream_as_much_as_the_true_one(
    pair: Pair, tmp_path: Path
) -> None:
    target, reference = pair
    fitted = fitted_scramble(target, reference, DOCUMENTS, CONFIG, tmp_path / "null", seed=3)
    assert fitted.true_change == relative_change(reference, target, DOCUMENTS, CONFIG) > 0
    change = relative_change(reference, fitted.spec, DOCUMENTS, CONFIG)
    assert change == fitted.change == pytest.approx(fitted.true_change, rel=FIT_TOLERANCE)


def test_dose_scales_every_difference(pair: Pair, tmp_path: Path) -> None:
    target, reference = pair
    full = differences(target, reference)
    for dose in (0.0, 0.5):
        scaled = differences(write_scaled(target, reference, tmp_path / str(dose), dose), reference)
        assert all(torch.allclose(scaled[name], dose * full[name], atol=1e-6) for name in full)


def test_rounding_to_int8_changes_every_matrix_a_little(
    subject_folder: Path, tmp_path: Path
) -> None:
    base = SubjectSpec("base", str(subject_folder / "base"))
    rounded = write_rounded(base, tmp_path / "int8")
    own = dict(load_subject(base).model.named_parameters())
    for name, difference in differences(rounded, base).items():
        step = own[name].abs().amax(dim=-1, keepdim=True) / 127
        if difference.ndim == 2:
            assert difference.any()
            assert (difference.abs() <= 0.51 * step).all()
        else:
            assert not difference.any()


def test_equal_models_cannot_be_scrambled(subject_folder: Path, tmp_path: Path) -> None:
    base = SubjectSpec("base", str(subject_folder / "base"))
    with pytest.raises(InputError, match="nothing to scramble"):
        fitted_scramble(replace(base, name="same"), base, DOCUMENTS, CONFIG, tmp_path, seed=0)


def test_random_dictionary_knows_the_scale_of_the_models_and_no_difference_between_them() -> None:
    config = CrosscoderConfig(n_models=2, d_model=8, n_latents=32, k=4, model_names=("a", "b"))
    normaliser = Normaliser(torch.ones(2, 8), torch.full((2,), 3.0))
    trained = Crosscoder(config, torch.Generator().manual_seed(0), normaliser)
    with torch.no_grad():
        trained.W_dec[:, 0] *= 2
    drawn = random_dictionary(trained, seed=1)
    assert torch.equal(drawn.W_dec[:, 0], drawn.W_dec[:, 1])
    assert not torch.equal(drawn.W_dec[:, 1], trained.W_dec[:, 1])
    assert torch.equal(drawn.W_enc, drawn.W_dec.permute(1, 2, 0))
    assert torch.equal(drawn.act_scale, trained.act_scale)
    assert not drawn.calibrated
