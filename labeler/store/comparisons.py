"""Selects the comparisons of the study, in order, and the retired ones; stores their null runs.

A study has the comparisons that study.toml names, in its order, and then the imported ones by name.
All others come from an earlier study.toml: they are retired and appear in SQL only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from typing import Any, Literal, Protocol

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, aliased

from labeler import __version__
from labeler.store.schema import (
    CategoryChangeStatistic,
    Comparison,
    ComparisonSeed,
    ComparisonSetting,
    LatentSet,
    NullResult,
    NullResultChange,
    Run,
    SubjectModel,
)

IMPORTED = "imported"
"""Rule of a latent set that `difflens import` made."""
NullKind = Literal["seed", "permuted", "noise", "scrambled", "rounded", "random"]
"""`seed`: crosscoders of the same models with other seeds; `permuted`: sides assigned at random;
`noise`: a model against a noisy copy of itself, which counts latents instead of verdicts;
`scrambled`: fine-tunes whose weight changes are scrambled; `rounded`: a model against its int8
round trip; `random`: a dictionary of random directions on the true pair."""


def name_of_seed(name: str, seed: int) -> str:
    """Name of a comparison by the crosscoders of another seed; 0 is the study's own."""
    return f"{name}/seed-{seed}" if seed else name


class NamedComparison(Protocol):
    """The defining fields of a `[[comparison]]` of study.toml."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def target(self) -> str:
        """Name of the target's model."""

    @property
    def reference(self) -> str:
        """Name of the reference's model."""

    @property
    def against(self) -> str | None:
        """Name of the common base; None = each other."""


@dataclass(frozen=True)
class AbsentComparison:
    """A comparison that study.toml names but that has no results yet."""

    name: str
    reason: str


@dataclass(frozen=True)
class RetiredComparison:
    """A comparison of an earlier study.toml."""

    name: str
    reported_at: datetime | None
    """When a report last covered it; None = never."""


@dataclass(frozen=True)
class StudyComparisons:
    """The present, absent and retired comparisons of a study."""

    shown: tuple[Comparison, ...]
    """Comparisons with an active taxonomy and judge, in the study's order."""
    present: tuple[Comparison, ...]
    """These and the comparisons that wait for their first label."""
    absent: tuple[AbsentComparison, ...] = ()
    retired: tuple[RetiredComparison, ...] = ()
    """By name."""

    @property
    def why_none(self) -> str:
        """Why there is no comparison, as the end of a message."""
        if self.absent:
            reasons = "; ".join(f"{one.name}: {one.reason}" for one in self.absent)
            return f"{reasons}; `difflens run` makes them"
        if self.retired:
            names = ", ".join(one.name for one in self.retired)
            return (
                f"the database holds {names}, which study.toml does not name; add a "
                "[[comparison]] of that name, or ask with `difflens sql`"
            )
        return "`difflens import` brings labels, `difflens run` makes them"


@dataclass(frozen=True)
class _Stored:
    row: Comparison
    is_imported: bool
    models: tuple[str | None, ...]
    """Target and reference model, then the model that each is isolated against."""
    is_labelled: bool


def study_comparisons(
    session: Session, named: Sequence[NamedComparison] | None
) -> StudyComparisons:
    """The comparisons of the study whose study.toml holds `named`; all by name where it is None.

    A comparison whose models differ between study.toml and the database is absent: its latents
    belong to another comparison of the same name.
    """
    stored = {one.row.name: one for one in _read(session)}
    present: list[_Stored] = []
    absent: list[AbsentComparison] = []
    for entry in named or ():
        found = stored.pop(entry.name, None)
        reason = _why_absent(entry, found)
        if reason is not None:
            absent.append(AbsentComparison(entry.name, reason))
        elif found is not None:
            present.append(found)
            if not found.is_labelled:
                absent.append(AbsentComparison(entry.name, "not labelled yet"))
    rest = [stored[name] for name in sorted(stored)]
    retired = [one.row for one in rest if named is not None and not one.is_imported]
    present += [one for one in rest if one.row not in retired]
    reported = _reported_at(session) if retired else {}
    return StudyComparisons(
        shown=tuple(one.row for one in present if one.is_labelled),
        present=tuple(one.row for one in present),
        absent=tuple(absent),
        retired=tuple(RetiredComparison(row.name, reported.get(row.id)) for row in retired),
    )


def _why_absent(entry: NamedComparison, found: _Stored | None) -> str | None:
    if found is None:
        return "not isolated yet"
    wanted = (
        entry.target,
        entry.reference,
        entry.against or entry.reference,
        entry.against or entry.target,
    )
    differing = (
        model is not None and model != name
        for model, name in zip(found.models, wanted, strict=True)
    )
    if any(differing):
        target, reference, target_against, reference_against = found.models
        return (
            f"the database still holds {target} (against {target_against}) and {reference} "
            f"(against {reference_against}) under this name"
        )
    return None


@cache
def _every_comparison() -> Select[*tuple[Any, ...]]:
    """All comparisons as `_Stored`, other seeds aside; built once, because every page needs it."""
    sides = [aliased(LatentSet), aliased(LatentSet)]
    models = [aliased(SubjectModel) for _ in range(4)]
    target, reference = sides
    labelled = select(ComparisonSetting.comparison_id)
    return (
        select(
            Comparison,
            target.rule,
            reference.rule,
            *(model.name for model in models),
            Comparison.id.in_(labelled),
        )
        .join(target, target.id == Comparison.target_set_id)
        .join(reference, reference.id == Comparison.reference_set_id)
        .outerjoin(models[0], models[0].id == target.target_model_id)
        .outerjoin(models[1], models[1].id == reference.target_model_id)
        .outerjoin(models[2], models[2].id == target.against_model_id)
        .outerjoin(models[3], models[3].id == reference.against_model_id)
        .where(Comparison.id.not_in(select(ComparisonSeed.comparison_id)))
    )


def _read(session: Session) -> list[_Stored]:
    return [
        _Stored(row[0], row[1] == row[2] == IMPORTED, tuple(row[3:7]), bool(row[7]))
        for row in session.execute(_every_comparison())
    ]


def _reported_at(session: Session) -> dict[int, datetime]:
    """Time of the last report on each comparison, by its id."""
    query = select(
        CategoryChangeStatistic.comparison_id, func.max(CategoryChangeStatistic.computed_at)
    ).group_by(CategoryChangeStatistic.comparison_id)
    return {row[0]: row[1] for row in session.execute(query)}


@dataclass(frozen=True)
class NullChange:
    """Changes of one category under the null, where nothing differs."""

    category: str
    low: float | None
    """2.5% quantile of the percentage change over the draws; None = undefined."""
    high: float | None
    """97.5% quantile, percent; None next to a `low` = infinite."""
    share_as_far: float | None
    """Share of the draws whose change lies at least as far from zero as the result's."""


@dataclass(frozen=True)
class NullRun:
    """One kind of null run of a comparison."""

    kind: NullKind
    title: str
    """Description of the draws."""
    n_draws: int
    n_called: int
    """Verdicts `up` or `down` over all draws and categories, every one of them false."""
    n_tested: int
    """Categories tested over all draws."""
    n_target: int | None = None
    """Latents isolated on the target's side; None, like all below, where it is no study."""
    n_reference: int | None = None
    n_shifts_called: int | None = None
    """Mean shifts against the rest that are distinguishable from zero, groups left out."""
    n_shifts_tested: int | None = None
    score_method: str | None = None
    """Of the explanations' scores: detection or fuzzing."""
    own_minus_shuffled: float | None = None
    """Mean score of the explanations less that of shuffled ones."""
    own_minus_shuffled_low: float | None = None
    own_minus_shuffled_high: float | None = None
    restored: float | None = None
    """Share of the output gap that the latents of the target's side restore."""
    changes: tuple[NullChange, ...] = ()


_COLUMNS = tuple(field.name for field in fields(NullRun) if field.name != "changes")
"""Columns that a null run and its row share."""


def add_null_run(
    session: Session, comparison_id: int, run: NullRun, settings: dict[str, Any]
) -> None:
    """Store one null run with the settings it came from."""
    row = NullResult(
        comparison_id=comparison_id,
        code_version=__version__,
        settings=settings,
        **{name: getattr(run, name) for name in _COLUMNS},
    )
    session.add(row)
    session.flush()
    session.add_all(
        NullResultChange(null_result_id=row.id, **vars(change)) for change in run.changes
    )


def read_null_runs(
    session: Session,
    comparison: Comparison,
    denominator: str = "labelled",
    test: str | None = "fisher",
) -> tuple[NullRun, ...]:
    """The newest run of each kind that is valid for the comparison as it is now.

    A run from before the current isolation has other latents, and one with another denominator or
    test has other verdicts. Such runs stay in the database but not in a report. `test` None takes
    any.
    """
    query = (
        select(NullResult)
        .where(
            NullResult.comparison_id == comparison.id,
            NullResult.computed_at >= _isolated_at(session, comparison),
        )
        .order_by(NullResult.id.desc())
    )
    newest: dict[str, NullResult] = {}
    for row in session.execute(query).scalars():
        is_counted_so = row.settings.get("denominator", denominator) == denominator
        is_tested_so = test is None or row.settings.get("test", "fisher") == test
        if row.kind == "noise" or (is_counted_so and is_tested_so):
            newest.setdefault(row.kind, row)
    rows = [newest[kind] for kind in sorted(newest)]
    return tuple(
        NullRun(
            **{name: getattr(row, name) for name in _COLUMNS}, changes=_changes(session, row.id)
        )
        for row in rows
    )


def _isolated_at(session: Session, comparison: Comparison) -> datetime:
    """When the run began that made the newer of the two latent sets."""
    sets = (comparison.target_set_id, comparison.reference_set_id)
    query = select(Run).join(LatentSet, LatentSet.run_id == Run.id).where(LatentSet.id.in_(sets))
    return max(run.started_at for run in session.execute(query).scalars())


def _changes(session: Session, null_result_id: int) -> tuple[NullChange, ...]:
    rows = session.execute(
        select(NullResultChange)
        .where(NullResultChange.null_result_id == null_result_id)
        .order_by(NullResultChange.id)
    ).scalars()
    return tuple(NullChange(row.category, row.low, row.high, row.share_as_far) for row in rows)
