"""What a report shows: frozen facts, read from the database and computed from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session

from crosscoder.config import SIDES, SideName
from labeler.report.basis import Basis
from labeler.report.comparisons import LatentSetView
from labeler.report.experiments import ExperimentRow
from labeler.store.comparisons import NullRun
from taxonomy.counts import CategoryChange, Side

if TYPE_CHECKING:
    from labeler.labeling.agreement import AgreementRow
    from labeler.report.answer import CategorySensitivity, Checks
    from labeler.report.behaviour import BehaviourResults
    from labeler.report.category_latents import CategoryLatents
    from labeler.report.effects import EffectResults
    from labeler.report.robustness import Sweep
    from labeler.report.trust import Trust
    from taxonomy.robustness import Correction


Direction = Literal["up", "down"]
SIGNIFICANT = frozenset({"up", "down"})


@dataclass(frozen=True, kw_only=True)
class CategoryRow(CategoryChange):
    """One category of the change table: its change, its title, and how the latents were counted."""

    name: str
    """Title of the category."""
    counting: str
    weighting: str
    denominator: str

    @property
    def way(self) -> tuple[str, str, str]:
        """How the latents were counted."""
        return self.counting, self.weighting, self.denominator

    @property
    def shown_change(self) -> str:
        """The change as a table prints it: n/a where there is nothing to compare."""
        return self.printed_change or "n/a"

    @property
    def shown_verdict(self) -> str:
        """The verdict as a table prints it; the reason, where there can be none."""
        return "no latents on either side" if self.is_empty else self.verdict

    @property
    def is_new(self) -> bool:
        """Whether only the target side has latents of this category."""
        return self.reference_count == 0 and self.target_count > 0

    @property
    def is_significant(self) -> bool:
        """Whether the change is distinguishable from zero."""
        return self.verdict in SIGNIFICANT

    @property
    def sign(self) -> int:
        """Sign of the point estimate: `new` is 1, 0/0 and no change are 0."""
        if self.is_new:
            return 1
        return 0 if self.percent_change is None else int(np.sign(self.percent_change))


@dataclass(frozen=True)
class PlantedCheck:
    """A direction that is known beforehand, and what the study found."""

    direction: Direction
    row: CategoryRow

    @property
    def has_sign(self) -> bool:
        """Whether the point estimate has the planted sign; `new` is up, 0/0 a miss."""
        return self.row.sign == self._sign

    @property
    def has_shift_sign(self) -> bool:
        """Whether the category's latents shift that way, see `called_shift`."""
        return (self.row.called_shift or 0.0) * self._sign > 0

    @property
    def _sign(self) -> int:
        return 1 if self.direction == "up" else -1


@dataclass(frozen=True)
class Coverage:
    """How many latents of one side are labelled, and how."""

    side: SideName
    isolated: int
    labelled: int
    assigned: int
    none: int
    uninterpretable: int
    error: int
    too_long: int
    refused: int
    unlabelled: int
    reviewed: int


_ROWS = text(
    "SELECT side, judge_category, human_category, n, n_blind FROM v_judge_vs_human"
    " WHERE comparison = :comparison"
)
MOST_DISAGREEMENTS = 8


@dataclass(frozen=True)
class SideAgreement:
    """How often judge and reviewers chose the same on one side."""

    side: str
    reviewed: int
    agreed: int
    blind: int
    """Reviewed without seeing the judge's label."""
    blind_agreed: int
    low: float | None
    """95% Wilson interval of the agreement among the blind."""
    high: float | None


@dataclass(frozen=True)
class Disagreement:
    """What the judge said, what the reviewers made of it, and how often."""

    judge: str
    human: str
    n: int


@dataclass(frozen=True)
class JudgeVersusHuman:
    """Both sides, and the most frequent disagreements of both together."""

    sides: tuple[SideAgreement, ...] = ()
    disagreements: tuple[Disagreement, ...] = ()


def read_agreement(session: Session, comparison: str) -> JudgeVersusHuman:
    """The reviewed latents of a comparison; empty where nothing is reviewed."""
    rows = session.execute(_ROWS, {"comparison": comparison}).all()
    if not rows:
        return JudgeVersusHuman()
    pairs: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row.judge_category != row.human_category:
            pairs[row.judge_category, row.human_category] += row.n
    return JudgeVersusHuman(
        sides=tuple(_side(side, [row for row in rows if row.side == side]) for side in SIDES),
        disagreements=tuple(
            Disagreement(judge, human, n)
            for (judge, human), n in sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
        )[:MOST_DISAGREEMENTS],
    )


def _side(side: str, rows: Sequence[Any]) -> SideAgreement:
    from taxonomy.intervals import wilson_interval

    def total(name: str, agreed_only: bool) -> int:
        return sum(
            int(getattr(row, name))
            for row in rows
            if not agreed_only or row.judge_category == row.human_category
        )

    blind, blind_agreed = total("n_blind", False), total("n_blind", True)
    interval = wilson_interval(Side(blind_agreed, blind))
    return SideAgreement(
        side=side,
        reviewed=total("n", False),
        agreed=total("n", True),
        blind=blind,
        blind_agreed=blind_agreed,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
    )


@dataclass(frozen=True)
class SeedRow:
    """One category's change by one seed alone."""

    seed: int
    """Number of the seed; 0 = the one that pages show."""
    category: str
    parent: str | None
    level: int
    target_count: int
    target_total: int
    reference_count: int
    reference_total: int
    percent_change: float | None
    p_value: float | None
    q_value: float | None
    verdict: str
    n_shifted: int | None
    relative_shift: float | None
    relative_shift_q: float | None


@dataclass(frozen=True)
class ChangeTable:
    """The change table of one comparison, as stored by a report."""

    comparison: str
    target: str
    """Name of the target side: its model, or `target`."""
    reference: str
    taxonomy: str
    """Name and version."""
    denominator: str
    rows: tuple[CategoryRow, ...]
    """Every category of the taxonomy version, each group before its categories."""
    coverage: tuple[Coverage, Coverage]
    """Target, reference."""
    planted: tuple[PlantedCheck, ...] = ()
    report_run_id: int | None = None
    computed_at: datetime | None = None
    is_stale: bool = False
    """A label changed after the table was computed."""
    checks: Checks | None = None
    """What the conclusions survive; None in reports of older versions."""
    basis: Basis = field(default_factory=Basis)
    """What p, q and the intervals rest on."""
    behaviour: BehaviourResults | None = None
    """What the models do on held-out prompts; None where they answered none."""
    effects: EffectResults | None = None
    """What the latents do to the output; None where it was not measured."""
    trust: Trust | None = None
    """What the verdicts take into account, and what the null runs make of them."""
    latents: Mapping[str, CategoryLatents] = field(default_factory=dict)
    """Review and stability of the latents of each category that has some."""
    seeds: tuple[SeedRow, ...] = ()
    """The rows of every seed alone; none where there is one seed."""

    @property
    def n_seeds(self) -> int:
        """Seeds that the rows are over."""
        return max((row.over_seeds or 1 for row in self.rows), default=1)

    @property
    def has_family_p(self) -> bool:
        """Whether some row has a p for the whole table."""
        return any(row.family_p is not None for row in self.rows)

    @property
    def filled(self) -> tuple[CategoryRow, ...]:
        """Rows with a latent on either side, and those a direction was planted for."""
        planted = {check.row.category for check in self.planted}
        return tuple(row for row in self.rows if not row.is_empty or row.category in planted)

    @property
    def leaves(self) -> tuple[CategoryRow, ...]:
        """Rows that are no group: those that no other category has as its parent."""
        groups = {row.parent for row in self.rows}
        return tuple(row for row in self.rows if row.category not in groups)

    @property
    def empty(self) -> tuple[CategoryRow, ...]:
        """The other rows."""
        shown = {row.category for row in self.filled}
        return tuple(row for row in self.rows if row.category not in shown)


@dataclass(frozen=True)
class EvidenceView:
    """A window of text for one latent."""

    kind: str
    split: str
    quantile: int | None
    document_id: str
    start: int
    tokens: tuple[str, ...]
    roles: tuple[str, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True)
class Measure:
    """A measured number with the ends of its interval; None = undefined."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class LatentView:
    """One latent of one side, with its active label."""

    latent_id: int
    side: SideName
    crosscoder: str
    latent_index: int
    rank: int | None
    """Place in its set, 1 = most specific."""
    explanation: str | None
    outcome: str
    category: str | None
    """Slug of the primary category."""
    other_categories: tuple[str, ...]
    confidence: float | None
    source: str | None
    judge: str | None
    reviewer: str | None
    density: float | None
    n_documents: int | None
    delta_norm: float | None
    nu_error: Measure
    nu_reconstruction: Measure
    strength_shift: Measure
    """Below 0 = weakened."""
    evidence: tuple[EvidenceView, ...] = ()
    p_reappear: float | None = None
    """Share of the crosscoders of other seeds with a counterpart."""
    n_seeds: int | None = None
    """How many those are."""
    n_evidence: int = 0
    """Windows in the database, shown or not."""

    @property
    def anchor(self) -> str:
        """Where the page shows it."""
        return f"latent-{self.side}-{self.latent_id}"


@dataclass(frozen=True)
class JudgeView:
    """The active judge of a comparison."""

    name: str
    model: str
    endpoint_kind: str
    params: dict[str, Any]
    params_sha256: str
    worth: str | None = None
    """What the newest `judge check` said of its labels."""


@dataclass(frozen=True)
class CrosscoderView:
    """A crosscoder, and how well it reconstructs the study's held-out text."""

    name: str
    sha256: str | None
    n_latents: int | None
    models: tuple[str, ...]
    fve: tuple[tuple[str, float], ...] = ()
    """Model and fraction of variance explained."""
    l0: float | None = None
    inactive_share: float | None = None
    """Share of the latents that are active on no held-out token; None where no run recorded it."""
    dead_share: float | None = None
    """Share of the latents that were dead when training ended; None for a loaded crosscoder."""


@dataclass(frozen=True)
class Fingerprint:
    """Something the result was made from, and its hash."""

    kind: str
    name: str
    sha256: str


@dataclass(frozen=True)
class RunView:
    """One run that the report rests on."""

    run_id: int
    kind: str
    status: str
    started_at: datetime | None
    finished_at: datetime | None
    config_sha256: str
    code_version: str


@dataclass(frozen=True)
class LabelRevision:
    """Up to where the labels reached when a report read them."""

    newest_judge_label: int | None
    newest_decision: int | None
    labels_changed_at: datetime


@dataclass(frozen=True)
class Robustness:
    """What the change is checked against."""

    others: tuple[CategoryRow, ...]
    """Rows of every other way of counting."""
    missing: tuple[str, ...]
    """Weightings that the latents' facts do not allow, and why."""
    sensitivity: tuple[CategorySensitivity, ...]
    correction: Correction
    sweep: Sweep
    validation: ValidationResults
    agreement: JudgeVersusHuman


@dataclass(frozen=True)
class ReportData:
    """Everything the page says of one comparison."""

    table: ChangeTable
    sets: tuple[LatentSetView, LatentSetView]
    """Target, reference."""
    latents: tuple[LatentView, ...]
    judge: JudgeView
    robustness: Robustness
    crosscoders: tuple[CrosscoderView, ...] = ()
    fingerprints: tuple[Fingerprint, ...] = ()
    runs: tuple[RunView, ...] = ()
    category_names: dict[str, str] = field(default_factory=dict)
    """Title by slug."""
    embedder: str | None = None
    """Name of the embedder whose vectors were clustered."""
    agreement: tuple[AgreementRow, ...] = ()
    """Of the judges with each other, and of each with itself."""
    revision: LabelRevision | None = None
    text_read: str = ""
    """What the models read and whose answers those were; empty where no harvest recorded it."""


@dataclass(frozen=True)
class ScoreRow:
    """How well explanations of one side predict text they never saw, own against shuffled.

    Means over latents of the balanced accuracy, in [0, 1]; the interval is that of the difference.
    """

    side: str
    """target, reference, or both."""
    method: str
    """detection or fuzzing."""
    n_latents: int
    own: float | None
    shuffled: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    n_asked: int
    n_parsed: int


@dataclass(frozen=True)
class ControlRate:
    """How often latents that are not specific get a category: its base rate."""

    category: str
    count: int
    total: int


@dataclass(frozen=True)
class ValidationResults:
    """What validates one comparison: null runs, scores, control rates; empty without any."""

    null_runs: tuple[NullRun, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    experiments: tuple[ExperimentRow, ...] = ()
    controls: tuple[ControlRate, ...] = ()
