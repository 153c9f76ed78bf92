"""Null runs that are studies: a difference without meaning, or a dictionary without knowledge.

Each runs under the study's own rule, tests and judge, and what it finds stands beside the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from crosscoder.config import SIDES
from crosscoder.files import json_sha256, read_json_object, unsealed, write_sealed_json
from crosscoder.model_files import FileHashes, SubjectSpec, fingerprint
from labeler.report.comparisons import BOTH
from labeler.report.findings import read_findings
from labeler.report.robustness import read_scores
from labeler.stages.base import StageContext
from labeler.stages.derived_studies import (
    DerivedStudy,
    OtherModelsStudy,
    RandomDictionaryStudy,
    fine_tunes,
    null_folder,
)
from labeler.stages.harvest import harvest_config, study_text, subject_specs
from labeler.stages.pipeline import with_key
from labeler.stages.train import StudyCrosscoder, trained_crosscoder
from labeler.store.comparisons import NullKind, NullRun
from labeler.store.engine import read_session
from labeler.store.migrate import opened
from labeler.store.schema import CategoryEffect, Comparison
from labeler.study.study_file import StudyFile, subject_cache
from taxonomy.tree import Taxonomy

if TYPE_CHECKING:
    from crosscoder.nulls import FittedNull

FIT_DOCUMENTS = 32
"""Documents on which the size of the scrambled change is fitted, spread over the text."""


def difference_nulls(
    context: StageContext, taxonomy: Taxonomy
) -> Iterator[tuple[NullKind, DerivedStudy, str]]:
    """The kind, study and title of every such null run of `[null_runs]`, each ready to run."""
    section, pairs = context.study.config.null_runs, fine_tunes(context.study)
    if section.scrambled and pairs:
        yield "scrambled", *_scrambled(context, taxonomy, pairs)
    if section.rounded and pairs:
        yield "rounded", *_rounded(context, taxonomy, pairs)
    if section.random_dictionary:
        yield "random", *_random(context, taxonomy)


def null_of(kind: NullKind, study: DerivedStudy, title: str, comparison: str) -> NullRun:
    """What the study's own rule and tests find of one comparison: verdicts, scores, effect."""
    with opened(study.database_url) as engine, read_session(engine) as session:
        found = read_findings(session, study.config, comparison)
        null = NullRun(
            kind=kind,
            title=title,
            n_draws=1,
            n_called=len(found.called),
            n_tested=len(found.tested),
            n_target=found.n_target,
            n_reference=found.n_reference,
            n_shifts_called=len(found.shifts_called),
            n_shifts_tested=len(found.shifted),
            restored=_restored(session, found.comparison),
        )
        scores = read_scores(session, found.comparison, found.judge_id)
    score = next((row for row in scores if row.side == BOTH), None)
    if score is None:
        return null
    return replace(
        null,
        score_method=score.method,
        own_minus_shuffled=score.difference,
        own_minus_shuffled_low=score.difference_low,
        own_minus_shuffled_high=score.difference_high,
    )


def _restored(session: Session, comparison: Comparison) -> float | None:
    query = select(CategoryEffect.restored).where(
        CategoryEffect.comparison_id == comparison.id,
        CategoryEffect.kind == "side",
        CategoryEffect.name == SIDES[0],
        CategoryEffect.is_main,
    )
    return session.execute(query.order_by(CategoryEffect.id)).scalars().first()


def _scrambled(
    context: StageContext, taxonomy: Taxonomy, pairs: Mapping[str, str]
) -> tuple[DerivedStudy, str]:
    fitted = {model: _fitted(context, model, base) for model, base in pairs.items()}
    sizes = ", ".join(
        f"{model}: {each.change / each.true_change:.2f} of its change"
        for model, each in fitted.items()
    )
    specs = {model: each.spec for model, each in fitted.items()}
    study = OtherModelsStudy(context.study, "scrambled", taxonomy, specs)
    return study, f"Fine-tunes with scrambled weight changes ({sizes})"


def _rounded(
    context: StageContext, taxonomy: Taxonomy, pairs: Mapping[str, str]
) -> tuple[DerivedStudy, str]:
    specs = {model: _rounded_model(context, model, base) for model, base in pairs.items()}
    bases = ", ".join(dict.fromkeys(pairs.values()))
    study = OtherModelsStudy(context.study, "rounded", taxonomy, specs)
    return study, f"{bases} against its own weights rounded to int8 and back"


def _random(context: StageContext, taxonomy: Taxonomy) -> tuple[DerivedStudy, str]:
    from crosscoder.checkpoints import save_crosscoder
    from crosscoder.nulls import random_dictionary

    study = RandomDictionaryStudy(context.study, taxonomy)
    own = with_key(context, "train")
    drawn = random_dictionary(
        trained_crosscoder(own, StudyCrosscoder()), context.study.config.study.seed
    )
    save_crosscoder(drawn, study.dictionary, {"random": True})
    study.use_text_of(own.folder("harvest"), replace(context, study=study, keys={}))
    return study, "A dictionary of random directions on the same activations"


def _rounded_model(context: StageContext, model: str, base: str) -> SubjectSpec:
    from crosscoder.nulls import write_rounded

    spec = _converted(context.study, base)
    folder = _model_folder(context.study, "rounded", model, [_fingerprint(spec)])
    if not (folder / "config.json").is_file():
        write_rounded(spec, folder)
    return SubjectSpec(name=model, path=str(folder), dtype=spec.dtype)


def _fitted(context: StageContext, model: str, base: str) -> FittedNull:
    """The scrambled fine-tune of one model, from its folder where it was made of the same."""
    from crosscoder.nulls import FittedNull, fitted_scramble, spread_over

    study = context.study
    specs = [_converted(study, name) for name in (model, base)]
    content = [
        [_fingerprint(spec) for spec in specs],
        study.config.study.seed,
        harvest_config(study).deciding(),
    ]
    folder = _model_folder(study, "scrambled", model, content)
    record = folder.with_suffix(".json")
    if record.is_file():
        stored = unsealed(record, read_json_object(record, "delete it"), "delete it")
        return FittedNull(**{**stored, "spec": SubjectSpec(**stored["spec"])})
    fitted = fitted_scramble(
        specs[0],
        specs[1],
        spread_over(study_text(context).documents, FIT_DOCUMENTS),
        harvest_config(study),
        folder,
        study.config.study.seed,
    )
    write_sealed_json(record, asdict(fitted))
    return fitted


def _model_folder(study: StudyFile, kind: str, model: str, content: list[object]) -> Path:
    """Where the null model made of `content` lies."""
    return null_folder(study, kind) / "models" / f"{model}-{json_sha256(content)[:16]}"


def _converted(study: StudyFile, name: str) -> SubjectSpec:
    """A model of the study as plain weights: each trial of a factor would dequantise it again."""
    from crosscoder.models import with_converted_weights

    spec = next(spec for spec in subject_specs(study) if spec.name == name)
    return with_converted_weights(spec, subject_cache(), _hashes())


def _fingerprint(spec: SubjectSpec) -> object:
    return fingerprint(spec, _hashes())


def _hashes() -> FileHashes:
    return FileHashes(subject_cache() / "file-hashes.json")
