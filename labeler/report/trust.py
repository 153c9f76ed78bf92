"""How far the verdicts of a comparison can be trusted: what they rest on, what null runs find."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labeler.report.comparisons import BOTH
from labeler.report.model import CategoryRow, Measure, ScoreRow
from labeler.report.randomisation import is_by_score
from labeler.store.comparisons import IMPORTED, NullRun
from labeler.store.schema import Latent, LatentSet
from labeler.text import listed
from taxonomy.counts import ALPHA, DOCUMENTS

if TYPE_CHECKING:
    from labeler.report.model import ChangeTable

RUN_NULLS = "`difflens run study.toml --null-runs`"
NULL_NAMES = {
    "scrambled": "scrambled fine-tune",
    "rounded": "int8 round trip",
    "random": "random dictionary",
}
"""The null runs that are studies, by kind."""


@dataclass(frozen=True)
class Found:
    """What a study, or a null run that is one, finds."""

    name: str
    n_target: int | None
    n_reference: int | None
    n_called: int
    n_tested: int
    n_shifts_called: int
    n_shifts_tested: int
    score_method: str | None
    own_minus_shuffled: Measure
    restored: float | None


@dataclass(frozen=True)
class Trust:
    """What the verdicts take into account, what they leave out, and where they mean nothing."""

    sentence: str = ""
    """One line next to the table."""
    banners: tuple[str, ...] = ()
    """Why the result is not to be believed; one sentence each."""
    found: tuple[Found, ...] = ()
    """The study, then its null runs; empty where none of them is a study."""

    def record(self, comparison: str) -> dict[str, Any]:
        """As the report's JSON has it."""
        return {
            "comparison": comparison,
            "verdicts": self.sentence,
            "banners": list(self.banners),
            "found": [
                {**vars(each), "own_minus_shuffled": vars(each.own_minus_shuffled)}
                for each in self.found
            ],
        }


@dataclass(frozen=True)
class Grounds:
    """How the latents of a comparison came about."""

    n_seeds: int | None = 1
    """Crosscoders of the same models that were trained; None for imported latents, which no null
    run can repeat."""
    is_by_score: bool = False
    """Whether the sides hold the latents of the largest shift scores."""


def read_grounds(session: Session, latent_set: LatentSet) -> Grounds:
    """How the latents of a comparison came about, by the set of its target."""
    if latent_set.rule == IMPORTED:
        return Grounds(None)
    query = select(func.max(Latent.n_seeds)).where(Latent.crosscoder_id == latent_set.crosscoder_id)
    n_others = session.execute(query).scalar_one() or 0
    return Grounds(1 + n_others, is_by_score(latent_set))


def trust_of(
    table: ChangeTable,
    null_runs: Sequence[NullRun],
    scores: Sequence[ScoreRow],
    grounds: Grounds,
) -> Trust:
    """Judge the rows of a comparison by its null runs and the scores of its explanations."""
    nulls = [null for null in null_runs if null.kind in NULL_NAMES]
    if not nulls:
        return Trust(trust_sentence(table, null_runs, grounds))
    own = _found_by_study(table, scores, {null.score_method for null in nulls})
    found: dict[str, Found] = {null.kind: _found_by_null(null) for null in nulls}
    return Trust(
        trust_sentence(table, null_runs, grounds),
        (*_meaningless(own, found), *_unbeaten(own, found)),
        (own, *(found[kind] for kind in NULL_NAMES if kind in found)),
    )


def trust_sentence(table: ChangeTable, null_runs: Sequence[NullRun], grounds: Grounds) -> str:
    """What a verdict of this table takes into account, and what it leaves out."""
    is_drawn = table.basis.test == DOCUMENTS
    regarded = ["which documents were read" if is_drawn else "the number of latents"]
    n_scrambled = max((row.n_scrambled or 0 for row in table.rows), default=0)
    if is_drawn and n_scrambled:
        # A rule of another order has no known sides in a scrambled fine-tune.
        where = "" if grounds.is_by_score else ", for strengths and not for counts"
        regarded.append(f"what {n_scrambled} scrambled fine-tunes show{where}")
    regarded.append("how many categories were tested")
    left_out = ["the judge's errors"]
    if table.n_seeds == 1:
        left_out.insert(0, _other_seeds(grounds.n_seeds))
    else:
        regarded.append("how far these dictionaries differ")
    known = {null.kind for null in null_runs}
    missing = [name for kind, name in NULL_NAMES.items() if kind not in known]
    if missing and grounds.n_seeds is not None:
        left_out.append(f"what null runs would find ({listed(missing)}: {RUN_NULLS})")
    stands = "" if missing else " The null runs below say what a difference without meaning gives."
    subject = "this dictionary and its labels"
    if table.n_seeds > 1:
        subject = f"{table.n_seeds} dictionaries and their labels"
    return (
        f"A verdict is about {subject}: it takes into account "
        f"{listed(regarded)}. It leaves out {listed(left_out)}.{stands}"
    )


def _other_seeds(n_seeds: int | None) -> str:
    if n_seeds is None:
        return "other training seeds"
    if n_seeds == 1:
        return "other training seeds (one crosscoder was trained)"
    return f"the {n_seeds - 1} other training seeds"


def _found_by_study(
    table: ChangeTable, scores: Sequence[ScoreRow], methods: set[str | None]
) -> Found:
    tested = [row for row in table.rows if not row.is_empty]
    shifted = [row for row in table.leaves if row.called_shift_q is not None]
    of_both = [row for row in scores if row.side == BOTH]
    score = next((row for row in of_both if row.method in methods), None)
    return Found(
        name="this study",
        n_target=table.coverage[0].isolated,
        n_reference=table.coverage[1].isolated,
        n_called=sum(row.is_significant for row in tested),
        n_tested=len(tested),
        n_shifts_called=sum(_is_shifted(row) for row in shifted),
        n_shifts_tested=len(shifted),
        score_method=None if score is None else score.method,
        own_minus_shuffled=Measure(None, None, None)
        if score is None
        else Measure(score.difference, score.difference_low, score.difference_high),
        restored=_restored(table),
    )


def _is_shifted(row: CategoryRow) -> bool:
    return row.called_shift_q is not None and row.called_shift_q < ALPHA


def _restored(table: ChangeTable) -> float | None:
    if table.effects is None:
        return None
    rows = table.effects.directions[0].rows
    sides = (row.stored for row in rows if row.stored.kind == "side")
    return next((stored.restored for stored in sides if stored.name == "target"), None)


def _found_by_null(null: NullRun) -> Found:
    return Found(
        name=NULL_NAMES[null.kind],
        n_target=null.n_target,
        n_reference=null.n_reference,
        n_called=null.n_called,
        n_tested=null.n_tested,
        n_shifts_called=null.n_shifts_called or 0,
        n_shifts_tested=null.n_shifts_tested or 0,
        score_method=null.score_method,
        own_minus_shuffled=Measure(
            null.own_minus_shuffled, null.own_minus_shuffled_low, null.own_minus_shuffled_high
        ),
        restored=null.restored,
    )


def _meaningless(own: Found, found: dict[str, Found]) -> list[str]:
    """Where a fine-tune without meaning is called as often as the true one."""
    null = found.get("scrambled")
    if null is None:
        return []
    said = []
    for name, true, false in (
        ("change of counts", own.n_called, null.n_called),
        ("mean strength shift", own.n_shifts_called, null.n_shifts_called),
    ):
        if true and false >= true:
            said.append(
                f"Do not believe the verdicts on the {name}: {true} here, and {false} on the same "
                "fine-tune with scrambled weight changes, which mean nothing."
            )
    return said


def _unbeaten(own: Found, found: dict[str, Found]) -> list[str]:
    """Where explanations of the trained dictionary predict no better than those of a random one."""
    null = found.get("random")
    if null is None or null.score_method != own.score_method:
        return []
    trained, drawn = own.own_minus_shuffled, null.own_minus_shuffled
    low = difference_low(trained, drawn)
    if low is None or low > 0 or trained.value is None or drawn.value is None:
        return []
    return [
        "The explanations are not shown to say more than those of a dictionary of random "
        f"directions: {own.score_method} scores exceed shuffled ones by {trained.value:+.3f} here "
        f"and by {drawn.value:+.3f} there (lower end of the difference: {low:+.3f})."
    ]


def difference_low(first: Measure, second: Measure) -> float | None:
    """Lower end of the interval of a difference of independent means; None where unknown."""
    ends = (first.value, first.low, second.value, second.high)
    value, low, other, high = ends
    if value is None or low is None or other is None or high is None:
        return None
    return value - other - math.hypot(value - low, high - other)
