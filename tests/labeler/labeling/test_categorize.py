from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from evidence_seeding import add_windows, begin, distinct_windows
from seeding import Seed, seed
from sqlalchemy import Engine, select, text

from labeler.embedding.embedders import TfidfEmbedder
from labeler.errors import UsageError, WorkError
from labeler.judge.base import JudgeReply, JudgeRequest
from labeler.judge.embedding_judge import EvidenceJudge
from labeler.judge.latents import latents_of, load_subject, options_of
from labeler.judge.scripted import ScriptedJudge
from labeler.labeling.categorize import CategorizeSummary, categorize, check_quote
from labeler.labeling.category_questions import shuffled_options
from labeler.labeling.explain import label_latents
from labeler.store.engine import read_session, write_session
from labeler.store.latents import current_setting
from labeler.store.schema import JudgeCall, JudgeLabel, JudgeLabelCategory
from labeler.store.taxonomies import ensure_taxonomy_version
from taxonomy.tree import Category, Taxonomy

Answers = Callable[[JudgeRequest], str | dict[str, object] | JudgeReply]
EMBEDDER_TEXTS = [
    "Fires on jokes", "Fires on apologies", "number says word", "lists of things", "humour",
]  # fmt: skip


def assigned(*slugs: str, quote: str = "says") -> dict[str, object]:
    return {
        "outcome": "assigned",
        "categories": [
            {"category": slug, "confidence": 0.9 - 0.2 * rank, "quote": quote}
            for rank, slug in enumerate(slugs)
        ],
    }


NONE = {"outcome": "none", "categories": []}


def seeded(engine: Engine, n: int = 2) -> Seed:
    with write_session(engine) as session:
        made = seed(session, n, n)
        for number, latent_id in enumerate((*made.target, *made.reference)):
            add_windows(session, made.run_id, latent_id, distinct_windows(f"word{number}"))
    return made


def script(answers: Answers) -> Answers:
    """Explain every latent by its number; categorise by `answers`."""

    def reply(request: JudgeRequest) -> str | dict[str, object] | JudgeReply:
        if request.stage == "categorize":
            return answers(request)
        assert request.subject is not None
        unclear = request.subject.latent_index == 3
        words = "jokes" if request.subject.latent_index % 2 else "apologies"
        return {
            "explanation": f"Fires on {words}; latent {request.subject.latent_index}",
            "interpretable": not unclear,
            "confidence": 0.5,
        }

    return reply


def run(
    engine: Engine, made: Seed, judge: ScriptedJudge, latents: Sequence[int] | None = None
) -> CategorizeSummary:
    everything = [*made.target, *made.reference]
    label_latents(engine, judge, begin(engine), everything if latents is None else latents)
    return categorize(
        engine,
        judge,
        TfidfEmbedder(EMBEDDER_TEXTS),
        made.version_id,
        [made.comparison_id],
        begin(engine, "categorize"),
    )


def by_index(outcomes: dict[int, str | dict[str, object] | JudgeReply]) -> Answers:
    def reply(request: JudgeRequest) -> str | dict[str, object] | JudgeReply:
        assert request.subject is not None
        return outcomes[request.subject.latent_index]

    return reply


def labels(engine: Engine) -> list[JudgeLabel]:
    with read_session(engine) as session:
        return list(session.execute(select(JudgeLabel).order_by(JudgeLabel.id)).scalars())


def effective(engine: Engine) -> list[tuple[int, str, str | None, int | None]]:
    with read_session(engine) as session:
        rows = session.execute(
            text(
                "SELECT latent_index, outcome, category, rank FROM v_effective_label "
                "ORDER BY latent_index, rank"
            )
        )
        return [tuple(row) for row in rows]


def test_outcomes_are_kept_apart_and_reach_the_view(engine: Engine) -> None:
    made = seeded(engine)
    answers = by_index({0: assigned("safety", "humour"), 1: NONE, 2: "no JSON"})
    summary = run(engine, made, ScriptedJudge(script(answers)))
    assert (
        summary.n_assigned, summary.n_none, summary.n_uninterpretable, summary.n_error,
        summary.n_without_explanation,
    ) == (1, 1, 1, 1, 0)  # fmt: skip
    outcomes = {label.latent_id: label.outcome for label in labels(engine)}
    assert outcomes == dict(
        zip(
            (*made.target, *made.reference),
            ("assigned", "none", "error", "uninterpretable"),
            strict=True,
        )
    )
    seen = {row[0]: row[1] for row in effective(engine)}
    assert (seen[0], seen[1], seen[3]) == ("assigned", "none", "uninterpretable")
    assert seen[2] in ("error", "unlabelled")
    assert [row[2:] for row in effective(engine) if row[0] == 0] == [("safety", 1), ("humour", 2)]


def test_categories_keep_rank_confidence_and_a_quote_that_is_in_the_evidence(
    engine: Engine,
) -> None:
    made = seeded(engine, n=1)
    answers = by_index({0: assigned("humour", "lists"), 1: assigned("lists", quote="invented")})
    run(engine, made, ScriptedJudge(script(answers)))
    names = {key: slug for slug, key in made.categories.items()}
    with read_session(engine) as session:
        rows = session.execute(
            select(JudgeLabelCategory).order_by(
                JudgeLabelCategory.judge_label_id, JudgeLabelCategory.rank
            )
        ).scalars()
        found = [(names[row.category_id], row.rank, row.confidence, row.quote) for row in rows]
    assert sorted(found) == sorted(
        [("humour", 1, 0.9, "says"), ("lists", 2, 0.7, "says"), ("lists", 1, 0.9, None)]
    )


def test_a_latent_without_interpretable_explanation_is_not_asked_about(engine: Engine) -> None:
    made = seeded(engine)
    judge = ScriptedJudge(script(lambda _: NONE))
    run(engine, made, judge)
    asked = [request for request in judge.asked if request.stage == "categorize"]
    assert {each.subject.latent_index for each in asked if each.subject} == {0, 1, 2}
    (label,) = [row for row in labels(engine) if row.outcome == "uninterpretable"]
    assert label.judge_call_id is None
    assert label.explanation_id is not None


def test_a_latent_whose_explanation_failed_stays_unlabelled(engine: Engine) -> None:
    made = seeded(engine)
    judge = ScriptedJudge(script(lambda _: NONE))
    summary = run(engine, made, judge, latents=made.target)
    assert summary.n_without_explanation == 2
    assert {row[1] for row in effective(engine) if row[0] >= 2} == {"unlabelled"}


def test_a_second_run_asks_nothing_and_writes_nothing(engine: Engine) -> None:
    made = seeded(engine)
    run(engine, made, ScriptedJudge(script(lambda _: assigned("safety"))))
    before = [(label.id, label.outcome) for label in labels(engine)]
    again = ScriptedJudge(script(lambda _: NONE))
    summary = run(engine, made, again)
    assert again.asked == []
    assert summary.n_reused == 3
    assert [(label.id, label.outcome) for label in labels(engine)] == before


def test_a_failed_call_is_asked_again_and_the_new_label_counts(engine: Engine) -> None:
    made = seeded(engine, n=1)
    run(engine, made, ScriptedJudge(script(lambda _: "nonsense")))
    run(engine, made, ScriptedJudge(script(lambda _: assigned("lists"))))
    assert [label.outcome for label in labels(engine)] == ["error", "error", "assigned", "assigned"]
    assert {row[2] for row in effective(engine)} == {"lists"}


def test_an_interrupted_batch_goes_on_and_no_call_is_paid_twice(engine: Engine) -> None:
    made = seeded(engine)
    seen: list[int] = []

    def dies(request: JudgeRequest) -> dict[str, object]:
        if len(seen) == 1:
            raise KeyboardInterrupt
        seen.append(1)
        return assigned("safety")

    with pytest.raises(KeyboardInterrupt):
        run(engine, made, ScriptedJudge(script(dies), concurrency=1))
    second = ScriptedJudge(script(lambda _: assigned("safety")))
    summary = run(engine, made, second)
    assert [request.stage for request in second.asked] == ["categorize"] * 2
    assert summary.n_assigned == 3
    with read_session(engine) as session:
        stages = session.execute(select(JudgeCall.stage)).scalars().all()
    assert sorted(stages) == ["categorize"] * 3 + ["explain"] * 4


def test_the_judge_is_put_in_force_only_when_all_are_done(engine: Engine) -> None:
    made = seeded(engine)

    def in_force() -> int:
        with read_session(engine) as session:
            setting = current_setting(session, made.comparison_id)
        assert setting is not None
        return setting.judge_id

    seen: list[int] = []

    def answer(_: JudgeRequest) -> dict[str, object]:
        seen.append(in_force())
        return assigned("humour")

    summary = run(engine, made, ScriptedJudge(script(answer)))
    assert set(seen) == {made.judge_id}
    assert in_force() == summary.judge_id != made.judge_id
    assert {row[2] for row in effective(engine) if row[0] != 3} == {"humour"}


def test_too_many_failures_give_up_and_leave_the_old_judge_in_force(engine: Engine) -> None:
    made = seeded(engine, n=12)

    def broken(request: JudgeRequest) -> JudgeReply:
        return JudgeReply("transport_error", error="down")

    with pytest.raises(WorkError, match=r"20 of 20 calls of .* failed"):
        run(engine, made, ScriptedJudge(script(broken), concurrency=1))
    with read_session(engine) as session:
        setting = current_setting(session, made.comparison_id)
    assert setting is not None
    assert setting.judge_id == made.judge_id


def test_options_are_the_leaves_in_an_order_of_the_latent_that_is_stored(engine: Engine) -> None:
    made = seeded(engine)
    judge = ScriptedJudge(script(lambda _: NONE))
    run(engine, made, judge)
    asked = [request for request in judge.asked if request.stage == "categorize"]
    for request in asked:
        slugs = [option.slug for option in request.options]
        assert sorted(slugs) == ["humour", "lists", "safety"]
        assert request.subject is not None
        assert tuple(request.options) == shuffled_options(request.options, request.subject, 0)
        items = request.schema["properties"]["categories"]["items"]
        assert items["properties"]["category"]["enum"] == [*slugs, "none"]
    with read_session(engine) as session:
        calls = session.scalars(select(JudgeCall).where(JudgeCall.stage == "categorize"))
        stored = {call.latent_id: call.options for call in calls}
        others = session.scalars(select(JudgeCall).where(JudgeCall.stage != "categorize"))
        assert {str(call.options) for call in others} == {"None"}
    assert stored == {
        request.subject.latent_id: [option.slug for option in request.options]
        for request in asked
        if request.subject is not None
    }


def test_explanations_are_grouped_and_the_groups_are_named(engine: Engine) -> None:
    made = seeded(engine)
    summary = run(engine, made, ScriptedJudge(script(lambda _: NONE)))
    members = [set(cluster.latent_ids) for cluster in summary.clusters]
    assert sorted(key for group in members for key in group) == [
        *made.target,
        made.reference[0],
    ]
    assert [len(group) for group in members] == sorted(map(len, members), reverse=True)
    assert {cluster.name for cluster in summary.clusters} <= {
        "apologies", "jokes", "apologies (2)",
    }  # fmt: skip


def test_a_version_without_categories_is_a_users_mistake(sqlite_engine: Engine) -> None:
    made = seeded(sqlite_engine, n=1)
    judge = ScriptedJudge(script(lambda _: NONE))
    with pytest.raises(UsageError, match="taxonomy"):
        categorize(
            sqlite_engine, judge, TfidfEmbedder(EMBEDDER_TEXTS), 9999, [made.comparison_id], 1
        )


@pytest.mark.slow
def test_the_evidence_judge_labels_a_study(sqlite_engine: Engine) -> None:
    taxonomy = Taxonomy(
        name="two",
        version="1",
        categories=(
            Category(slug="weather", name="Weather", prototypes=("rain and snow", "sunny skies")),
            Category(slug="music", name="Music", prototypes=("a violin solo", "loud drums")),
        ),
    )
    with write_session(sqlite_engine) as session:
        made = seed(session, 1, 1)
        version = ensure_taxonomy_version(session, taxonomy).id
        for latent_id, word in ((made.target[0], "rain"), (made.reference[0], "violin")):
            add_windows(session, made.run_id, latent_id, distinct_windows(word))
    texts = ["rain and snow", "sunny skies", "a violin solo", "loud drums", "says to us", "text"]
    embedder = TfidfEmbedder(texts)
    judge = EvidenceJudge(embedder)
    latents = [*made.target, *made.reference]
    assert label_latents(sqlite_engine, judge, begin(sqlite_engine), latents).n_explained == 2
    summary = categorize(
        sqlite_engine, judge, embedder, version, [made.comparison_id], begin(sqlite_engine)
    )
    assert summary.n_error == 0
    assert summary.n_assigned + summary.n_none == 2
    for latent_index, outcome, category, _ in effective(sqlite_engine):
        if outcome == "assigned":
            assert category == ("weather", "music")[latent_index]


def test_latents_and_subjects_are_read_as_they_were_written(sqlite_engine: Engine) -> None:
    made = seeded(sqlite_engine)
    with read_session(sqlite_engine) as session:
        assert latents_of(session, [made.comparison_id]) == [*made.target, *made.reference]
        subject = load_subject(session, made.target[0])
        options = options_of(session, made.version_id)
    assert (subject.crosscoder, subject.latent_index, len(subject.windows)) == ("cc", 0, 4)
    assert subject.windows[0].tokens == distinct_windows("word0")[0].tokens
    assert [option.parent for option in options] == ["behaviour", "behaviour", "form"]


@pytest.mark.parametrize(
    ("quote", "kept"),
    [("says  word0", "says  word0"), ("says word1", None), ("", None), ("  ", None)],
)
def test_only_words_of_the_evidence_are_quoted(
    sqlite_engine: Engine, quote: str, kept: str | None
) -> None:
    made = seeded(sqlite_engine)
    with read_session(sqlite_engine) as session:
        assert check_quote(quote, load_subject(session, made.target[0])).text == kept
