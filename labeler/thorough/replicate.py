"""The study once more with another seed: same models, text, judge and taxonomy; other latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from crosscoder.progress import Progress
from labeler.database_url import url_of_file
from labeler.errors import WorkError
from labeler.pipeline import StageReport, run_study, with_key
from labeler.stages.base import StageContext
from labeler.study import StudyConfig, StudyFile
from taxonomy.tree import Taxonomy

LAST_STAGE = "categorize"


class ReplicateStudy(StudyFile):
    """A study beside `original`, with a seed, a database and artifacts of its own."""

    def __init__(self, original: StudyFile, number: int, taxonomy: Taxonomy) -> None:
        self._home = original.artifacts / "thorough" / f"seed-{number}"
        self.number = number
        self._taxonomy = taxonomy
        super().__init__(original.path, self._config_of(original.config))

    @property
    def artifacts(self) -> Path:
        """Folder of the replicate's products, inside the original's."""
        return self._home

    def prepare(self, harvest: Path, context: StageContext) -> None:
        """Write the taxonomy; use the original's activations: a seed does not change them.

        A study that streams has none: its replicates let the models read again.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        content = self._taxonomy.model_dump(mode="json", exclude_none=True)
        self._taxonomy_file.write_text(
            yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8"
        )
        link = with_key(context, "harvest").folder("harvest")
        if link.exists() or not harvest.exists():
            return
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            link.symlink_to(harvest, target_is_directory=True)
        except OSError as error:
            raise WorkError(f"{link}: no link to the activations: {error.strerror}") from None

    @property
    def _taxonomy_file(self) -> Path:
        return self._home / "taxonomy.yaml"

    def _config_of(self, config: StudyConfig) -> StudyConfig:
        changes = {
            "study": config.study.model_copy(update={"seed": config.study.seed + self.number}),
            "database": config.database.model_copy(
                update={"url": url_of_file(self._home / "difflens.db")}
            ),
            "taxonomy": config.taxonomy.model_copy(
                update={"mode": "seed", "file": str(self._taxonomy_file)}
            ),
            "judges": (),
            "scores": config.scores.model_copy(update={"controls": 0, "methods": ()}),
        }
        return config.model_copy(update=changes)


def run_replicate(
    study: ReplicateStudy, original: StageContext, progress: Progress
) -> Iterator[StageReport]:
    """Run the replicate up to its labels, going on from what an interrupted run left."""
    context = replace(original, study=study, keys={})
    study.prepare(with_key(original, "harvest").folder("harvest"), context)
    for report in run_study(study, progress, last=LAST_STAGE):
        yield replace(report, stage=f"seed {study.config.study.seed}, {report.stage}")
