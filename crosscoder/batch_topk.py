"""Sparse codes of BatchTopK and AuxK, and the products that touch only the selected pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch.autograd.function import once_differentiable

from crosscoder.config import Precision
from crosscoder.kernels import (
    Preactivations,
    Workspace,
    order_by_latent,
    pair_products,
    select_above,
    select_largest,
    sum_rows,
    true_positions,
)

DENSE_FROM = 0.1
"""Share of active (token, dead latent) places from which the dense form is the faster one."""
RANKED_AT_ONCE = 1 << 22
"""Activations of dead latents that are ranked at a time where the dense form is out of reach."""


class DeadCodes(Protocol):
    """Kept activations of dead latents; their values are passed separately, for autograd."""

    def decode(self, value: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """sum_j value_ij rows_j over the dead latents j: (B, D), of rows (F, D)."""

    def products(self, left: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """<left_i, rows_j> where a value is kept, shaped like the values; left is (B, D)."""

    def add_outer(self, out: torch.Tensor, value: torch.Tensor, left: torch.Tensor) -> None:
        """out_j += sum_i value_ij left_i for the dead latents j, in place; out is (F, D)."""

    def unreached(self) -> torch.Tensor:
        """Dead latents without a kept activation: AuxK gives them no gradient."""


def select_dead(
    pre: Preactivations, dead: torch.Tensor, k_token: int
) -> tuple[DeadCodes, torch.Tensor]:
    """Each token's `k_token` largest v > 0 among the latents `dead` (n_dead,), ascending.

    Returns the codes and their unscaled values, of the shape that the codes ask for. Apart from
    the values, memory is bounded by 10 * B * k_token or `RANKED_AT_ONCE` activations.
    """
    n_tokens, n_dead = pre.product.shape[0], dead.numel()
    if n_tokens == 0 or k_token > DENSE_FROM * n_dead:
        block, kept = _largest(pre, dead, k_token, slice(None))
        if int(kept.sum()) > DENSE_FROM * kept.numel():
            return DeadBlock(kept, dead), block * kept
        token, column, value = _sparse(block, kept, 0)
        return DeadPairs(token, column, dead, n_tokens), value
    at_once = max(1, RANKED_AT_ONCE // n_dead)
    parts = [
        _sparse(*_largest(pre, dead, k_token, slice(start, start + at_once)), start)
        for start in range(0, n_tokens, at_once)
    ]
    token, column, value = (torch.cat(each) for each in zip(*parts, strict=True))
    return DeadPairs(token, column, dead, n_tokens), value


def _sparse(
    block: torch.Tensor, kept: torch.Tensor, first_token: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token, column and value of the kept places, in order."""
    position = true_positions(kept)
    token = position // kept.shape[1]
    column = position - token * kept.shape[1]
    return token + first_token, column, block.flatten().index_select(0, position)


def _largest(
    pre: Preactivations, dead: torch.Tensor, k_token: int, rows: slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pre-activations (n, n_dead) of some tokens, and which of them are kept."""
    block = pre.product[rows].index_select(1, dead)
    if pre.bias is not None:
        block += pre.bias.index_select(0, dead)
    weighted = block if pre.weight is None else block * pre.weight.index_select(0, dead)
    kept = weighted > 0
    if k_token < dead.numel():
        largest = torch.topk(weighted, k_token, dim=1, sorted=False).indices
        kept &= torch.zeros_like(kept).scatter_(1, largest, True)
    return block, kept


@dataclass(frozen=True)
class DeadBlock:
    """Codes whose values are a (B, n_dead) tensor, 0 where nothing is kept."""

    kept: torch.Tensor
    """(B, n_dead) bool"""
    dead: torch.Tensor
    """(n_dead,) ascending latent indices."""

    def decode(self, value: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """See `DeadCodes`."""
        return value @ rows.index_select(0, self.dead)

    def products(self, left: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """See `DeadCodes`."""
        return (left @ rows.index_select(0, self.dead).T).mul_(self.kept)

    def add_outer(self, out: torch.Tensor, value: torch.Tensor, left: torch.Tensor) -> None:
        """See `DeadCodes`."""
        out.index_add_(0, self.dead, value.T @ left)

    def unreached(self) -> torch.Tensor:
        """See `DeadCodes`."""
        return self.dead[~self.kept.any(0)]


@dataclass(frozen=True)
class DeadPairs:
    """Codes whose values are a column (n,), in ascending order of token, then latent."""

    token: torch.Tensor
    """(n,)"""
    column: torch.Tensor
    """(n,) position in `dead`."""
    dead: torch.Tensor
    """(n_dead,) ascending latent indices."""
    n_tokens: int

    def decode(self, value: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """See `DeadCodes`."""
        return sum_rows(rows, self.token, self.dead[self.column], value, self.n_tokens)

    def products(self, left: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """See `DeadCodes`."""
        found = left.new_empty(self.token.numel())
        order = order_by_latent(self.column, self.dead.numel())
        latent = self.dead[self.column[order]]
        found[order] = pair_products(rows, left, latent, self.token[order])
        return found

    def add_outer(self, out: torch.Tensor, value: torch.Tensor, left: torch.Tensor) -> None:
        """See `DeadCodes`."""
        order = order_by_latent(self.column, self.dead.numel())
        pairs = self.column[order], self.token[order], value[order]
        out.index_add_(0, self.dead, sum_rows(left, *pairs, self.dead.numel()))

    def unreached(self) -> torch.Tensor:
        """See `DeadCodes`."""
        fires = torch.zeros_like(self.dead, dtype=torch.bool)
        fires[self.column] = True
        return self.dead[~fires]


"""Type of the two factors of the encoder product in training; sums and all else are float32."""


@dataclass(frozen=True)
class SparseCodes:
    """Active (token, latent) pairs in ascending order of token, then latent."""

    token: torch.Tensor
    """(n,) int64 row in the batch."""
    latent: torch.Tensor
    """(n,) int64 latent index."""
    value: torch.Tensor
    """(n,) activation."""

    @property
    def n_active(self) -> int:
        """Number of active pairs."""
        return int(self.token.numel())

    def dense(self, n_tokens: int, n_latents: int) -> torch.Tensor:
        """The same codes as a dense (n_tokens, n_latents) tensor."""
        codes = self.value.new_zeros(n_tokens, n_latents)
        return codes.index_put((self.token, self.latent), self.value)


def batch_topk(weighted: torch.Tensor, k_total: int) -> SparseCodes:
    """The `k_total` largest positive values of a (B, F) tensor, ties from the lowest flat index.

    Fewer than `k_total` positive values are all kept. B counts tokens: a tensor of documents and
    positions is a ValueError, for its k_total would be ambiguous. BatchTopK: arXiv 2412.06410.
    """
    if weighted.dim() != 2:
        raise ValueError(f"(tokens, latents) wanted, not {tuple(weighted.shape)}; flatten the text")
    flat, value = select_largest(Preactivations(weighted), k_total)
    return _codes(flat, value, weighted.shape[1])


def threshold_codes(pre: torch.Tensor, weight: torch.Tensor, theta: float) -> SparseCodes:
    """Pre-activations (B, F) kept where pre * weight > theta, for theta >= 0; values unscaled."""
    flat, value = select_above(Preactivations(pre, weight=weight), theta)
    return _codes(flat, value, pre.shape[1])


def _codes(flat: torch.Tensor, value: torch.Tensor, n_latents: int) -> SparseCodes:
    token = flat // n_latents
    return SparseCodes(token, flat - token * n_latents, value)


class Selection(NamedTuple):
    """What `sparse_encode` keeps of a batch."""

    k_total: int
    """Pairs of BatchTopK."""
    weight: torch.Tensor
    """(F,) n_j of v = pre * n_j, without gradient."""
    dead: torch.Tensor | None = None
    """(n_dead,) ascending latents of AuxK."""
    k_dead: int = 0
    """Largest v of each token that are kept among the dead latents, in addition to the others."""


class EncodedBatch(NamedTuple):
    """What the sparse encoder hands to the losses."""

    token: torch.Tensor
    """(n,) int64 token of each selected pair."""
    latent: torch.Tensor
    """(n,) int64 latent of each selected pair."""
    value: torch.Tensor
    """(n,) unscaled activation of each selected pair; carries the gradient."""
    dead: DeadCodes | None
    """What is kept of the dead latents; None where AuxK has nothing to do."""
    dead_value: torch.Tensor
    """Their unscaled activations, shaped as `dead` asks for; carries the gradient."""


def sparse_encode(
    z: torch.Tensor,
    w_enc: torch.Tensor,
    b_enc: torch.Tensor,
    selection: Selection,
    precision: Precision = "float32",
    workspace: Workspace | None = None,
) -> EncodedBatch:
    """Encode (B, M, d) by one product and keep the `k_total` largest pre * weight.

    `w_enc` is (M, d, F). The gradients of `w_enc` and `b_enc` come from the selected pairs only.
    With a `workspace` the gradient of `w_enc` lies in it, see there.
    """
    if z.dim() != 3:
        raise ValueError(f"(tokens, models, d) wanted, not {tuple(z.shape)}; flatten the text")
    workspace = workspace or Workspace()
    with torch.no_grad():
        product = encoder_product(z.flatten(1), latent_rows(w_enc), precision, workspace)
        pre = Preactivations(product, b_enc, selection.weight)
        flat, value = select_largest(pre, selection.k_total, workspace)
        codes = _codes(flat, value, pre.n_latents)
        dead: DeadCodes | None = None
        dead_value = value[:0]
        if selection.dead is not None:
            dead, dead_value = select_dead(pre, selection.dead, selection.k_dead)
    values = SparseEncode.apply(  # type: ignore[no-untyped-call]
        z, w_enc, b_enc, codes, dead, dead_value, workspace
    )
    return EncodedBatch(codes.token, codes.latent, values[0], dead, values[1])


def encoder_product(
    z: torch.Tensor, rows: torch.Tensor, precision: Precision, workspace: Workspace
) -> torch.Tensor:
    """z (B, M*d) times rows (F, M*d) transposed, without a bias, in float32: (B, F)."""
    shape = (z.shape[0], rows.shape[0])
    if precision == "float32":
        return torch.mm(z, rows.T, out=workspace.take("pre", shape, z))
    half = workspace.take("rows", tuple(rows.shape), z, torch.bfloat16).copy_(rows)
    if z.is_cuda:
        return torch.mm(z.bfloat16(), half.T, out_dtype=torch.float32)
    product = workspace.take("half_pre", shape, z, torch.bfloat16)
    return workspace.take("pre", shape, z).copy_(torch.mm(z.bfloat16(), half.T, out=product))


class SparseEncode(torch.autograd.Function):
    """The values of selected pairs as a function of z, w_enc and b_enc.

    The selection was made outside; no (B, F) tensor is kept for the gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: torch.Tensor,
        w_enc: torch.Tensor,
        b_enc: torch.Tensor,
        codes: SparseCodes,
        dead: DeadCodes | None,
        dead_value: torch.Tensor,
        workspace: Workspace,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `sparse_encode`."""
        ctx.save_for_backward(z, w_enc)
        ctx.codes, ctx.dead, ctx.workspace = codes, dead, workspace
        return codes.value, dead_value

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_value: torch.Tensor, grad_dead: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        """Gradients of z, w_enc and b_enc from the pairs."""
        z, w_enc = ctx.saved_tensors
        token, latent, dead = ctx.codes.token, ctx.codes.latent, ctx.dead
        n_models, d_model, n_latents = w_enc.shape
        flat_z = z.flatten(1)
        order = order_by_latent(latent, n_latents)
        sorted_pairs = latent[order], token[order], grad_value[order], n_latents
        out = ctx.workspace.take("grad_enc", (n_latents, n_models * d_model), z)
        grad_rows = sum_rows(flat_z, *sorted_pairs, out)
        grad_bias = sum_rows(z.new_ones(z.shape[0], 1), *sorted_pairs).squeeze(1)
        if dead is not None:
            dead.add_outer(grad_rows, grad_dead, flat_z)
            dead.add_outer(grad_bias.unsqueeze(1), grad_dead, z.new_ones(z.shape[0], 1))
        grad_z = None
        if ctx.needs_input_grad[0]:
            rows = latent_rows(w_enc)
            grad_z = sum_rows(rows, token, latent, grad_value, z.shape[0])
            if dead is not None:
                grad_z = grad_z + dead.decode(grad_dead, rows)
            grad_z = grad_z.view_as(z)
        grad_w_enc = grad_rows.view(n_latents, n_models, d_model).permute(1, 2, 0)
        return grad_z, grad_w_enc, grad_bias, None, None, None, None


def sparse_decode(
    encoded: EncodedBatch, w_dec: torch.Tensor, n_tokens: int, workspace: Workspace | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """sum_j f_ij W_dec_j of the selected and of the dead latents: (n_tokens, M, d) each, no bias.

    `w_dec` is (F, M, d); its gradient touches the pairs only and lies in the `workspace`.
    """
    pairs = SparseCodes(encoded.token, encoded.latent, encoded.value.detach())
    decoded: tuple[torch.Tensor, torch.Tensor] = SparseDecode.apply(  # type: ignore[no-untyped-call]
        encoded.value,
        encoded.dead_value,
        w_dec,
        pairs,
        encoded.dead,
        n_tokens,
        workspace or Workspace(),
    )
    return decoded


class SparseDecode(torch.autograd.Function):
    """See `sparse_decode`; one function for both, so that W_dec has one gradient to fill."""

    @staticmethod
    def forward(
        ctx: Any,
        value: torch.Tensor,
        dead_value: torch.Tensor,
        w_dec: torch.Tensor,
        codes: SparseCodes,
        dead: DeadCodes | None,
        n_tokens: int,
        workspace: Workspace,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode the pairs."""
        ctx.save_for_backward(value, dead_value, w_dec)
        ctx.codes, ctx.dead, ctx.workspace = codes, dead, workspace
        rows = w_dec.flatten(1)
        out = sum_rows(rows, codes.token, codes.latent, value, n_tokens)
        shape = (n_tokens, *w_dec.shape[1:])
        if dead is None:
            return out.view(shape), value.new_zeros(0)
        return out.view(shape), dead.decode(dead_value, rows).view(shape)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: torch.Tensor, grad_dead: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        """Gradients of both values and of w_dec."""
        value, dead_value, w_dec = ctx.saved_tensors
        n_latents, rows = w_dec.shape[0], w_dec.flatten(1)
        flat_grad = grad.flatten(1).contiguous()
        order = order_by_latent(ctx.codes.latent, n_latents)
        latent, token = ctx.codes.latent[order], ctx.codes.token[order]
        grad_value = torch.empty_like(value)
        # By latent the large matrix is read once from end to end, the small one at random.
        grad_value[order] = pair_products(rows, flat_grad, latent, token)
        out = ctx.workspace.take("grad_dec", tuple(rows.shape), rows)
        grad_rows = sum_rows(flat_grad, latent, token, value[order], n_latents, out)
        grad_dead_value = None
        if ctx.dead is not None:
            flat_dead = grad_dead.flatten(1).contiguous()
            grad_dead_value = ctx.dead.products(flat_dead, rows)
            ctx.dead.add_outer(grad_rows, dead_value, flat_dead)
        return grad_value, grad_dead_value, grad_rows.view_as(w_dec), None, None, None, None


def latent_rows(w_enc: torch.Tensor) -> torch.Tensor:
    """`W_enc` (M, d, F) as (F, M*d); a view where the memory lies latent by latent."""
    return w_enc.permute(2, 0, 1).flatten(1)
