from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from crosscoder.batch_topk import SparseCodes
from crosscoder.errors import InputError
from crosscoder.isolation import ComparisonSelection, isolate_comparison
from crosscoder.isolation_rules import isolation_rule
from crosscoder.scaling import LatentScaling, finish_scaling
from crosscoder.scaling_sums import ScalingSums
from crosscoder.side_draws import SWEPT_TOP, draw_sides

N_LATENTS, TOKENS, WIDTH = 30, 12, 16


def scale(
    names: tuple[str, ...] = ("target", "base"),
    *,
    n_documents: int = 120,
    shifted: int = 0,
    turned: int = 0,
    seed: int = 0,
) -> LatentScaling:
    """Shared latents with model noise; the target uses the first `shifted` half as much again and
    writes the last `turned` in a direction that is 45 degrees aside."""
    g = torch.Generator().manual_seed(seed)
    n = n_documents * TOKENS
    decoder = torch.randn(N_LATENTS, 1, WIDTH, generator=g, dtype=torch.float64)
    decoder = decoder.repeat(1, len(names), 1)
    if turned:
        own, aside = decoder[-turned:, 0], decoder[-turned:].roll(1, dims=-1)[:, 0]
        decoder[-turned:, 0] = (
            (own + aside)
            * own.norm(dim=-1, keepdim=True)
            / (own + aside).norm(dim=-1, keepdim=True)
        )
    active = torch.rand(n, N_LATENTS, generator=g, dtype=torch.float64) * 2
    active *= torch.rand(n, N_LATENTS, generator=g) < 0.15
    reconstruction = torch.einsum("nf,fmd->nmd", active, decoder)
    x = reconstruction.clone()
    x[:, 0] += 0.5 * active[:, :shifted] @ decoder[:shifted, 0]
    x += torch.randn(x.shape, generator=g, dtype=torch.float64)
    sums = ScalingSums(20, N_LATENTS, len(names), torch.device("cpu"), n_documents=n_documents)
    token, latent = active.nonzero(as_tuple=True)
    codes = SparseCodes(token, latent, active[token, latent])
    document = torch.arange(n) // TOKENS
    sums.add(codes, document, decoder, reconstruction, x - reconstruction)
    return finish_scaling(sums, decoder, names)


def isolate(
    scaling: LatentScaling, kind: str, against: str | None = None, **keys: Any
) -> ComparisonSelection:
    target, other = scaling.model_names[:2]
    pairs = ((target, other), (other, target))
    if against is not None:
        pairs = ((target, against), (other, against))
    rule = isolation_rule(kind, max_density=1.0, **keys)
    return isolate_comparison(*(scaling.pair(*pair) for pair in pairs), rule)


def test_a_draw_without_swaps_chooses_the_very_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosscoder.side_draws.random_signs", lambda _random, size: np.ones(size))
    for kind in ("shifted", "changed", "ranked"):
        scaling = scale(shifted=6)
        chosen = isolate(scaling, kind, top=5)
        draws = draw_sides(scaling, chosen, n_draws=2)
        assert draws.target[1][:5].tolist() == chosen.target.latent_indices.tolist()
        assert draws.reference[0][:5].tolist() == chosen.reference.latent_indices.tolist()


def test_changed_finds_turned_latents_which_no_other_rule_does() -> None:
    scaling = scale(turned=6)
    planted = set(range(N_LATENTS - 6, N_LATENTS))

    def found(kind: str) -> set[int]:
        sides = isolate(scaling, kind, top=3)
        return {*sides.target.latent_indices.tolist(), *sides.reference.latent_indices.tolist()}

    pair = scaling.pair("target", "base")
    assert np.abs(pair.delta_norm - 0.5).max() < 1e-9, "the rows are as long in both models"
    largest = set(np.argsort(-pair.decoder_change)[:6].tolist())
    assert largest == planted
    assert len(found("changed") & planted) >= 4
    assert len(found("shifted") & planted) <= 2
    assert len(found("ranked") & planted) <= 2


def test_swapping_every_document_exchanges_the_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosscoder.side_draws.random_signs", lambda _random, size: -np.ones(size))
    names = ("simpo", "it", "base")
    for against in (None, "base"):
        for kind in ("shifted", "changed", "ranked"):
            scaling = scale(names, shifted=6)
            chosen = isolate(scaling, kind, against=against, top=5)
            draws = draw_sides(scaling, chosen, n_draws=1)
            assert draws.target[0][:5].tolist() == chosen.reference.latent_indices.tolist()
            assert draws.reference[0][:5].tolist() == chosen.target.latent_indices.tolist()


def test_planted_latents_are_strengthened_and_fall_on_both_sides_in_draws() -> None:
    scaling = scale(shifted=6)
    chosen = isolate(scaling, "shifted", top=6)
    assert sorted(chosen.target.latent_indices.tolist()) == list(range(6))
    draws = draw_sides(scaling, chosen, n_draws=200)
    on_target = np.isin(draws.target[:, :6], np.arange(6)).sum()
    on_reference = np.isin(draws.reference[:, :6], np.arange(6)).sum()
    assert 0.4 < on_target / (on_target + on_reference) < 0.6


def test_threshold_rules_take_as_many_per_side_as_they_found() -> None:
    scaling = scale(shifted=6)
    chosen = isolate(
        scaling, "strict", nu_error_max=1.0, nu_reconstruction_max=2.0, min_delta_norm=0
    )
    sizes = [len(chosen.target.latent_indices), len(chosen.reference.latent_indices)]
    assert sizes[0] != sizes[1]
    draws = draw_sides(scaling, chosen, overlap="keep", n_draws=3)
    assert [(draws.target >= 0).sum(1).max(), (draws.reference >= 0).sum(1).max()] == sizes


def test_sides_that_are_apart_hold_every_smaller_side_as_a_prefix() -> None:
    scaling = scale()
    draws = draw_sides(scaling, isolate(scaling, "shifted", top=3), n_draws=4)
    assert draws.has_prefixes
    assert draws.target.shape == (4, SWEPT_TOP)
    for target, reference in zip(draws.target, draws.reference, strict=True):
        both = [row[row >= 0] for row in (target, reference)]
        assert len(np.intersect1d(*both)) == 0
        assert sum(len(row) for row in both) == N_LATENTS
    chosen = isolate(scaling, "shifted", top=3)
    assert draws.target_order is not None
    assert draws.reference_order is not None
    assert draws.target_order[:3].tolist() == chosen.target.latent_indices.tolist()
    assert draws.reference_order[:3].tolist() == chosen.reference.latent_indices.tolist()
    np.testing.assert_allclose(draws.shifts[0], scaling.pair("target", "base").strength_shift, 1e-6)
    ranked = draw_sides(scaling, isolate(scaling, "ranked", top=3), n_draws=1)
    assert not ranked.has_prefixes
    assert ranked.target_order is None


def test_same_seed_gives_the_same_draws_and_no_draw_is_refused() -> None:
    scaling = scale()
    chosen = isolate(scaling, "shifted")
    one, again = (draw_sides(scaling, chosen, n_draws=70, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.target, again.target)
    assert (one.target != draw_sides(scaling, chosen, n_draws=70, seed=4).target).any()
    with pytest.raises(InputError, match="n_draws"):
        draw_sides(scaling, chosen, n_draws=0)


def test_draws_are_as_large_as_the_sides_where_a_rule_chose_fewer_than_its_limit() -> None:
    scaling = scale(("simpo", "it", "base"), shifted=6)
    chosen = isolate(scaling, "shifted", against="base", top=12, max_q=0.01)
    sizes = [len(chosen.target.latent_indices), len(chosen.reference.latent_indices)]
    assert max(sizes) < 12
    draws = draw_sides(scaling, chosen, n_draws=50)
    assert [draws.target.shape[1], draws.reference.shape[1]] == sizes
