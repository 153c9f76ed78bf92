"""What the conclusions survive, in sentences: judge error, stricter isolation, other counting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labeler.text import listed, one_line, plural

_MOST_NAMED = 4


@dataclass(frozen=True)
class Checks:
    """The checks of one comparison, as a report stored them; slugs throughout."""

    refusal: str | None
    """Why the judge's errors were not taken out; None where they were."""
    reviewed: tuple[int, int]
    """Target, reference: latents reviewed blind from a random draw."""
    is_whole: tuple[bool, bool]
    corrected_up: tuple[str, ...]
    """Categories whose corrected change is distinguishable from zero, q < 0.05."""
    corrected_down: tuple[str, ...]
    errs_unlike: tuple[str, ...]
    """Categories in which the judge errs differently on the two sides, q < 0.05."""
    unstable: tuple[str, ...]
    """The sign turns at a stricter threshold."""
    n_swept: int
    """Categories with enough latents at stricter thresholds to tell."""
    turning: tuple[str, ...]
    """The sign turns when latents are counted in another way."""
    n_ways: int


def check_sentences(checks: Checks) -> tuple[str, ...]:
    """One sentence a check; none for a check that had nothing to look at."""
    found = [_judge_error(checks)]
    if checks.n_swept:
        found.append(
            _turned(
                checks.unstable,
                checks.n_swept,
                "As the isolation gets stricter",
            )
        )
    if checks.n_ways > 1:
        ways = f"Counted in {checks.n_ways} ways (labels, weights, denominators)"
        found.append(
            f"{ways}, {_signs(checks.turning)}." if checks.turning else f"{ways}, no sign turns."
        )
    return tuple(found)


def _turned(categories: Sequence[str], total: int, opening: str) -> str:
    if not categories:
        return f"{opening}, no sign of the {plural(total, 'change')} with enough latents turns."
    return f"{opening}, {_signs(categories)}: unstable."


def _signs(categories: Sequence[str]) -> str:
    verb = "sign" if len(categories) == 1 else "signs"
    return f"the {verb} of {_named(categories)} {'turns' if len(categories) == 1 else 'turn'}"


def _named(categories: Sequence[str]) -> str:
    names = [one_line(category) for category in categories]
    if len(names) > _MOST_NAMED:
        names = [*names[:_MOST_NAMED], f"{len(names) - _MOST_NAMED} more"]
    return listed(names)


def _judge_error(checks: Checks) -> str:
    if checks.refusal is not None:
        return f"The judge's errors are not taken out ({one_line(checks.refusal)})."
    if all(checks.is_whole):
        basis = "Every latent is reviewed, so that no judge error is left"
    else:
        target, reference = checks.reviewed
        basis = f"Without the judge's errors (blind random reviews: {target} and {reference})"
    parts = [
        f"{_named(categories)} {verb} {direction}"
        for categories, direction in ((checks.corrected_up, "up"), (checks.corrected_down, "down"))
        if categories
        for verb in ("is" if len(categories) == 1 else "are",)
    ]
    said = f"{basis}: {listed(parts) or 'no change is distinguishable from zero'}."
    if checks.errs_unlike:
        said += f" It errs unlike on the two sides in {_named(checks.errs_unlike)}."
    return said
