from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscoder import kernels
from crosscoder.batch_topk import EncodedBatch, batch_topk, sparse_decode, threshold_codes
from crosscoder.kernels import (
    Preactivations,
    order_by_latent,
    pair_products,
    select_largest,
    sum_rows,
)


def sorted_reference(v: torch.Tensor, k_total: int) -> set[int]:
    """Flat indices of the largest positive values, ties by lowest flat index, by a full sort."""
    flat = v.flatten().tolist()
    order = sorted((i for i in range(len(flat)) if flat[i] > 0), key=lambda i: (-flat[i], i))
    return set(order[:k_total])


def chosen(v: torch.Tensor, k_total: int) -> set[int]:
    codes = batch_topk(v, k_total)
    flat = codes.token * v.shape[1] + codes.latent
    assert bool((flat.diff() > 0).all()), "pairs must ascend"
    assert torch.equal(codes.value, v.flatten()[flat])
    return set(flat.tolist())


@st.composite
def batches_with_ties(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    n_tokens, n_latents = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    levels = draw(st.integers(1, 6))
    size = n_tokens * n_latents
    values = draw(st.lists(st.integers(-levels, levels), min_size=size, max_size=size))
    v = torch.tensor(values, dtype=torch.float32).view(n_tokens, n_latents) / 4
    return v, draw(st.integers(0, size + 2))


@given(batches_with_ties())
@settings(max_examples=150, deadline=None)
def test_batch_topk_keeps_what_a_full_sort_keeps(case: tuple[torch.Tensor, int]) -> None:
    v, k_total = case
    assert chosen(v, k_total) == sorted_reference(v, k_total)


@given(batches_with_ties(), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_pivot_from_a_sample_never_changes_what_is_kept(
    case: tuple[torch.Tensor, int], sampled: int
) -> None:
    v, k_total = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "SMALL_BATCH", 0)
        patch.setattr(kernels, "SAMPLED_TOKENS", sampled)
        patch.setattr(kernels, "PIVOT_MARGIN", 1.0)
        assert chosen(v, k_total) == sorted_reference(v, k_total)


@given(batches_with_ties(), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_weighted_selection_equals_selection_of_the_products(
    case: tuple[torch.Tensor, int], seed: int
) -> None:
    pre, k_total = case
    weight = torch.rand(pre.shape[1], generator=torch.Generator().manual_seed(seed))
    weight[0] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "SMALL_BATCH", 0)
        flat, value = select_largest(Preactivations(pre, weight=weight), k_total)
    assert set(flat.tolist()) == sorted_reference(pre * weight, k_total)
    assert torch.equal(value, pre.flatten()[flat])


def test_large_batch_goes_through_the_pivot_and_stays_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(256, 512, generator=generator)
    v = (v * 64).round() / 64
    assert v.numel() > kernels.SMALL_BATCH
    assert chosen(v, 2048) == sorted_reference(v, 2048)


def test_pivot_that_is_too_high_is_lowered() -> None:
    v = torch.full((256, 512), 0.5)
    v[::4] = 8.0
    # Only the sampled tokens are large: the pivot estimated from them lets too few through.
    assert len(chosen(v, 60_000)) == 60_000


def test_infinite_and_missing_values_do_not_break_the_selection() -> None:
    v = torch.tensor([[float("nan"), 1.0, float("inf")], [float("-inf"), 2.0, 0.0]])
    assert chosen(v.nan_to_num(-1.0, float("inf"), float("-inf")), 2) == {2, 4}
    codes = batch_topk(v, 2)
    assert codes.latent.tolist() == [2, 1]


def test_ties_are_kept_from_the_lowest_flat_index() -> None:
    codes = batch_topk(torch.tensor([[1.0, 2.0, 1.0], [1.0, 1.0, 3.0]]), 4)
    pairs = list(zip(codes.token.tolist(), codes.latent.tolist(), strict=True))
    assert pairs == [(0, 0), (0, 1), (0, 2), (1, 2)]


def test_only_positive_values_are_kept_where_there_are_too_few() -> None:
    codes = batch_topk(torch.tensor([[0.0, -1.0], [2.0, 0.0]]), 3)
    assert (codes.token.tolist(), codes.latent.tolist(), codes.value.tolist()) == ([1], [0], [2.0])


def test_nothing_positive_or_nothing_asked_gives_empty_codes() -> None:
    assert batch_topk(torch.zeros(3, 4), 5).n_active == 0
    assert batch_topk(torch.ones(3, 4), 0).n_active == 0
    assert batch_topk(torch.zeros(0, 4), 0).n_active == 0


def test_threshold_is_strict_and_compared_in_float64() -> None:
    pre = torch.tensor([[0.1, 0.2]])
    weight = torch.ones(2)
    at = float(pre[0, 0])
    assert threshold_codes(pre, weight, at).latent.tolist() == [1]
    below = torch.tensor(at, dtype=torch.float64).nextafter(torch.tensor(0.0).double())
    assert threshold_codes(pre, weight, float(below)).latent.tolist() == [0, 1]


def test_threshold_of_zero_keeps_all_that_is_positive_and_no_latent_without_norm() -> None:
    pre = torch.tensor([[0.5, -0.5, 0.5, 0.0]])
    codes = threshold_codes(pre, torch.tensor([1.0, 1.0, 0.0, 1.0]), 0.0)
    assert codes.latent.tolist() == [0]


def test_sum_rows_and_pair_products_equal_dense_products() -> None:
    generator = torch.Generator().manual_seed(0)
    f = torch.rand(7, 5, generator=generator, dtype=torch.float64)
    f *= torch.rand(7, 5, generator=generator) < 0.5
    f[2] = 0
    rows = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    left = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    token, latent = f.nonzero().unbind(1)
    torch.testing.assert_close(sum_rows(rows, token, latent, f[token, latent], 7), f @ rows)
    expected = (left @ rows.T)[token, latent]
    torch.testing.assert_close(pair_products(left, rows, token, latent), expected)


def test_products_without_pairs_are_zero() -> None:
    none = torch.empty(0, dtype=torch.int64)
    w_dec = torch.ones(4, 2, 3, requires_grad=True)
    value = torch.empty(0, requires_grad=True)
    out, _ = sparse_decode(EncodedBatch(none, none, value, None, value[:0]), w_dec, 5)
    assert out.shape == (5, 2, 3)
    out.sum().backward()
    assert w_dec.grad is not None
    assert float(out.detach().abs().max() + w_dec.grad.abs().max()) == 0


@pytest.mark.parametrize("n_latents", [10, (1 << 16) + 1])
def test_pairs_are_ordered_by_latent_with_tokens_in_order(n_latents: int) -> None:
    generator = torch.Generator().manual_seed(0)
    latent = torch.randint(n_latents - 10, n_latents, (200,), generator=generator)
    expected = torch.sort(latent, stable=True).indices
    assert torch.equal(order_by_latent(latent, n_latents), expected)
