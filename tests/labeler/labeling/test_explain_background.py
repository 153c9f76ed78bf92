"""The other text of a study that the evidence judge compares a latent's text with."""

from __future__ import annotations

import asyncio

from evidence_seeding import add_windows, begin, distinct_windows
from judge_subjects import WordEmbedder, refusals, window
from seeding import Seed, seed
from sqlalchemy import Engine, select

from labeler.judge.embedding_judge import EvidenceJudge
from labeler.judge.latents import background_texts
from labeler.judge.scripted import ScriptedJudge
from labeler.labeling.explain import (
    LabelConfig,
    background_for,
    explain_questions,
    label_latents,
)
from labeler.store.engine import read_session, write_session
from labeler.store.latents import EvidenceRow, add_evidence
from labeler.store.schema import Explanation

WORDS = tuple(f" w{number}" for number in range(12))


def part(latent_id: int, document: str, start: int, end: int, split: str) -> EvidenceRow:
    """A window of a document of which position n has the word `wn`."""
    return EvidenceRow(
        latent_id=latent_id,
        kind="top",
        split=split,
        document_id=document,
        start=start,
        tokens=WORDS[start:end],
        token_ids=range(start, end),
        roles=("plain",) * (end - start),
        activations=(1.0,) * (end - start),
        quantile=None,
    )


def seeded(engine: Engine) -> Seed:
    with write_session(engine) as session:
        made = seed(session, 1, 1)
        for latent_id in (*made.target, *made.reference):
            add_windows(session, made.run_id, latent_id, [*refusals(), *distinct_windows("sun")])
    return made


def test_overlapping_windows_become_one_text_and_no_token_counts_twice(engine: Engine) -> None:
    with write_session(engine) as session:
        made = seed(session, 1, 1)
        (one,), (other,) = made.target, made.reference
        rows = [
            part(one, "a", 0, 4, "explain"),
            part(one, "b", 8, 12, "explain"),
            part(one, "c", 0, 12, "score"),
            part(other, "a", 2, 6, "explain"),
            part(other, "b", 0, 3, "explain"),
        ]
        add_evidence(session, made.run_id, rows)
    with read_session(engine) as session:
        texts = background_texts(session)
    assert sorted(text.tokens for text in texts) == sorted([WORDS[:6], WORDS[:3], WORDS[8:]])
    assert {value for text in texts for value in text.activations} == {0.0}


def test_only_a_judge_that_reads_it_gets_the_background(engine: Engine) -> None:
    made = seeded(engine)
    judge = EvidenceJudge(WordEmbedder())
    background = background_for(engine, judge)
    assert background is not None
    assert background.role_share("assistant") > 0.9
    assert background_for(engine, ScriptedJudge(lambda _: {})) is None
    config = LabelConfig()
    plain, compared = (
        next(iter(explain_questions(engine, made.target, config, text))).request  # type: ignore[union-attr]
        for text in (None, background)
    )
    assert plain.sha256(judge.identity) != compared.sha256(judge.identity)
    assert asyncio.run(judge.ask(compared)).parsed is not None


def test_answers_are_used_again_until_the_studys_text_changes(engine: Engine) -> None:
    made = seeded(engine)
    judge = EvidenceJudge(WordEmbedder())
    first = label_latents(engine, judge, begin(engine), made.target)
    again = label_latents(engine, judge, begin(engine), made.target)
    assert (first.n_explained, first.n_reused, again.n_reused) == (1, 0, 1)
    with write_session(engine) as session:
        more = [window(f"We are sorry, truly sorry, {n} times sorry.") for n in range(9)]
        add_windows(session, made.run_id, made.reference[0], [*refusals(), *more])
    changed = label_latents(engine, judge, begin(engine), made.target)
    assert (changed.n_explained, changed.n_reused) == (1, 0)
    with read_session(engine) as session:
        texts = list(session.execute(select(Explanation.text)).scalars())
    assert all(text.startswith("Fires on ") for text in texts)
