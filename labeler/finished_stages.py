"""Finding the product of a finished stage."""

from __future__ import annotations

from labeler.errors import UsageError
from labeler.pipeline import is_done, with_key
from labeler.stages.base import STAGE_NAMES, StageContext


def finished(context: StageContext, name: str) -> StageContext:
    """The context with the keys of all stages up to `name`; UsageError where that is not done."""
    for earlier in STAGE_NAMES[: STAGE_NAMES.index(name) + 1]:
        context = with_key(context, earlier)
    if not is_done(context, name):
        raise UsageError(
            f"stage `{name}` is not done with the present config; "
            f"`difflens run {context.study.path.name} --until {name}` does it"
        )
    return context
