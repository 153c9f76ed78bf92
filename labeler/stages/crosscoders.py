"""The crosscoders of a study: where each one's artifacts lie, and which activations it reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from crosscoder.config import SideName
from labeler.errors import UsageError
from labeler.stages.base import StageContext
from labeler.store.schema import Crosscoder
from labeler.study.config import ComparisonSection, crosscoder_of
from labeler.study.study_file import StudyFile

if TYPE_CHECKING:
    from crosscoder.activations import ActivationStore
    from crosscoder.model import Crosscoder as CrosscoderModule
    from crosscoder.stream import ActivationStream


@dataclass(frozen=True)
class StudyCrosscoder:
    """One crosscoder of the study."""

    name: str | None = None
    """Its name in `[[crosscoders]]`; None for the only one, over all models."""
    models: tuple[str, ...] = ()
    """Its models; none for all."""

    def folder(self, context: StageContext, stage: str) -> Path:
        """Folder of what `stage` made of this crosscoder."""
        folder = context.folder(stage)
        return folder if self.name is None else folder / self.name

    def database_name(self, study: StudyFile) -> str:
        """Name of its row, where no other weights have that already."""
        name = study.config.study.name
        return name if self.name is None else f"{name}-{self.name}"

    def of(self, store: ActivationStore | ActivationStream) -> ActivationStore | ActivationStream:
        """The activations of its models. A stream is never split: the config refuses that."""
        from crosscoder.activations import ActivationStore

        if self.name is None or not isinstance(store, ActivationStore):
            return store
        return store.select_models(self.models)


def study_crosscoders(study: StudyFile) -> tuple[StudyCrosscoder, ...]:
    """Those of `[[crosscoders]]`, or the one over all models."""
    named = tuple(StudyCrosscoder(row.name, row.models) for row in study.config.crosscoders)
    return named or (StudyCrosscoder(),)


def named_crosscoder(study: StudyFile, name: str | None) -> StudyCrosscoder:
    """The study's crosscoder of that name; without a name, the only one. UsageError where not."""
    found = study_crosscoders(study)
    if name is None and len(found) == 1:
        return found[0]
    for one in found:
        if name is not None and one.name == name:
            return one
    names = ", ".join(one.name for one in found if one.name) or "none in [[crosscoders]]"
    said = "missing" if name is None else f"no crosscoder is named {name!r}"
    raise UsageError(f"--crosscoder: {said} (crosscoders: {names})")


def side_crosscoder(
    study: StudyFile, comparison: ComparisonSection, side: SideName
) -> StudyCrosscoder:
    """The crosscoder that a side of a comparison is read from."""
    if not study.config.crosscoders:
        return StudyCrosscoder()
    row = crosscoder_of(comparison, side, study.config.crosscoders)
    return StudyCrosscoder(row.name, row.models)


def trained_crosscoder(context: StageContext, one: StudyCrosscoder) -> CrosscoderModule:
    """The product of `train`; DamagedFileError where it is not what was written.

    A damaged file is set aside: `train` makes it again.
    """
    from crosscoder.checkpoints import load_crosscoder
    from crosscoder.files import DamagedFileError, set_aside

    try:
        return load_crosscoder(one.folder(context, "train"))
    except DamagedFileError as error:
        raise set_aside(error) from None


def crosscoder_row(
    session: Session, context: StageContext, crosscoder: StudyCrosscoder
) -> Crosscoder:
    """The row of a trained crosscoder, by its weights; DamagedFileError as `trained_crosscoder`."""
    from crosscoder.checkpoints import read_crosscoder_file
    from crosscoder.files import DamagedFileError, set_aside

    try:
        sha256 = read_crosscoder_file(crosscoder.folder(context, "train")).weights_sha256
    except DamagedFileError as error:
        raise set_aside(error) from None
    query = select(Crosscoder).where(Crosscoder.sha256 == sha256).order_by(Crosscoder.id)
    row = session.execute(query).scalars().first()
    if row is None:
        raise LookupError("the crosscoder has no row")
    return row
