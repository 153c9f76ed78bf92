"""What p and the intervals of a change table rest on, and what its sides are called, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from crosscoder.config import SIDES
from crosscoder.isolation_rules import SHIFTED_WORDS, side_words
from labeler.report.randomisation import has_draws
from labeler.store.schema import Comparison, LatentSet
from labeler.text import one_line
from taxonomy.counts import DOCUMENTS, SEEDS

if TYPE_CHECKING:
    from labeler.report.model import ChangeTable
    from taxonomy.counts import CategoryChange

IMPORTED = "imported"
"""Rule of latents that came from a file."""
TEST_NAMES = {
    DOCUMENTS: "the randomisation over documents",
    "fisher": "Fisher's exact test",
    "boschloo": "Boschloo's exact test",
    "score": "the score test",
    SEEDS: "the log ratio, within and between seeds",
}
_DRAWN = (
    "p and intervals come from randomisation over documents: a draw swaps the two models in a "
    "random half of the documents, chooses both sides again and counts again.",
    "p is the share of draws with a difference at least as large. The family p compares with the "
    "largest difference of any category in a draw: it bounds the chance of one false call in the "
    "whole table.",
)
_OVER_SEEDS = (
    "Counts are those of {n} training seeds added up, each with its own dictionary, sides and "
    "labels. p and intervals take the variance between seeds into account, and that a draw of "
    "documents is the same in all."
)
_OVER_SEEDS_EXACT = (
    "Counts are those of {n} training seeds added up, each with its own dictionary, sides and "
    "labels. p and intervals are those of the log ratio, whose variance is that within a seed plus "
    "that between seeds."
)
_TOO_BOLD = (
    "takes latents for independent draws, and isolated latents are not: those of a category fire "
    "in the same documents. Its p and q are too small here, its intervals too narrow"
)


@dataclass(frozen=True)
class Basis:
    """How the latents of a comparison were chosen and their changes tested."""

    test: str = "fisher"
    """Test of the leading rows."""
    why_exact: str = ""
    """Why isolated latents have an exact test, and what gives them the randomisation."""
    n_seeds: int = 1
    """Training seeds that the rows are over."""
    side_words: tuple[str, str] | None = None
    """What the latents of target and reference are called, where they were chosen by their shift;
    None = by their models."""

    @property
    def test_name(self) -> str:
        """The test in a sentence."""
        return TEST_NAMES.get(self.test, self.test)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What p and the intervals are; where they are too bold, why, and what to do."""
        if self.test == DOCUMENTS:
            return (*_DRAWN, _OVER_SEEDS.format(n=self.n_seeds)) if self.n_seeds > 1 else _DRAWN
        said = (
            _OVER_SEEDS_EXACT.format(n=self.n_seeds)
            if self.test == SEEDS
            else f"p is that of {self.test_name}, intervals are 95% score intervals of the ratio."
        )
        if not self.why_exact:
            return (said,)
        return said, f"Caution: this test {_TOO_BOLD}. {self.why_exact}."


def read_basis(session: Session, comparison: Comparison, rows: Sequence[CategoryChange]) -> Basis:
    """The basis of the rows of a comparison."""
    sets = sets_of(session, comparison)
    test = next((row.test for row in rows if not row.is_empty), rows[0].test if rows else "fisher")
    return Basis(
        test=test,
        n_seeds=max((row.over_seeds or 1 for row in rows), default=1),
        why_exact="" if test == DOCUMENTS else _why_exact(session, comparison, *sets),
        side_words=shift_words(*sets),
    )


def shift_words(target: LatentSet, reference: LatentSet) -> tuple[str, str] | None:
    """What the latents of the sides are called where they were chosen by their shift, else None."""
    is_direct = target.against_model_id == reference.target_model_id
    words = side_words(target.rule, is_direct)
    if words["target"] != SHIFTED_WORDS["target"]:
        return None
    first, second = (words[side] for side in SIDES)
    return first, second


def sets_of(session: Session, comparison: Comparison) -> tuple[LatentSet, LatentSet]:
    """The active latent sets of target and reference."""
    target = session.get_one(LatentSet, comparison.target_set_id)
    return target, session.get_one(LatentSet, comparison.reference_set_id)


def _why_exact(
    session: Session, comparison: Comparison, target: LatentSet, reference: LatentSet
) -> str:
    if IMPORTED in (target.rule, reference.rule):
        return ""
    if target.crosscoder_id != reference.crosscoder_id:
        return (
            "The sides come from two crosscoders, whose latents no draw can swap: one crosscoder "
            "over all models would allow the randomisation over documents"
        )
    if not has_draws(session, comparison):
        return (
            "The sides were not drawn: set isolate.draws to 2000 and run `difflens run study.toml "
            "--from isolate`"
        )
    return (
        "Too few latents of the drawn sides are labelled for the randomisation over documents: "
        'set collect.latents = "eligible" and run `difflens run study.toml --from collect`'
    )


def side_sentence(table: ChangeTable) -> str | None:
    """What strengthened and weakened mean here; None where the sides are called by their models."""
    words = table.basis.side_words
    if words is None:
        return None
    target, reference = one_line(table.target), one_line(table.reference)
    if words[0] == words[1]:
        return (
            f"The latents of each side are {words[0]}: {target}, or {reference}, uses them more "
            "strongly than the common base does."
        )
    return (
        f"The latents of the target side are {words[0]}: {target} uses them more strongly than "
        f"{reference}. Those of the reference side are {words[1]}: it uses them less strongly."
    )
