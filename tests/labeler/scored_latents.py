"""Latents with evidence in both halves, and a judge that explains and scores them by their word."""

from __future__ import annotations

from collections.abc import Callable

from judge_subjects import window
from seeding import Seed, seed
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from labeler.judge.base import Example, JudgeReply, JudgeRequest
from labeler.store.engine import write_session
from labeler.store.latents import EvidenceRow, add_evidence

WORDS = ("sorry", "butter", "river", "engine")
Script = Callable[[JudgeRequest], dict[str, object] | JudgeReply]


def windows_of(word: str, others: tuple[str, ...]) -> list[Example]:
    """Both halves: texts that fire on a word, and texts about other words on which it does not."""
    found = []
    for split in ("explain", "score"):
        found += [
            window(f"here we read of <<{word}>> in the {split} text {n} of many", split=split)
            for n in range(6)
        ]
        found += [
            window(f"here we read of {other} in the {split} text {n} of many", kind="negative",
                   split=split)
            for n, other in enumerate(others * 2)
        ]  # fmt: skip
    return found


def seeded(engine: Engine) -> Seed:
    """Two latents on each side, each firing on a word of its own."""
    with write_session(engine) as session:
        made = seed(session, 2, 2)
        for word, latent_id in zip(WORDS, (*made.target, *made.reference), strict=True):
            others = tuple(other for other in WORDS if other != word)
            add_halves(session, made.run_id, latent_id, windows_of(word, others))
    return made


def add_halves(session: Session, run_id: int, latent_id: int, windows: list[Example]) -> None:
    """Write windows of one latent, each in the half that it names."""
    add_evidence(
        session,
        run_id,
        [
            EvidenceRow(
                latent_id, each.kind, each.split, f"{each.split}-{number}", 0, each.tokens,
                range(len(each.tokens)), each.roles, each.activations,
            )
            for number, each in enumerate(windows)
        ],
    )  # fmt: skip


def reader(request: JudgeRequest) -> dict[str, object] | JudgeReply:
    """Explains by the marked word, and answers by looking for that word where it was asked to."""
    if request.stage == "explain":
        assert request.subject is not None
        first = request.subject.of_kind("top")[0]
        word = first.tokens[first.activations.index(first.peak)].strip()
        return {"explanation": word, "interpretable": True, "confidence": 0.9}
    word = str(request.explanation)
    answers = {}
    for example in request.examples:
        tokens = example.window.tokens
        looked_at = range(len(tokens)) if request.stage == "detect" else example.marks
        answers[example.id] = any(tokens[at].strip() == word for at in looked_at)
    return {"answers": answers}
