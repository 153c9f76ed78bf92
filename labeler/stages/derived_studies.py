"""Studies that a null run makes of the study: other seeds, null models, a random dictionary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import yaml

from crosscoder.model_files import SubjectSpec
from labeler.errors import WorkError
from labeler.stages.base import StageContext, stages_of
from labeler.stages.pipeline import StageReport, run_study, with_key
from labeler.store.database_url import url_of_file
from labeler.study.config import CrosscoderSection, ScoresSection
from labeler.study.study_file import FORMER_NULL_RUNS, NULL_RUNS, StudyConfig, StudyFile
from taxonomy.tree import Taxonomy

LAST_STAGE = "categorize"


def null_runs_folder(study: StudyFile) -> Path:
    """Folder of the null runs' artifacts; one with the earlier name is used again."""
    former = study.artifacts / FORMER_NULL_RUNS
    return former if former.is_dir() else study.artifacts / NULL_RUNS


class DerivedStudy(StudyFile):
    """A copy of the study `original` with its own database, artifacts and frozen taxonomy.

    `changes` are further tables of its config.
    """

    def __init__(
        self, original: StudyFile, home: Path, taxonomy: Taxonomy, changes: Mapping[str, object]
    ) -> None:
        self._original = original
        self._home = home
        self._taxonomy = taxonomy
        super().__init__(original.path, self._config_of(original.config, changes))

    @property
    def original(self) -> StudyFile:
        """The study that it is derived from; the two have one budget."""
        return self._original

    @property
    def artifacts(self) -> Path:
        """Folder of its products, inside the original's."""
        return self._home

    def prepare(self) -> None:
        """Write the taxonomy."""
        self._home.mkdir(parents=True, exist_ok=True)
        content = self._taxonomy.model_dump(mode="json", exclude_none=True)
        self._taxonomy_file.write_text(
            yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8"
        )

    def use_text_of(self, harvest: Path, context: StageContext) -> None:
        """Use the original's answers and activations, which this study's changes leave alone.

        A study that streams has no activations: here the models read again.
        """
        _link(with_key(context, "harvest").folder("harvest"), harvest)
        _link(self._home / "answers", self._original.artifacts / "answers")

    @property
    def _taxonomy_file(self) -> Path:
        return self._home / "taxonomy.yaml"

    def _config_of(self, config: StudyConfig, changes: Mapping[str, object]) -> StudyConfig:
        return config.model_copy(
            update={
                "database": config.database.model_copy(
                    update={"url": url_of_file(self._home / "difflens.db")}
                ),
                "taxonomy": config.taxonomy.model_copy(
                    update={"mode": "seed", "file": str(self._taxonomy_file)}
                ),
                "train": config.train.model_copy(update={"seeds": 1}),
                "judges": (),
                "scores": config.scores.model_copy(update={"controls": 0, "methods": ()}),
                **changes,
            }
        )


class ReplicateStudy(DerivedStudy):
    """The same models with another seed."""

    def __init__(self, original: StudyFile, number: int, taxonomy: Taxonomy) -> None:
        home = null_runs_folder(original) / f"seed-{number}"
        study, train = original.config.study, original.config.train
        own = None if train.seed is None else train.seed + number
        seeds = {
            "study": study.model_copy(update={"seed": study.seed + number}),
            "train": train.model_copy(update={"seed": own, "seeds": 1}),
        }
        super().__init__(original, home, taxonomy, seeds)


def _link(link: Path, folder: Path) -> None:
    """Have a replicate use a folder of the original, where there is one."""
    if link.exists() or not folder.exists():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(folder, target_is_directory=True)
    except OSError as error:
        raise WorkError(f"{link}: no link to {folder}: {error.strerror}") from None


def run_replicate(study: ReplicateStudy, original: StageContext) -> Iterator[StageReport]:
    """Run the replicate up to its labels, going on from what an interrupted run left."""
    context = replace(original, study=study, keys={})
    study.prepare()
    study.use_text_of(with_key(original, "harvest").folder("harvest"), context)
    limits = original.spending.limits
    for report in run_study(study, original.progress, last=LAST_STAGE, limits=limits):
        yield replace(report, stage=f"seed {study.config.study.seed}, {report.stage}")


class OtherModelsStudy(DerivedStudy):
    """The study with null models in the place of its fine-tunes."""

    def __init__(
        self,
        original: StudyFile,
        kind: str,
        taxonomy: Taxonomy,
        others: Mapping[str, SubjectSpec],
    ) -> None:
        models = tuple(
            model.model_copy(update=_place(others[model.name])) if model.name in others else model
            for model in original.config.models
        )
        changes = {"models": models, "scores": _scores(original)}
        super().__init__(original, null_folder(original, kind), taxonomy, changes)


class RandomDictionaryStudy(DerivedStudy):
    """The study on the same activations, with a dictionary that lies in its folder."""

    def __init__(self, original: StudyFile, taxonomy: Taxonomy) -> None:
        home = null_folder(original, "random")
        self.dictionary = home / "dictionary"
        path = {"path": str(self.dictionary)}
        changes = {
            "crosscoder": CrosscoderSection.model_validate(path),
            "scores": _scores(original),
        }
        super().__init__(original, home, taxonomy, changes)


def run_null_study(study: DerivedStudy, kind: str, original: StageContext) -> Iterator[StageReport]:
    """Run it up to its labels, and the effect of its latents where the study measures that."""
    study.prepare()
    last = "effect" if "effect" in stages_of(study) else LAST_STAGE
    limits = original.spending.limits
    for report in run_study(study, original.progress, last=last, limits=limits):
        yield replace(report, stage=f"{kind}, {report.stage}")


def _scores(original: StudyFile) -> ScoresSection:
    """Explanations are scored as the original's are, to be compared with them."""
    return original.config.scores.model_copy(update={"controls": 0})


def _place(spec: SubjectSpec) -> dict[str, str | None]:
    return {
        "path": spec.path,
        "adapter": spec.adapter,
        "revision": spec.revision,
        "adapter_revision": spec.adapter_revision,
    }


def null_folder(study: StudyFile, kind: str) -> Path:
    """Folder of the null run of that kind, where it is a study."""
    return null_runs_folder(study) / kind


def fine_tunes(study: StudyFile) -> dict[str, str]:
    """The model that each scrambled fine-tune differs from, by name.

    The target of a comparison differs from its reference, both differ from a common base.
    """
    pairs: dict[str, str] = {}
    for row in study.config.comparison:
        if row.against is None:
            pairs.setdefault(row.target, row.reference)
        else:
            pairs |= {row.target: row.against, row.reference: row.against}
    # A model that others differ from stays as it is.
    return {model: base for model, base in pairs.items() if model not in pairs.values()}
