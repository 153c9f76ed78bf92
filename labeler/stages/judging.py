"""The judge and the embedder that a study names, as the judging stages need them."""

from __future__ import annotations

from typing import Any

from labeler.embedding.base import Embedder
from labeler.embedding.factory import make_embedder
from labeler.judge.base import Judge
from labeler.judge.factory import make_judge
from labeler.study import StudyFile
from labeler.study_taxonomy import study_taxonomy

NO_MATTER_TO_ANSWERS = {
    "base_url", "endpoints", "api_key_env", "timeout_s", "concurrency", "max_attempts",
    "restart_wait_s", "price_prompt_per_million", "price_completion_per_million", "server",
}  # fmt: skip
"""Keys of `[judge]` that say how it is reached and started, and what it costs."""


def study_embedder(study: StudyFile) -> Embedder:
    """The embedder of `[embedding]`; TF-IDF is fitted on the taxonomy's own texts."""
    taxonomy = study_taxonomy(study)
    texts = [
        text
        for category in taxonomy.leaves()
        for text in (category.definition, *category.prototypes)
    ]
    return make_embedder(study.config.embedding, texts, study.folder)


def study_judge(study: StudyFile, embedder: Embedder) -> Judge:
    """The judge of `[judge]`."""
    return make_judge(study.config.judge, embedder, study.folder)


def require_judge(study: StudyFile) -> None:
    """Raise UsageError for what the judge of `[judge]` lacks, before anybody waits for it."""
    if study.config.judge.kind != "evidence":
        make_judge(study.config.judge, folder=study.folder)


def judging_inputs(study: StudyFile) -> dict[str, Any]:
    """What decides a judge's answers; addresses, keys and concurrency do not."""
    return {
        "judge": study.config.judge.model_dump(exclude=NO_MATTER_TO_ANSWERS),
        "embedding": study.config.embedding.model_dump(exclude={"base_url", "api_key_env"}),
    }
