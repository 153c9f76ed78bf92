"""A small study in a database: one crosscoder, one comparison, one judge, one taxonomy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from labeler.store.judging import (
    CallRow,
    LabelCategory,
    LabelRow,
    add_explanation,
    add_judge_label,
    get_or_create_judge,
    record_calls,
)
from labeler.store.latents import (
    add_latents,
    create_latent_set,
    ensure_comparison,
    ensure_comparison_setting,
    get_or_create_crosscoder,
)
from labeler.store.outcomes import LABEL_OUTCOMES
from labeler.store.reviews import Decision, record_decision, stream_revision
from labeler.store.runs import begin_run
from labeler.store.schema import JudgeCall, JudgeLabel, ReviewEvent
from labeler.store.taxonomies import category_ids, ensure_taxonomy_version
from taxonomy.tree import Category, Taxonomy

SMALL = Taxonomy(
    name="small",
    version="1",
    categories=(
        Category(slug="behaviour", level=1, name="Behaviour"),
        Category(slug="safety", parent="behaviour", level=2, name="Safety"),
        Category(slug="humour", parent="behaviour", level=2, name="Humour"),
        Category(slug="form", level=1, name="Form"),
        Category(slug="lists", parent="form", level=2, name="Lists"),
    ),
)


@dataclass(frozen=True)
class Seed:
    """The keys of what was seeded."""

    run_id: int
    comparison_id: int
    version_id: int
    judge_id: int
    other_judge_id: int
    target: tuple[int, ...]
    """Latent ids of the target side."""
    reference: tuple[int, ...]
    categories: dict[str, int]


def seed(session: Session, n_target: int = 2, n_reference: int = 2) -> Seed:
    """Write the study; no latent is labelled."""
    run_id = begin_run(session, "isolate", {"seed": True})
    crosscoder = get_or_create_crosscoder(session, "cc", sha256="ab" * 32)
    ids = add_latents(
        session, crosscoder.id, [{"latent_index": i} for i in range(n_target + n_reference)]
    )
    target = tuple(ids[i] for i in range(n_target))
    reference = tuple(ids[n_target + i] for i in range(n_reference))
    sets = [
        create_latent_set(
            session, f"c/{side}", "ranked", run_id, [{"latent_id": key} for key in members]
        )
        for side, members in (("target", target), ("reference", reference))
    ]
    comparison = ensure_comparison(session, "c", sets[0].id, sets[1].id)
    version = ensure_taxonomy_version(session, SMALL)
    judge = get_or_create_judge(session, "evidence-tfidf", "tfidf", "evidence")
    other = get_or_create_judge(session, "gpt", "gpt", "openai", {"temperature": 0})
    ensure_comparison_setting(session, comparison.id, version.id, judge.id)
    return Seed(
        run_id=run_id,
        comparison_id=comparison.id,
        version_id=version.id,
        judge_id=judge.id,
        other_judge_id=other.id,
        target=target,
        reference=reference,
        categories=category_ids(session, version.id),
    )


def label(
    session: Session,
    seed: Seed,
    latent_id: int,
    answer: str | Sequence[str],
    judge_id: int | None = None,
    explanation: str | None = "an explanation",
    confidence: float | None = 0.5,
    is_control: bool = False,
) -> JudgeLabel:
    """Write a label: an outcome, or slugs with the primary one first."""
    slugs = () if answer in LABEL_OUTCOMES else ((answer,) if isinstance(answer, str) else answer)
    judge = judge_id or seed.judge_id
    written = (
        add_explanation(
            session, seed.run_id, latent_id, judge, explanation, is_control=is_control
        ).id
        if explanation is not None
        else None
    )
    return add_judge_label(
        session,
        LabelRow(
            run_id=seed.run_id,
            latent_id=latent_id,
            judge_id=judge,
            taxonomy_version_id=seed.version_id,
            outcome="assigned" if slugs else str(answer),
            categories=tuple(LabelCategory(seed.categories[s], confidence) for s in slugs),
            explanation_id=written,
        ),
    )


def record_call(session: Session, call: CallRow) -> JudgeCall:
    """Write one finished call."""
    return session.get_one(JudgeCall, record_calls(session, [call])[0])


def decide(
    session: Session,
    seed: Seed,
    latent_id: int,
    action: str,
    reviewer: str = "ann",
    **values: Any,
) -> ReviewEvent:
    """Append a decision to a reviewer's stream; `action` may be a slug."""
    if action in seed.categories:
        values["categories"] = (action,)
        action = "set"
    base = stream_revision(session, latent_id, seed.version_id, reviewer)
    return record_decision(
        session,
        Decision(
            latent_id=latent_id,
            taxonomy_version_id=seed.version_id,
            reviewer=reviewer,
            base_revision=values.pop("base_revision", base),
            action=action,
            **values,
        ),
    )


def rows(session: Session, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query, as plain tuples."""
    session.flush()
    return [tuple(row) for row in session.execute(text(query))]


def assert_table_equals_view(session: Session) -> None:
    """The kept effective labels are those that the window functions compute afresh."""
    order = "ORDER BY comparison, side, latent_id, rank"
    kept = rows(session, f"SELECT * FROM v_effective_label {order}")
    computed = rows(session, f"SELECT * FROM v_effective_label_computed {order}")
    assert kept == computed
