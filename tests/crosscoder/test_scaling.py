from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from scipy import stats

from crosscoder.activations import ActivationStore, write_store
from crosscoder.batch_topk import SparseCodes
from crosscoder.errors import InputError
from crosscoder.isolation import select_latents
from crosscoder.isolation_rules import isolation_rule
from crosscoder.model import Crosscoder, CrosscoderConfig
from crosscoder.scaling import (
    LatentScaling,
    PairScaling,
    ScalingFlag,
    delta_norm,
    finish_scaling,
    latent_scaling,
    load_scaling,
    save_scaling,
)
from crosscoder.scaling_sums import ScalingSums, document_blocks, jackknife_ratio
from crosscoder.strength_shift import common_shift

NAMES = ("pt", "it", "simpo")
DEAD = 5


def random_codes(n: int, n_latents: int, generator: torch.Generator) -> torch.Tensor:
    dense = torch.rand(n, n_latents, generator=generator, dtype=torch.float64) * 3
    dense *= torch.rand(n, n_latents, generator=generator) < 0.3
    dense[:, DEAD] = 0
    return dense


def to_sparse(dense: torch.Tensor) -> SparseCodes:
    token, latent = dense.nonzero(as_tuple=True)
    return SparseCodes(token, latent, dense[token, latent])


class Planted:
    """Random codes, decoders and activations in float64."""

    def __init__(self, n: int = 600, n_latents: int = 9, d: int = 7, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        shape = (n_latents, len(NAMES), d)
        self.decoder = torch.randn(shape, generator=g, dtype=torch.float64)
        self.decoder += torch.randn(n_latents, 1, d, generator=g, dtype=torch.float64)
        self.bias = torch.randn(len(NAMES), d, generator=g, dtype=torch.float64)
        self.dense = random_codes(n, n_latents, g)
        self.reconstruction = torch.einsum("nf,fmd->nmd", self.dense, self.decoder) + self.bias
        noise = torch.randn(n, len(NAMES), d, generator=g, dtype=torch.float64)
        self.x = self.reconstruction + noise
        self.document = torch.arange(n) // 10

    def sums(self, n_blocks: int = 20, n_pieces: int = 1) -> ScalingSums:
        n, n_latents = self.dense.shape
        sums = ScalingSums(n_blocks, n_latents, len(NAMES), torch.device("cpu"))
        for rows in torch.arange(n).chunk(n_pieces):
            sums.add(
                to_sparse(self.dense[rows]),
                self.document[rows],
                self.decoder,
                self.reconstruction[rows],
                self.x[rows] - self.reconstruction[rows],
            )
        return sums

    def brute_force_beta(self, latent: int, t: int, m: int, kind: str, keep: torch.Tensor) -> float:
        """argmin_beta ||y - beta f d||^2 over a materialised y (n, d)."""
        f, d = self.dense[keep, latent], self.decoder[latent, t]
        if kind == "error":
            without = self.reconstruction[keep, m] - f[:, None] * self.decoder[latent, m]
            y = self.x[keep, m] - without
        else:
            y = self.reconstruction[keep, m]
        prediction = f[:, None] * d
        return float((y * prediction).sum() / (prediction**2).sum())


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="module")
def scaled(planted: Planted) -> LatentScaling:
    return finish_scaling(planted.sums(), planted.decoder, NAMES)


@pytest.mark.parametrize("kind", ["error", "reconstruction"])
@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("reference", NAMES)
def test_trap_one_pass_betas_equal_the_brute_force_form_in_every_direction(
    planted: Planted, scaled: LatentScaling, kind: str, target: str, reference: str
) -> None:
    if target == reference:
        with pytest.raises(InputError, match="cannot be compared with itself"):
            scaled.pair(target, reference)
        return
    pair = scaled.pair(target, reference)
    everything = torch.ones(len(planted.document), dtype=torch.bool)
    t, r = NAMES.index(target), NAMES.index(reference)
    for latent in range(planted.dense.shape[1]):
        if latent == DEAD:
            continue
        of_target = planted.brute_force_beta(latent, t, t, kind, everything)
        of_reference = planted.brute_force_beta(latent, t, r, kind, everything)
        assert getattr(pair, f"beta_{kind}_target")[latent] == pytest.approx(of_target, rel=1e-10)
        assert getattr(pair, f"beta_{kind}_reference")[latent] == pytest.approx(
            of_reference, rel=1e-10
        )
        nu = getattr(pair, f"nu_{kind}")[latent]
        if np.isfinite(nu):
            assert nu == pytest.approx(of_reference / of_target, rel=1e-9)


@pytest.mark.parametrize("kind", ["error", "reconstruction"])
def test_interval_equals_explicit_recomputation_without_each_block(
    planted: Planted, scaled: LatentScaling, kind: str
) -> None:
    pair = scaled.pair("simpo", "pt")
    blocks = document_blocks(planted.document, 20)
    defined = np.flatnonzero(pair.defined)[:2]
    assert len(defined) == 2
    for latent in defined:
        nu = getattr(pair, f"nu_{kind}")[latent]
        left_out = []
        for block in range(20):
            keep = blocks != block
            left_out.append(
                planted.brute_force_beta(latent, 2, 0, kind, keep)
                / planted.brute_force_beta(latent, 2, 2, kind, keep)
            )
        deviations = np.array(left_out) - np.mean(left_out)
        square = planted.dense[:, latent] ** 2
        weight = np.array([float(square[blocks == block].sum()) for block in range(20)])
        effective = weight.sum() ** 2 / (weight**2).sum()
        assert 10 < effective <= 20
        half = stats.t.ppf(0.975, effective - 1) * np.sqrt(19 / 20 * (deviations**2).sum())
        assert getattr(pair, f"nu_{kind}_low")[latent] == pytest.approx(nu - half, rel=1e-8)
        assert getattr(pair, f"nu_{kind}_high")[latent] == pytest.approx(nu + half, rel=1e-8)


@pytest.mark.parametrize(("target", "reference"), [("it", "pt"), ("pt", "simpo")])
def test_strength_shift_equals_the_dense_form(
    planted: Planted, scaled: LatentScaling, target: str, reference: str
) -> None:
    pair = scaled.pair(target, reference)
    t, r = NAMES.index(target), NAMES.index(reference)
    unit = planted.decoder / planted.decoder.norm(dim=-1, keepdim=True)
    blocks = document_blocks(planted.document, 20)
    for latent in range(planted.dense.shape[1]):
        if latent == DEAD:
            assert np.isnan(pair.strength_shift[latent])
            continue
        common = unit[latent, t] + unit[latent, r]
        common /= common.norm()
        f = planted.dense[:, latent]
        moved = f * ((planted.x[:, t] - planted.x[:, r]) @ common)
        shift = float(moved.sum() / (f**2).sum())
        left_out = [
            float(moved[blocks != b].sum() / (f[blocks != b] ** 2).sum()) for b in range(20)
        ]
        np.testing.assert_allclose(pair.shift_left_out[:, latent], left_out, rtol=1e-9)
        error = np.sqrt(19 / 20 * ((np.array(left_out) - np.mean(left_out)) ** 2).sum())
        assert pair.strength_shift[latent] == pytest.approx(shift, rel=1e-9)
        assert pair.shift_t[latent] == pytest.approx(shift / error, rel=1e-7)
        score = float(moved.sum() / (f**2).sum().sqrt())
        assert pair.shift_score[latent] == pytest.approx(score, rel=1e-9)
        assert pair.shift_low[latent] < shift < pair.shift_high[latent]


def test_decoder_change_and_cosine_equal_the_dense_form(
    planted: Planted, scaled: LatentScaling
) -> None:
    pair = scaled.pair("it", "pt")
    t, r = NAMES.index("it"), NAMES.index("pt")
    moved = (planted.decoder[:, t] - planted.decoder[:, r]).square().sum(dim=-1)
    change = planted.dense.square().mean(dim=0) * moved
    np.testing.assert_allclose(pair.decoder_change, change, rtol=1e-5, atol=1e-12)
    cosine = torch.cosine_similarity(planted.decoder[:, t], planted.decoder[:, r], dim=-1)
    np.testing.assert_allclose(pair.decoder_cosine, cosine, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(scaled.pair("pt", "it").decoder_change, pair.decoder_change)


def test_strength_shift_of_the_other_direction_has_the_other_sign(scaled: LatentScaling) -> None:
    one, other = scaled.pair("it", "pt"), scaled.pair("pt", "it")
    np.testing.assert_allclose(one.strength_shift, -other.strength_shift, rtol=1e-9)
    np.testing.assert_allclose(one.shift_q, other.shift_q, rtol=1e-9)


def test_common_direction_where_a_model_has_none_and_where_the_two_are_opposite() -> None:
    decoder = np.array([[[3.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [-2.0, 0.0]]])
    gram = np.einsum("ftd,fmd->ftm", decoder, decoder)
    z = np.array([[0.5, 1.0], [0.25, 1.0]])
    products = np.einsum("ftd,md->ftm", decoder, z)
    shift = common_shift(products, gram, 0, 1)
    assert shift[0] == pytest.approx(0.25)
    assert np.isnan(shift[1])


def test_sums_per_document_add_up_to_those_of_the_blocks(planted: Planted) -> None:
    for sums in (planted.sums(), planted.sums(n_pieces=7)):
        documents = sums.documents()
        assert (np.diff(documents.group.astype(np.int64) * 9 + documents.latent) > 0).all()
        for name in ("residual", "reconstruction", "square"):
            total = np.zeros((9, *getattr(documents, name).shape[1:]))
            np.add.at(total, documents.latent, getattr(documents, name))
            expected = getattr(sums, name).sum(0).numpy()
            np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-4)
        assert len(documents.group) == len(
            {(int(d), int(j)) for d, j in zip(documents.group, documents.latent, strict=True)}
        )


def test_many_documents_are_dealt_into_groups(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosscoder.scaling_sums.MAX_GROUPS", 16)
    monkeypatch.setattr("crosscoder.document_sums._MERGE_ROWS", 50)
    documents = planted.sums(n_pieces=7).documents()
    assert documents.n_groups == 16
    assert documents.group.max() < 16
    np.testing.assert_allclose(documents.square.sum(), (planted.dense**2).sum(), rtol=1e-5)


def test_adding_in_pieces_that_cut_documents_changes_nothing(planted: Planted) -> None:
    whole, pieces = planted.sums(), planted.sums(n_pieces=7)
    torch.testing.assert_close(pieces.residual, whole.residual, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(pieces.reconstruction, whole.reconstruction, rtol=1e-10, atol=1e-10)
    assert torch.equal(pieces.n_active, whole.n_active)
    assert torch.equal(pieces.n_documents, whole.n_documents)
    expected = [
        len(planted.document[planted.dense[:, latent] > 0].unique())
        for latent in range(planted.dense.shape[1])
    ]
    assert whole.n_documents.tolist() == expected


def test_small_gather_budget_gives_the_same_sums(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = planted.sums()
    monkeypatch.setattr("crosscoder.scaling_sums.GATHER_BYTES", 1000)
    torch.testing.assert_close(planted.sums().residual, whole.residual, rtol=1e-12, atol=1e-12)


def test_dead_latent_has_no_nu_and_is_flagged(scaled: LatentScaling) -> None:
    pair = scaled.pair("it", "pt")
    assert scaled.n_active[DEAD] == 0
    assert scaled.density[DEAD] == 0
    assert np.isnan(pair.nu_error[DEAD])
    assert np.isnan(pair.nu_reconstruction_high[DEAD])
    assert pair.flags[DEAD] == ScalingFlag.TOO_FEW
    assert np.isfinite(pair.delta_norm[DEAD])


@given(scale=st.floats(0.01, 100), latent=st.integers(0, 4))
@settings(max_examples=10, deadline=None)
def test_rescaling_a_latent_changes_no_beta(scale: float, latent: int) -> None:
    data = Planted(n=200, n_latents=6, d=4, seed=3)
    before = finish_scaling(data.sums(), data.decoder, NAMES).pair("it", "pt")
    data.dense[:, latent] /= scale
    data.decoder[latent] *= scale
    after = finish_scaling(data.sums(), data.decoder, NAMES).pair("it", "pt")
    for name in ("nu_error", "nu_error_high", "nu_reconstruction", "beta_error_reference"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=1e-7)
    np.testing.assert_allclose(after.delta_norm, before.delta_norm, rtol=1e-12)


def test_a_latent_of_the_target_alone_a_shrunk_and_a_decoupled_one_are_told_apart() -> None:
    g = torch.Generator().manual_seed(1)
    n, d = 800, 16
    direction = torch.eye(d, dtype=torch.float64)[:4]
    active = random_codes(n, 6, g)[:, :4]
    # Latent 0: only in the target. 1: shrunk, the reference has it and does not decode it.
    # 2: decoupled, the reference decodes it through latent 3, which fires with it.
    active[:, 3] = active[:, 2]
    decoder = torch.zeros(4, 2, d, dtype=torch.float64)
    decoder[0, 0], decoder[1, 0], decoder[2, 0] = direction[0], direction[1], direction[2]
    decoder[3, 1] = direction[2]
    reconstruction = torch.einsum("nf,fmd->nmd", active, decoder)
    x = reconstruction + 0.01 * torch.randn(n, 2, d, generator=g, dtype=torch.float64)
    x[:, 1] += active[:, 1:2] * direction[1]
    sums = ScalingSums(20, 4, 2, torch.device("cpu"))
    sums.add(to_sparse(active), torch.arange(n) // 10, decoder, reconstruction, x - reconstruction)
    pair = finish_scaling(sums, decoder, ("target", "base")).pair("target", "base")
    assert pair.nu_error[0] < 0.05
    assert pair.nu_reconstruction[0] < 0.05
    assert pair.nu_error[1] == pytest.approx(1, abs=0.05)
    assert pair.nu_reconstruction[1] == pytest.approx(0, abs=0.05)
    assert pair.nu_error[2] == pytest.approx(0, abs=0.05)
    assert pair.nu_reconstruction[2] == pytest.approx(1, abs=0.05)
    assert pair.delta_norm.tolist() == [1, 1, 1, 0]


def test_denominator_that_may_be_zero_leaves_nu_undefined() -> None:
    data = Planted(n=400, n_latents=6, d=4)
    g = torch.Generator().manual_seed(2)
    # The target's whole reconstruction says nothing about the latent's direction.
    data.reconstruction = torch.randn(data.x.shape, generator=g, dtype=torch.float64) * 5
    pair = finish_scaling(data.sums(), data.decoder, NAMES).pair("it", "pt")
    flagged = (pair.flags & ScalingFlag.RECONSTRUCTION_DENOMINATOR) != 0
    assert flagged.any()
    assert np.isnan(pair.nu_reconstruction[flagged]).all()
    assert not pair.defined[flagged].any()


def test_negative_numerator_is_kept_and_flagged() -> None:
    data = Planted(n=400, n_latents=6, d=4)
    data.decoder[0, 0] = -data.decoder[0, 1]
    data.reconstruction = torch.einsum("nf,fmd->nmd", data.dense, data.decoder)
    data.x = data.reconstruction.clone()
    pair = finish_scaling(data.sums(), data.decoder, NAMES).pair("it", "pt")
    assert pair.nu_error[0] == pytest.approx(-1)
    assert pair.flags[0] & ScalingFlag.ERROR_NEGATIVE


def test_delta_norm_is_one_for_the_target_alone_and_undefined_without_norms() -> None:
    values = delta_norm(np.array([2.0, 0.0, 1.0, 0.0]), np.array([0.0, 2.0, 1.0, 0.0]))
    np.testing.assert_array_equal(values, [1.0, 0.0, 0.5, np.nan])


@given(st.integers(0, 10_000), st.integers(8, 64))
@settings(max_examples=30, deadline=None)
def test_block_depends_on_the_document_alone_and_blocks_are_even(first: int, n_blocks: int) -> None:
    documents = torch.arange(first, first + 5 * n_blocks)
    blocks = document_blocks(documents, n_blocks)
    counts = torch.bincount(blocks, minlength=n_blocks)
    assert int(counts.max()) <= 6
    assert int(counts.sum()) == 5 * n_blocks
    assert torch.equal(document_blocks(documents[7:9], n_blocks), blocks[7:9])


def test_regular_corpus_does_not_fall_into_few_blocks() -> None:
    every_twentieth = torch.arange(0, 2000, 20)
    assert len(document_blocks(every_twentieth, 20).unique()) >= 15


def test_blocks_without_weight_add_no_degrees_of_freedom() -> None:
    rng = np.random.default_rng(0)
    numerator, denominator = rng.random((10, 3)), 1 + rng.random((10, 3))
    empty = np.zeros((5, 3))
    alone = jackknife_ratio(numerator, denominator, denominator)
    more = np.vstack([denominator, empty])
    padded = jackknife_ratio(np.vstack([numerator, empty]), more, more)
    np.testing.assert_allclose(padded.low, alone.low, rtol=1e-12)


def test_blocks_of_unequal_weight_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    numerator, denominator = rng.random((20, 1)), 1 + rng.random((20, 1))
    even = jackknife_ratio(numerator, denominator, np.ones((20, 1)))
    uneven = jackknife_ratio(numerator, denominator, np.arange(1.0, 21)[:, None] ** 3)
    assert uneven.high[0] > even.high[0]
    assert uneven.value[0] == even.value[0]


def test_one_active_block_gives_no_interval() -> None:
    weight = np.zeros((10, 1))
    weight[3] = 1
    interval = jackknife_ratio(weight, 2 * weight, weight)
    assert interval.value[0] == 0.5
    assert np.isnan(interval.low[0])


def make_crosscoder(theta: float = 0.5) -> Crosscoder:
    config = CrosscoderConfig(n_models=2, d_model=6, n_latents=12, k=3, model_names=("a", "b"))
    crosscoder = Crosscoder(config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        crosscoder.W_dec += 0.3 * torch.randn(
            crosscoder.W_dec.shape, generator=torch.Generator().manual_seed(1)
        )
        crosscoder.act_mean += 0.2
        crosscoder.act_scale *= 1.5
    crosscoder.theta.fill_(theta)
    return crosscoder


def make_store(directory: Path, shard_tokens: int, names: tuple[str, ...]) -> ActivationStore:
    g = torch.Generator().manual_seed(4)
    x = torch.randn(900, 2, 6, generator=g)
    mask = torch.rand(900, generator=g) < 0.8
    return write_store(directory, x, mask=mask, model_names=names, shard_tokens=shard_tokens)


def columns(scaling: LatentScaling) -> dict[str, np.ndarray]:
    found = {
        name.name: getattr(scaling, name.name)
        for name in fields(LatentScaling)
        if isinstance(getattr(scaling, name.name), np.ndarray)
    }
    for key, pair in scaling.pairs.items():
        for name in fields(PairScaling):
            if isinstance(getattr(pair, name.name), np.ndarray):
                found[f"{key}/{name.name}"] = getattr(pair, name.name)
    return found


def test_result_does_not_depend_on_shard_sizes_or_masked_tokens(tmp_path: Path) -> None:
    one = latent_scaling(make_crosscoder(), make_store(tmp_path / "one", 10_000, ("a", "b")))
    many_store = make_store(tmp_path / "many", 50, ("a", "b"))
    many = latent_scaling(make_crosscoder(), many_store)
    assert many_store.n_shards > 10
    assert one.n_tokens == many_store.n_unmasked < 900
    for name, column in columns(one).items():
        np.testing.assert_allclose(columns(many)[name], column, rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(many.n_active, one.n_active)
    assert np.isfinite(one.pair("a", "b").nu_error).any()


def test_scaling_of_a_store_equals_the_dense_form(tmp_path: Path) -> None:
    crosscoder = make_crosscoder()
    store = make_store(tmp_path, 300, ("a", "b"))
    pair = latent_scaling(crosscoder, store).pair("b", "a")
    z = crosscoder.normalise(torch.cat(list(store.batches(1000))))
    codes = crosscoder.encode_thresholded(z)
    dense = codes.dense(len(z), 12).double()
    decoder = crosscoder.W_dec.detach().double()
    decoded = crosscoder.decode(codes, len(z)).detach().double()
    for latent in range(12):
        f, d = dense[:, latent], decoder[latent, 1]
        y = z.double()[:, 0] - decoded[:, 0] + f[:, None] * decoder[latent, 0]
        beta = float(((y @ d) * f).sum() / ((f**2).sum() * (d @ d)))
        assert pair.beta_error_reference[latent] == pytest.approx(beta, rel=1e-4, abs=1e-5)


def test_saved_scaling_is_read_back_unchanged(tmp_path: Path, scaled: LatentScaling) -> None:
    path = tmp_path / "scaling.safetensors"
    save_scaling(scaled, path)
    loaded = load_scaling(path)
    assert loaded.model_names == NAMES
    assert (loaded.n_tokens, loaded.n_blocks) == (scaled.n_tokens, scaled.n_blocks)
    assert columns(loaded).keys() == columns(scaled).keys()
    for name, column in columns(scaled).items():
        np.testing.assert_array_equal(columns(loaded)[name], column)
        assert columns(loaded)[name].dtype == column.dtype
    assert loaded.pair("simpo", "it").target == "simpo"
    for name, column in vars(scaled.documents).items():
        np.testing.assert_array_equal(getattr(loaded.documents, name), column)


def test_damaged_scaling_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "scaling.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="computed again by `isolate`"):
        load_scaling(path)
    with pytest.raises(InputError, match="computed again by `isolate`"):
        load_scaling(tmp_path / "missing.safetensors")


def test_store_of_other_models_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path, 300, ("b", "a"))
    with pytest.raises(InputError, match="do not fit"):
        latent_scaling(make_crosscoder(), store)


def test_uncalibrated_crosscoder_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path, 300, ("a", "b"))
    with pytest.raises(InputError, match="theta"):
        latent_scaling(make_crosscoder(theta=-1.0), store)


def test_unknown_model_is_named(scaled: LatentScaling) -> None:
    with pytest.raises(InputError, match="'sft'"):
        scaled.pair("sft", "pt")


def test_trap_scales_of_the_models_change_no_ratio(tmp_path: Path) -> None:
    """Betas belong to the normalised space: a model harvested in other units has equal nu."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(900, 2, 6, generator=generator)
    scalings = []
    for number, scale in enumerate((1.0, 1000.0)):
        crosscoder = make_crosscoder()
        raw = x * torch.tensor([1.0, scale])[:, None]
        store = write_store(tmp_path / str(number), raw, model_names=("a", "b"))
        crosscoder.act_mean.mul_(torch.tensor([1.0, scale])[:, None])
        crosscoder.act_scale.mul_(torch.tensor([1.0, scale]))
        scalings.append(latent_scaling(crosscoder, store).pair("a", "b"))
    np.testing.assert_allclose(scalings[0].nu_error, scalings[1].nu_error, rtol=1e-4)
    assert np.isfinite(scalings[0].nu_error).any()


def test_trap_file_of_the_scaling_names_its_space_and_activation(
    tmp_path: Path, scaled: LatentScaling
) -> None:
    save_scaling(scaled, tmp_path / "scaling.safetensors")
    with safe_open(tmp_path / "scaling.safetensors", framework="np") as file:
        metadata = json.loads(file.metadata()["scaling"])
    assert metadata["space"] == "normalised"
    assert metadata["activation"] == "thresholded, unscaled"


def test_trap_tiny_or_negative_denominator_never_makes_a_latent_specific() -> None:
    """nu far below 0 is a reference-only latent seen along noise, no evidence for the target."""
    planted = Planted(n=2000, seed=3)
    planted.decoder[0, 2] *= 1e-3
    planted.reconstruction = (
        torch.einsum("nf,fmd->nmd", planted.dense, planted.decoder) + planted.bias
    )
    noise = torch.randn(planted.x.shape, generator=torch.Generator().manual_seed(1))
    planted.x = planted.reconstruction + noise.double()
    pair = finish_scaling(planted.sums(), planted.decoder, NAMES).pair("simpo", "pt")
    assert abs(pair.nu_error[0]) > 5 or np.isnan(pair.nu_error[0])
    for kind in ("strict", "significant"):
        chosen = select_latents(pair, isolation_rule(kind))
        assert 0 not in chosen.latent_indices
