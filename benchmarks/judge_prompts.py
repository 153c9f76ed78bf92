"""Counts the characters of the prompts that a served judge would get for a study; asks nobody.

    python benchmarks/judge_prompts.py study.toml

The study must have been run up to `label`, by whatever judge: its explanations stand in for those
of the served judge. Prints one line per kind of call, then their sum, as JSON.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.judge.base import JudgeRequest
from labeler.judge.budget import characters_of
from labeler.judge.factory import limits_of, study_embedder
from labeler.judge.few_shot import heads_folder
from labeler.judge.latents import latents_of, load_subject, options_of
from labeler.judge.prompts import explain_request, tokens_of
from labeler.labeling.category_questions import CategoryQuestions, QuestionConfig
from labeler.labeling.score import score_requests
from labeler.labeling.trials import METHODS, draw_trials
from labeler.store.controls import control_latents, mixed
from labeler.store.engine import read_session
from labeler.store.migrate import opened
from labeler.store.schema import Comparison, Explanation
from labeler.study.study_file import StudyFile
from labeler.taxonomies.showing import study_version

EXAMPLES_PER_CALL = 20


def requests_of(session: Session, study: StudyFile) -> Iterator[tuple[str, JudgeRequest]]:
    """Every request about the latents of the sides and their controls, with its kind.

    Scoring counts twice: own and shuffled explanations. `categorize` counts what is sent first,
    `see all` what a judge that always asks to see all would be sent as well.
    """
    comparisons = list(session.scalars(select(Comparison.id)))
    latents = mixed(latents_of(session, comparisons), control_latents(session, comparisons))
    version = study_version(session, study)
    assert version is not None
    section, scores = study.config.judge, study.config.scores
    limits = limits_of(section)
    questions = CategoryQuestions(
        options_of(session, version.id),
        study_embedder(study),
        QuestionConfig(section.shortlist, limits, fits=heads_folder()),
        reads_windows=False,
    )
    texts = {
        row.latent_id: row.text
        for row in session.scalars(
            select(Explanation).where(Explanation.is_control.is_(False)).order_by(Explanation.id)
        )
    }
    for latent_id in latents:
        subject, text = load_subject(session, latent_id), texts[latent_id]
        yield "explain", explain_request(subject, limit=limits.explain)
        first = questions.first(subject, text, 0)
        yield "categorize", first
        yield "see all", questions.whole(first)
        windows = load_subject(session, latent_id, split="score").windows
        for method in METHODS:
            trials = draw_trials(method, windows, scores.examples, study.config.study.seed)
            per_call = scores.per_call or EXAMPLES_PER_CALL
            for request in score_requests(method, text, trials, per_call):
                yield from ((method, request),) * (2 if scores.shuffled else 1)


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    study = StudyFile.read(parser.parse_args().study)
    found: dict[str, list[JudgeRequest]] = defaultdict(list)
    with opened(study.database_url) as engine, read_session(engine) as session:
        for kind, request in requests_of(session, study):
            found[kind].append(request)
    rows = {
        kind: {
            "calls": len(requests),
            "characters": sum(map(characters_of, requests)),
            "mean_characters": round(sum(map(characters_of, requests)) / len(requests)),
            "most_tokens": max(map(tokens_of, requests)),
        }
        for kind, requests in found.items()
    }
    for kind, row in rows.items():
        print(f"{kind:<11} " + ", ".join(f"{key} {value:,}" for key, value in row.items()))
    total = sum(row["characters"] for kind, row in rows.items() if kind != "see all")
    print(json.dumps({"characters": total, **rows}))


if __name__ == "__main__":
    main()
