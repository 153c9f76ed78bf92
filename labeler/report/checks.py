"""What the conclusions survive, in sentences: judge error, stricter isolation, other counting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from labeler.report.rows import CategoryRow
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


@dataclass(frozen=True)
class CategorySensitivity:
    """One category over all ways of counting it."""

    category: str
    name: str
    level: int
    rows: tuple[CategoryRow, ...]
    """Ways in which a side has a latent of the category, the leading one first."""
    n_same_sign: int
    """Ways, the leading one among them, whose point estimate has its sign."""
    lowest: float | None
    """Smallest percentage change; None = undefined in every way."""
    highest: float | None

    @property
    def main(self) -> CategoryRow:
        """The way of counting that the report leads with."""
        return self.rows[0]

    @property
    def turns(self) -> bool:
        """Whether some way of counting has the other sign."""
        return self.main.sign != 0 and any(row.sign == -self.main.sign for row in self.rows)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """The verdicts, without repeats."""
        return tuple(dict.fromkeys(row.verdict for row in self.rows))


def sensitivity_of(
    main: Sequence[CategoryRow], others: Sequence[CategoryRow]
) -> tuple[CategorySensitivity, ...]:
    """The categories that some latent has, in the order of the leading rows."""
    ways: dict[str, list[CategoryRow]] = defaultdict(list)
    for row in others:
        if not row.is_empty:
            ways[row.category].append(row)
    return tuple(
        _sensitivity(row, ways[row.category])
        for row in main
        if not row.is_empty or ways[row.category]
    )


def _sensitivity(main: CategoryRow, others: Sequence[CategoryRow]) -> CategorySensitivity:
    rows = (main, *others)
    changes = [row.percent_change for row in rows if row.percent_change is not None]
    return CategorySensitivity(
        category=main.category,
        name=main.name,
        level=main.level,
        rows=rows,
        n_same_sign=sum(row.sign == main.sign for row in rows),
        lowest=min(changes, default=None),
        highest=max(changes, default=None),
    )
