"""Keys of stages whose files lie on another machine, as the database has recorded them."""

from __future__ import annotations

import logging
from typing import Any

from pydantic import ValidationError

from crosscoder.adapters import CONFIG_NAME
from crosscoder.config import RECORDED
from crosscoder.model_files import HubRepository, cached, is_hub_name
from labeler.errors import UsageError
from labeler.stages.base import StageContext
from labeler.store.engine import read_session
from labeler.store.runs import latest_done_run
from labeler.store.schema import Run
from labeler.study.config import CorpusSection, ModelSection
from labeler.study.study_file import StudyConfig, StudyFile

HASHED = frozenset({"harvest", "train"})
"""Stages whose keys hash files: models and corpus, and a crosscoder that is loaded."""
_LOGGER = logging.getLogger(__name__)


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
    if config.corpus is not None and not study.resolve(config.corpus.path).is_file():
        missing.append("corpus.path")
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
    return corpus.model_dump(exclude={"max_lost"})


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
