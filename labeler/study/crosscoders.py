"""The table of several crosscoders, and which of them a side of a comparison is read from."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from crosscoder.config import SideName
from labeler.study.config import ComparisonSection, Section


class CrosscodersSection(Section):
    """`[[crosscoders]]`: one of several crosscoders, all trained by `[train]` on the same text.

    Without this table one crosscoder is trained over all models.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name, which follows the study's in the database and the report."""
    models: tuple[str, ...] = Field(min_length=2)
    """Its models, by the names of `[[models]]`."""


def check_crosscoders(crosscoders: Sequence[CrosscodersSection], models: Sequence[str]) -> None:
    """ValueError where two crosscoders are the same or one names a model wrongly."""
    names: set[str] = set()
    over: dict[frozenset[str], str] = {}
    for row in crosscoders:
        if row.name.lower() in names:
            raise ValueError(f"crosscoders: two crosscoders are named {row.name!r}; rename one")
        names.add(row.name.lower())
        for name in row.models:
            if row.models.count(name) > 1:
                raise ValueError(f"crosscoders {row.name}.models: {name!r} twice; remove one")
            if models and name not in models:
                raise ValueError(
                    f"crosscoders {row.name}.models: no model is named {name!r} "
                    f"(models: {', '.join(models)})"
                )
        same = over.setdefault(frozenset(row.models), row.name)
        if same != row.name:
            raise ValueError(
                f"crosscoders {row.name}.models: the models of {same!r} again; remove one"
            )


def crosscoder_of(
    comparison: ComparisonSection, side: SideName, crosscoders: Sequence[CrosscodersSection]
) -> CrosscodersSection:
    """The crosscoder of one side: that which holds its model and what it is isolated against.

    ValueError where none or several do, or where the one that the comparison names does not.
    """
    pair = pair_of(comparison, side)
    key = f"comparison {comparison.name}.{side}_crosscoder"
    named = comparison.target_crosscoder if side == "target" else comparison.reference_crosscoder
    if named is not None:
        row = next((row for row in crosscoders if row.name == named), None)
        if row is None:
            known = ", ".join(row.name for row in crosscoders) or "none in [[crosscoders]]"
            raise ValueError(f"{key}: no crosscoder is named {named!r} (crosscoders: {known})")
        for model in pair:
            if model not in row.models:
                raise ValueError(f"{key}: crosscoder {named!r} does not hold {model!r}")
        return row
    holding = [row for row in crosscoders if set(pair) <= set(row.models)]
    both = f"both {pair[0]!r} and {pair[1]!r}"
    if not holding:
        raise ValueError(
            f"comparison {comparison.name}.{side}: no crosscoder holds {both}; add one to "
            "[[crosscoders]], or name a common base in `against`"
        )
    if len(holding) > 1:
        found = " and ".join(repr(row.name) for row in holding)
        raise ValueError(f"{key}: missing; the crosscoders {found} hold {both}, name one")
    return holding[0]


def pair_of(comparison: ComparisonSection, side: SideName) -> tuple[str, str]:
    """The model of a side, and the model it is isolated against."""
    if side == "target":
        return comparison.target, comparison.against or comparison.reference
    return comparison.reference, comparison.against or comparison.target
