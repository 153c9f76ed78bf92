"""What a stage is: it names its inputs, makes its product, knows whether that is whole."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError
from sqlalchemy import Engine

from crosscoder.adapters import CONFIG_NAME
from crosscoder.config import RECORDED
from crosscoder.files import VerifiedFiles
from crosscoder.model_files import HubRepository, cached, is_hub_name
from crosscoder.progress import Progress
from labeler.errors import UsageError
from labeler.judge.budget import Spending
from labeler.store.engine import read_session
from labeler.store.runs import latest_done_run
from labeler.store.schema import Run
from labeler.study.config import CorpusSection, ModelSection
from labeler.study.corpus_text import missing_sources
from labeler.study.study_file import StudyConfig, StudyFile

STAGE_NAMES = (
    "harvest", "train", "isolate", "collect", "label", "categorize", "effect", "behaviour",
    "report",
)  # fmt: skip
"""In the order in which data flows."""
UNANSWERED = "n_unanswered"
"""Key of a run's result: questions without an answer, which the next call asks again."""
READ_MODELS = frozenset({"harvest", "train", "isolate", "collect", "effect"})
"""Stages that compute with the models or the crosscoder; the others do without torch."""
WITHOUT_MODELS = frozenset({"categorize"})
"""Stages that imported latents can go through as well: then no stage comes before them."""
HASHED = frozenset({"harvest", "train"})
"""Stages whose keys hash files: models and corpus, and a crosscoder that is loaded."""
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageContext:
    """What every stage works with."""

    study: StudyFile
    engine: Engine
    progress: Progress
    keys: dict[str, str] = field(default_factory=dict)
    """Stage key by stage name, for this stage and those before it."""
    spending: Spending = field(default_factory=Spending)
    """What the judges of the study have used and may use."""
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


def stages_of(study: StudyFile) -> tuple[str, ...]:
    """The stages of a study in their order, without those that study.toml leaves out."""
    return tuple(name for name in STAGE_NAMES if why_left_out(study, name) is None)


def why_left_out(study: StudyFile, name: str) -> str | None:
    """Why a stage is none of a study; None where it is one."""
    config = study.config
    if name == "behaviour" and config.behaviour.prompts is None:
        return "it names no behaviour.prompts"
    if name == "effect" and not config.models:
        return "imported latents have no models to measure it with"
    if name == "effect" and not config.effect.enabled:
        return "effect.enabled is false"
    return None


def reads_previous(stage: Stage, study: StudyFile) -> bool:
    """Whether a stage works on the product of the one before it in this study."""
    return stage.reads_previous and (bool(study.config.models) or stage.name not in WITHOUT_MODELS)


def required(value: Any, stage: str, key: str, what: str) -> Any:
    """The value, or UsageError naming the missing table of study.toml and why it is needed."""
    if value is None or value == ():
        raise UsageError(f"{key}: missing in study.toml; `{stage}` needs {what}")
    return value


def recorded_key(context: StageContext, name: str) -> str | None:
    """The key of the newest finished run of a stage whose files are not all on this machine.

    None where they are: then the key is made from them. UsageError where there is no such run, or
    it was made with other settings than the present ones; nothing is fetched to find out.
    """
    study = context.study
    missing = missing_files(study, name) if name in HASHED else []
    if not missing:
        return None
    run = _matching_run(context, name)
    if run is None or run.stage_key is None:
        raise UsageError(
            f"{name}: not on this machine: {', '.join(missing)}; and the database holds no "
            f"finished `{name}` with the present settings; run the stages where they are"
        )
    _LOGGER.warning(
        "%s: not on this machine: %s; taken to be what `%s` read in run %d",
        study.path.name,
        ", ".join(missing),
        name,
        run.id,
    )
    return run.stage_key


def _matching_run(context: StageContext, name: str) -> Run | None:
    """The newest finished run of a stage, if its settings are the present ones."""
    with read_session(context.engine) as session:
        run = latest_done_run(session, name)
        harvest = latest_done_run(session, "harvest")
    if run is None or harvest is None or run.id < harvest.id:
        return None
    try:
        recorded = StudyConfig.model_validate(run.config, context=RECORDED)
    except ValidationError:
        return None
    same = _settings(recorded, name) == _settings(context.study.config, name)
    return run if same else None


def missing_files(study: StudyFile, name: str) -> list[str]:
    """What a stage's key hashes and this machine has not, by the keys of the config."""
    config = study.config
    if name == "train":
        path = config.crosscoder.path
        return ["crosscoder.path"] if path is not None and not study.resolve(path).exists() else []
    missing = []
    for model in config.models:
        if not _is_here(study, model.path, model.revision):
            missing.append(f"model {model.name}")
        elif model.adapter is not None and not _is_adapter_here(study, model):
            missing.append(f"adapter of {model.name}")
    if config.corpus is not None:
        missing += [source.key for source in missing_sources(study, config.corpus)]
    return missing


def _is_here(study: StudyFile, path: str, revision: str | None) -> bool:
    """Whether a model is a local one that exists, or lies in the Hub's cache."""
    if study.resolve(path).exists():
        return True
    name, file = path, "config.json"
    if path.endswith(".gguf"):
        name, _, file = path.rpartition("/")
    return is_hub_name(name) and _is_cached(name, file, revision)


def _is_adapter_here(study: StudyFile, model: ModelSection) -> bool:
    """Whether a model's adapter is a local one that exists, or lies in the Hub's cache."""
    adapter = str(model.adapter)
    return study.resolve(adapter).exists() or (
        is_hub_name(adapter) and _is_cached(adapter, CONFIG_NAME, model.adapter_revision)
    )


def _is_cached(name: str, file: str, revision: str | None) -> bool:
    return cached(HubRepository(name, name, revision), file) is not None


def _corpus_settings(corpus: CorpusSection) -> dict[str, Any]:
    return corpus.model_dump(exclude={"max_lost", "answer_batch_size"})


def _settings(config: StudyConfig, name: str) -> dict[str, Any]:
    """What decides a stage's key, files aside."""
    from labeler.stages.harvest import fields_not_in_key

    harvest = config.harvest
    settings: dict[str, Any] = {
        "seed": config.study.seed,
        "models": [model.model_dump() for model in config.models],
        "corpus": _corpus_settings(config.corpus) if config.corpus is not None else None,
        "harvest": harvest.model_dump(exclude=fields_not_in_key(harvest))
        if harvest is not None
        else None,
    }
    if name == "train" and harvest is not None:
        settings |= {"crosscoder": config.crosscoder.model_dump(), "held_out": harvest.held_out}
    return settings
