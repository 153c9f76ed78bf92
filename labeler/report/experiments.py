"""What experiments on the explanations of a comparison gave, side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.labeling.revise import ACTIVE_SHARE
from labeler.report.comparisons import BOTH
from labeler.store.experiments import StoredTest, read_tests
from labeler.store.schema import Comparison, Explanation, LatentSetMember
from labeler.store.statements import newest_explanation_ids


@dataclass(frozen=True)
class ExperimentRow:
    """What experiments on the explanations of one side gave (`judge.revise`).

    Means over latents of the share of texts meant to activate the latent that do, and of the share
    of the activating texts that were meant to, both of the explanation that was kept.
    """

    side: str
    """target, reference, or both."""
    n_latents: int
    n_held: int
    """Their first explanation held."""
    n_revised: int
    """A revised one held."""
    n_refuted: int
    responsiveness: float | None
    purity: float | None
    """Over the latents that any text activates."""
    active_share: float
    """Share of a latent's largest activation above which a text activates it."""


def read_experiments(
    session: Session, comparison: Comparison, judge_id: int
) -> tuple[ExperimentRow, ...]:
    """Experiments on a judge's explanations, for each side and for both; empty without any."""
    sides = latent_sides(session, comparison)
    newest = session.execute(
        select(Explanation.id, Explanation.latent_id).where(
            Explanation.id.in_(newest_explanation_ids(Explanation.judge_id == judge_id)),
            Explanation.is_control.is_(False),
        )
    )
    latent_of = {row.id: row.latent_id for row in newest if row.latent_id in sides}
    rounds: dict[int, list[StoredTest]] = defaultdict(list)
    for test in read_tests(session, latent_of):
        rounds[latent_of[test.explanation_id]].append(test)
    rows = []
    for side in ("target", "reference", BOTH):
        tested = [found for key, found in rounds.items() if side in (*sides[key], BOTH)]
        if tested:
            rows.append(_experiment_row(side, tested))
    return tuple(rows)


def _experiment_row(side: str, tested: Sequence[Sequence[StoredTest]]) -> ExperimentRow:
    chosen = [next(each for each in rounds if each.is_chosen) for rounds in tested]
    held = [rounds for rounds in tested if rounds[-1].verdict == "holds"]
    return ExperimentRow(
        side=side,
        n_latents=len(tested),
        n_held=sum(len(rounds) == 1 for rounds in held),
        n_revised=sum(len(rounds) > 1 for rounds in held),
        n_refuted=len(tested) - len(held),
        responsiveness=_mean([each.responsiveness for each in chosen]),
        purity=_mean([each.purity for each in chosen]),
        active_share=ACTIVE_SHARE,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def latent_sides(session: Session, comparison: Comparison) -> dict[int, list[str]]:
    """The sides of each latent of a comparison."""
    sides: dict[int, list[str]] = defaultdict(list)
    for side, set_id in (
        ("target", comparison.target_set_id),
        ("reference", comparison.reference_set_id),
    ):
        members = select(LatentSetMember.latent_id).where(LatentSetMember.latent_set_id == set_id)
        for latent_id in session.execute(members).scalars():
            sides[latent_id].append(side)
    return sides
