"""What is said of one latent's effect, and of the patched sets that it belongs to."""

from __future__ import annotations

import pytest
from seeding import Seed, label, seed
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from labeler.report.latent_effects import (
    MEANING,
    effect_lines,
    read_latent_effects,
    read_patched_sets,
)
from labeler.store.engine import write_session
from labeler.store.schema import CategoryEffect, LatentEffect, SubjectModel


def measure(session: Session, data: Seed, shares: tuple[float | None, ...]) -> None:
    """Attributions of the target's latents, and the effect of sets in one direction."""
    models = [SubjectModel(name=name, fingerprint=name) for name in ("tuned", "base")]
    session.add_all(models)
    session.flush()
    pair = {"target_model_id": models[0].id, "reference_model_id": models[1].id}
    for rank, (latent, share) in enumerate(zip(data.target, shares, strict=True), start=1):
        ends = {"attribution_low": share and share / 2, "attribution_high": share and 2 * share}
        row = {"attribution": share, "magnitude": 0.5, "rank": rank, **ends, **pair}
        session.add(LatentEffect(run_id=data.run_id, latent_id=latent, **row))
    for kind, name, control in (
        ("category", "safety", 0.02),
        ("category", "humour", 0.02),
        ("side", "target", 0.04),
        ("side", "reference", None),
    ):
        session.add(
            CategoryEffect(
                run_id=data.run_id,
                comparison_id=data.comparison_id,
                kind=kind,
                name=name,
                scope="assistant",
                is_main=True,
                n_latents=2,
                n_documents=9,
                n_tokens=90,
                n_controls=200,
                n_patched_controls=20,
                restored=0.12,
                restored_low=0.1,
                restored_high=0.14,
                carried=0.05,
                carried_low=0.01,
                carried_high=0.09,
                restored_control_mean=control,
                restored_p=None if control is None else 0.048,
                **pair,
            )
        )
    session.flush()


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_latent_stands_beside_its_magnitude_and_its_sets(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        first = data.target[0]
        assert effect_lines(read_latent_effects(session, first), ()) == ()
        label(session, data, first, "safety")
        measure(session, data, (0.03, 0.01))
        effects, sets = read_latent_effects(session, first), read_patched_sets(session, first)
        assert effect_lines(effects, sets) == (
            "Effect on tuned from base: closes 3.00% (1.50% to 6.00%) of the output gap by first "
            "order, place 1 of 2; of a latent of its magnitude (50.00% of all) one expects 2.00%",
            "c: the 2 latents of safety together restore 12.0% (10.0% to 14.0%) and carry 5.0% "
            "(1.0% to 9.0%) of the gap, patched; random latents alike restore 2.0%, p = 0.048",
            "c: the 2 latents of the target side together restore 12.0% (10.0% to 14.0%) and "
            "carry 5.0% (1.0% to 9.0%) of the gap, patched; random latents alike restore 4.0%, "
            "p = 0.048",
            MEANING,
        )


@pytest.mark.parametrize("backend", ["sqlite"])
def test_without_a_gap_no_effect_is_defined(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        measure(session, data, (None, None))
        (effect,) = read_latent_effects(session, data.target[0])
        assert effect.sentence == (
            "Effect on tuned from base: not defined, both have the same output"
        )
        # Without patched random latents nothing is said of a side.
        label(session, data, data.reference[0], "none")
        assert read_patched_sets(session, data.reference[0]) == ()
