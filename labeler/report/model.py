"""What a report shows: frozen facts, read from the database and computed from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from crosscoder.config import SideName
from labeler.report.comparisons import LatentSetView
from labeler.report.rows import CategoryRow, Coverage, PlantedCheck
from labeler.store.null_runs import NullRun

if TYPE_CHECKING:
    from labeler.labeling.agreement import AgreementRow
    from labeler.report.checks import CategorySensitivity, Checks
    from labeler.report.robustness import Sweep
    from labeler.report.rows import JudgeVersusHuman
    from taxonomy.robustness import Correction


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

    @property
    def filled(self) -> tuple[CategoryRow, ...]:
        """Rows with a latent on either side, and those a direction was planted for."""
        planted = {check.row.category for check in self.planted}
        return tuple(row for row in self.rows if not row.is_empty or row.category in planted)

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
    evidence: tuple[EvidenceView, ...] = ()
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
    controls: tuple[ControlRate, ...] = ()
