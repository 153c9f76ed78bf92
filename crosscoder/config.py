"""How a crosscoder is trained: every choice by name."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from crosscoder.errors import InputError
from crosscoder.registry import Registry

if TYPE_CHECKING:
    from crosscoder.sparsity import Activation

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
ReconstructionLoss = Literal["squared", "unsquared"]
Precision = Literal["float32", "bfloat16"]
StoredType = Literal["float32", "bfloat16", "float16"]
"""Type of weights while a model reads, and of stored activations."""
Overlap = Literal["exclude", "keep"]
SideName = Literal["target", "reference"]
SIDES: tuple[SideName, SideName] = ("target", "reference")
"""The two sides of a comparison."""
STABLE_FROM = 0.5
"""Share of the other seeds with a counterpart from which on a latent is called stable."""

ACTIVATIONS: Registry[type[Activation]] = Registry(
    "activation",
    "difflens.activations",
    {"batch_topk": "crosscoder.sparsity:BatchTopK", "l1": "crosscoder.sparsity:L1"},
)
"""How training keeps a crosscoder sparse; none is imported before it is used."""
ActivationName = Annotated[str, ACTIVATIONS]

DictionarySize = Annotated[int, Field(ge=2)]
ActiveLatents = Annotated[int, Field(ge=1)]

MIN_BLOCKS = 8
"""Blocks that a jackknife needs, and in which a latent must be active for its nu to be defined."""
LEAST_SCRAMBLES = 4
"""Fewest scrambled fine-tunes whose spread says anything."""


@dataclass(frozen=True)
class FormerName:
    """Marks a renamed key with its earlier name: `key: Annotated[int, FormerName("old_key")]`.

    The earlier name is still read, with one warning, and it is the name that hashes see.
    """

    name: str


RECORDED = {"is_recorded": True}
"""Validation context of settings that were stored by an earlier run: their names get no warning."""


class Settings(BaseModel):
    """Named settings: immutable, unknown names and infinite numbers are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _read_former_names(cls, values: Any, info: ValidationInfo) -> Any:
        """Move values from earlier names to the present ones."""
        if not isinstance(values, Mapping):
            return values
        former = {old: new for new, old in cls._former_names().items() if old in values}
        for old, new in former.items():
            if new in values:
                raise ValueError(f"{old}: {new}, its new name, is given too; remove {old}")
            if info.context != RECORDED:
                _warn_renamed(old, new)
        return {former.get(key, key): value for key, value in values.items()}

    @classmethod
    def _former_names(cls) -> dict[str, str]:
        """Earlier name by present name."""
        return {
            name: mark.name
            for name, field in cls.model_fields.items()
            for mark in field.metadata
            if isinstance(mark, FormerName)
        }

    def hash_content(self, exclude: set[str] | None = None) -> dict[str, Any]:
        """JSON values for a hash: renamed keys under their earlier names, so that hashes stay."""
        former = self._former_names()
        dumped = self.model_dump(mode="json", exclude=exclude)
        return {former.get(key, key): value for key, value in dumped.items()}


@cache
def _warn_renamed(old: str, new: str) -> None:
    """Warn of an earlier name, once in a process."""
    logger.warning("%s: this key is now called %s; rename it", old, new)


class TextSettings(Settings):
    """How the text is read."""

    max_length: int = Field(512, ge=8)
    """Tokens after which a document is cut."""
    date: dt.date | None = None
    """Day that the clock of a chat template shows (`"2025-01-31"`); where it is missing, the day of
    the study's first run, in UTC."""
    max_lost: float = Field(0.05, ge=0, le=1)
    """Largest share, for each role, of the messages' characters (white space aside) that may be
    missing in what the chat template renders; `harvest` refuses to go on above it. Documents that
    the template refuses count as missing, and are left out below it."""
    answer_tokens: int | None = Field(None, ge=0)
    """Tokens after which each assistant message is cut; `0` leaves the prompts alone. Without it
    they are read whole."""


class GenerationSettings(Settings):
    """How a subject model answers prompts."""

    max_new_tokens: int = Field(64, ge=1)
    """Tokens after which an answer is cut."""
    temperature: float = Field(0.0, ge=0)
    """0 takes the likeliest token each time (greedy), 1 samples as the model predicts."""
    samples: int = Field(1, ge=1)
    """Answers to each prompt; more than one needs a temperature."""
    seed: int = 0
    """Seed of the sampling."""
    batch_size: int = Field(32, ge=1)
    """Prompts answered side by side; more are faster and take more memory."""

    @model_validator(mode="after")
    def _samples_differ(self) -> GenerationSettings:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples: greedy answers are all the same; set temperature above 0")
        return self

    def deciding(self) -> dict[str, Any]:
        """The settings that decide the text; greedy text does not depend on the seed."""
        greedy = {"seed"} if self.temperature == 0 else set()
        return self.model_dump(mode="json", exclude={"batch_size"} | greedy)


class SplitSettings(Settings):
    """Which documents training does not see."""

    held_out: float = Field(0.1, gt=0, lt=0.9)
    """Share of documents not trained on; the activation threshold (theta) is set on them and
    reconstruction measured on them."""


class HarvestSettings(Settings):
    """Which activations are kept."""

    layer: int = Field(ge=0)
    """Decoder block, counted from 0, whose output (residual stream) is read."""
    batch_tokens: int = Field(2048, ge=1)
    """Padded tokens in one forward pass; a longer document is a pass of its own."""
    shard_tokens: int = Field(16384, ge=1)
    """Tokens after which a shard file is closed at the end of a document."""
    storage_dtype: StoredType = "float32"
    """Type of the stored activations."""
    skip_first: int = Field(4, ge=0)
    """Content tokens masked at the start of a document (their norms are outliers)."""
    max_norm_ratio: float = Field(4.0, gt=1)
    """A token whose norm exceeds this multiple of the model's median norm is masked."""
    template_model: str | None = None
    """Model whose chat template is used where the models' templates differ."""


class DictionarySettings(Settings):
    """How large a dictionary is, and how much of it is active."""

    n_latents: DictionarySize = 4096
    """Dictionary size F."""
    k: ActiveLatents = 32
    """`batch_topk`: average number of active latents per token that training and theta aim at."""

    @model_validator(mode="after")
    def _k_fits(self) -> DictionarySettings:
        check_k(self.k, self.n_latents)
        return self


class TrainSettings(Settings):
    """The optimiser, the objective and the schedule."""

    epochs: float = Field(8.0, gt=0)
    """Passes over the training tokens; an incomplete batch at the end of a pass is left out."""
    batch_size: int = Field(2048, ge=2)
    """Unmasked tokens per step; all training tokens where there are fewer."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of Adam (betas 0.9 and 0.999)."""
    warmup_steps: int = Field(20, ge=0)
    """Steps of linear warm-up."""
    decay_fraction: float = Field(0.3, ge=0, le=1)
    """Share of the last steps over which the rate falls linearly to zero."""
    difference_weight: float = Field(1.0, gt=0)
    """Weight of what differs between the models, in the loss and in the selection, for close
    fine-tunes; 1 is the plain loss."""
    exclusive_fraction: Annotated[float, FormerName("dedicated_share")] = Field(0.0, ge=0, lt=1)
    """Fraction of the latents that is exclusive to each model; not with `difference_weight`."""
    aux_coefficient: float = Field(1 / 32, ge=0)
    """`batch_topk`: weight of the AuxK loss on dead latents."""
    revive_dead: Annotated[bool, FormerName("wake_silent")] = True
    """`batch_topk`: raise the biases of dead latents that no token activates, which AuxK cannot
    reach."""
    dead_after_tokens: int | None = Field(None, ge=1)
    """Tokens without firing after which a latent is dead; without it, 10 million or one epoch,
    whichever is smaller."""
    max_dead_share: float = Field(0.9, gt=0, le=1)
    """Share of dead latents above which the run stops: the dictionary has collapsed."""
    checkpoint_every: int = Field(50, ge=1)
    """Steps between resumable checkpoints."""
    device: Device = "auto"
    """Where the steps are taken; `auto` is the GPU where there is one."""
    precision: Precision = "float32"
    """`batch_topk`: number type of the two factors of the encoder's matrix product; all else is
    float32."""

    @model_validator(mode="after")
    def _exclusive_latents_have_unscaled_differences(self) -> TrainSettings:
        if self.exclusive_fraction > 0 and self.difference_weight != 1:
            raise ValueError(
                "exclusive_fraction: its latents have one model alone, difference_weight mixes the "
                "models; leave one of them out"
            )
        return self


class SparsitySettings(Settings):
    """The weight of the penalty of activations that have one."""

    l1_coefficient: float = Field(1.0, ge=0)
    """`l1`: weight of the sum-of-norms penalty."""


class ScalingSettings(Settings):
    """How the intervals of latent scaling and the test of a change are found."""

    n_blocks: int = Field(20, ge=MIN_BLOCKS)
    """Number of blocks of whole documents for the jackknife intervals."""
    draws: int = Field(2000, ge=0, le=100_000)
    """Random swaps of the two models behind the test of each change; with 0 an exact test is used,
    which assumes independent latents."""
    scrambles: int = Field(8, ge=0, le=64)
    """Scrambled fine-tunes that read a part of the text, at least 4: what a change of the weights
    without meaning does to each latent, beside which the shift of a category is judged. With 0, or
    where the models' weights do not differ in place, it is judged by the variation between
    documents and latents alone, and meaningless changes are called."""
    scramble_documents: int = Field(100, ge=8)
    """Documents, spread over the text, that each scrambled fine-tune reads."""

    @field_validator("scrambles")
    @classmethod
    def _enough_to_see_a_spread(cls, value: int) -> int:
        if 0 < value < LEAST_SCRAMBLES:
            raise ValueError(f"{value} say nothing of their spread; give 0, or 4 or more")
        return value


class IsolationSettings(Settings):
    """When a latent counts as specific to one model."""

    nu_error_max: float = Field(0.2, gt=0)
    """Threshold on nu_error (arXiv 2504.02922)."""
    nu_reconstruction_max: float = Field(0.5, gt=0)
    """Threshold on nu_reconstruction (arXiv 2504.02922)."""
    min_documents: int = Field(8, ge=1)
    """Documents in which a latent must be active."""
    min_delta_norm: float = Field(0.6, ge=0, lt=1)
    """`strict`, `significant`: latents with delta_norm at or below this are never chosen; 0.6 is
    the upper edge of the published bin of shared latents."""
    top: int = Field(40, ge=1)
    """`ranked`, `shifted`, `changed`, `effect`: latents per side."""
    max_density: float = Field(0.2, gt=0, le=1)
    """`ranked`, `shifted`, `changed`, `effect`: share of tokens above which a latent is too dense
    to be a concept."""


class EvidenceSettings(Settings):
    """How much evidence is collected for each latent."""

    top: int = Field(12, ge=2)
    """Strongest documents per latent."""
    quantile: int = Field(8, ge=0)
    """Documents drawn over the lower quantiles of activation."""
    negative: int = Field(8, ge=0)
    """Documents in which the latent does not fire."""
    similar: int = Field(0, ge=0)
    """How many of the negatives contain the words on which the latent fires most."""
    other_model: int = Field(4, ge=0)
    """Documents where the latent is inactive and its counterpart on the other side fires."""
    window: int = Field(32, ge=4)
    """Tokens in a window of evidence; a shorter document is shown whole."""

    @model_validator(mode="after")
    def _similar_are_negatives(self) -> EvidenceSettings:
        if self.similar > self.negative:
            raise ValueError(f"similar: {self.similar} of {self.negative} negatives; lower it")
        return self


class EffectSettings(Settings):
    """How the effect of latents on the output is measured."""

    max_tokens: int = Field(2000, ge=64)
    """Tokens of random documents, not trained on, that are read; cost grows in proportion."""
    points: int = Field(4, ge=1)
    """Points of integrated gradients between the two models' activations."""
    controls: int = Field(200, ge=19)
    """Random sets of latents, alike in number and magnitude, that each set's attribution is
    compared with."""
    patched_controls: int = Field(20, ge=0)
    """How many of them are also patched, for the isolated sets."""
    precision: Literal["auto", "float32"] = "auto"
    """`auto`: patched passes multiply in bfloat16 on CPUs with AMX, adding in float32."""
    top: int = Field(100, ge=1)
    """Latents in the sets chosen by attribution and by magnitude."""
    ablated: int = Field(8, ge=0)
    """First latents of each side, and as many of the largest attribution, that are ablated one by
    one in both models, to see whether they do the same there; it takes 8 documents in which a
    latent fires."""


class OutputTuningSettings(Settings):
    """How decoders are tuned on the models' outputs after training."""

    tuning_steps: int = Field(0, ge=0)
    """Steps after training that tune the decoders, through the models' upper blocks, to restore
    more of the output gap; the encoder stays. 0 leaves it out."""
    tuning_tokens: int = Field(512, ge=16)
    """Padded tokens of random training documents in one of these steps."""
    tuning_rate: float = Field(0.002, gt=0)
    """Their peak learning rate, as a share of the decoder's root mean square."""


def check_k(k: int, n_latents: int) -> None:
    """ValueError where more latents are to be active than there are."""
    if k > n_latents:
        raise ValueError(f"k: {k} exceeds n_latents = {n_latents}; lower k")


def check_exclusive_fraction(fraction: float, n_models: int) -> None:
    """InputError where exclusive latents leave no latent that all models share."""
    if n_models * fraction >= 1:
        raise InputError(
            f"train.exclusive_fraction: {fraction:g} for each of {n_models} models leaves no "
            "latent that all of them share; lower it"
        )


class TrainConfig(TrainSettings, SparsitySettings, SplitSettings):
    """How a crosscoder is trained; `held_out` counts where the store is not split already."""

    seed: int = 0
    """Seed of the weights, of the order of the data, and of the split where the store has none."""
    data_seed: int | None = None
    """Seed of the order of the data, where it has its own."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """The gradient of all weights together is scaled down to this L2 norm."""
    reconstruction: ReconstructionLoss = "squared"
    """`squared` or `unsquared`, see `LossSettings`; coefficients are not portable across them."""
    k_initial: int | None = Field(None, ge=1)
    """k of the first step, where `k_annealing_steps` > 0."""
    k_annealing_steps: int = Field(0, ge=0)
    """Steps over which k falls from `k_initial`; 0 trains with the target k throughout."""
    b_dec_init: Literal["zero", "mean", "geometric_median"] = "mean"
    """Decoder bias at the start: of the first batch, per model."""
    theta: Literal["calibrated", "ema_min"] = "calibrated"
    """`calibrated`: mean L0 over held-out tokens equals k. `ema_min`: running mean of the
    smallest selected v of each batch, as published; its L0 drifts above k."""
    theta_start_step: int = Field(1000, ge=0)
    """Step from which `ema_min` follows the batches."""

    @model_validator(mode="after")
    def _annealing_has_a_start(self) -> TrainConfig:
        if self.k_annealing_steps > 0 and self.k_initial is None:
            raise ValueError("k_initial: missing; k_annealing_steps needs the k of the first step")
        return self

    @classmethod
    def minder2025(cls, **changes: Any) -> TrainConfig:
        """The optimiser of arXiv 2504.02922, to go with `CrosscoderConfig(normalisation="none")`.

        Published: unsquared loss, Adam 1e-4, 1000 steps of warm-up and no decay, clipping at 1,
        AuxK 1/32 after 10 M tokens, geometric median, running threshold, k = 100 fixed.
        """
        published: dict[str, Any] = {
            "learning_rate": 1e-4,
            "warmup_steps": 1000,
            "decay_fraction": 0.0,
            "reconstruction": "unsquared",
            "aux_coefficient": 1 / 32,
            "revive_dead": False,
            "dead_after_tokens": 10_000_000,
            "b_dec_init": "geometric_median",
            "theta": "ema_min",
        }
        return cls(**{**published, **changes})


EvidenceKind = Literal["top", "quantile", "negative", "other_model"]


class EvidenceConfig(EvidenceSettings):
    """How much evidence is collected for each latent, and how it is drawn."""

    strata: int = Field(default=4, ge=1)
    """Equal parts into which the documents below the strongest are ranked."""
    seed: int = 0
    """Seed of the random draws."""


def with_spare(wanted: int) -> int:
    """Candidates for that many windows, so that repeated texts can be passed over."""
    return 2 * wanted + 4 if wanted else 0
