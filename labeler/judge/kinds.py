"""What a kind of judge is: how it is made from `[judge]`, and what it can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from crosscoder.errors import InputError
from labeler.errors import UsageError
from labeler.study.judge_kinds import JUDGE_KINDS

if TYPE_CHECKING:
    from labeler.embedding.base import Embedder
    from labeler.judge.base import Judge
    from labeler.judge.check import Fit
    from labeler.study.judge_config import EmbeddingSection, JudgeSection


class JudgeKind:
    """A value of `judge.kind`: a subclass registers itself in JUDGE_KINDS, and says what differs.

    Judges of it have the kind's name as their identity's `endpoint_kind`.
    """

    note: ClassVar[str] = "A judge of a kind that is not installed here."
    """What the report says of such a judge, in one sentence."""
    needs_embedder: ClassVar[bool] = False
    """Whether it computes with the vectors of `[embedding]`."""
    is_metered: ClassVar[bool] = True
    """Whether its calls are planned, priced and kept within the limits of a run."""
    reads_windows: ClassVar[bool] = False
    """Whether it answers from a latent's windows and the prototypes, which no message holds."""
    names_categories: ClassVar[bool] = True
    """Whether it can name a cluster of explanations."""
    cannot_score: ClassVar[Mapping[str, str]] = {}
    """Methods of `[scores]` that it can not answer, each with the reason."""

    def make(self, section: JudgeSection, folder: Path | None, embedder: Embedder | None) -> Judge:
        """The judge of a section; its relative paths lie in `folder`.

        `embedder` is there where the kind needs one. Raises UsageError that names the key which
        is missing or wrong.
        """
        raise NotImplementedError

    def expected_name(self, section: JudgeSection, embedding: EmbeddingSection) -> str:
        """The name of the judge that would be made; nothing is loaded and nobody is asked."""
        return section.model or section.kind

    def check(self, section: JudgeSection) -> Sequence[Fit]:
        """Ask every server of the judge one question; UsageError where the kind has no server."""
        checked = [
            name for name in JUDGE_KINDS.names() if type(judge_kind(name)).check != JudgeKind.check
        ]
        raise UsageError(
            f"judge.kind: {section.kind} has no server to check; {', '.join(checked)} has"
        )


def judge_kind(name: str) -> JudgeKind:
    """The kind of that name; the plain JudgeKind where none is registered.

    The database knows more kinds than that: imported labels, judges of an extension that is gone.
    """
    try:
        JUDGE_KINDS.require(name)
    except InputError:
        return JudgeKind()
    kind: type[JudgeKind] = JUDGE_KINDS.get(name)
    return kind()
