"""The null run with a difference: the study again, on fine-tunes with scrambled weight changes."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from crosscoder.files import json_sha256, read_json_object, unsealed, write_sealed_json
from crosscoder.model_files import FileHashes, SubjectSpec, fingerprint
from labeler.report.comparisons import ActiveComparison, read_comparisons, read_members
from labeler.report.randomisation import read_randomised_sides
from labeler.report.statistics import category_changes, read_counts
from labeler.stages.base import StageContext
from labeler.stages.derived_studies import ScrambledStudy, fine_tunes, scrambled_folder
from labeler.stages.harvest import harvest_config, study_text, subject_specs
from labeler.store.comparisons import NullRun
from labeler.store.engine import read_session
from labeler.store.migrate import opened
from labeler.study.study_file import subject_cache
from taxonomy.counts import ALPHA
from taxonomy.tree import Taxonomy

if TYPE_CHECKING:
    from crosscoder.nulls import FittedNull

FIT_DOCUMENTS = 32
"""Documents on which the size of the scrambled change is fitted, spread over the text."""


def scrambled_study(
    context: StageContext, taxonomy: Taxonomy
) -> tuple[ScrambledStudy, dict[str, FittedNull]]:
    """The study on scrambled fine-tunes, which are written unless they are there."""
    fitted = {
        model: _fitted(context, model, base) for model, base in fine_tunes(context.study).items()
    }
    models = {model: each.spec for model, each in fitted.items()}
    return ScrambledStudy(context.study, taxonomy, models), fitted


def scrambled_null(study: ScrambledStudy, name: str, fitted: dict[str, FittedNull]) -> NullRun:
    """What the study's own rule and tests call on the scrambled pair: all of it false."""
    config = study.config.report
    with opened(study.database_url) as engine, read_session(engine) as session:
        facts = next(
            facts
            for facts in read_comparisons(session, study.config.comparison)
            if facts.comparison.name == name
        )
        changes = category_changes(
            read_counts(session, name, config.denominator),
            read_randomised_sides(session, facts.comparison.id, facts.version.id, facts.judge_id),
            "primary",
            config.denominator,
            alpha=ALPHA,
            test=config.test,
            detectable=False,
        )
        n_latents = _n_latents(session, facts)
    tested = [row for row in changes if not row.is_empty]
    shifted = [row for row in changes if row.relative_shift_q is not None]
    n_shifted = sum((row.relative_shift_q or 0.0) < ALPHA for row in shifted)
    sizes = ", ".join(
        f"{model}: {each.change / each.true_change:.2f} of its change"
        for model, each in fitted.items()
    )
    return NullRun(
        kind="scrambled",
        title=(
            f"Fine-tunes with scrambled weight changes ({sizes}): {n_latents[0]} and "
            f"{n_latents[1]} latents isolated; {n_shifted} of {len(shifted)} mean shifts called"
        ),
        n_draws=1,
        n_called=sum(row.verdict in ("up", "down") for row in tested),
        n_tested=len(tested),
    )


def _n_latents(session: Session, facts: ActiveComparison) -> tuple[int, int]:
    members = read_members(session, facts)
    return len(members.target), len(members.reference)


def _fitted(context: StageContext, model: str, base: str) -> FittedNull:
    """The scrambled fine-tune of one model, from its folder where it was made of the same."""
    from crosscoder.nulls import FittedNull, fitted_scramble

    study = context.study
    specs = {spec.name: spec for spec in subject_specs(study)}
    hashes = FileHashes(subject_cache() / "file-hashes.json")
    key = json_sha256(
        [
            [fingerprint(specs[name], hashes) for name in (model, base)],
            study.config.study.seed,
            harvest_config(study).deciding(),
        ]
    )
    folder = scrambled_folder(study) / "models" / f"{model}-{key[:16]}"
    record = folder.with_suffix(".json")
    if record.is_file():
        stored = unsealed(record, read_json_object(record, "delete it"), "delete it")
        return FittedNull(**{**stored, "spec": SubjectSpec(**stored["spec"])})
    documents = study_text(context).documents
    step = max(1, len(documents) // FIT_DOCUMENTS)
    fitted = fitted_scramble(
        specs[model],
        specs[base],
        documents[::step][:FIT_DOCUMENTS],
        harvest_config(study),
        folder,
        study.config.study.seed,
    )
    write_sealed_json(record, asdict(fitted))
    return fitted
