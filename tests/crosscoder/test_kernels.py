"""The pair kernels against dense products: plain PyTorch, and Triton on a GPU or interpreted."""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType

import pytest
import torch

from crosscoder import kernels

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture
def triton_device() -> str:
    """A GPU, or the CPU where the process was started with TRITON_INTERPRET=1."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "cpu"
    pytest.skip("no GPU, and TRITON_INTERPRET=1 is not set")


@pytest.fixture
def triton_kernels(triton_device: str) -> ModuleType:
    return importlib.import_module("crosscoder.triton_kernels")


def codes(n_pairs_a_token: list[int], n_latents: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs with repeated latents, tokens without pairs and latents without pairs."""
    generator = torch.Generator().manual_seed(0)
    token = torch.repeat_interleave(torch.tensor(n_pairs_a_token, dtype=torch.int64))
    latent = torch.randint(0, n_latents - 1, (len(token),), generator=generator)
    return token, latent


CASES = {
    "several": ([3, 0, 5, 1, 0], 6),
    "none": ([0, 0], 3),
    "no token": ([], 3),
    "one latent": ([4, 4], 2),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def pairs(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    counts, n_latents = request.param
    return *codes(counts, n_latents), len(counts), n_latents


def random(*shape: int, dtype: torch.dtype, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def dense_sum(
    rows: torch.Tensor, group: torch.Tensor, index: torch.Tensor, weight: torch.Tensor, n_out: int
) -> torch.Tensor:
    matrix = torch.zeros(n_out, rows.shape[0], dtype=torch.float64)
    matrix.index_put_((group, index), weight.double(), accumulate=True)
    return matrix @ rows.double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("in_place", [False, True])
def test_sum_of_rows_equals_the_dense_product(
    pairs: tuple[torch.Tensor, torch.Tensor, int, int], dtype: torch.dtype, in_place: bool
) -> None:
    token, latent, n_tokens, n_latents = pairs
    rows, weight = random(n_latents, 7, dtype=dtype), random(len(token), dtype=dtype, seed=2)
    out = torch.full((n_tokens, 7), torch.nan, dtype=dtype) if in_place else None
    found = kernels.sum_rows(rows, token, latent, weight, n_tokens, out)
    assert out is None or found.data_ptr() == out.data_ptr()
    expected = dense_sum(rows, token, latent, weight, n_tokens)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_sum_of_rows_is_the_same_on_every_call_and_with_every_number_of_threads() -> None:
    token, latent = codes([40] * 200, 500)
    rows, weight = random(500, 96, dtype=torch.float32), random(8000, dtype=torch.float32)
    order = kernels.order_by_latent(latent, 500)
    columns = latent[order], token[order], weight[order]
    threads = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 2, 1, 2):
            torch.set_num_threads(n_threads)
            out = torch.empty(500, 96)
            found.append(kernels.sum_rows(rows[:200], *columns, 500, out))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, found[0]) for each in found)


def test_true_positions_are_flat_and_ascend() -> None:
    mask = torch.tensor([[False, True], [True, False], [False, True]])
    assert kernels.true_positions(mask).tolist() == [1, 2, 5]
    assert kernels.true_positions(torch.zeros(0, 3, dtype=torch.bool)).tolist() == []


def test_cpu_needs_no_triton() -> None:
    assert not kernels.uses_triton(torch.zeros(1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [5, 300])
def test_triton_sums_rows_like_the_plain_kernel(
    pairs: tuple[torch.Tensor, torch.Tensor, int, int],
    dtype: torch.dtype,
    width: int,
    triton_kernels: ModuleType,
    triton_device: str,
) -> None:
    token, latent, n_tokens, n_latents = pairs
    rows, weight = random(n_latents, width, dtype=dtype), random(len(token), dtype=dtype, seed=2)
    starts = kernels.group_starts(token, n_tokens)
    columns = (each.to(triton_device) for each in (rows, starts, latent, weight))
    found = triton_kernels.sum_rows(*columns).cpu()
    assert found.dtype == dtype
    assert found.shape == (n_tokens, width)
    expected = kernels.sum_rows(rows.float(), token, latent, weight.float(), n_tokens)
    close = TOLERANCE[dtype]
    torch.testing.assert_close(found.float(), expected, rtol=close, atol=close)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [5, 300])
def test_triton_multiplies_pairs_like_the_plain_kernel(
    pairs: tuple[torch.Tensor, torch.Tensor, int, int],
    dtype: torch.dtype,
    width: int,
    triton_kernels: ModuleType,
    triton_device: str,
) -> None:
    token, latent, n_tokens, n_latents = pairs
    left = random(n_tokens, width, dtype=dtype)
    right = random(n_latents, width, dtype=dtype, seed=3)
    columns = (each.to(triton_device) for each in (left, right, token, latent))
    found = triton_kernels.pair_products(*columns).cpu()
    assert found.dtype == dtype
    expected = kernels.pair_products(left.float(), right.float(), token, latent)
    close = 10 * TOLERANCE[dtype]
    torch.testing.assert_close(found.float(), expected, rtol=close, atol=close)
