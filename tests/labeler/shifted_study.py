"""A study whose sides were chosen by the strength shift, with labels of all latents and draws."""

from __future__ import annotations

import numpy as np
from report_studies import Judged, chat_window, evidence_of_window, new_run, write_labels
from sqlalchemy import Engine

from labeler.store.engine import write_session
from labeler.store.judging import ExplanationRow, get_or_create_judge
from labeler.store.latents import (
    add_evidence,
    add_latents,
    add_scaling,
    add_side_draws,
    create_latent_set,
    ensure_comparison,
    ensure_comparison_setting,
    get_or_create_crosscoder,
    get_or_create_subject_model,
)
from labeler.store.taxonomies import category_ids, ensure_taxonomy_version
from taxonomy.tree import seed_taxonomy

N_LATENTS, PER_SIDE, DRAWS, DRAWN = 600, 60, 300, 250
CATEGORIES = ("safety", "multilingual", "self-reference", "mathematics", "none", "none")
WINDOW = chat_window("May I?", "I'm sorry, but I can't help.", {"sorry,": 4.1, "can't": 6.8})


def build_shifted(engine: Engine) -> None:
    """A comparison `simpo-vs-it`: safety latents are strengthened, self-reference weakened."""
    random = np.random.default_rng(3)
    labels = [CATEGORIES[i % len(CATEGORIES)] for i in range(N_LATENTS)]
    drift = {"safety": 0.06, "self-reference": -0.06}
    shift = random.normal(0, 0.08, N_LATENTS) + [drift.get(label, 0.0) for label in labels]
    error = random.uniform(0.01, 0.05, N_LATENTS)
    with write_session(engine) as session:
        run_id = new_run(session, "isolate")
        simpo = get_or_create_subject_model(session, "simpo", "5a" * 32)
        base = get_or_create_subject_model(session, "it", "1f" * 32)
        crosscoder = get_or_create_crosscoder(session, "crosscoder", "ee" * 32, (base, simpo))
        ids = add_latents(
            session,
            crosscoder.id,
            [
                {"latent_index": i, "density": float(10 ** random.uniform(-4, -0.8))}
                for i in range(N_LATENTS)
            ],
        )
        for sign, target, reference in ((1, simpo, base), (-1, base, simpo)):
            rows = [
                {
                    "latent_id": ids[i],
                    "delta_norm": 0.5,
                    "strength_shift": sign * shift[i],
                    "shift_low": sign * shift[i] - 2 * error[i],
                    "shift_high": sign * shift[i] + 2 * error[i],
                    "shift_t": sign * shift[i] / error[i],
                    "shift_q": 0.5,
                }
                for i in range(N_LATENTS)
            ]
            add_scaling(session, target.id, reference.id, rows)
        version = ensure_taxonomy_version(session, seed_taxonomy())
        judge = get_or_create_judge(session, "evidence-minilm", "minilm", "evidence")
        judged = Judged(run_id, judge.id, version.id, category_ids(session, version.id))
        explanations = [ExplanationRow(ids[i], f"text about {labels[i]}") for i in range(N_LATENTS)]
        write_labels(session, judged, explanations, labels, 0.8)
        order = np.argsort(-shift)
        sides = (("target", order[:PER_SIDE]), ("reference", order[::-1][:PER_SIDE]))
        sets = []
        for (side, members), models in zip(sides, ((simpo, base), (base, simpo)), strict=True):
            for index in members:
                add_evidence(session, run_id, evidence_of_window(ids[int(index)], WINDOW))
            sets.append(
                create_latent_set(
                    session,
                    f"simpo-vs-it/{side}",
                    "shifted",
                    run_id,
                    [{"latent_id": ids[int(i)], "rank": n} for n, i in enumerate(members, 1)],
                    {"kind": "shifted"},
                    crosscoder_id=crosscoder.id,
                    target_model_id=models[0].id,
                    against_model_id=models[1].id,
                    message="auto: 0 and 2 latents pass strict, fewer than 20 on a side, so shifted"
                    " is used",
                )
            )
        comparison = ensure_comparison(session, "simpo-vs-it", sets[0].id, sets[1].id)
        ensure_comparison_setting(session, comparison.id, version.id, judge.id)
        orders = [np.argsort(-shift * random.choice((-1, 1), N_LATENTS)) for _ in range(DRAWS)]
        add_side_draws(
            session,
            comparison,
            has_prefixes=True,
            target_order=order[:DRAWN].astype(np.int32),
            reference_order=order[::-1][:DRAWN].astype(np.int32),
            shifts=np.stack([shift, *(shift + random.normal(0, 0.01, (20, N_LATENTS)))]).astype(
                np.float32
            ),
            target=np.stack([each[:DRAWN] for each in orders]).astype(np.int32),
            reference=np.stack([each[::-1][:DRAWN] for each in orders]).astype(np.int32),
        )
