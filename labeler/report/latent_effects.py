"""What one latent does to the output: its attribution, and the patched sets that it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from labeler.report.effects import effect_share
from labeler.report.model import Measure
from labeler.text import one_line, plural, probability_text

MEANING = (
    "First order: how much of the gap between the two outputs would close if only this latent's "
    "decoder difference were added to the reference's activations. It says that the latent "
    "matters to the output, not that it belongs to one model."
)


@dataclass(frozen=True)
class LatentEffectView:
    """The attribution of one latent for one ordered pair of models, as shares of the gap."""

    target: str
    reference: str
    share: Measure
    rank: int
    n_latents: int
    """Latents that fire in the text read."""
    magnitude: float
    """Its share of all latents' magnitude."""
    expected: float | None
    """What the latents close on average per magnitude, times its own; None without a gap."""
    equivalence: float | None = None
    """Causal equivalence in the two models; None where it was not ablated on its own."""

    @property
    def sentence(self) -> str:
        """The attribution beside what a latent of its magnitude closes."""
        pair = f"Effect on {one_line(self.target)} from {one_line(self.reference)}"
        if self.share.value is None:
            return f"{pair}: not defined, both have the same output"
        interval = f"({_share(self.share.low)} to {_share(self.share.high)})"
        return (
            f"{pair}: closes {_share(self.share.value)} {interval} of the output gap by first "
            f"order, place {self.rank:,} of {self.n_latents:,}; of a latent of its magnitude "
            f"({_share(self.magnitude)} of all) one expects {_share(self.expected)}{self._alike}"
        )

    @property
    def _alike(self) -> str:
        if self.equivalence is None:
            return ""
        return f"; causal equivalence in the two models {self.equivalence:.2f}"


@dataclass(frozen=True)
class PatchedSet:
    """A side or category of a latent, which was patched as a whole."""

    comparison: str
    name: str
    n_latents: int
    restored: Measure
    carried: Measure
    control_mean: float | None
    """What random latents restore; None where none were patched."""
    control_magnitude: float | None
    """Their magnitude as a share of the set's."""
    p_value: float | None
    """None where they are not alike in magnitude."""

    @property
    def sentence(self) -> str:
        """What the set restores and carries, beside random latents alike."""
        return (
            f"{one_line(self.comparison)}: the {plural(self.n_latents, 'latent')} of "
            f"{one_line(self.name)} together restore {_measure(self.restored)} and carry "
            f"{_measure(self.carried)} of the gap, patched; {self._control}"
        )

    @property
    def _control(self) -> str:
        if self.control_mean is None:
            return "no random latents were patched to compare with"
        mean = effect_share(self.control_mean)
        if self.p_value is None:
            near = "\u2013" if self.control_magnitude is None else f"{self.control_magnitude:.0%}"
            return f"random latents of {near} of its magnitude restore {mean}"
        return f"random latents alike restore {mean}, p = {probability_text(self.p_value)}"


_LATENT = text(
    "SELECT e.target, e.reference, e.attribution, e.attribution_low, e.attribution_high,"
    " e.rank, e.magnitude, e.equivalence, w.n_latents, w.attribution AS whole"
    " FROM v_latent_effect AS e JOIN ("
    "  SELECT crosscoder_id, target, reference, count(*) AS n_latents,"
    "   sum(attribution) AS attribution"
    "  FROM v_latent_effect GROUP BY crosscoder_id, target, reference"
    " ) AS w ON w.crosscoder_id = e.crosscoder_id AND w.target = e.target"
    " AND w.reference = e.reference"
    " WHERE e.latent_id = :latent ORDER BY CASE WHEN EXISTS ("
    "  SELECT 1 FROM comparison AS c JOIN latent_set AS s ON s.id = c.target_set_id"
    "  JOIN subject_model AS m ON m.id = s.target_model_id WHERE m.name = e.target"
    " ) THEN 0 ELSE 1 END, e.target"
)
"""Towards the target of a comparison first."""
_SETS = text(
    "SELECT DISTINCT e.comparison, e.kind, e.name, e.n_latents, e.restored, e.restored_low,"
    " e.restored_high, e.carried, e.carried_low, e.carried_high, e.restored_control_mean,"
    " e.control_magnitude, e.restored_p, e.target"
    " FROM v_effective_label AS l JOIN v_category_effect AS e ON e.comparison = l.comparison"
    " AND ((e.kind = 'side' AND e.name = l.side) OR (e.kind = 'category' AND e.name = l.category))"
    " WHERE l.latent_id = :latent AND l.rank = 1 AND e.is_main AND e.restored IS NOT NULL"
    " AND (e.kind = 'category' OR e.restored_control_mean IS NOT NULL)"
    " ORDER BY e.comparison, e.kind, e.target"
)


def read_latent_effects(session: Session, latent_id: int) -> tuple[LatentEffectView, ...]:
    """The attributions of a latent; none where its effect was not measured or it did not fire."""
    return tuple(
        LatentEffectView(
            target=row.target,
            reference=row.reference,
            share=Measure(row.attribution, row.attribution_low, row.attribution_high),
            rank=row.rank,
            n_latents=row.n_latents,
            magnitude=row.magnitude,
            expected=None if row.whole is None else row.magnitude * row.whole,
            equivalence=row.equivalence,
        )
        for row in session.execute(_LATENT, {"latent": latent_id})
    )


def read_patched_sets(session: Session, latent_id: int) -> tuple[PatchedSet, ...]:
    """The patched sets that a latent belongs to: its sides, and its primary categories."""
    return tuple(
        PatchedSet(
            comparison=row.comparison,
            name=f"the {row.name} side" if row.kind == "side" else row.name,
            n_latents=row.n_latents,
            restored=Measure(row.restored, row.restored_low, row.restored_high),
            carried=Measure(row.carried, row.carried_low, row.carried_high),
            control_mean=row.restored_control_mean,
            control_magnitude=row.control_magnitude,
            p_value=row.restored_p,
        )
        for row in session.execute(_SETS, {"latent": latent_id})
    )


def effect_lines(
    effects: Sequence[LatentEffectView], sets: Sequence[PatchedSet]
) -> tuple[str, ...]:
    """All of it in sentences, and last what they mean; nothing where nothing was measured."""
    if not effects:
        return ()
    return (*(each.sentence for each in effects), *(each.sentence for each in sets), MEANING)


def _share(value: float | None) -> str:
    """A share of a single latent, which is small."""
    return "\u2013" if value is None else f"{100 * value:.2f}%"


def _measure(share: Measure) -> str:
    ends = f"{effect_share(share.low)} to {effect_share(share.high)}"
    return f"{effect_share(share.value)} ({ends})"
