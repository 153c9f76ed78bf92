"""Creates the judge and the embedder of a study."""

from __future__ import annotations

from pathlib import Path

from labeler.embedding.base import Embedder
from labeler.embedding.embedders import check_embedding, make_embedder
from labeler.errors import UsageError
from labeler.judge.base import Judge, judge_kind
from labeler.judge.budget import MeteredJudge, Prices, Spending
from labeler.study.judge_config import JudgeSection
from labeler.study.study_file import StudyFile, study_taxonomy


def make_judge(
    section: JudgeSection,
    embedder: Embedder | None = None,
    folder: Path | None = None,
    spending: Spending | None = None,
) -> Judge:
    """The judge of `[judge]`; some kinds need an embedder, paths lie relative to `folder`.

    With `spending`, a judge that costs something stops before its limits are exceeded. Raises
    UsageError that names the key which is missing or wrong.
    """
    kind = judge_kind(section.kind)
    if kind.needs_embedder and embedder is None:
        raise UsageError(f"judge.kind: {section.kind} needs the vectors of [embedding]")
    judge = kind.make(section, folder, embedder)
    if spending is None or not kind.is_metered:
        return judge
    prices = prices_of(section)
    if spending.limits.max_cost is not None and prices is None:
        raise UsageError(
            "judge.price_prompt_per_million, judge.price_completion_per_million: missing; "
            "--max-cost needs both"
        )
    return MeteredJudge(judge, spending, prices, section.max_tokens)


def study_embedder(study: StudyFile) -> Embedder:
    """The embedder of `[embedding]`; TF-IDF is fitted on the taxonomy's own texts."""
    taxonomy = study_taxonomy(study)
    texts = [
        text
        for category in taxonomy.leaves()
        for text in (category.definition, *category.prototypes)
    ]
    return make_embedder(study.config.embedding, texts, study.folder)


def judges_embedder(study: StudyFile) -> Embedder | None:
    """The embedder where a judge of the study uses it; else None, and nothing is loaded."""
    kinds = [judge_kind(one.kind) for one in (study.config.judge, *study.config.judges)]
    return study_embedder(study) if any(kind.needs_embedder for kind in kinds) else None


def study_judge(
    study: StudyFile, embedder: Embedder | None, spending: Spending | None = None
) -> Judge:
    """The judge of `[judge]`, within the limits of `spending`."""
    return make_judge(study.config.judge, embedder, study.folder, spending)


def require_judge(study: StudyFile) -> None:
    """Raise UsageError early where `[judge]` is incomplete."""
    if not judge_kind(study.config.judge.kind).needs_embedder:
        make_judge(study.config.judge, folder=study.folder)


def require_embedding(study: StudyFile) -> None:
    """Raise UsageError where `[embedding]` cannot work; nothing is loaded."""
    check_embedding(study.config.embedding, study.folder)


def prices_of(section: JudgeSection) -> Prices | None:
    """Prices of a judge's tokens; None unless both are given."""
    prompt, completion = section.price_prompt_per_million, section.price_completion_per_million
    return None if prompt is None or completion is None else Prices(prompt, completion)
