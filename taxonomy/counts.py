"""What is counted and what follows from it, and the settings of tests and clusters.

Plain data, which statistics, database and pages share: nothing here loads a library of statistics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from taxonomy.errors import InputError

ALPHA = 0.05
"""Level of all tests: a change is shown where its q lies below; intervals cover 1 - ALPHA."""
ExactTest = Literal["fisher", "boschloo"]
"""Exact tests of a two-by-two table."""
Verdict = Literal["up", "down", "too few to say", "no evidence"]
"""What the numbers allow to say about one category."""
DOCUMENTS = "documents"
"""Name, in a row of the change table, of the randomisation over documents."""

SEEDS = "seeds"
"""The same of the test over seeds, where no sides were drawn."""

Situation = Literal[
    "counted",
    "no latents on a side",
    "on neither side",
    "only on the target side",
    "only on the reference side",
    "every latent of a side",
]
"""Where the counts lie: all but the first are named, since formulas break down there."""


class ClusterSettings(BaseModel):
    """How far apart clusters are and what they need; immutable, unknown names are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    cluster_distance: float | None = Field(None, gt=0, lt=2)
    """Clusters of explanations farther apart than this cosine distance are not merged; without it,
    the distance at which clusterings of subsamples agree best."""
    min_members: int = Field(3, ge=1)
    """Explanations that a cluster needs to be proposed as a category."""


def verdict_of(rises: bool, q_value: float, least_p: float, alpha: float = ALPHA) -> Verdict:
    """The verdict on a change: `least_p` is the smallest p that a table of its size could reach."""
    if least_p >= alpha:
        return "too few to say"
    if q_value >= alpha:
        return "no evidence"
    return "up" if rises else "down"


@dataclass(frozen=True)
class Side:
    """One side of a comparison: `count` of `total` latents; InputError where that can not be."""

    count: float
    total: float

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.total:
            raise InputError(
                f"{self.count} of {self.total} latents is no share; "
                "a count lies between 0 and its total"
            )

    @property
    def share(self) -> float:
        """Share of the side; the total must not be 0."""
        return self.count / self.total

    @property
    def is_full(self) -> bool:
        """Tell whether every latent of the side is counted."""
        return self.count == self.total


@dataclass(frozen=True)
class Interval:
    """Lower and upper bound; `high` may be infinite."""

    low: float
    high: float

    def percent_change(self) -> Interval:
        """The interval of a ratio as one of a change in percent."""
        return Interval(100.0 * (self.low - 1.0), 100.0 * (self.high - 1.0))


def bounds(interval: Interval | None) -> tuple[float | None, float | None]:
    """Low and high as a row holds them: None without an interval, and for an infinite high."""
    if interval is None:
        return None, None
    return interval.low, None if math.isinf(interval.high) else interval.high


@dataclass(frozen=True)
class CategoryCounts:
    """How many latents of each side a category has; a total is the side's denominator."""

    category: str
    level: int
    parent: str | None
    target_count: int
    target_total: int
    reference_count: int
    reference_total: int

    @property
    def is_empty(self) -> bool:
        """Whether neither side has a latent of the category."""
        return self.target_count + self.reference_count == 0

    @property
    def target(self) -> Side:
        """The target side; InputError where its count is no part of its total."""
        return Side(self.target_count, self.target_total)

    @property
    def reference(self) -> Side:
        """The reference side; InputError where its count is no part of its total."""
        return Side(self.reference_count, self.reference_total)


@dataclass(frozen=True, kw_only=True)
class CategoryChange(CategoryCounts):
    """Counts and everything that follows from them; a report stores and shows these fields.

    Shares and their Wilson bounds lie in [0, 1] and are None where the total is 0. The percentage
    change is None where the reference count is 0, its upper bound None where it is infinite.
    `difference_points` is target minus reference share in percentage points. An effective number
    is that of equally weighted latents behind the share: the total, where nothing is weighted.
    `detectable_rise` and `detectable_fall` are the smallest changes, in percent, from this
    reference count that Fisher's p finds at this size; None where no change could be found.
    """

    target_share: float | None
    target_share_low: float | None
    target_share_high: float | None
    reference_share: float | None
    reference_share_low: float | None
    reference_share_high: float | None
    percent_change: float | None
    ci_low: float | None
    ci_high: float | None
    difference_points: float | None
    difference_points_low: float | None
    difference_points_high: float | None
    p_value: float
    q_value: float
    verdict: Verdict
    printed_change: str
    situation: Situation
    test: str
    target_effective: float
    reference_effective: float
    detectable_rise: float | None
    detectable_fall: float | None
    family_p: float | None = None
    """p that bounds the chance of one false call in the whole table; None without randomisation."""
    mean_shift: float | None = None
    """Mean strength shift of the category's latents, all that are labelled; see `mean_shift`."""
    mean_shift_low: float | None = None
    mean_shift_high: float | None = None
    mean_shift_q: float | None = None
    relative_shift: float | None = None
    """Mean shift less that of all other labelled latents."""
    relative_shift_low: float | None = None
    relative_shift_high: float | None = None
    relative_shift_q: float | None = None
    weighted_shift: float | None = None
    """As the relative shift, each latent weighted by the sum of its squared activations."""
    scrambled_low: float | None = None
    """Bounds of the weighted shift in 95% of scrambled fine-tunes; None without any."""
    scrambled_high: float | None = None
    weighted_shift_q: float | None = None
    """q that the weighted shift is that of one more scrambled fine-tune."""
    n_scrambled: int | None = None
    """Scrambled fine-tunes of the comparison; None without any."""
    n_shifted: int | None = None
    over_seeds: int | None = None
    """Seeds that the row is over, their counts added up; None for one."""
    n_seeds_alike: int | None = None
    """Seeds whose own difference of shares has the sign of the row's."""
    n_shifts_alike: int | None = None
    """Seeds whose own relative shift has the sign of the row's."""
    n_documents: int | None = None
    """Documents whose models the draws swapped; None without draws."""
    detectable_points: float | None = None
    """Smallest difference of shares, in percentage points, that is called in so many documents."""
    documents_needed: int | None = None
    """Documents that would show a change like this one with 80% power; None = none advised."""
    least_attainable_p: float = field(default=math.nan, compare=False)
    """NaN in a row that was read back: reports do not store it."""

    @property
    def called_shift(self) -> float | None:
        """The shift that is called: the weighted one less the middle of the scrambled fine-tunes'.

        Where there are none, the relative one; None where a category has too few latents.
        """
        if not self.n_scrambled:
            return self.relative_shift
        if self.weighted_shift is None or self.scrambled_low is None or self.scrambled_high is None:
            return None
        return self.weighted_shift - (self.scrambled_low + self.scrambled_high) / 2

    @property
    def called_shift_q(self) -> float | None:
        """Its q."""
        return self.weighted_shift_q if self.n_scrambled else self.relative_shift_q

    @property
    def shown_shift(self) -> float | None:
        """The shift as it is stored; its direction is that of `called_shift`."""
        return self.weighted_shift if self.n_scrambled else self.relative_shift


@dataclass(frozen=True)
class BehaviourChange:
    """Change of one category's behaviour from the reference to the target model.

    Shares are in [0, 1], the difference and its 95% interval in percentage points; None without a
    prompt whose answers are all classified.
    """

    category: str
    n_prompts: int
    """Prompts of which every answer of both models is classified; only these count."""
    n_left_out: int
    """The other prompts."""
    n_samples: int
    """Answers of each model to a prompt."""
    n_more: int = 0
    """Prompts on which the target shows it in more answers than the reference."""
    n_less: int = 0
    target_share: float | None = None
    reference_share: float | None = None
    difference_points: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None
    q_value: float | None = None
    """Benjamini-Hochberg over the categories with a prompt, or over the groups."""
    verdict: Verdict = "too few to say"

    @property
    def sign(self) -> int:
        """1 = the target shows it more often, -1 = less often, 0 = as often or unknown."""
        points = self.difference_points or 0.0
        return (points > 0) - (points < 0)


@dataclass(frozen=True)
class SignAgreement:
    """In how many categories latents and answers change in the same direction."""

    n_agree: int
    n_categories: int
    """Categories whose latents and whose answers both change."""
    interval: Interval | None
    """Wilson's 95% interval of the share that agrees; None without such a category."""
