from __future__ import annotations

from collections.abc import Sequence

import pytest
from evidence_seeding import add_windows, begin, distinct_windows
from seeding import SMALL, assert_table_equals_view, rows
from sqlalchemy import Engine, select

from labeler.embedding.embedders import TfidfEmbedder
from labeler.judge.base import JudgeRequest
from labeler.judge.latents import load_subject
from labeler.judge.scripted import ScriptedJudge
from labeler.labeling.categorize import categorize
from labeler.labeling.explain import label_latents
from labeler.store.controls import control_latents, ensure_controls, mixed
from labeler.store.engine import read_session, write_session
from labeler.store.latents import (
    add_latents,
    add_scaling,
    create_latent_set,
    ensure_comparison,
    get_or_create_crosscoder,
    get_or_create_subject_model,
)
from labeler.store.schema import ControlLatent
from labeler.store.taxonomies import ensure_taxonomy_version

DENSITIES = (0.01, 0.002, 0.011, 0.0019, 0.3, 0.0101)
NORMS = (0.9, 0.1, 0.5, 0.55, 0.5, 0.8)
"""Latents 0 and 1 are specific, 2 to 4 shared, 5 is neither."""


def study(engine: Engine) -> tuple[int, list[int]]:
    """A comparison of one latent against another; returns its key and the latents' ids."""
    with write_session(engine) as session:
        run_id = begin_of(session)
        crosscoder = get_or_create_crosscoder(session, "cc", sha256="cd" * 32)
        models = [get_or_create_subject_model(session, name, name * 8) for name in ("new", "old")]
        found = add_latents(
            session,
            crosscoder.id,
            [
                {"latent_index": index, "density": density, "n_documents": 9}
                for index, density in enumerate(DENSITIES)
            ],
        )
        ids = [found[index] for index in range(len(DENSITIES))]
        for (first, second), norms in (
            (models, NORMS),
            (models[::-1], [1 - norm for norm in NORMS]),
        ):
            add_scaling(
                session,
                first.id,
                second.id,
                [scaling(latent, norm) for latent, norm in zip(ids, norms, strict=True)],
            )
        sets = [
            create_latent_set(
                session,
                f"c/{side}",
                "ranked",
                run_id,
                [{"latent_id": ids[member]}],
                crosscoder_id=crosscoder.id,
                target_model_id=own.id,
                against_model_id=other.id,
            )
            for side, member, own, other in (
                ("target", 0, models[0], models[1]),
                ("reference", 1, models[1], models[0]),
            )
        ]
        comparison = ensure_comparison(session, "c", sets[0].id, sets[1].id)
        for number, latent in enumerate(ids):
            add_windows(session, run_id, latent, distinct_windows(f"word{number}"))
        return comparison.id, ids


def begin_of(session: object) -> int:
    from labeler.store.runs import begin_run

    return begin_run(session, "isolate", {})  # type: ignore[arg-type]


def scaling(latent_id: int, delta_norm: float) -> dict[str, object]:
    return {
        "latent_id": latent_id,
        "delta_norm": delta_norm,
        "nu_error": 0.4,
        "nu_reconstruction": 0.7,
    }


def drawn(engine: Engine, comparison_id: int, wanted: int, seed: int = 0) -> list[int]:
    run_id = begin(engine, "collect")
    with write_session(engine) as session:
        return ensure_controls(session, run_id, [comparison_id], wanted, seed)


def test_controls_are_shared_latents_of_the_nearest_density(engine: Engine) -> None:
    comparison_id, ids = study(engine)
    assert sorted(drawn(engine, comparison_id, 10)) == [ids[2], ids[3]]
    with read_session(engine) as session:
        pairs = {
            row.latent_id: row.matched_latent_id
            for row in session.execute(select(ControlLatent)).scalars()
        }
        assert pairs == {ids[2]: ids[0], ids[3]: ids[1]}


def test_a_run_keeps_its_draw_and_a_later_run_is_in_force(engine: Engine) -> None:
    comparison_id, _ = study(engine)
    run_id = begin(engine, "collect")
    with write_session(engine) as session:
        first = ensure_controls(session, run_id, [comparison_id], 2, seed=0)
        assert ensure_controls(session, run_id, [comparison_id], 1, seed=9) == first
    drawn(engine, comparison_id, 1)
    with read_session(engine) as session:
        assert len(control_latents(session, [comparison_id])) == 1
        assert len(session.execute(select(ControlLatent)).scalars().all()) == 3


def test_no_control_asked_for_none_drawn(engine: Engine) -> None:
    comparison_id, _ = study(engine)
    assert drawn(engine, comparison_id, 0) == []


def test_a_control_is_shown_with_the_facts_of_its_own_pair_of_models(engine: Engine) -> None:
    comparison_id, ids = study(engine)
    drawn(engine, comparison_id, 2)
    with read_session(engine) as session:
        facts = load_subject(session, ids[3]).facts
    assert (facts.target_model, facts.reference_model) == ("old", "new")
    assert facts.delta_norm == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("latents", "controls"),
    [([1, 2, 3, 4], [9]), ([1, 2, 3, 4], [8, 9]), ([], [8, 9]), ([1], [7, 8, 9]), ([1, 2], [])],
)
def test_controls_are_spread_among_the_others(
    latents: Sequence[int], controls: Sequence[int]
) -> None:
    together = mixed(latents, controls)
    assert sorted(together) == sorted([*latents, *controls])
    assert [key for key in together if key in latents] == list(latents)
    if len(latents) > len(controls):
        assert together[0] in latents


def test_a_latent_of_one_comparison_that_is_a_control_of_another_is_asked_once() -> None:
    assert mixed([1, 2], [2]) == [1, 2]


def test_controls_are_labelled_like_the_others_and_counted_nowhere(engine: Engine) -> None:
    comparison_id, ids = study(engine)
    controls = drawn(engine, comparison_id, 2)

    def answers(request: JudgeRequest) -> dict[str, object]:
        if request.stage == "explain":
            return {"explanation": "some words", "interpretable": True, "confidence": 0.5}
        chosen = {"category": "safety", "confidence": 0.7, "quote": ""}
        return {"outcome": "assigned", "categories": [chosen]}

    judge = ScriptedJudge(answers)
    latents = mixed(ids[:2], controls)
    label_latents(engine, judge, begin(engine), latents)
    with write_session(engine) as session:
        version_id = ensure_taxonomy_version(session, SMALL).id
    summary = categorize(
        engine,
        ScriptedJudge(answers),
        TfidfEmbedder(["some words", "others"]),
        version_id,
        [comparison_id],
        begin(engine, "categorize"),
    )
    assert (summary.n_latents, summary.n_assigned) == (2, 2)
    systems = {request.messages[0].content for request in judge.asked}
    assert len(systems) == 1
    with write_session(engine) as session:
        assert_table_equals_view(session)
        labelled = rows(session, "SELECT latent_id FROM v_effective_label")
        assert sorted(row[0] for row in labelled) == ids[:2]
        change = rows(
            session,
            "SELECT target_count, target_total, reference_count, reference_total"
            " FROM v_category_change WHERE category = 'safety'",
        )
        assert change == [(1, 1, 1, 1)]
        rates = rows(
            session,
            "SELECT category, control_count, control_total, control_share"
            " FROM v_control_category ORDER BY category",
        )
        assert rates == [
            ("behaviour", 2, 2, 1.0), ("form", 0, 2, 0.0), ("humour", 0, 2, 0.0),
            ("lists", 0, 2, 0.0), ("safety", 2, 2, 1.0),
        ]  # fmt: skip
