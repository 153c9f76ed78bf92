"""What a stage is: it names its inputs, makes its product, and can tell whether that is whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Engine

from crosscoder.files import VerifiedFiles
from crosscoder.progress import Progress
from labeler.errors import UsageError
from labeler.judge.budget import Spending
from labeler.study.study_file import StudyFile

STAGE_NAMES = ("harvest", "train", "isolate", "collect", "label", "categorize", "report")
"""In the order in which data flows."""
UNANSWERED = "n_unanswered"
"""Key of a run's result: questions without an answer, which the next call asks again."""


@dataclass(frozen=True)
class StageContext:
    """What every stage works with."""

    study: StudyFile
    engine: Engine
    progress: Progress
    keys: dict[str, str] = field(default_factory=dict)
    """Stage key by stage name, for this stage and those before it."""
    spending: Spending | None = None
    """What the judges of this call may use; None = as much as they like."""
    reads_database_only: bool = False
    """Whether what is done needs the earlier stages' rows alone, and none of their files."""
    verified: VerifiedFiles = field(default_factory=VerifiedFiles)
    """Which files of activations this call has hashed already."""

    def folder(self, stage: str) -> Path:
        """Folder of the artifacts of `stage`, addressed by the hash of what they are made from."""
        return self.study.artifacts / stage / self.keys[stage][:16]


@dataclass(frozen=True)
class StageOutcome:
    """What a stage says of its work."""

    message: str
    """One line for people."""
    result: dict[str, Any] = field(default_factory=dict)
    """Facts that the run's row keeps."""
    details: tuple[str, ...] = ()
    """Further lines for people, indented below the first."""


class Stage(Protocol):
    """One stage of the main job."""

    name: str
    reads_previous: bool
    """Whether it works on the product of the stage before, and not only on the database."""

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """Everything besides the stage before that decides the product, as JSON values.

        Raises UsageError when the config lacks what the stage needs.
        """
        ...

    def run(self, context: StageContext, run_id: int) -> StageOutcome:
        """Make the product, going on from what an interrupted run left whole."""
        ...

    def is_whole(self, context: StageContext) -> bool:
        """Whether the product's files, if it has any, are all there."""
        ...


READ_MODELS = frozenset({"harvest", "train", "isolate", "collect"})
"""Stages that compute with the models or the crosscoder; the others do without torch."""
WITHOUT_MODELS = frozenset({"categorize"})
"""Stages that imported latents can go through as well: then no stage comes before them."""


def reads_previous(stage: Stage, study: StudyFile) -> bool:
    """Whether a stage works on the product of the one before it in this study."""
    return stage.reads_previous and (bool(study.config.models) or stage.name not in WITHOUT_MODELS)


def required(value: Any, stage: str, key: str, what: str) -> Any:
    """The value, or UsageError naming the missing table of study.toml and why it is needed."""
    if value is None or value == ():
        raise UsageError(f"{key}: missing in study.toml; `{stage}` needs {what}")
    return value
