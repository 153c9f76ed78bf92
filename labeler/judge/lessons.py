"""What a judge may learn about a latent from reviews: never its own review.

The latents are divided into FOLDS parts by a hash. The label of a latent learns from the reviews
of the other parts only, whether it is reviewed itself or not. So a label that is compared with a
review was never taught by it, and reviewed and other latents are labelled alike: the correction of
the judge's errors stays unbiased, as in cross-prediction (Zrnic and Candes 2024,
doi:10.1073/pnas.2322083121).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from crosscoder.files import sha256_text
from labeler.judge.base import LatentRecord
from labeler.judge.labelled_evidence import LabelledLatent, labelled_sha256

FOLDS = 10
"""More folds leave more reviews to learn from, and need as many fits."""
MOST_REVIEWED = 3
"""Reviewed latents that a prompt shows."""


@dataclass(frozen=True)
class Lesson:
    """The reviewed latents that one fold may learn from."""

    latents: tuple[LabelledLatent, ...]

    @cached_property
    def sha256(self) -> str:
        """Hash of what is learned; part of the hash of each request."""
        return labelled_sha256(self.latents)


class Lessons:
    """The reviewed latents of a study, divided so that no latent learns from its own review."""

    def __init__(self, reviewed: Iterable[LabelledLatent]) -> None:
        self.reviewed = tuple(reviewed)
        self._by_fold = [
            Lesson(tuple(each for each in self.reviewed if fold_of(each.subject) != fold))
            for fold in range(FOLDS)
        ]

    def for_latent(self, subject: LatentRecord) -> Lesson | None:
        """What the label of a latent may learn from; None where nothing outside its fold is."""
        lesson = self._by_fold[fold_of(subject)]
        return lesson if lesson.latents else None


def fold_of(subject: LatentRecord) -> int:
    """The part that a latent belongs to, the same in every database."""
    name = f"{subject.crosscoder} {subject.latent_index}"
    return int(sha256_text(f"fold {name}")[:12], 16) % FOLDS


def reviewed_latents(
    subjects: Sequence[LatentRecord], categories: Sequence[str]
) -> tuple[LabelledLatent, ...]:
    """Latents with the categories (slugs or `none`) that reviewers gave them.

    Those without a text on which they fire teach nothing and are left out.
    """
    return tuple(
        LabelledLatent(f"{subject.crosscoder}:{subject.latent_index}", category, subject)
        for subject, category in zip(subjects, categories, strict=True)
        if any(window.peak for window in subject.windows)
    )
