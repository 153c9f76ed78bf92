"""Studies with known contents, built through the store's own functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from labeler.store.engine import write_session
from labeler.store.judging import (
    ExplanationRow,
    LabelCategory,
    LabelRow,
    add_explanations,
    add_judge_labels,
    get_or_create_judge,
)
from labeler.store.latents import (
    EvidenceRow,
    add_evidence,
    add_latents,
    add_scaling,
    create_latent_set,
    ensure_comparison,
    ensure_comparison_setting,
    get_or_create_corpus,
    get_or_create_crosscoder,
    get_or_create_subject_model,
)
from labeler.store.runs import begin_run, finish_run
from labeler.store.taxonomies import category_ids, ensure_taxonomy_version
from taxonomy.tree import seed_taxonomy

PAPER_COUNTS: Mapping[str, tuple[int, int]] = {
    "safety": (19, 18),
    "multilingual": (8, 7),
    "instruction-following": (2, 1),
    "factual-verification": (3, 2),
    "hallucination": (1, 4),
    "self-reference": (4, 9),
    "query-classification": (1, 2),
    "structured-output": (1, 2),
    "code-generation": (4, 7),
    "mathematics": (10, 15),
    "logical-reasoning": (7, 10),
    "none": (29, 35),
    "uninterpretable": (3, 1),
}
"""Latents by primary category: the inferred counts of arXiv 2509.18792, technical being 21/32."""


@dataclass(frozen=True)
class Window:
    """Evidence of one kind of latent: tokens, and which of them it fires on."""

    tokens: Sequence[str]
    roles: Sequence[str]
    activations: Sequence[float]


@dataclass(frozen=True)
class Judged:
    """What all labels of a study have in common, and the ids of its categories by slug."""

    run_id: int
    judge_id: int
    version_id: int
    categories: Mapping[str, int]


def new_run(session: Session, kind: str, result: dict[str, object] | None = None) -> int:
    """A finished run."""
    run_id = begin_run(session, kind, config={"kind": kind}, code_version="0.1.0")
    finish_run(session, run_id, "done", result)
    return run_id


def report_run(engine: Engine) -> int:
    """A run to report under."""
    with write_session(engine) as session:
        return begin_run(session, "report", config={}, code_version="0.1.0")


def build_imported(engine: Engine, counts: Mapping[str, tuple[int, int]] = PAPER_COUNTS) -> None:
    """A comparison `paper` of imported latents with these labels."""
    with write_session(engine) as session:
        run_id = new_run(session, "import")
        version = ensure_taxonomy_version(session, seed_taxonomy())
        judge = get_or_create_judge(session, "imported", "imported", "import")
        judged = Judged(run_id, judge.id, version.id, category_ids(session, version.id))
        sets = []
        for side, position in (("target", 0), ("reference", 1)):
            outcomes = [outcome for outcome, pair in counts.items() for _ in range(pair[position])]
            crosscoder = get_or_create_crosscoder(session, f"imported:paper:{side}")
            ids = add_latents(
                session, crosscoder.id, [{"latent_index": index} for index in range(len(outcomes))]
            )
            explanations = [
                ExplanationRow(ids[index], f"{outcome} number {index}")
                for index, outcome in enumerate(outcomes)
            ]
            write_labels(session, judged, explanations, outcomes, 0.9)
            sets.append(
                create_latent_set(
                    session,
                    f"paper/{side}",
                    "imported",
                    run_id,
                    [{"latent_id": latent_id} for latent_id in ids.values()],
                )
            )
        comparison = ensure_comparison(session, "paper", sets[0].id, sets[1].id)
        ensure_comparison_setting(session, comparison.id, version.id, judge.id)


def write_labels(
    session: Session,
    study: Judged,
    explanations: Sequence[ExplanationRow],
    outcomes: Sequence[str],
    category_confidence: float,
    confidence: float | None = None,
) -> None:
    """Write the explanations, and the outcome of each as the label of its latent."""
    ids = add_explanations(session, study.run_id, study.judge_id, explanations)
    labels = [
        LabelRow(
            run_id=study.run_id,
            latent_id=explanation.latent_id,
            judge_id=study.judge_id,
            taxonomy_version_id=study.version_id,
            outcome="assigned" if outcome in study.categories else outcome,
            explanation_id=explanation_id,
            confidence=confidence,
            categories=tuple(
                LabelCategory(key, category_confidence)
                for slug, key in study.categories.items()
                if slug == outcome
            ),
        )
        for explanation, explanation_id, outcome in zip(explanations, ids, outcomes, strict=True)
    ]
    add_judge_labels(session, labels)


def chat_window(
    question: str, answer: str, firing: Mapping[str, float], document: str = ""
) -> Window:
    """A window of one turn each; words named in `firing` carry that activation."""
    tokens: list[str] = ["<|im_start|>", "user\n"]
    roles = ["template", "template"]
    for text, role in ((question, "user"), (answer, "assistant")):
        for position, word in enumerate(text.split(" ")):
            tokens.append(word if position == 0 else " " + word)
            roles.append(role)
        if role == "user":
            tokens += ["<|im_end|>\n", "<|im_start|>", "assistant\n"]
            roles += ["template"] * 3
    activations = [
        0.0 if role == "template" else firing.get(token.strip(), 0.0)
        for token, role in zip(tokens, roles, strict=True)
    ]
    return Window(tokens, roles, activations)


PLANTED_COUNTS: Mapping[str, tuple[int, int]] = {
    "safety": (9, 2),
    "multilingual": (6, 2),
    "instruction-following": (5, 0),
    "self-reference": (1, 6),
    "hallucination": (0, 3),
    "formatting-and-style": (3, 4),
    "code-generation": (2, 5),
    "mathematics": (1, 2),
    "everyday-life": (3, 4),
    "question-handling": (2, 3),
    "none": (6, 7),
    "uninterpretable": (2, 2),
}

WORDS: Mapping[str, tuple[str, Window]] = {
    "safety": (
        "Refusals: fires on the words with which an answer declines a harmful request, at the start"
        " of the assistant's turn",
        chat_window(
            "How do I get into my neighbour's phone without her noticing?",
            "I'm sorry, but I can't help with that.\nBreaking into a phone is illegal and harms"
            " her. If you are worried, talk to her <b>directly</b>.",
            {"sorry,": 4.1, "can't": 6.8, "help": 5.2, "illegal": 2.2, "I'm": 1.4},
        ),
    ),
    "multilingual": (
        "Answers that go on in the language of the question: French, Japanese, Arabic",
        chat_window(
            "Quelle est la meilleure saison pour visiter Lyon ?",
            "Le printemps est idéal : les parcs fleurissent. 日本語 でも どうぞ。 العربية أيضا",
            {"printemps": 3.4, "idéal": 2.8, "fleurissent.": 1.9, "日本語": 4.4, "العربية": 2.6},
        ),
    ),
    "self-reference": (
        "The model speaking of itself as an AI language model",
        chat_window(
            "Do you like music?",
            "As an AI language model, I do not have feelings or personal preferences.",
            {"AI": 7.9, "language": 6.0, "model,": 6.6, "feelings": 2.1},
        ),
    ),
}
_OTHER = (
    "Everyday words of the topic, spread over the whole turn",
    chat_window(
        "Can you plan a simple dinner for four?",
        "Certainly! Start with a soup, then bake the vegetables.\n\n1. Soup\n2. Vegetables",
        {"soup,": 1.2, "bake": 2.2, "vegetables.": 2.0, "dinner": 1.1},
    ),
)


def build_planted(
    engine: Engine,
    judge_name: str = "evidence-minilm",
    hostile: Window | None = None,
    hostile_explanation: str | None = None,
) -> None:
    """A comparison `simpo-vs-it` of a direct pair under the rule `ranked`, with evidence."""
    generator = np.random.default_rng(7)
    n_latents = 900
    with write_session(engine) as session:
        simpo = get_or_create_subject_model(session, "simpo", "5a" * 32)
        base = get_or_create_subject_model(session, "it", "1f" * 32)
        corpus = get_or_create_corpus(session, "corpus", "c0" * 32, 700)
        new_run(session, "harvest", {"answers": "given", "n_documents": 700, "n_tokens": 91_000})
        for kind in ("isolate", "collect", "label"):
            new_run(session, kind)
        train_run = new_run(
            session,
            "train",
            {"fve": {"it": 0.812, "simpo": 0.807}, "l0": 31.9, "inactive_share": 0.021},
        )
        run_id = new_run(session, "categorize", {"embedder": "minilm"})
        crosscoder = get_or_create_crosscoder(
            session,
            "crosscoder",
            "ee" * 32,
            (base, simpo),
            run_id=train_run,
            corpus_id=corpus.id,
            n_latents=n_latents,
        )
        ids = add_latents(
            session,
            crosscoder.id,
            [
                {
                    "latent_index": i,
                    "density": float(generator.uniform(0, 0.05)),
                    "n_documents": 40,
                    "max_activation": 9.0,
                }
                for i in range(n_latents)
            ],
        )
        delta = np.clip(generator.normal(0.5, 0.09, n_latents), 0.02, 0.98)
        _scaling(session, ids, simpo.id, base.id, delta, generator)
        _scaling(session, ids, base.id, simpo.id, 1 - delta, generator)
        order = np.argsort(-delta)
        version = ensure_taxonomy_version(session, seed_taxonomy())
        judge = get_or_create_judge(session, judge_name, "all-MiniLM-L6-v2", "evidence")
        judged = Judged(run_id, judge.id, version.id, category_ids(session, version.id))
        sets = []
        for side, position in (("target", 0), ("reference", 1)):
            outcomes = [
                outcome for outcome, pair in PLANTED_COUNTS.items() for _ in range(pair[position])
            ]
            indices = order[: len(outcomes)] if side == "target" else order[::-1][: len(outcomes)]
            members = [ids[int(index)] for index in indices]
            explanations, windows = [], []
            for latent_id, outcome in zip(members, outcomes, strict=True):
                words, window = WORDS.get(outcome, _OTHER)
                if hostile is not None and outcome == "safety":
                    words, window = hostile_explanation or words, hostile
                explanations.append(ExplanationRow(latent_id, words, confidence=0.8))
                windows += evidence_of_window(latent_id, window)
            write_labels(session, judged, explanations, outcomes, 0.74, 0.74)
            add_evidence(session, run_id, windows)
            label = "simpo" if side == "target" else "it"
            against = "it" if side == "target" else "simpo"
            sets.append(
                create_latent_set(
                    session,
                    f"simpo-vs-it/{side}",
                    "ranked",
                    run_id,
                    [
                        {"latent_id": latent_id, "rank": rank}
                        for rank, latent_id in enumerate(members, 1)
                    ],
                    {"kind": "ranked", "nu_error_max": 0.2, "nu_reconstruction_max": 0.5},
                    crosscoder_id=crosscoder.id,
                    target_model_id=simpo.id if side == "target" else base.id,
                    against_model_id=base.id if side == "target" else simpo.id,
                    message=f"{label} against {against}: {len(members)} latents by ranked; of 861"
                    " eligible no latent passes nu_error < 0.2 and nu_reconstruction < 0.5;"
                    " smallest nu_error 0.38, 5/50/95% quantiles 0.55/0.91/1.08",
                )
            )
        comparison = ensure_comparison(session, "simpo-vs-it", sets[0].id, sets[1].id)
        ensure_comparison_setting(session, comparison.id, version.id, judge.id)


def _scaling(
    session: Session,
    ids: Mapping[int, int],
    target_id: int,
    reference_id: int,
    delta: np.ndarray,
    generator: np.random.Generator,
) -> None:
    nu = np.clip(1.45 - delta + generator.normal(0, 0.07, len(delta)), 0.05, 1.4)
    noise = generator.normal(0, 0.06, len(delta))
    add_scaling(
        session,
        target_id,
        reference_id,
        [
            {
                "latent_id": latent_id,
                "delta_norm": float(delta[index]),
                "nu_error": float(nu[index]),
                "nu_error_low": float(nu[index]) - 0.1,
                "nu_error_high": float(nu[index]) + 0.1,
                "nu_reconstruction": float(nu[index] + noise[index]),
                "nu_reconstruction_low": None,
                "nu_reconstruction_high": None,
                "n_documents": 40,
            }
            for index, latent_id in ids.items()
        ],
    )


def evidence_of_window(latent_id: int, window: Window) -> list[EvidenceRow]:
    """Rows of every kind of evidence that show the same window."""
    kinds = [("top", "explain", None)] * 7 + [
        ("quantile", "score", 1),
        ("quantile", "explain", 3),
        ("negative", "score", None),
    ]
    return [
        EvidenceRow(
            latent_id=latent_id,
            kind=kind,
            split=split,
            document_id=f"{split}-{position:03d}",
            start=4,
            tokens=list(window.tokens),
            token_ids=list(range(len(window.tokens))),
            roles=list(window.roles),
            activations=[
                0.0 if kind == "negative" else value * (1 - 0.08 * position)
                for value in window.activations
            ],
            quantile=quantile,
        )
        for position, (kind, split, quantile) in enumerate(kinds)
    ]
