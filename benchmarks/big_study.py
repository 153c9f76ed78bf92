"""A large study written in bulk: 100,000 latents, 3 judge runs, 20,000 decisions.

`build(url)` fills an empty, migrated database; other benchmarks measure on it. The labels, the
confidences and the decisions come from one seeded generator, the texts from a small vocabulary.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert, text
from sqlalchemy.orm import Session

from labeler.store import migrate
from labeler.store.effective import refresh_effective
from labeler.store.engine import open_engine, write_session
from labeler.store.judging import get_or_create_judge
from labeler.store.latents import (
    EvidenceRow,
    add_evidence,
    ensure_comparison_setting,
    get_or_create_crosscoder,
    get_or_create_subject_model,
)
from labeler.store.runs import begin_run, finish_run
from labeler.store.schema import (
    Base,
    Comparison,
    Explanation,
    JudgeLabel,
    JudgeLabelCategory,
    Latent,
    LatentScaling,
    LatentSet,
    LatentSetMember,
    ReviewEvent,
    ReviewEventCategory,
)
from labeler.store.taxonomies import category_ids, ensure_taxonomy_version
from taxonomy.tree import seed_taxonomy

CHUNK = 5_000
WORDS = (  # noqa: SIM905
    "refusal apology greeting list heading quote number date city river French Spanish code "
    "function loop error proof joke poem recipe doctor law money weather music film question "
    "answer opinion doubt certainty name title link table bracket comma period capital"
).split()
START = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Size:
    """How large the study is."""

    latents: int = 100_000
    judges: int = 3
    decisions: int = 20_000
    with_evidence: int = 2_000
    """Latents that get windows of text; pages of latents are measured on these."""


QUICK = Size(latents=10_000, decisions=2_000, with_evidence=300)


def build(url: str, size: Size = Size(), seed: int = 0) -> None:
    """Fill a database: one comparison, as many latents on each side."""
    migrate.upgrade(url)
    engine = open_engine(url)
    rng = np.random.default_rng(seed)
    with write_session(engine) as session:
        run_id = begin_run(session, "label", {"benchmark": True})
        comparison_id, latent_ids = _latents(session, run_id, size, rng)
        version = ensure_taxonomy_version(session, seed_taxonomy())
        leaves = [category_ids(session, version.id)[leaf.slug] for leaf in seed_taxonomy().leaves()]
        judges = [
            get_or_create_judge(session, f"judge-{number}", "model", "openai", {"seed": number}).id
            for number in range(size.judges)
        ]
        labels = _labels(session, run_id, version.id, judges, latent_ids, leaves, rng)
        _decisions(session, version.id, latent_ids, labels, leaves, size, rng)
        _evidence(session, run_id, latent_ids[:: max(1, size.latents // size.with_evidence)], rng)
        _set_sequences(session)
        ensure_comparison_setting(session, comparison_id, version.id, judges[0])
        refresh_effective(session, comparison_ids=[comparison_id])
        finish_run(session, run_id, "done")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    engine.dispose()


def _insert(session: Session, table: type[Base], rows: Iterable[dict[str, Any]]) -> None:
    remaining: Iterator[dict[str, Any]] = iter(rows)
    while part := list(islice(remaining, CHUNK)):
        session.execute(insert(table), part)


def _latents(
    session: Session, run_id: int, size: Size, rng: np.random.Generator
) -> tuple[int, list[int]]:
    crosscoder = get_or_create_crosscoder(session, "big", sha256="ab" * 32)
    models = [
        get_or_create_subject_model(session, name, fingerprint=name).id
        for name in ("tuned", "base")
    ]
    ids = list(range(1, size.latents + 1))
    density = rng.lognormal(-7, 1, size.latents)
    _insert(
        session,
        Latent,
        (
            {
                "id": key,
                "crosscoder_id": crosscoder.id,
                "latent_index": key - 1,
                "density": float(density[key - 1]),
                "n_documents": 8 + key % 500,
                "max_activation": 1.0 + key % 17,
                "mean_activation": 0.5,
            }
            for key in ids
        ),
    )
    nu = rng.normal(0.4, 0.2, (size.latents, 2))
    _insert(
        session,
        LatentScaling,
        (
            {
                "latent_id": key,
                "target_model_id": models[0],
                "reference_model_id": models[1],
                "delta_norm": 0.5,
                "nu_error": float(nu[key - 1, 0]),
                "nu_error_low": float(nu[key - 1, 0]) - 0.1,
                "nu_error_high": float(nu[key - 1, 0]) + 0.1,
                "nu_reconstruction": float(nu[key - 1, 1]),
                "nu_reconstruction_low": float(nu[key - 1, 1]) - 0.1,
                "nu_reconstruction_high": float(nu[key - 1, 1]) + 0.1,
                "is_flagged": False,
            }
            for key in ids
        ),
    )
    sets = []
    for side, model, against in (("target", *models), ("reference", *reversed(models))):
        latent_set = LatentSet(
            name=f"big/{side}", crosscoder_id=crosscoder.id, target_model_id=model,
            against_model_id=against, rule="ranked", rule_params={}, run_id=run_id,
        )  # fmt: skip
        session.add(latent_set)
        session.flush()
        sets.append(latent_set.id)
    half = size.latents // 2
    _insert(
        session,
        LatentSetMember,
        (
            {
                "latent_set_id": sets[0] if key <= half else sets[1],
                "latent_id": key,
                "rank": (key - 1) % half + 1,
                "score": 0.0,
            }
            for key in ids
        ),
    )
    comparison = Comparison(name="big", target_set_id=sets[0], reference_set_id=sets[1])
    session.add(comparison)
    session.flush()
    return comparison.id, ids


def _sentence(rng: np.random.Generator) -> str:
    return "fires on " + " ".join(WORDS[index] for index in rng.integers(0, len(WORDS), 8))


def _labels(
    session: Session,
    run_id: int,
    version_id: int,
    judges: list[int],
    latent_ids: list[int],
    leaves: list[int],
    rng: np.random.Generator,
) -> list[int]:
    """Labels of every judge; judges agree on four latents of five. Returns the first judge's."""
    n = len(latent_ids)
    weights = rng.dirichlet(np.ones(len(leaves)))
    truth = rng.choice(len(leaves), n, p=weights)
    fate = rng.random(n)
    first: list[int] = []
    for number, judge_id in enumerate(judges):
        base = number * n
        chosen = np.where(rng.random(n) < 0.8, truth, rng.choice(len(leaves), n, p=weights))
        outcomes = np.where(
            fate < 0.05, "none", np.where(fate < 0.08, "uninterpretable", "assigned")
        )
        confidence = np.round(rng.beta(5, 2, n), 4)
        _insert(
            session,
            Explanation,
            (
                {
                    "id": base + key, "run_id": run_id, "latent_id": key, "judge_id": judge_id,
                    "text": _sentence(rng), "interpretable": True, "is_control": False,
                    "created_at": START,
                }
                for key in latent_ids
            ),
        )  # fmt: skip
        _insert(
            session,
            JudgeLabel,
            (
                {
                    "id": base + key, "run_id": run_id, "latent_id": key, "judge_id": judge_id,
                    "taxonomy_version_id": version_id, "explanation_id": base + key,
                    "outcome": str(outcomes[key - 1]), "confidence": float(confidence[key - 1]),
                    "is_control": False, "created_at": START,
                }
                for key in latent_ids
            ),
        )  # fmt: skip
        _insert(
            session,
            JudgeLabelCategory,
            (
                {
                    "judge_label_id": base + key, "rank": 1,
                    "category_id": leaves[int(chosen[key - 1])],
                    "confidence": float(confidence[key - 1]),
                }
                for key in latent_ids
                if outcomes[key - 1] == "assigned"
            ),
        )  # fmt: skip
        if number == 0:
            first = [leaves[int(index)] for index in chosen]
    return first


def _decisions(
    session: Session,
    version_id: int,
    latent_ids: list[int],
    labels: list[int],
    leaves: list[int],
    size: Size,
    rng: np.random.Generator,
) -> None:
    """One decision each on a random sample of latents; four of five keep the judge's category."""
    chosen = rng.permutation(latent_ids)[: size.decisions]
    rows, categories = [], []
    for number, latent_id in enumerate(chosen.tolist(), start=1):
        same = rng.random() < 0.8
        rows.append(
            {
                "id": number, "latent_id": latent_id, "taxonomy_version_id": version_id,
                "reviewer": f"reviewer-{number % 4}", "revision": 1, "action": "set",
                "based_on_judge_label_id": latent_id, "was_blind": number % 3 == 0,
                "selection": "random" if number % 3 == 0 else "uncertain",
                "inclusion_prob": 0.1 if number % 3 == 0 else None,
                "elapsed_ms": int(rng.integers(3_000, 60_000)),
                "created_at": START + timedelta(seconds=number),
            }
        )  # fmt: skip
        kept = labels[latent_id - 1] if same else leaves[int(rng.integers(len(leaves)))]
        categories.append({"review_event_id": number, "rank": 1, "category_id": kept})
    _insert(session, ReviewEvent, rows)
    _insert(session, ReviewEventCategory, categories)


def _evidence(
    session: Session, run_id: int, latent_ids: list[int], rng: np.random.Generator
) -> None:
    """Twenty-four windows of 32 tokens for each latent: a page as heavy as the demo's."""
    kinds = (
        [("top", None)] * 12 + [("quantile", q % 4) for q in range(8)] + [("negative", None)] * 4
    )
    for latent_id in latent_ids:
        rows = []
        for number, (kind, quantile) in enumerate(kinds):
            tokens = [f" {WORDS[index]}" for index in rng.integers(0, len(WORDS), 32)]
            strength = np.where(rng.random(32) < 0.2, rng.gamma(2, 2, 32), 0.0)
            rows.append(
                EvidenceRow(
                    latent_id=latent_id,
                    kind=kind,
                    split="explain" if number % 2 else "score",
                    document_id=f"d{number}",
                    start=0,
                    tokens=tokens,
                    token_ids=range(32),
                    roles=["assistant"] * 32,
                    activations=(strength * (kind != "negative")).tolist(),
                    quantile=quantile,
                )
            )
        add_evidence(session, run_id, rows)


def _set_sequences(session: Session) -> None:
    """Let PostgreSQL number on after the ids that were written."""
    if session.get_bind().dialect.name != "postgresql":
        return
    for table in ("latent", "explanation", "judge_label", "review_event"):
        session.execute(
            text(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'),"
                f" (SELECT max(id) FROM {table}))"
            )
        )


def main() -> None:
    """Build the study at the URL that is named: `python -m benchmarks.big_study URL [--quick]`."""
    begin = time.perf_counter()
    build(sys.argv[1], QUICK if "--quick" in sys.argv else Size())
    print(f"{sys.argv[1]}: {time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
