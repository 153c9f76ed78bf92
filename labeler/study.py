"""The study: one folder, one `study.toml`, checked key by key before any work starts."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError, model_validator
from sqlalchemy.engine import URL

from crosscoder.limits import MAX_CONFIG_BYTES, parse_toml, read_text
from crosscoder.settings import SIDES, check_dedicated_share
from labeler.database_url import resolve_url
from labeler.errors import UsageError, doing
from labeler.sections.base import Section
from labeler.sections.counting import ReportSection, SqlSection, TaxonomySection
from labeler.sections.crosscoders import CrosscodersSection, check_crosscoders, crosscoder_of
from labeler.sections.dictionary import (
    CollectSection,
    ComparisonSection,
    CrosscoderSection,
    IsolateSection,
    TrainSection,
)
from labeler.sections.judging import EmbeddingSection, FurtherJudgeSection, JudgeSection
from labeler.sections.scoring import ScoresSection
from labeler.sections.subjects import (
    CorpusSection,
    DatabaseSection,
    HarvestSection,
    ModelSection,
    StudySection,
)
from labeler.sections.thorough import ThoroughSection
from labeler.text import clip


class StudyConfig(Section):
    """The whole of study.toml."""

    study: StudySection = StudySection()
    database: DatabaseSection = DatabaseSection()
    models: tuple[ModelSection, ...] = ()
    corpus: CorpusSection | None = None
    harvest: HarvestSection | None = None
    train: TrainSection = TrainSection()
    crosscoder: CrosscoderSection = CrosscoderSection()
    crosscoders: tuple[CrosscodersSection, ...] = ()
    isolate: IsolateSection = IsolateSection()
    comparison: tuple[ComparisonSection, ...] = ()
    collect: CollectSection = CollectSection()
    judge: JudgeSection = JudgeSection()
    judges: tuple[FurtherJudgeSection, ...] = ()
    scores: ScoresSection = ScoresSection()
    embedding: EmbeddingSection = EmbeddingSection()
    taxonomy: TaxonomySection = TaxonomySection()
    report: ReportSection = ReportSection()
    thorough: ThoroughSection = ThoroughSection()
    sql: SqlSection = SqlSection()

    @model_validator(mode="after")
    def _names_agree(self) -> StudyConfig:
        names = [model.name for model in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"models: two models are named {name!r}; rename one")
        for row in self.comparison:
            for key in ("target", "reference", "against"):
                value = getattr(row, key)
                if value is not None and names and value not in names:
                    raise ValueError(
                        f"comparison {row.name}.{key}: no model is named {value!r} "
                        f"(models: {', '.join(names)})"
                    )
            if row.target == row.reference:
                raise ValueError(f"comparison {row.name}: target and reference are the same model")
        return self

    @model_validator(mode="after")
    def _models_are_all_named(self) -> StudyConfig:
        names = [model.name for model in self.models]
        template = self.harvest.template_model if self.harvest is not None else None
        if names and template is not None and template not in names:
            raise ValueError(
                f"harvest.template_model: no model is named {template!r} "
                f"(models: {', '.join(names)})"
            )
        factors = self.crosscoder.scaling_factors
        if isinstance(factors, tuple) and names and len(factors) != len(names):
            raise ValueError(
                f"crosscoder.scaling_factors: {len(factors)} factors for {len(names)} models; "
                "give one for each"
            )
        return self

    @model_validator(mode="after")
    def _dedicated_latents_leave_shared_ones(self) -> StudyConfig:
        for n_models in [len(row.models) for row in self.crosscoders] or [len(self.models)]:
            check_dedicated_share(self.train.dedicated_share, n_models)
        return self

    @model_validator(mode="after")
    def _sides_have_crosscoders(self) -> StudyConfig:
        check_crosscoders(self.crosscoders, [model.name for model in self.models])
        for row in self.comparison:
            if self.crosscoders or row.target_crosscoder or row.reference_crosscoder:
                for side in SIDES:
                    crosscoder_of(row, side, self.crosscoders)
        if self.crosscoders and self.crosscoder.path is not None:
            raise ValueError("crosscoder.path: not together with [[crosscoders]]; remove one")
        if self.crosscoders and self.harvest is not None and not self.harvest.cache:
            raise ValueError(
                "harvest.cache: false reads for one crosscoder over all models; remove it or "
                "[[crosscoders]]"
            )
        return self


LONGEST_KEY = 200
"""Characters of a key that an error line shows."""


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    where = clip(".".join(str(part) for part in first["loc"]), LONGEST_KEY)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown key; remove it or mend its spelling"
    if first["type"] == "missing":
        message = "missing; add it"
    if first["type"] in ("tuple_type", "list_type"):
        message = "must be a list; put the values in square brackets"
    if first["type"] == "too_short":
        least = first["ctx"]["min_length"]
        entries = "entry" if least == 1 else "entries"
        message = f"needs {least} {entries} or more, and has {first['ctx']['actual_length']}"
    return f"{where}: {message}" if where else message


class StudyFile:
    """A study.toml with its folder; paths in it are relative to that folder.

    Raises UsageError with one line that names the file and the key.
    """

    def __init__(self, path: Path, config: StudyConfig) -> None:
        self.path = path
        self.config = config

    @classmethod
    def read(cls, path: Path) -> StudyFile:
        """Read and check a study file."""
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; name the study.toml in it")
        if not path.exists():
            raise UsageError(f"{path}: no such file; `difflens init {path}` writes one")
        with doing(f"reading {path}"):
            raw = parse_toml(read_text(path, MAX_CONFIG_BYTES), path)
        try:
            return cls(path.resolve(), StudyConfig.model_validate(raw))
        except ValidationError as error:
            raise UsageError(f"{path}: {_first_error(error)}") from None

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.path.parent

    @property
    def query_folder(self) -> Path:
        """Where the study's own saved queries lie, one `.sql` file each."""
        return self.resolve(self.config.sql.folder)

    def resolve(self, path: str) -> Path:
        """A path of the config, relative ones beside study.toml."""
        return (self.folder / Path(path).expanduser()).resolve()

    @property
    def database_url(self) -> URL:
        """The database's URL with the environment expanded and a relative SQLite path resolved."""
        return resolve_url(self.config.database.url, self.folder)

    @property
    def artifacts(self) -> Path:
        """Folder of the stages' products."""
        return self.folder / "artifacts"
