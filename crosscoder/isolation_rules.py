"""Isolation rules: when a latent counts as specific to one model.

A rule is one class that registers itself under its name in `[isolate]`. Nothing heavy is imported
here, because every command checks study.toml against the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from crosscoder.config import IsolationSettings
from crosscoder.errors import InputError
from crosscoder.registry import Registry

if TYPE_CHECKING:
    from crosscoder.scaling import PairScaling
    from crosscoder.scaling_sums import BoolArray, FloatArray


SPECIFIC_WORDS: Mapping[str, str] = MappingProxyType(
    {"target": "target-specific", "reference": "reference-specific"}
)
SHIFTED_WORDS: Mapping[str, str] = MappingProxyType(
    {"target": "strengthened", "reference": "weakened"}
)


@dataclass(frozen=True)
class Specificity:
    """How specific a latent is to its side; None = undefined or unknown."""

    rank: int | None = None
    """Place in its set, 1 = most specific."""
    nu_error: float | None = None
    nu_error_high: float | None = None
    nu_reconstruction: float | None = None
    nu_reconstruction_high: float | None = None


class IsolationRule(IsolationSettings):
    """When a latent counts as specific to the target model.

    nu looks along the target's decoder row only: where that row is nothing, or the reference has a
    row as long in another direction, a small nu says nothing. `min_delta_norm` is the upper edge of
    the published bin of shared latents.

    A rule overrides `text`, `choose` or `candidates`, and what else differs. Fields that it adds
    are keys of `[isolate]`.
    """

    kind: str
    """The name under which it is registered."""

    side_words: ClassVar[Mapping[str, str]] = SPECIFIC_WORDS
    """What a latent of each side is called, by side."""
    measures: ClassVar[tuple[str, ...]] = ("nu_error", "nu_reconstruction", "delta_norm")
    """Columns of PairScaling whose spread the message gives."""
    sides_are_apart: ClassVar[bool] = False
    """Whether a latent is never on both sides of two models that are compared directly."""
    has_thresholds: ClassVar[bool] = False
    """Whether it may choose nothing: null runs count what such rules choose."""
    needs_attribution: ClassVar[bool] = False
    """Whether it reads what each latent does to the output: the models run for it."""
    swept: ClassVar[str] = "rank within the side"
    """What `strictness` measures, as the report calls it."""

    @property
    def text(self) -> str:
        """The rule in words."""
        raise NotImplementedError

    @property
    def limit(self) -> int | None:
        """Most latents per side; what overlap removes is then replaced by the next in rank."""
        return None

    def eligible(self, pair: PairScaling) -> BoolArray:
        """(F,) latents that the rule may choose from, and among which it ranks."""
        return (pair.n_documents >= self.min_documents) & pair.defined

    def candidates(self, pair: PairScaling, eligible: BoolArray) -> BoolArray:
        """(F,) eligible latents that belong to the target's side, whatever the thresholds."""
        return eligible

    def choose(self, pair: PairScaling, eligible: BoolArray) -> BoolArray:
        """(F,) candidates that count as specific, before `limit`."""
        return self.candidates(pair, eligible)

    def settle(self, target: PairScaling, reference: PairScaling) -> tuple[IsolationRule, str]:
        """The rule that is used for a comparison, and why in one line; "" where that is itself."""
        return self, ""

    def score(self, pair: PairScaling, eligible: BoolArray) -> FloatArray:
        """(F,) order of the chosen, lowest first; NaN where not eligible.

        By default rank(nu_reconstruction) + rank(nu_error) among the eligible (arXiv 2504.02922).
        """
        import numpy as np
        from scipy.stats import rankdata

        score = np.full(len(eligible), np.nan)
        if eligible.any():
            score[eligible] = rankdata(pair.nu_reconstruction[eligible]) + rankdata(
                pair.nu_error[eligible]
            )
        return score

    def strictness(self, latent: Specificity) -> float | None:
        """How strict the rule could be and still choose the latent: lowest is strictest.

        None where that is undefined.
        """
        return None if latent.rank is None else float(latent.rank)

    def passing(self, pair: PairScaling, eligible: BoolArray, upper: bool = False) -> BoolArray:
        """(F,) eligible latents that pass all thresholds, by the upper interval ends if `upper`."""
        error = pair.nu_error_high if upper else pair.nu_error
        reconstruction = pair.nu_reconstruction_high if upper else pair.nu_reconstruction
        low = (error < self.nu_error_max) & (reconstruction < self.nu_reconstruction_max)
        return eligible & (pair.delta_norm > self.min_delta_norm) & low

    @property
    def _limits(self) -> str:
        return (
            f"nu_error < {self.nu_error_max:g}, nu_reconstruction < "
            f"{self.nu_reconstruction_max:g}, delta_norm > {self.min_delta_norm:g}"
        )

    @property
    def _documents(self) -> str:
        return f"active in at least {self.min_documents} documents"


RULES: Registry[type[IsolationRule]] = Registry("isolation rule", "difflens.rules")
"""What `[isolate] rule` may name."""


class ThresholdRule(IsolationRule):
    """A rule that compares both nu, or their upper bounds, with thresholds."""

    has_thresholds: ClassVar[bool] = True
    swept: ClassVar[str] = "factor on both thresholds"

    def _factor(self, error: float | None, reconstruction: float | None) -> float | None:
        if error is None or reconstruction is None:
            return None
        return max(error / self.nu_error_max, reconstruction / self.nu_reconstruction_max)


@RULES.register("strict")
class StrictRule(ThresholdRule):
    """Both nu are under their thresholds."""

    kind: Literal["strict"] = "strict"

    @property
    def text(self) -> str:
        """The rule in words."""
        return f"strict ({self._limits}, {self._documents})"

    def choose(self, pair: PairScaling, eligible: BoolArray) -> BoolArray:
        """(F,) latents that pass all thresholds."""
        return self.passing(pair, eligible)

    def strictness(self, latent: Specificity) -> float | None:
        """The smallest factor on both thresholds with which the latent still passes."""
        return self._factor(latent.nu_error, latent.nu_reconstruction)


@RULES.register("significant")
class SignificantRule(ThresholdRule):
    """The upper bounds of both intervals are under the thresholds."""

    kind: Literal["significant"] = "significant"

    @property
    def text(self) -> str:
        """The rule in words."""
        return f"significant (interval under {self._limits}, {self._documents})"

    def choose(self, pair: PairScaling, eligible: BoolArray) -> BoolArray:
        """(F,) latents whose upper bounds pass all thresholds."""
        return self.passing(pair, eligible, upper=True)

    def strictness(self, latent: Specificity) -> float | None:
        """The factor on both thresholds that the latent's upper bounds still pass."""
        return self._factor(latent.nu_error_high, latent.nu_reconstruction_high)


@RULES.register("ranked")
class RankedRule(IsolationRule):
    """The `top` latents by the sum of their two ranks."""

    kind: Literal["ranked"] = "ranked"

    @property
    def text(self) -> str:
        """The rule in words."""
        return (
            f"ranked (the {self.top} lowest by rank of nu_error plus rank of nu_reconstruction, "
            f"{self._documents}, density at most {self.max_density:g})"
        )

    @property
    def limit(self) -> int:
        """`top` latents per side."""
        return self.top

    def eligible(self, pair: PairScaling) -> BoolArray:
        """(F,) latents that are active in enough documents and not too dense."""
        return super().eligible(pair) & (pair.density <= self.max_density)


class SidedRule(IsolationRule):
    """A rule whose sides are the signs of the strength shift: strengthened and weakened latents."""

    max_q: float = Field(1.0, gt=0, le=1)
    """`shifted`, `changed`, `effect`: largest Benjamini-Hochberg q of a latent's shift."""

    side_words: ClassVar[Mapping[str, str]] = SHIFTED_WORDS
    measures: ClassVar[tuple[str, ...]] = ("strength_shift", "delta_norm")
    sides_are_apart: ClassVar[bool] = True

    @property
    def limit(self) -> int:
        """`top` latents per side."""
        return self.top

    def eligible(self, pair: PairScaling) -> BoolArray:
        """(F,) latents with a shift, active in enough documents and not too dense."""
        import numpy as np

        is_known = np.isfinite(pair.shift_score) & (pair.density <= self.max_density)
        return is_known & (pair.n_documents >= self.min_documents)

    def candidates(self, pair: PairScaling, eligible: BoolArray) -> BoolArray:
        """(F,) eligible latents that the target uses more strongly."""
        return eligible & (pair.shift_score > 0)

    def choose(self, pair: PairScaling, eligible: BoolArray) -> BoolArray:
        """(F,) candidates whose shift is as certain as `max_q` asks."""
        chosen = self.candidates(pair, eligible)
        return chosen if self.max_q == 1 else chosen & (pair.shift_q <= self.max_q)

    def _words(self, order: str) -> str:
        certain = "" if self.max_q == 1 else f", q of the shift at most {self.max_q:g}"
        return (
            f"{self.kind} (the {self.top} used more strongly with the largest {order}, "
            f"{self._documents}, density at most {self.max_density:g}{certain})"
        )


@RULES.register("shifted")
class ShiftedRule(SidedRule):
    """The `top` latents that the target uses more strongly than the reference."""

    kind: Literal["shifted"] = "shifted"
    order: Literal["score", "t"] = "score"
    """`shifted`: `score` prefers latents whose shift moves the activations most, `t` those whose
    shift is most certain."""

    @property
    def text(self) -> str:
        """The rule in words."""
        by_score = self.order == "score"
        return self._words("|shift| * sqrt(sum of f^2)" if by_score else "|t| of the shift")

    def score(self, pair: PairScaling, eligible: BoolArray) -> FloatArray:
        """(F,) minus the shift score, or minus its t."""
        import numpy as np

        measure = pair.shift_score if self.order == "score" else pair.shift_t
        return np.where(eligible, -measure, np.nan)


@RULES.register("changed")
class ChangedRule(SidedRule):
    """The `top` latents of each sign of the shift whose decoder rows differ most between the
    models: those that were turned as well as those that grew or shrank."""

    kind: Literal["changed"] = "changed"

    measures: ClassVar[tuple[str, ...]] = ("decoder_change", "decoder_cosine", "strength_shift")

    @property
    def text(self) -> str:
        """The rule in words."""
        return self._words("mean of f^2 ||d^target - d^reference||^2")

    def score(self, pair: PairScaling, eligible: BoolArray) -> FloatArray:
        """(F,) minus the decoder change."""
        import numpy as np

        return np.where(eligible, -pair.decoder_change, np.nan)


@RULES.register("effect")
class EffectRule(SidedRule):
    """The `top` latents of each sign of the shift that close most of the output gap between the
    models, by attribution on half of the documents of `[effect]`."""

    kind: Literal["effect"] = "effect"

    measures: ClassVar[tuple[str, ...]] = ("attribution", "decoder_cosine", "strength_shift")
    needs_attribution: ClassVar[bool] = True

    @property
    def text(self) -> str:
        """The rule in words."""
        return self._words("share of the output gap by attribution on half of the documents")

    def choose(self, pair: PairScaling, eligible: BoolArray) -> BoolArray:
        """(F,) candidates that close anything at all, with a shift as certain as `max_q` asks."""
        return super().choose(pair, eligible) & (self.score(pair, eligible) < 0)

    def score(self, pair: PairScaling, eligible: BoolArray) -> FloatArray:
        """(F,) minus the share of the gap; InputError where the pair has no attribution."""
        import numpy as np

        if pair.attribution is None:
            raise InputError("isolation rule effect: the latents have no attribution")
        return np.where(eligible, -pair.attribution, np.nan)


@RULES.register("auto")
class AutoRule(ShiftedRule):
    """`strict` where each side has enough such latents, else `shifted`."""

    kind: Literal["auto"] = "auto"  # type: ignore[assignment]
    min_strict: int = Field(20, ge=1)
    """`auto`: latents that must pass `strict` on each side; with fewer, `shifted` is used."""

    @property
    def text(self) -> str:
        """The rule in words."""
        return f"auto (strict where each side has {self.min_strict} such latents, else shifted)"

    def settle(self, target: PairScaling, reference: PairScaling) -> tuple[IsolationRule, str]:
        """`strict` or `shifted`, by how many latents pass `strict` on each side."""
        settings = self.model_dump(exclude={"kind", "min_strict"})
        strict = StrictRule.model_validate(
            {name: settings[name] for name in IsolationSettings.model_fields}
        )
        counts = [int(strict.choose(p, strict.eligible(p)).sum()) for p in (target, reference)]
        found = f"{counts[0]} and {counts[1]} latents pass strict"
        if min(counts) >= self.min_strict:
            return strict, f"auto: {found}, so strict is used"
        reason = f"auto: {found}, fewer than {self.min_strict} on a side, so shifted is used"
        return ShiftedRule.model_validate(settings), reason


def side_words(rule: str, is_direct: bool = True) -> Mapping[str, str]:
    """What the latents of each side are called under the rule of that name, by side.

    Where the sides have a common base (`is_direct` False), each holds what its own model
    strengthens.
    """
    if rule not in RULES.names():
        return SPECIFIC_WORDS
    kind = RULES.get(rule)
    if kind.sides_are_apart and not is_direct:
        return dict.fromkeys(kind.side_words, kind.side_words["target"])
    return kind.side_words


def isolation_rule(kind: str = "strict", **settings: Any) -> IsolationRule:
    """The rule of that name; InputError where there is none, ValidationError for wrong settings."""
    return RULES.get(kind).model_validate(settings)


def stored_rule(kind: str, stored: Mapping[str, Any]) -> IsolationRule:
    """The rule that a latent set was made by; defaults stand for what was not stored."""
    rule = RULES.get(kind)
    return rule.model_validate({key: stored[key] for key in rule.model_fields if key in stored})
