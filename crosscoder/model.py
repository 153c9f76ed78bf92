"""The crosscoder: one dictionary of latents, one encoder, decoder and normaliser per model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from crosscoder.batch_topk import (
    EncodedBatch,
    Selection,
    SparseCodes,
    batch_topk,
    latent_rows,
    sparse_decode,
    sparse_encode,
    threshold_codes,
)
from crosscoder.config import ActivationName, ActiveLatents, DictionarySize, Precision, check_k
from crosscoder.errors import InputError
from crosscoder.kernels import Workspace, sum_rows


@dataclass(frozen=True)
class Normaliser:
    """Per-model affine map z = (x - mean) / scale.

    `fit_normaliser` chooses `scale` so that the mean of ||z||^2 over tokens is d for every model
    (the "sqrt(d)" convention: an average coordinate has rms 1). One scalar per model keeps the
    relative variance of coordinates, so directions and their cosines are those of the raw space.
    """

    mean: torch.Tensor
    """(M, d) mean activation."""
    scale: torch.Tensor
    """(M,) positive divisor: the root mean square of a centred coordinate."""

    @classmethod
    def identity(cls, n_models: int, d_model: int) -> Normaliser:
        """The map that changes nothing."""
        return cls(torch.zeros(n_models, d_model), torch.ones(n_models))

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """Raw activations (..., M, d) to normalised ones."""
        return (x - self.mean) / self.scale.unsqueeze(-1)

    def denormalise(self, z: torch.Tensor) -> torch.Tensor:
        """Normalised activations (..., M, d) to raw ones: the inverse of `normalise`."""
        return z * self.scale.unsqueeze(-1) + self.mean


def fit_normaliser(batches: Iterable[torch.Tensor]) -> Normaliser:
    """Fit mean and scale to batches (B, M, d) of raw activations, accumulated in float64.

    Raises InputError where there are no tokens, where one is not finite, or where all the
    tokens of a model are equal.
    """
    moments: _Moments | None = None
    for batch in batches:
        if moments is None:
            moments = _Moments.empty(batch.shape[1], batch.shape[2])
        moments.add(batch.double())
    if moments is None or moments.count == 0:
        raise InputError("activations: no unmasked token to train on; give more text")
    d_model = moments.mean.shape[1]
    scale = (moments.deviation / moments.count / d_model).sqrt()
    if not bool(torch.isfinite(scale).all()):
        raise InputError("activations: a value is not finite; harvest again with dtype float32")
    if bool((scale == 0).any()):
        model = int((scale == 0).nonzero()[0])
        raise InputError(f"activations: all tokens of model {model} are equal; check the layer")
    return Normaliser(moments.mean.float(), scale.float())


@dataclass
class _Moments:
    """Running mean and squared deviation, merged batch by batch (Chan, Golub, LeVeque 1983)."""

    count: int
    mean: torch.Tensor
    deviation: torch.Tensor
    """(M,) sum over tokens and coordinates of the squared distance from the mean."""

    @classmethod
    def empty(cls, n_models: int, d_model: int) -> _Moments:
        mean = torch.zeros(n_models, d_model, dtype=torch.float64)
        return cls(0, mean, torch.zeros(n_models, dtype=torch.float64))

    def add(self, batch: torch.Tensor) -> None:
        n_new = batch.shape[0]
        if n_new == 0:
            return
        batch_mean = batch.mean(0)
        shift = batch_mean - self.mean
        total = self.count + n_new
        between = shift.square().sum(-1) * (self.count * n_new / total)
        self.deviation += (batch - batch_mean).square().sum((0, 2)) + between
        self.mean += shift * (n_new / total)
        self.count = total


class CrosscoderConfig(BaseModel):
    """What a crosscoder is, apart from its weights; immutable, unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_models: int = Field(ge=1)
    """M, the number of subject models."""
    d_model: int = Field(ge=1)
    """Width d of the residual stream, the same in every model."""
    n_latents: DictionarySize
    """F, the size of the dictionary."""
    k: ActiveLatents
    """Average number of active latents per token that training and theta aim at."""
    model_names: tuple[str, ...]
    """Names of the subject models in the order of the model axis."""
    activation: ActivationName = "batch_topk"
    """`batch_topk` keeps the k*B largest weighted activations of a batch, `l1` all positive."""
    code_norm: Literal["sum_of_norms", "concatenated", "none"] = "sum_of_norms"
    """Weight n_j of a latent in the selection: `sum_of_norms` is sum_m ||d_j^m|| (arXiv
    2504.02922); published crosscoders also have the norm of the concatenated rows, or 1."""
    normalisation: Literal["affine", "none"] = "affine"
    """`affine` centres each model and scales it to mean ||z||^2 = d; `none` leaves it raw."""
    same_init: bool = True
    """One random matrix for all models, so that every latent starts shared."""
    init_norm: float = Field(1.0, gt=0)
    """Norm of every decoder row and encoder column of one model at the start."""
    layer: int | None = None
    """Decoder block, counted from 0, whose output is read."""
    tokenizer_sha256: str | None = None
    """Hash of the tokenizer that all subject models share."""

    @model_validator(mode="after")
    def _sizes_agree(self) -> CrosscoderConfig:
        if len(self.model_names) != self.n_models:
            raise ValueError(
                f"model_names: {len(self.model_names)} names for n_models = {self.n_models}"
            )
        if len(set(self.model_names)) != self.n_models:
            raise ValueError("model_names: a name occurs twice; rename one")
        check_k(self.k, self.n_latents)
        return self

    def model_index(self, name: str) -> int:
        """Position of a model on the model axis; InputError where the name is unknown."""
        if name not in self.model_names:
            raise InputError(f"model {name!r}: this crosscoder has {', '.join(self.model_names)}")
        return self.model_names.index(name)


class Crosscoder(nn.Module):
    """A crosscoder over M models.

    pre = sum_m z^m W_enc^m + b_enc;  a = relu(pre);  zhat^m = f W_dec^m + b_dec^m, where f keeps
    some of the a, chosen by v = a * n with n_j = sum_m ||d_j^m||, and leaves them unscaled.
    Every method works in normalised space: call `normalise` on raw activations first.
    """

    theta: torch.Tensor
    act_mean: torch.Tensor
    act_scale: torch.Tensor

    def __init__(
        self,
        config: CrosscoderConfig,
        generator: torch.Generator | None = None,
        normaliser: Normaliser | None = None,
    ) -> None:
        """Weights are drawn from `generator`; without one they are zero, to be filled."""
        super().__init__()
        self.config = config
        n_models, d_model, n_latents = config.n_models, config.d_model, config.n_latents
        # In memory latent by latent, like W_dec: a latent's weights lie together, so that
        # gradients of the selected latents need no transposition.
        w_enc = torch.zeros(n_latents, n_models, d_model).permute(1, 2, 0)
        self.W_enc = nn.Parameter(w_enc)
        """(M, d, F)"""
        self.W_dec = nn.Parameter(torch.zeros(n_latents, n_models, d_model))
        """(F, M, d)"""
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        """(F,)"""
        self.b_dec = nn.Parameter(torch.zeros(n_models, d_model))
        """(M, d)"""
        normaliser = normaliser or Normaliser.identity(n_models, d_model)
        self.register_buffer("theta", torch.tensor(-1.0, dtype=torch.float64))
        self.register_buffer("act_mean", normaliser.mean.clone())
        self.register_buffer("act_scale", normaliser.scale.clone())
        if generator is not None:
            self._initialise(generator)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """Kaiming-uniform columns of norm `init_norm`; the decoder is the encoder transposed."""
        config = self.config
        n_drawn = 1 if config.same_init else config.n_models
        drawn = torch.empty(config.n_latents, n_drawn, config.d_model)
        bound = math.sqrt(6 / config.d_model)
        drawn.uniform_(-bound, bound, generator=generator)
        drawn *= config.init_norm / drawn.norm(dim=-1, keepdim=True)
        self.W_dec.copy_(drawn.expand_as(self.W_dec))
        self.W_enc.copy_(self.W_dec.permute(1, 2, 0))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # Whatever the type of the weights becomes, theta stays exact (float64).
        theta = self.theta
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.theta = theta.to(self.b_enc.device)
        return self

    @property
    def normaliser(self) -> Normaliser:
        """The affine map between raw activations and the space of all other methods."""
        return Normaliser(self.act_mean, self.act_scale)

    @property
    def calibrated(self) -> bool:
        """Whether theta is set."""
        return float(self.theta) >= 0

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """Raw activations (B, M, d) to normalised ones."""
        return self.normaliser.normalise(x)

    def denormalise(self, z: torch.Tensor) -> torch.Tensor:
        """Normalised activations (B, M, d) to raw ones."""
        return self.normaliser.denormalise(z)

    def decoder_norms(self) -> torch.Tensor:
        """||d_j^m||: (F, M)."""
        norms: torch.Tensor = self.W_dec.norm(dim=-1)
        return norms

    def code_norms(self) -> torch.Tensor:
        """n_j, by default sum_m ||d_j^m||: (F,)."""
        if self.config.code_norm == "concatenated":
            joint: torch.Tensor = self.W_dec.flatten(1).norm(dim=-1)
            return joint
        if self.config.code_norm == "none":
            return torch.ones_like(self.b_enc)
        return self.decoder_norms().sum(-1)

    def pre_activations(self, z: torch.Tensor) -> torch.Tensor:
        """sum_m z^m W_enc^m + b_enc of normalised (B, M, d), by one product: (B, F)."""
        return torch.addmm(self.b_enc, z.flatten(1), latent_rows(self.W_enc).T)

    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """All activations a = relu(pre) of normalised (B, M, d), before selection: (B, F)."""
        return self.pre_activations(z).relu()

    def select(self, a: torch.Tensor, k_total: int) -> SparseCodes:
        """The `k_total` largest a * n of (B, F) as unscaled activations."""
        kept = batch_topk(a * self.code_norms(), k_total)
        return SparseCodes(kept.token, kept.latent, a[kept.token, kept.latent])

    def encode_topk(
        self,
        z: torch.Tensor,
        k_total: int,
        dead: torch.Tensor | None = None,
        precision: Precision = "float32",
        workspace: Workspace | None = None,
    ) -> EncodedBatch:
        """Encode and select at once, without keeping the (B, F) tensor; differentiable.

        Of the latents `dead` (n_dead,), ascending, the d // 2 largest of each token are kept
        as well. A `workspace` lends the memory of the pre-activations and of the gradient.
        """
        selection = Selection(k_total, self.code_norms().detach(), dead, self.config.d_model // 2)
        return sparse_encode(z, self.W_enc, self.b_enc, selection, precision, workspace)

    @torch.no_grad()
    def encode_thresholded(self, z: torch.Tensor) -> SparseCodes:
        """f = a where a * n > theta, unscaled, of normalised (B, M, d).

        Raises InputError while theta is not calibrated.
        """
        if not self.calibrated:
            raise InputError(
                "crosscoder: theta is not calibrated; finish training, or calibrate_theta first"
            )
        return threshold_codes(self.pre_activations(z), self.code_norms(), float(self.theta))

    def decode(self, codes: SparseCodes, n_tokens: int) -> torch.Tensor:
        """Reconstruction of all models from sparse codes, normalised: (n_tokens, M, d)."""
        rows = self.W_dec.detach().flatten(1)
        out = sum_rows(rows, codes.token, codes.latent, codes.value.detach(), n_tokens)
        return out.view(n_tokens, *self.b_dec.shape) + self.b_dec.detach()

    def decode_encoded(
        self, encoded: EncodedBatch, n_tokens: int, workspace: Workspace | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruction (n_tokens, M, d), and what dead latents add up to; differentiable.

        The second has no bias, and no element where no latent is dead.
        """
        out, dead = sparse_decode(encoded, self.W_dec, n_tokens, workspace)
        return out + self.b_dec, dead

    def decode_dense(self, f: torch.Tensor) -> torch.Tensor:
        """Reconstruction from dense codes (B, F): (B, M, d)."""
        return (f @ self.W_dec.flatten(1)).view(-1, *self.b_dec.shape) + self.b_dec
