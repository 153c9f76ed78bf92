"""The cards: one claim per category from all measures, the surest first."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from labeler.report.behaviour import BehaviourResults, BehaviourRow
from labeler.report.build import ReportFiles
from labeler.report.cards import CategoryCard, cards
from labeler.report.category_latents import CategoryLatents
from labeler.report.effects import EffectDirection, EffectResults, EffectRow, alike_words
from labeler.report.model import ChangeTable
from labeler.store.engine import open_engine
from labeler.store.schema import CategoryEffect
from taxonomy.behaviour_change import sign_agreement
from taxonomy.counts import BehaviourChange

NO_CHANGE = {"relative_shift": 0.0, "relative_shift_q": 1.0}


@pytest.fixture
def table(paper_report: ReportFiles) -> ChangeTable:
    """Counts alone."""
    return paper_report.tables[0]


def with_measures(
    table: ChangeTable, rows: dict[str, dict[str, Any]], answers: dict[str, BehaviourChange]
) -> ChangeTable:
    changed = tuple(
        dataclasses.replace(row, **(NO_CHANGE | rows.get(row.category, {}))) for row in table.rows
    )
    behaviour = BehaviourResults(
        rows=tuple(
            BehaviourRow(row.name, row, answers[row.category])
            for row in changed
            if row.category in answers
        ),
        agreement=sign_agreement([]),
        shift_agreement=sign_agreement([]),
        run_id=1,
        target="a",
        reference="b",
        n_prompts=60,
        n_checked=120,
        n_judged=0,
        n_unclassified=0,
    )
    return dataclasses.replace(table, rows=changed, behaviour=behaviour)


def card_of(table: ChangeTable, category: str) -> CategoryCard:
    return next(card for card in cards(table) if card.row.category == category)


def answers(verdict: str, points: float) -> BehaviourChange:
    return BehaviourChange(
        "safety",
        n_prompts=30,
        n_left_out=0,
        n_samples=1,
        target_share=0.25,
        reference_share=0.25 - points / 100,
        difference_points=points,
        q_value=0.01,
        verdict=verdict,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("shift", "answered", "direction", "claim"),
    [
        (0.02, answers("up", 21.0), "up",
         "Up by 2 of 3 measures: used more strongly (+0.020), answers change +21 points"),
        (-0.02, answers("up", 21.0), "contradictory",
         "The measures contradict each other: answers change +21 points, "
         "used less strongly (-0.020)"),
        (-0.02, answers("no evidence", 1.0), "down",
         "Down by 1 of 3 measures: used less strongly (-0.020)"),
        (0.0, answers("no evidence", 1.0), "no evidence",
         "Not shown to change by any of 3 measures"),
    ],
)  # fmt: skip
def test_claim_names_the_measures_that_are_distinguishable(
    table: ChangeTable, shift: float, answered: BehaviourChange, direction: str, claim: str
) -> None:
    rows = {"safety": {"relative_shift": shift, "relative_shift_q": 0.01 if shift else 1.0}}
    card = card_of(with_measures(table, rows, {"safety": answered}), "safety")
    assert (card.direction, card.claim) == (direction, claim)
    assert [each.name for each in card.measures] == ["latents", "strength", "answers"]


def test_surest_categories_come_first_and_counts_alone_make_no_card(table: ChangeTable) -> None:
    assert cards(table) == ()
    rows = {"self-reference": {"relative_shift": -0.1, "relative_shift_q": 0.001}}
    found = cards(with_measures(table, rows, {"safety": answers("no evidence", 1.0)}))
    assert found[0].row.category == "self-reference"
    called = [card.n_called for card in found if not card.is_group]
    assert called == sorted(called, reverse=True)


def test_groups_have_cards_behind_those_of_their_categories(table: ChangeTable) -> None:
    changes = {"safety": answers("up", 21.0)}
    changed = with_measures(table, {}, changes)
    assert changed.behaviour is not None
    group = next(row for row in changed.rows if row.category == "safety-and-honesty")
    answered = dataclasses.replace(answers("up", 12.0), category=group.category)
    behaviour = dataclasses.replace(
        changed.behaviour, groups=(BehaviourRow(group.name, group, answered),)
    )
    found = cards(dataclasses.replace(changed, behaviour=behaviour))
    assert [card.is_group for card in found] == sorted(card.is_group for card in found)
    card = next(card for card in found if card.row.category == "safety-and-honesty")
    assert card.claim == "Up by 1 of 3 measures: answers change +12 points"
    assert "parent = 'safety-and-honesty'" in card.latents_query


def test_one_seed_and_unreviewed_labels_are_said(table: ChangeTable) -> None:
    card = card_of(with_measures(table, {}, {}), "safety")
    assert card.latents is not None
    assert (card.latents.stability, card.latents.review) == ("one seed", "none reviewed")
    known = CategoryLatents(n_latents=8, n_reviewed=2, n_seeds=3, stable_share=0.625)
    assert (known.stability, known.review) == ("62% come again in 3 other seeds", "25% reviewed")


def test_queries_are_of_the_database(table: ChangeTable, migrated_file: Path) -> None:
    full = with_measures(table, {}, {"safety": answers("up", 21.0)})
    stored = CategoryEffect(
        kind="category", name="safety", n_controls=200, first_order=0.1, control_mean=0.1
    )
    direction = EffectDirection("a", "b", "assistant", (), (EffectRow("Safety", stored),), 0.2)
    full = dataclasses.replace(full, effects=EffectResults((direction,), 1, 16))
    card = card_of(full, "safety")
    measures = card.measures
    assert len(measures) == 4
    with open_engine(f"sqlite:///{migrated_file}").connect() as connection:
        for query in (*(measure.query for measure in measures), card.latents_query):
            connection.execute(text(query)).all()


def test_queries_quote_the_comparison(table: ChangeTable) -> None:
    named = dataclasses.replace(table, comparison="it's")
    (measure, *_) = card_of(with_measures(named, {}, {}), "safety").measures
    assert "comparison = 'it''s'" in measure.query


@pytest.mark.parametrize(
    ("effect", "words", "shown"),
    [
        ({"q_value": 0.01},
         ": closes by first order 12.0% of the output gap (random latents alike 2.0%)",
         ("12.0% against 2.0%", "q 0.010", "1st order")),
        ({"q_value": 0.5}, "", ("12.0% against 2.0%", "q 0.50", "1st order")),
        ({"q_value": 0.01, "n_patched_controls": 20, "restored_p": 0.04},
         ": restores 15.0% of the output gap (random latents alike 3.0%)",
         ("15.0% (5.0% to 25.0%) against 3.0%", "p 0.040", "patched")),
        ({"q_value": 0.01, "n_patched_controls": 20, "restored_p": 0.3}, "",
         ("15.0% (5.0% to 25.0%) against 3.0%", "p 0.30", "patched")),
        ({"q_value": 0.2, "n_patched_controls": 20, "restored_p": 0.04}, "",
         ("15.0% (5.0% to 25.0%) against 3.0%", "p 0.040", "patched")),
    ],
)  # fmt: skip
def test_effect_is_called_where_attribution_and_patching_both_show_it(
    table: ChangeTable, effect: dict[str, Any], words: str, shown: tuple[str, str, str]
) -> None:
    stored = CategoryEffect(
        kind="category",
        name="safety",
        scope="assistant",
        gap=0.4,
        n_latents=5,
        n_controls=200,
        first_order=0.12,
        control_mean=0.02,
        restored=0.15,
        restored_low=0.05,
        restored_high=0.25,
        restored_control_mean=0.03,
        **effect,
    )
    direction = EffectDirection("a", "b", "assistant", (), (EffectRow("Safety", stored),), 0.2)
    with_effect = dataclasses.replace(
        with_measures(table, {}, {}), effects=EffectResults((direction,), 1, 16)
    )
    card = card_of(with_effect, "safety")
    assert card.claim == f"Not shown to change by any of 2 measures{words}"
    assert card.direction == "no evidence"
    assert [each.name for each in card.measures] == ["latents", "strength", "effect"]
    measure = card.measures[-1]
    assert (measure.value, measure.detail, measure.how) == shown


def test_an_effect_without_random_latents_is_not_shown(table: ChangeTable) -> None:
    stored = CategoryEffect(kind="category", name="safety", n_controls=0, first_order=0.1)
    direction = EffectDirection("a", "b", "assistant", (), (EffectRow("Safety", stored),), 0.2)
    bare = dataclasses.replace(
        with_measures(table, {}, {}), effects=EffectResults((direction,), 1, 16)
    )
    assert [each.name for each in card_of(bare, "safety").measures] == ["latents", "strength"]


def test_nearest_controls_are_called_by_their_magnitude_and_have_no_q(table: ChangeTable) -> None:
    stored = CategoryEffect(
        kind="category",
        name="safety",
        scope="assistant",
        gap=0.4,
        n_latents=5,
        n_controls=200,
        first_order=0.12,
        control_mean=0.02,
        control_magnitude=0.317,
    )
    assert alike_words(stored) == "of 32% of the magnitude"
    direction = EffectDirection("a", "b", "assistant", (), (EffectRow("Safety", stored),), 0.2)
    with_effect = dataclasses.replace(
        with_measures(table, {}, {}), effects=EffectResults((direction,), 1, 16)
    )
    measure = card_of(with_effect, "safety").measures[-1]
    assert measure.words.endswith("(random latents of 32% of the magnitude 2.0%)")
    assert (measure.detail, measure.direction) == ("no q", "no evidence")
