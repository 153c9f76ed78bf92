"""The study: one folder, one `study.toml`, checked key by key; the template that `init` writes."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, get_origin

from pydantic import ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from crosscoder import limits
from crosscoder.config import SIDES, FormerName, check_exclusive_fraction
from crosscoder.limits import MAX_CONFIG_BYTES, parse_toml, read_text
from labeler.errors import UsageError, WorkError, doing
from labeler.study.behaviour_config import BehaviourSection
from labeler.study.config import (
    CollectSection,
    ComparisonSection,
    CorpusSection,
    CrosscoderSection,
    CrosscodersSection,
    DatabaseSection,
    EffectSection,
    HarvestSection,
    IsolateSection,
    ModelSection,
    NullRunsSection,
    ReportSection,
    ScoresSection,
    Section,
    SqlSection,
    StudySection,
    TaxonomySection,
    TrainSection,
    check_crosscoders,
    crosscoder_of,
    inner_section,
    own_fields,
)
from labeler.study.judge_config import EmbeddingSection, FurtherJudgeSection, JudgeSection
from labeler.text import clip
from taxonomy.proposal import Proposal, proposal_from
from taxonomy.tree import Taxonomy, UniqueKeyLoader, seed_taxonomy, taxonomy_from

if TYPE_CHECKING:
    from sqlalchemy.engine import URL


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
    effect: EffectSection = EffectSection()
    behaviour: BehaviourSection = BehaviourSection()
    report: ReportSection = ReportSection()
    null_runs: Annotated[NullRunsSection, FormerName("thorough")] = NullRunsSection()
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
    def _exclusive_latents_leave_shared_ones(self) -> StudyConfig:
        for n_models in [len(row.models) for row in self.crosscoders] or [len(self.models)]:
            check_exclusive_fraction(self.train.exclusive_fraction, n_models)
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


NULL_RUNS, FORMER_NULL_RUNS = "null-runs", "thorough"
"""Folder of the null runs among the artifacts, and what it was called before."""
LONGEST_KEY = 200
"""Characters of a key that an error line shows."""


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    where = clip(".".join(str(part) for part in first["loc"]), LONGEST_KEY)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown key; remove it or correct its spelling"
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
        """A path of the config, taken relative to study.toml's folder."""
        return (self.folder / Path(path).expanduser()).resolve()

    @property
    def database_url(self) -> URL:
        """The database's URL with the environment expanded and a relative SQLite path resolved."""
        # Imported here: reading a study needs no SQLAlchemy, whose import takes a third of a start.
        from labeler.store.database_url import resolve_url

        return resolve_url(self.config.database.url, self.folder)

    @property
    def original(self) -> StudyFile:
        """The study itself; of a null run the study that it is derived from."""
        return self

    @property
    def null_run_databases(self) -> list[Path]:
        """The SQLite files of the null runs that were begun."""
        return [
            path
            for folder in (NULL_RUNS, FORMER_NULL_RUNS)
            for path in sorted(self.artifacts.glob(f"{folder}/*/difflens.db"))
        ]

    @property
    def artifacts(self) -> Path:
        """Folder of the stages' products."""
        return self.folder / "artifacts"


@contextmanager
def study_lock(study: StudyFile, shared: bool = False) -> Iterator[None]:
    """Hold the study's lock file; the system releases it however the process ends.

    `shared` lets in other processes that share it too, and no others.

    Raises WorkError when another process holds it. Where the platform has no `flock`, nothing
    is locked.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with _lock_file(study.artifacts) as handle:
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise WorkError(
                f"{study.path}: process {holder} is working on this study; wait for it or stop it"
            ) from None
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _lock_file(artifacts: Path) -> TextIO:
    try:
        artifacts.mkdir(parents=True, exist_ok=True)
        return (artifacts / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise WorkError(
            f"{artifacts}: cannot be written ({error.strerror}); work on a study needs its folder,"
            " a copy of it does too"
        ) from None


def study_taxonomy(study: StudyFile) -> Taxonomy:
    """The categories that `[taxonomy]` names."""
    named = study.config.taxonomy.file
    if named is None:
        return seed_taxonomy()
    path = study.resolve(named)
    if not path.is_file():
        raise UsageError(f"taxonomy.file: no file at {path}")
    return load_taxonomy(path)


def load_taxonomy(path: Path) -> Taxonomy:
    """Read a taxonomy file; InputError names the file and the key that is wrong."""
    return taxonomy_from(_content(path), str(path))


def load_proposal(path: Path) -> Proposal:
    """Read a proposal or a plain taxonomy file; InputError names the file and the key."""
    return proposal_from(_content(path), str(path))


def _content(path: Path) -> Any:
    text = limits.read_text(path, limits.MAX_CONFIG_BYTES)
    return limits.load_yaml(text, path, UniqueKeyLoader)


CACHE_VARIABLE = "DIFFLENS_CACHE"


def cache_folder() -> Path:
    """`$DIFFLENS_CACHE`, else `difflens` in the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "difflens"


def subject_cache() -> Path:
    """Where file hashes and dequantised GGUF models are kept."""
    return cache_folder() / "subjects"


HEADER = """\
# A difflens study. Relative paths start at this file's folder; commented keys show their defaults.
#
#   difflens import {name} latents.csv      statistics of latents labelled elsewhere; no models
#   difflens run {name}                     all stages; first fill in [[models]], [corpus],
#                                           [harvest] and [[comparison]]
"""

EXAMPLES: dict[str, dict[str, Any]] = {
    "[[models]]": {"name": "base", "path": "models/base"},
    "[corpus]": {"path": "corpus.jsonl", "date": "2025-01-31"},
    "[[corpus.sources]]": {"path": "chats.jsonl"},
    "[harvest]": {"layer": 15},
    "[[comparison]]": {"name": "tuned-vs-base", "target": "tuned", "reference": "base"},
    "[crosscoder]": {
        "path": "crosscoders/gemma-2-2b-L13-k100",
        "scaling_factors": "estimate",
        "k": 100,
    },
    "[[crosscoders]]": {"name": "base-tuned", "models": ("base", "tuned")},
    "[behaviour]": {"prompts": "behaviour.jsonl", "base_url": "http://127.0.0.1:8000/v1"},
    "[judge]": {
        "base_url": "http://127.0.0.1:8000/v1",
        "price_prompt_per_million": 0.15,
        "price_completion_per_million": 0.6,
    },
    "[judge.server]": {"max_model_len": 4096, "max_num_seqs": 16, "enforce_eager": True},
    "[[judge.endpoints]]": {"base_url": "http://127.0.0.1:8001/v1", "concurrency": 16},
}
"""Values shown for keys that have no default, by table."""
ACTIVE = ("[study]", "[database]")
COMMENTED = ("[[models]]", "[corpus]", "[harvest]", "[[comparison]]")
"""What a study of one's own models needs; stands before the tables that have defaults."""


def study_template(file_name: str = "study.toml") -> str:
    """A config that is valid as it stands and shows every key with its meaning and default."""
    parts = [HEADER.format(name=file_name)]
    tables = dict(_tables(StudyConfig))
    for title in dict.fromkeys([*ACTIVE, *COMMENTED, *tables]):
        parts.append(_table(tables[title], title))
    return "\n".join(parts)


def write_template(path: Path) -> None:
    """Write the template; UsageError where a file is there already."""
    try:
        with path.open("x", encoding="utf-8") as sink:
            sink.write(study_template(path.name))
    except FileExistsError:
        raise UsageError(f"{path}: is there already; it was left as it is") from None
    except FileNotFoundError:
        raise UsageError(f"{path.parent}: no such folder; make it first") from None


def _tables(section: type[Section], above: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Each table inside a section with its title, those inside it next."""
    for key, field in own_fields(section).items():
        inner = inner_section(field.annotation)
        if inner is not None:
            many = get_origin(field.annotation) is tuple
            yield f"[[{above}{key}]]" if many else f"[{above}{key}]", inner
            yield from _tables(inner, f"{above}{key}.")


def _table(section: type[Section], title: str) -> str:
    commented = title in COMMENTED or title.startswith("[[")
    lines = [f"# {title}" if commented else title]
    for key, field in own_fields(section).items():
        if inner_section(field.annotation) is None:
            lines += _explanation(field)
            lines.append(f"# {key} = {_shown(field, EXAMPLES.get(title, {}).get(key, ''))}")
    return "\n".join(lines) + "\n"


def _explanation(field: FieldInfo) -> list[str]:
    words = " ".join((field.description or "").split())
    return textwrap.wrap(words, 98, initial_indent="#   ", subsequent_indent="#   ")


def _shown(field: FieldInfo, example: Any) -> str:
    default = field.get_default(call_default_factory=True)
    return _toml(example if default is PydanticUndefined or default is None else default)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return repr(value)
