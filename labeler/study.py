"""The study: one folder, one `study.toml`, checked key by key before any work starts."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from labeler.errors import UsageError


class Section(BaseModel):
    """A table of study.toml: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class StudySection(Section):
    """`[study]`: what the study is called and the seed that all its stages derive theirs from."""

    name: str = "study"
    """Name shown in the report."""
    title: str | None = None
    """Headline of the report; the comparison's name where it is missing."""
    seed: int = 0
    """Seed of the document split, the crosscoder, and every random draw."""


class DatabaseSection(Section):
    """`[database]`: where the results live."""

    url: str = "sqlite:///difflens.db"
    """SQLAlchemy URL; a relative SQLite path lies beside study.toml, `${NAME}` is expanded."""


class ModelSection(Section):
    """`[[models]]`: one subject model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name used in the config, the database and the report."""
    path: str
    """A local folder, a GGUF file, or a Hub name."""
    adapter: str | None = None
    """Folder or Hub name of a PEFT adapter put on top of `path`."""
    revision: str | None = None
    """Hub revision."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Weights' type while the model reads."""


class CorpusSection(Section):
    """`[corpus]`: the text that every model reads."""

    path: str
    """JSONL: `{"id", "messages": [...]}` or `{"id", "text"}` a line."""
    max_length: int = Field(512, ge=8)
    """Tokens after which a document is cut."""


class HarvestSection(Section):
    """`[harvest]`: which activations are kept."""

    layer: int = Field(ge=0)
    """Decoder block, counted from 0, whose output (residual stream) is read."""
    batch_tokens: int = Field(2048, ge=16)
    """Padded tokens in one forward pass."""
    shard_tokens: int = Field(16384, ge=64)
    """Tokens in one shard file."""
    storage_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the stored activations."""
    skip_first: int = Field(4, ge=0)
    """Content tokens masked at the start of a document (their norms are outliers)."""
    max_norm_ratio: float = Field(4.0, gt=1)
    """A token whose norm exceeds this multiple of the model's median norm is masked."""
    template_model: str | None = None
    """Model whose chat template is used where the models' templates differ."""
    held_out: float = Field(0.1, gt=0, lt=0.9)
    """Share of documents kept from training, for theta and reconstruction quality."""


class TrainSection(Section):
    """`[train]`: the crosscoder and its optimiser."""

    preset: Literal["difflens", "minder2025"] = "difflens"
    """`minder2025` is the published recipe of arXiv 2504.02922."""
    n_latents: int = Field(4096, ge=2)
    """Dictionary size F."""
    k: int = Field(32, ge=1)
    """Average number of active latents per token."""
    epochs: float = Field(8.0, gt=0)
    """Passes over the training tokens."""
    batch_size: int = Field(2048, ge=2)
    """Unmasked tokens per step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of Adam."""
    warmup_steps: int = Field(20, ge=0)
    """Steps of linear warm-up."""
    decay_fraction: float = Field(0.3, ge=0, le=1)
    """Share of the last steps over which the rate falls linearly to zero."""
    aux_coefficient: float = Field(1 / 32, ge=0)
    """Weight of the AuxK loss on dead latents."""
    dead_after_tokens: int | None = Field(None, ge=1)
    """Tokens without firing after which a latent is dead; the smaller of 10 M and an epoch."""
    checkpoint_every: int = Field(50, ge=1)
    """Steps between resumable checkpoints."""

    @model_validator(mode="after")
    def _k_fits(self) -> TrainSection:
        if self.k > self.n_latents:
            raise ValueError(f"k: {self.k} exceeds n_latents = {self.n_latents}; lower k")
        return self


class IsolateSection(Section):
    """`[isolate]`: which latents count as specific to one model."""

    rule: Literal["strict", "significant", "ranked"] = "strict"
    """Rule of the latent sets; it is stored with them."""
    top: int = Field(40, ge=1)
    """Latents a side under `ranked`."""
    nu_error_max: float = 0.2
    """Threshold on nu_error (arXiv 2504.02922)."""
    nu_reconstruction_max: float = 0.5
    """Threshold on nu_reconstruction (arXiv 2504.02922)."""
    min_documents: int = Field(8, ge=1)
    """Documents in which a latent must be active."""
    n_blocks: int = Field(20, ge=8)
    """Blocks of whole documents of the jackknife."""
    max_density: float = Field(0.2, gt=0, le=1)
    """Share of tokens above which a latent is too dense to be a concept (`ranked`)."""
    overlap: Literal["exclude", "keep"] = "exclude"
    """What happens to a latent that lies in both sets of a comparison."""


class ComparisonSection(Section):
    """`[[comparison]]`: what is compared with what."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name used in the database and the report."""
    target: str
    """Model on the target side."""
    reference: str
    """Model on the reference side."""
    against: str | None = None
    """Common base that both sides are isolated against; without it, against each other."""


class CollectSection(Section):
    """`[collect]`: the evidence of each latent."""

    top: int = Field(12, ge=2)
    """Strongest documents per latent."""
    quantile: int = Field(8, ge=0)
    """Documents drawn over the lower quantiles of activation."""
    negative: int = Field(8, ge=0)
    """Documents in which the latent does not fire."""
    window: int = Field(32, ge=4)
    """Tokens in a window of evidence."""


class JudgeSection(Section):
    """`[judge]`: who explains and categorises."""

    kind: Literal["evidence", "openai", "scripted"] = "evidence"
    """`evidence` is embedded, `openai` any OpenAI-compatible server, `scripted` reads answers."""
    base_url: str | None = None
    """`openai`: the server's URL, e.g. http://127.0.0.1:8000/v1."""
    model: str | None = None
    """`openai`: the model's name at the server."""
    api_key_env: str | None = None
    """`openai`: environment variable that holds the key; the key itself is never stored."""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature."""
    max_tokens: int = Field(512, ge=16)
    """Longest answer."""
    timeout_s: float = Field(120.0, gt=0)
    """Seconds for one request."""
    concurrency: int = Field(16, ge=1)
    """Requests in flight."""
    max_attempts: int = Field(5, ge=1)
    """Tries of one request, transport errors and overload included."""
    script: str | None = None
    """`scripted`: JSONL file of answers."""


class EmbeddingSection(Section):
    """`[embedding]`: the sentence vectors used for clustering, and by the evidence judge."""

    kind: Literal["minilm", "tfidf", "openai"] = "minilm"
    """`minilm` reads a local sentence model, `tfidf` needs none, `openai` asks a server."""
    path: str | None = None
    """`minilm`: folder of the model."""
    base_url: str | None = None
    """`openai`: the server's URL."""
    model: str | None = None
    """`openai`: the model's name at the server."""
    api_key_env: str | None = None
    """`openai`: environment variable that holds the key."""


class TaxonomySection(Section):
    """`[taxonomy]`: the categories."""

    file: str | None = None
    """A user's own YAML; the shipped seed where it is missing."""
    cluster_distance: float = Field(0.5, gt=0, lt=2)
    """Cosine distance at which average-linkage clusters stop merging."""


class ReportSection(Section):
    """`[report]`: how the change is counted."""

    denominator: Literal["labelled", "assigned", "isolated"] = "labelled"
    """Which latents a share is a share of."""
    folder: str = "report"
    """Folder of the report, beside study.toml."""
    planted: dict[str, Literal["up", "down"]] = Field(default_factory=dict)
    """Known directions, category by category, that the report checks itself against."""


class StudyConfig(Section):
    """The whole of study.toml."""

    study: StudySection = StudySection()
    database: DatabaseSection = DatabaseSection()
    models: tuple[ModelSection, ...] = ()
    corpus: CorpusSection | None = None
    harvest: HarvestSection | None = None
    train: TrainSection = TrainSection()
    isolate: IsolateSection = IsolateSection()
    comparison: tuple[ComparisonSection, ...] = ()
    collect: CollectSection = CollectSection()
    judge: JudgeSection = JudgeSection()
    embedding: EmbeddingSection = EmbeddingSection()
    taxonomy: TaxonomySection = TaxonomySection()
    report: ReportSection = ReportSection()

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


def expand_environment(text: str, key: str) -> str:
    """Replace `${NAME}` by the environment's value; UsageError names a variable that is not set."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise UsageError(f"{key}: environment variable {name} is not set; export it first")
        return os.environ[name]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, text)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values give equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_text(text: str) -> str:
    """Hex SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown key; remove it or mend its spelling"
    if first["type"] == "missing":
        message = "missing; add it"
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
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise UsageError(f"{path}: no such file; `difflens init {path}` writes one") from None
        except IsADirectoryError:
            raise UsageError(f"{path}: is a folder; name the study.toml in it") from None
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: no valid TOML: {error}") from None
        try:
            return cls(path.resolve(), StudyConfig.model_validate(raw))
        except ValidationError as error:
            raise UsageError(f"{path}: {_first_error(error)}") from None

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.path.parent

    def resolve(self, path: str) -> Path:
        """A path of the config, relative ones beside study.toml."""
        return (self.folder / Path(path).expanduser()).resolve()

    @property
    def database_url(self) -> str:
        """The database's URL with the environment expanded and a relative SQLite path resolved."""
        url = expand_environment(self.config.database.url, "database.url")
        prefix = "sqlite:///"
        if url.startswith(prefix) and url != "sqlite:///:memory:":
            return prefix + str(self.resolve(url.removeprefix(prefix)))
        return url

    @property
    def artifacts(self) -> Path:
        """Folder of the stages' products."""
        return self.folder / "artifacts"
