"""The tables of study.toml, one model each, but for the judge's and the crosscoders'."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import get_annotations
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator
from pydantic.fields import FieldInfo

from crosscoder.config import (
    ActiveLatents,
    DictionarySettings,
    EvidenceSettings,
    HarvestSettings,
    IsolationSettings,
    Overlap,
    ScalingSettings,
    Settings,
    SideName,
    SplitSettings,
    StoredType,
    TextSettings,
    TrainSettings,
)
from crosscoder.rules import RULES, IsolationRule
from labeler.study.judge_kinds import JudgeKindName
from taxonomy.settings import ClusterSettings, ExactTest


class Section(Settings):
    """A table of study.toml: immutable, and unknown keys are refused.

    Keys that a step reads are inherited from the step's own settings, never repeated.
    """


def own_fields(section: type[Section]) -> dict[str, FieldInfo]:
    """The keys of a section without those of the section it extends.

    The section's own come first, then those of each class of settings that it inherits.
    """
    bases = [base for base in section.__mro__ if issubclass(base, BaseModel)]
    extended = {key for base in bases[1:] if issubclass(base, Section) for key in base.model_fields}
    keys = [key for base in bases for key in get_annotations(base) if key in section.model_fields]
    return {key: section.model_fields[key] for key in dict.fromkeys(keys) if key not in extended}


def inner_section(annotation: Any) -> type[Section] | None:
    """The section inside `X`, `X | None` or `tuple[X, ...]`; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = (inner_section(inner) for inner in get_args(annotation))
    return next((section for section in found if section is not None), None)


class TrainSection(Section, DictionarySettings, TrainSettings):
    """`[train]`: the crosscoder and its optimiser."""

    preset: Literal["difflens", "minder2025"] = "difflens"
    """`minder2025` is the published recipe of arXiv 2504.02922."""


class CrosscoderSection(Section):
    """`[crosscoder]`: a crosscoder that was trained elsewhere, instead of training one."""

    path: str | None = None
    """Folder or weights file: dictionary_learning (Hub or local), ckkissane, DFC, or difflens's
    own. `[[models]]` must name its models in its order; published ones put the base first."""
    scaling_factors: tuple[PositiveFloat, ...] | Literal["estimate"] | None = None
    """Factors on each model's activations, which the ckkissane layout does not store; `estimate`
    takes sqrt(d) / mean norm of the training text."""
    theta: Literal["stored", "calibrated"] = "stored"
    """`stored` keeps the file's threshold, `calibrated` sets it on held-out text to a mean of k
    active latents; a file without a threshold is calibrated in any case."""
    k: ActiveLatents | None = None
    """Active latents per token, where the file does not say."""


class IsolateSection(Section, IsolationSettings, ScalingSettings):
    """`[isolate]`: which latents count as specific to one model."""

    model_config = ConfigDict(extra="allow")  # what the rule adds; it refuses the rest

    rule: Annotated[str, RULES] = "strict"
    """Rule of the latent sets; it is stored with them."""
    overlap: Overlap = "exclude"
    """What happens to a latent that lies in both sets of a comparison."""

    @model_validator(mode="after")
    def _rule_takes_the_keys(self) -> IsolateSection:
        self.isolation_rule()
        return self

    def isolation_rule(self) -> IsolationRule:
        """The rule with the keys that it reads; ValidationError where it does not know one."""
        return RULES.get(self.rule).model_validate(
            self.model_dump(exclude={"rule", "overlap", *ScalingSettings.model_fields})
        )


class ComparisonSection(Section):
    """`[[comparison]]`: what is compared with what.

    The report, the review pages and `status` show these, in this order, and after them what was
    imported, by name. Comparisons of an earlier study.toml are listed as retired and stay in the
    database for SQL, whose views hold all; one whose models have changed under its name is shown
    again once it is isolated.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name used in the database and the report."""
    target: str
    """Model on the target side."""
    reference: str
    """Model on the reference side."""
    against: str | None = None
    """Common base that both sides are isolated against; without it, against each other."""
    target_crosscoder: str | None = None
    """Which of `[[crosscoders]]` the target side is read from, where several hold its models."""
    reference_crosscoder: str | None = None
    """Which of `[[crosscoders]]` the reference side is read from, where several hold its models."""


class CollectSection(Section, EvidenceSettings):
    """`[collect]`: the evidence of each latent."""

    latents: Literal["selected", "all"] = "selected"
    """`selected`: the latents of the comparisons' sets; `all`: every latent of the dictionary."""


class StudySection(Section):
    """`[study]`: what the study is called and the seed that all its stages derive theirs from."""

    name: str = "study"
    """Name shown in the report."""
    title: str | None = None
    """Headline of the report; without it, the two sides of the first comparison."""
    seed: int = 0
    """Seed of the document split, the crosscoder, and every random draw."""


class DatabaseSection(Section):
    """`[database]`: where the results live."""

    url: str = "sqlite:///difflens.db"
    """SQLAlchemy URL; a relative SQLite path lies beside study.toml, `${NAME}` is expanded; `%3F`
    is a `?` in a path."""


class ModelSection(Section):
    """`[[models]]`: one subject model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name used in the config, the database and the report."""
    path: str
    """A local folder, a GGUF file, or a Hub name."""
    adapter: str | None = None
    """Folder or Hub name of a PEFT adapter put on top of `path`."""
    revision: str | None = None
    """Hub revision of `path`: a branch, tag or commit; empty: the main branch."""
    adapter_revision: str | None = None
    """Hub revision of `adapter`: a branch, tag or commit; empty: the main branch."""
    dtype: StoredType = "float32"
    """Weights' type while the model reads."""

    @model_validator(mode="after")
    def _check_adapter_revision(self) -> ModelSection:
        if self.adapter_revision is not None and self.adapter is None:
            raise ValueError("adapter_revision: no adapter is named; name it, or leave the key out")
        return self


class CorpusSection(Section, TextSettings):
    """`[corpus]`: the text that every model reads."""

    path: str
    """JSONL: `{"id", "messages": [...]}` or `{"id", "text"}` a line."""


class HarvestSection(Section, HarvestSettings, SplitSettings):
    """`[harvest]`: which activations are kept."""

    cache: bool = True
    """Store the activations; `false` has the models read anew in every pass, for text whose
    activations would not fit on a disk."""


Denominator = Literal["labelled", "assigned", "isolated"]
"""Latents that a share is a share of: assigned or none, with a category, or all."""


class TaxonomySection(Section, ClusterSettings):
    """`[taxonomy]`: the categories."""

    file: str | None = None
    """A user's own YAML; the shipped seed where it is missing."""
    mode: Literal["seed", "induce", "residual"] = "seed"
    """`seed` maps to the categories there are, `induce` makes them from the explanations,
    `residual` maps first and makes further ones from what is left."""
    accept: Literal["person", "auto"] = "person"
    """Who accepts categories that were made: a person by `taxonomy accept`, or nobody looks."""


class ReportSection(Section):
    """`[report]`: how the change is counted."""

    denominator: Denominator = "labelled"
    """Which latents a share is a share of."""
    test: ExactTest = "fisher"
    """Exact test of each change; boschloo finds a little more and takes longer."""
    folder: str = "report"
    """Folder of the report, beside study.toml."""
    planted: dict[str, Literal["up", "down"]] = Field(default_factory=dict)
    """Known directions, category by category, that the report checks itself against."""


class SqlSection(Section):
    """`[sql]`: questions to the database."""

    folder: str = "queries"
    """Folder of the study's saved questions, `NAME.sql`, beside study.toml."""


class ScoreSettings(Settings):
    """How explanations are tested on text they never saw."""

    methods: tuple[Literal["detection", "fuzzing"], ...] = ("detection", "fuzzing")
    """`detection`: does it fire in this text; `fuzzing`: are the right tokens marked. [] = none."""
    examples: int = Field(20, ge=2)
    """Most examples for one latent and method; the score half of the evidence may hold fewer."""
    per_call: int = Field(10, ge=1)
    """Examples in one call."""
    shuffled: bool = True
    """Score another latent's explanation on the same examples, without telling the judge."""


class ScoresSection(Section, ScoreSettings):
    """`[scores]`: how explanations are tested on text they never saw, and with which controls."""

    judges: tuple[JudgeKindName, ...] = ("evidence", "openai")
    """Kinds of judges whose explanations are scored, each by the judge itself."""
    controls: int = Field(20, ge=0)
    """Latents for each comparison that are specific to no side and as dense as the specific ones;
    they are explained and categorised like these, for base rates, and counted nowhere."""


class ThoroughSection(Section):
    """`[thorough]`: what `difflens run --thorough` does where nothing differs."""

    seeds: int = Field(2, ge=0)
    """Further crosscoders of the same models, each of another seed, labelled by the same judge."""
    permutations: int = Field(500, ge=0)
    """Times the sides are dealt anew over the labelled latents."""
    noise: float = Field(0.1, ge=0)
    """Noise of the copy that the reference model is compared with, in units of the root mean square
    of its activations; 0 leaves that run out."""
    noise_tokens: int = Field(200_000, ge=1000)
    """Tokens of that comparison: they lie in memory."""


class CrosscodersSection(Section):
    """`[[crosscoders]]`: one of several crosscoders, all trained by `[train]` on the same text.

    Without this table one crosscoder is trained over all models.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name, which follows the study's in the database and the report."""
    models: tuple[str, ...] = Field(min_length=2)
    """Its models, by the names of `[[models]]`."""


def check_crosscoders(crosscoders: Sequence[CrosscodersSection], models: Sequence[str]) -> None:
    """ValueError where two crosscoders are the same or one names a model wrongly."""
    names: set[str] = set()
    over: dict[frozenset[str], str] = {}
    for row in crosscoders:
        if row.name.lower() in names:
            raise ValueError(f"crosscoders: two crosscoders are named {row.name!r}; rename one")
        names.add(row.name.lower())
        for name in row.models:
            if row.models.count(name) > 1:
                raise ValueError(f"crosscoders {row.name}.models: {name!r} twice; remove one")
            if models and name not in models:
                raise ValueError(
                    f"crosscoders {row.name}.models: no model is named {name!r} "
                    f"(models: {', '.join(models)})"
                )
        same = over.setdefault(frozenset(row.models), row.name)
        if same != row.name:
            raise ValueError(
                f"crosscoders {row.name}.models: the models of {same!r} again; remove one"
            )


def crosscoder_of(
    comparison: ComparisonSection, side: SideName, crosscoders: Sequence[CrosscodersSection]
) -> CrosscodersSection:
    """The crosscoder of one side: that which holds its model and what it is isolated against.

    ValueError where none or several do, or where the one that the comparison names does not.
    """
    pair = pair_of(comparison, side)
    key = f"comparison {comparison.name}.{side}_crosscoder"
    named = comparison.target_crosscoder if side == "target" else comparison.reference_crosscoder
    if named is not None:
        row = next((row for row in crosscoders if row.name == named), None)
        if row is None:
            known = ", ".join(row.name for row in crosscoders) or "none in [[crosscoders]]"
            raise ValueError(f"{key}: no crosscoder is named {named!r} (crosscoders: {known})")
        for model in pair:
            if model not in row.models:
                raise ValueError(f"{key}: crosscoder {named!r} does not hold {model!r}")
        return row
    holding = [row for row in crosscoders if set(pair) <= set(row.models)]
    both = f"both {pair[0]!r} and {pair[1]!r}"
    if not holding:
        raise ValueError(
            f"comparison {comparison.name}.{side}: no crosscoder holds {both}; add one to "
            "[[crosscoders]], or name a common base in `against`"
        )
    if len(holding) > 1:
        found = " and ".join(repr(row.name) for row in holding)
        raise ValueError(f"{key}: missing; the crosscoders {found} hold {both}, name one")
    return holding[0]


def pair_of(comparison: ComparisonSection, side: SideName) -> tuple[str, str]:
    """The model of a side, and the model it is isolated against."""
    if side == "target":
        return comparison.target, comparison.against or comparison.reference
    return comparison.reference, comparison.against or comparison.target
