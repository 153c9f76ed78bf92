"""The judge and the embedder that a study names, as the judging stages need them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy.orm import Session

from labeler.store.latent_counts import on_each_side
from labeler.store.outcomes import BY_NAME
from labeler.store.schema import Comparison
from labeler.study import StudyFile

NO_MATTER_TO_ANSWERS = {
    "base_url", "endpoints", "api_key_env", "timeout_s", "concurrency", "max_attempts",
    "restart_wait_s", "longest_wait_s", "price_prompt_per_million", "price_completion_per_million",
    "server", "categorize_repeats", "max_tokens_key", "send_temperature", "thinking_markers",
}  # fmt: skip
"""Keys of `[judge]` that say how it is reached and started, what it costs, how often it asks;
and how its server wants to be asked, which is found out and must not make old answers stale."""


def ended_words(
    session: Session, comparison_ids: Collection[int], ended: Mapping[str, Collection[int]]
) -> list[str]:
    """How many latents of each side are too long for the judge, or were refused; none, no words."""
    found = []
    for comparison_id in comparison_ids:
        name = f"{session.get_one(Comparison, comparison_id).name}: "
        for outcome, latent_ids in ended.items():
            target, reference = on_each_side(session, comparison_id, latent_ids)
            if target or reference:
                found.append(
                    f"{name if len(comparison_ids) > 1 else ''}{BY_NAME[outcome].short}: {target} "
                    f"target and {reference} reference latents"
                )
    return found


def judging_inputs(study: StudyFile) -> dict[str, Any]:
    """What decides a judge's answers; addresses, keys and concurrency do not."""
    return {
        "judge": study.config.judge.model_dump(exclude=NO_MATTER_TO_ANSWERS),
        "embedding": study.config.embedding.model_dump(exclude={"base_url", "api_key_env"}),
    }
