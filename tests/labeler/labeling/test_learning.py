"""Reviews in the database teach the judge: which ones, what changes, and what to review next."""

from __future__ import annotations

from evidence_seeding import add_windows, begin, distinct_windows
from judge_subjects import WordEmbedder
from seeding import Seed, decide, label, seed
from sqlalchemy import Engine, select

from labeler.embedding.embedders import TfidfEmbedder
from labeler.judge.base import JudgeRequest
from labeler.judge.embedding_judge import EvidenceJudge
from labeler.judge.scripted import ScriptedJudge
from labeler.labeling.categorize import CategorizeConfig, categorize
from labeler.labeling.category_questions import QuestionConfig
from labeler.labeling.explain import label_latents
from labeler.labeling.learning import (
    next_reviews,
    read_lessons,
    reviewed_categories,
    reviewed_sha256,
)
from labeler.store.engine import read_session, write_session
from labeler.store.reviews import draw_audit
from labeler.store.schema import JudgeCall, JudgeLabel, TaxonomyVersion

TEXTS = ["word0 says", "word1 says", "lists of things", "humour", "number"]


def study(engine: Engine, n: int = 3) -> Seed:
    """Latents of two sides, each with texts of its own word."""
    with write_session(engine) as session:
        data = seed(session, n, n)
        for number, latent_id in enumerate((*data.target, *data.reference)):
            add_windows(session, data.run_id, latent_id, distinct_windows(f"word{number}"))
    return data


def test_the_standing_decisions_teach(engine: Engine) -> None:
    data = study(engine)
    first, second, third = data.target
    with write_session(engine) as session:
        decide(session, data, first, "safety")
        decide(session, data, second, "humour")
        decide(session, data, second, "undo")
        decide(session, data, third, "uninterpretable")
        decide(session, data, data.reference[0], "none")
        decide(session, data, data.reference[1], "humour")
        decide(session, data, data.reference[1], "lists", reviewer="adjudicated")
    with read_session(engine) as session:
        name = session.get_one(TaxonomyVersion, data.version_id).name
        found = reviewed_categories(session, name)
        lessons = read_lessons(session, name)
        assert reviewed_categories(session, "another taxonomy") == {}
        assert reviewed_sha256(session, "another taxonomy") is None
    assert found == {first: "safety", data.reference[0]: "none", data.reference[1]: "lists"}
    assert [each.category for each in lessons.reviewed] == ["safety", "none", "lists"]
    assert all(each.subject.windows for each in lessons.reviewed)


def test_labels_after_a_review_are_new_answers_of_the_same_judge(engine: Engine) -> None:
    data = study(engine)
    embedder = TfidfEmbedder(TEXTS)
    judge = EvidenceJudge(embedder, labelled=())
    label_latents(engine, judge, begin(engine), [*data.target, *data.reference])

    def run() -> None:
        with read_session(engine) as session:
            name = session.get_one(TaxonomyVersion, data.version_id).name
            lessons = read_lessons(session, name)
        config = CategorizeConfig(questions=QuestionConfig(lessons=lessons))
        categorize(
            engine, judge, embedder, data.version_id, [data.comparison_id],
            begin(engine, "categorize"), config,
        )  # fmt: skip

    def counts() -> tuple[int, int, int]:
        with read_session(engine) as session:
            calls = session.execute(
                select(JudgeCall.request_sha256, JudgeCall.judge_id).where(
                    JudgeCall.stage == "categorize"
                )
            ).all()
            n_labels = len(session.execute(select(JudgeLabel.id)).all())
        return len({row[0] for row in calls}), len({row[1] for row in calls}), n_labels

    run()
    run()
    assert counts() == (6, 1, 6)
    with write_session(engine) as session:
        decide(session, data, data.target[0], "safety")
    run()
    # The reviewed latent, and any other of its part, is not taught by the review.
    n_calls, n_judges, n_labels = counts()
    assert n_judges == 1
    assert 6 < n_calls == n_labels <= 11


def test_a_judge_that_reads_prompts_is_shown_similar_reviewed_latents(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session, 2, 2)
        for latent_id in (*data.target, *data.reference):
            windows = distinct_windows(f"bread butter oven soup word{latent_id}")
            add_windows(session, data.run_id, latent_id, windows)
        decide(session, data, data.target[0], "humour")
    prompts: dict[int, str] = {}

    def reply(request: JudgeRequest) -> dict[str, object]:
        assert request.subject is not None
        if request.stage == "explain":
            return {"explanation": "bread", "interpretable": True, "confidence": 0.9}
        prompts[request.subject.latent_id] = request.messages[1].content
        return {"outcome": "none", "categories": []}

    judge = ScriptedJudge(reply)
    latents = [*data.target, *data.reference]
    label_latents(engine, judge, begin(engine), latents)
    with read_session(engine) as session:
        lessons = read_lessons(session, session.get_one(TaxonomyVersion, data.version_id).name)
    config = CategorizeConfig(questions=QuestionConfig(shortlist=1, lessons=lessons, labelled=()))
    categorize(
        engine, judge, WordEmbedder(), data.version_id, [data.comparison_id],
        begin(engine, "categorize"), config,
    )  # fmt: skip
    assert "[r1]" not in prompts[data.target[0]]
    taught = [prompts[latent_id] for latent_id in latents[1:]]
    assert any("[r1] reviewed: humour" in prompt for prompt in taught)
    assert all("\n- humour:" in prompt for prompt in taught if "[r1] reviewed: humour" in prompt)


def test_next_come_doubtful_latents_that_are_neither_reviewed_nor_drawn(engine: Engine) -> None:
    data = study(engine, 4)
    with write_session(engine) as session:
        for place, latent_id in enumerate((*data.target, *data.reference)):
            label(session, data, latent_id, "safety", confidence=0.9 - 0.1 * place)
        decide(session, data, data.reference[3], "safety")
        draw_audit(session, data.comparison_id, "target", 2, 0, "ann")
    with read_session(engine) as session:
        proposed = next_reviews(
            session, TfidfEmbedder(TEXTS), data.judge_id, data.version_id, [data.comparison_id],
            [*data.target, *data.reference],
        )  # fmt: skip
    assert data.reference[3] not in proposed
    assert len(proposed) == 5
    assert len(set(proposed) & set(data.target)) == 2
