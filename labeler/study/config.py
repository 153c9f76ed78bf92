"""The tables of study.toml, one class each; those of judges lie in judge_config.py."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import get_annotations
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator
from pydantic.fields import FieldInfo

from crosscoder.config import (
    ActivationName,
    ActiveLatents,
    DictionarySettings,
    EffectSettings,
    EvidenceSettings,
    GenerationSettings,
    HarvestSettings,
    IsolationSettings,
    OutputTuningSettings,
    Overlap,
    ScalingSettings,
    Settings,
    SideName,
    SparsitySettings,
    SplitSettings,
    StoredType,
    TextSettings,
    TrainSettings,
)
from crosscoder.corpus_settings import SourceSettings
from crosscoder.isolation_rules import RULES, IsolationRule
from crosscoder.registry import Registry
from taxonomy.counts import ClusterSettings, ExactTest

JUDGE_KINDS: Registry[Any] = Registry(
    "kind of judge",
    "difflens.judges",
    {
        "evidence": "labeler.judge.embedding_judge:EvidenceKind",
        "openai": "labeler.judge.openai:OpenAiKind",
        "scripted": "labeler.judge.scripted:ScriptedKind",
    },
)
"""Subclasses of `JudgeKind` by their names; a module is imported when its kind is asked for."""
JudgeKindName = Annotated[str, JUDGE_KINDS]


class Section(Settings):
    """A table of study.toml: immutable, and unknown keys are refused.

    Keys that belong to a step are inherited from the step's own settings, never repeated.
    """


def own_fields(section: type[Section]) -> dict[str, FieldInfo]:
    """The keys of a section without those of the section it extends.

    The section's own keys come first, then those of each settings class that it inherits.
    """
    bases = [base for base in section.__mro__ if issubclass(base, BaseModel)]
    extended = {key for base in bases[1:] if issubclass(base, Section) for key in base.model_fields}
    keys = [key for base in bases for key in get_annotations(base) if key in section.model_fields]
    own = {key: section.model_fields[key] for key in dict.fromkeys(keys) if key not in extended}
    return {**own, **_rule_fields()} if section is IsolateSection else own


def _rule_fields() -> dict[str, FieldInfo]:
    """The keys of `[isolate]` that single rules add."""
    common = {"kind", *IsolationSettings.model_fields}
    return {
        key: field
        for name in RULES.names()
        for key, field in RULES.get(name).model_fields.items()
        if key not in common
    }


def inner_section(annotation: Any) -> type[Section] | None:
    """The section inside `X`, `X | None` or `tuple[X, ...]`; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = (inner_section(inner) for inner in get_args(annotation))
    return next((section for section in found if section is not None), None)


class TrainSection(
    Section, DictionarySettings, TrainSettings, SparsitySettings, OutputTuningSettings
):
    """`[train]`: the crosscoder and its optimiser."""

    preset: Literal["difflens", "minder2025"] = "difflens"
    """`minder2025` is the published recipe of arXiv 2504.02922."""
    activation: ActivationName = "batch_topk"
    """`batch_topk` keeps the k latents per token that weigh most, over a whole batch; `l1` keeps
    all positive ones and makes them few by a penalty."""
    seed: int | None = None
    """Seed of the weights and of the order of the data; without it `study.seed`."""
    seeds: int = Field(1, ge=1, le=20)
    """Crosscoders trained in one pass, each of another seed; pages show the first."""
    label_seeds: bool = True
    """Whether all seeds are isolated and labelled (by paid judges, too): a change over seeds."""


class CrosscoderSection(Section):
    """`[crosscoder]`: a crosscoder that was trained elsewhere, to use instead of training one."""

    path: str | None = None
    """Folder, weights file or Hub name, in the layout of dictionary_learning, ckkissane, DFC or
    difflens. `[[models]]` must list the models in the crosscoder's order; published crosscoders
    have the base model first."""
    scaling_factors: tuple[PositiveFloat, ...] | Literal["estimate"] | None = None
    """Factor by which each model's activations are multiplied, for the ckkissane layout, which does
    not store it; `estimate` computes sqrt(d) / mean norm over the training text."""
    theta: Literal["stored", "calibrated"] = "stored"
    """Activation threshold: `stored` uses the file's; `calibrated` sets it on held-out text so
    that k latents per token are active on average. A file without a threshold is always
    calibrated."""
    k: ActiveLatents | None = None
    """Active latents per token, where the file does not state them."""


class IsolateSection(Section, IsolationSettings, ScalingSettings):
    """`[isolate]`: which latents are on the sides of a comparison.

    A key that the rule does not know is refused.
    """

    model_config = ConfigDict(extra="allow")  # what the rule adds; it refuses the rest

    rule: Annotated[str, RULES] = "auto"
    """Rule that decides which latents are on a side; the one that was used is stored with the
    latent sets. `auto` takes `strict` where each side has enough such latents, else `shifted`."""
    overlap: Overlap = "exclude"
    """What happens to a latent that is in both latent sets of a comparison."""

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
    """`[[comparison]]`: one comparison of a target model with a reference model.

    The report, the review pages and `status` show the comparisons in this order, then imported
    ones by name. A comparison that is no longer in study.toml is listed as retired; SQL views still
    hold it. One whose models were changed is shown again after its next `isolate`.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name used in the database and the report."""
    target: str
    """Model on the target side."""
    reference: str
    """Model on the reference side."""
    against: str | None = None
    """Common base model that both sides are isolated against; without it, each side is isolated
    against the other."""
    target_crosscoder: str | None = None
    """Crosscoder of the target side, where several of `[[crosscoders]]` hold its models."""
    reference_crosscoder: str | None = None
    """Crosscoder of the reference side, where several of `[[crosscoders]]` hold its models."""


class CollectSection(Section, EvidenceSettings):
    """`[collect]`: the evidence that is collected for each latent."""

    latents: Literal["selected", "eligible", "all"] = "selected"
    """`selected`: the latents of the comparisons' sides; `eligible`: also every other latent that
    fires in at least isolate.min_documents documents and on at most isolate.max_density of the
    tokens; `all`: every latent of the crosscoder. The evidence judge labels all of them, a judge
    that costs something those of the sides and judge.random_latents of the others."""


class StudySection(Section):
    """`[study]`: the study's name, its title, and the random seed of all its stages."""

    name: str = "study"
    """Name shown in the report."""
    title: str | None = None
    """Title of the report; without it, the two sides of the first comparison."""
    seed: int = 0
    """Seed of the document split, the crosscoder (but see train.seed) and every random draw."""


class DatabaseSection(Section):
    """`[database]`: the database that holds the results."""

    url: str = "sqlite:///difflens.db"
    """SQLAlchemy URL. A relative SQLite path starts at the folder of study.toml, `${NAME}` is
    replaced by the environment variable, and `%3F` stands for a `?` in a path."""


class ModelSection(Section):
    """`[[models]]`: one of the language models that are compared."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name used in the config, the database and the report."""
    path: str
    """A local folder, a GGUF file, or a Hub name."""
    adapter: str | None = None
    """Folder or Hub name of a PEFT adapter that is applied to `path`."""
    revision: str | None = None
    """Hub revision of `path`: a branch, tag or commit; without it, the main branch."""
    adapter_revision: str | None = None
    """Hub revision of `adapter`: a branch, tag or commit; without it, the main branch."""
    dtype: StoredType = "float32"
    """Type of the weights while the model runs."""

    @model_validator(mode="after")
    def _check_adapter_revision(self) -> ModelSection:
        if self.adapter_revision is not None and self.adapter is None:
            raise ValueError("adapter_revision: no adapter is named; name it, or leave the key out")
        return self


class CorpusSourceSection(Section, SourceSettings):
    """`[[corpus.sources]]`: one of several sources of text, in place of `corpus.path`.

    Documents are read source by source; the name of the source stands before their ids.
    """

    path: str
    """As `corpus.path`."""
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Stands before the ids of its documents; without it `source1`, `source2` and so on."""
    weight: float = Field(1.0, gt=0)
    """With `corpus.sample`: the source's part of that sample, in proportion to all weights."""


Answers = Literal["given", "both"]


class CorpusSection(Section, SourceSettings, TextSettings):
    """`[corpus]`: the text that every model reads.

    `difflens corpus check` says what is recognised. Messages of the role `developer` are read as
    `system`. Tokens of `user`, `assistant` and plain text take part in training, scaling and
    evidence; those of `system` and `tool` are read by the models and masked. Tool calls are part of
    the assistant's text, as `<tool_call>{"name", "arguments"}</tool_call>`; of content parts the
    texts are joined, and a part of another type makes the row faulty.
    """

    path: str | None = None
    """File, folder or `hf:NAME`, a dataset on the Hub. Files: JSON lines, a JSON array, CSV, TSV,
    Parquet, Arrow or text, each also as `.gz` or `.zst` but for the tables. A text file gives a
    document per paragraph (set apart by blank lines), each text file of a folder one document. A
    folder holds any of these, or is a `datasets` one that `save_to_disk` wrote."""
    seed: int = 0
    """Seed of `sample`. The rows whose hash of seed and position is smallest are read, so the same
    seed draws the same rows."""
    sources: tuple[CorpusSourceSection, ...] = ()
    answers: Answers = "given"
    """Whose answers are read. `given`: those of the file. `both`: every model answers the messages
    before the first assistant message, and every model reads the answers of all; later turns are
    left out, plain text stays as it is."""
    answer_max_tokens: int = Field(64, ge=1)
    """With `answers = "both"`: tokens after which an answer is cut."""
    answer_temperature: float = Field(0.0, ge=0)
    """With `answers = "both"`: 0 takes the likeliest token each time, 1 samples as the model
    predicts."""
    answer_seed: int = 0
    """With `answers = "both"` and a temperature: seed of the sampling."""
    answer_batch_size: int = Field(32, ge=1)
    """With `answers = "both"`: prompts answered side by side."""

    @model_validator(mode="after")
    def _sources_are_named(self) -> CorpusSection:
        if not self.sources:
            if self.path is None:
                raise ValueError("path: missing; add it, or [[corpus.sources]]")
            return self
        if self.path is not None:
            raise ValueError("path: not together with [[corpus.sources]]; remove one")
        own = next((key for key in self.deciding() if key != "sample"), None)
        if own is not None:
            raise ValueError(f"{own}: with [[corpus.sources]] it belongs to each of them; move it")
        names = [name for name, _ in self.named_sources()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"sources: two sources are named {twice!r}; rename one")
        for name, source in self.named_sources():
            if self.sample is not None and source.sample is not None:
                raise ValueError(f"sources {name}.sample: not together with corpus.sample")
            if self.sample is None and source.weight != 1:
                raise ValueError(f"sources {name}.weight: set corpus.sample, which it divides")
        return self

    def named_sources(self) -> list[tuple[str, CorpusSourceSection]]:
        """The sources with their names."""
        return [
            (source.name or f"source{number}", source)
            for number, source in enumerate(self.sources, start=1)
        ]

    @model_validator(mode="after")
    def _answers_are_read(self) -> CorpusSection:
        if self.answers == "both" and self.answer_tokens == 0:
            raise ValueError('answer_tokens: 0 leaves no answers to read; set answers = "given"')
        return self

    def generation(self) -> GenerationSettings | None:
        """How the models answer; None where they do not."""
        if self.answers == "given":
            return None
        # What lies behind the cut is never read.
        cut = self.answer_tokens or self.answer_max_tokens
        return GenerationSettings(
            max_new_tokens=min(cut, self.answer_max_tokens),
            temperature=self.answer_temperature,
            seed=self.answer_seed,
            batch_size=self.answer_batch_size,
        )


class HarvestSection(Section, HarvestSettings, SplitSettings):
    """`[harvest]`: which activations are read and how they are stored."""

    cache: bool = True
    """Store the activations on disk. With `false` the models read the text again in every pass, for
    text whose activations would not fit on a disk."""


Denominator = Literal["labelled", "assigned", "isolated"]
"""Which latents the shares are computed over: those with a category or `none`, those with a
category, or all."""


class TaxonomySection(Section, ClusterSettings):
    """`[taxonomy]`: which categories there are and how new ones are made."""

    file: str | None = None
    """Your own taxonomy in YAML; without it, the taxonomy that comes with difflens."""
    mode: Literal["seed", "induce", "residual"] = "seed"
    """`seed` assigns explanations to the existing categories, `induce` makes categories from the
    explanations, `residual` assigns first and then makes categories from the rest."""
    accept: Literal["person", "auto"] = "person"
    """How new categories are accepted: `person` waits for `difflens taxonomy accept`, `auto`
    accepts them unseen."""


class EffectSection(Section, EffectSettings):
    """`[effect]`: how much of the difference between the models' outputs the latents make up."""

    enabled: bool = True
    """Measure it; studies of imported latents have no models to measure it with."""
    patched_categories: int = Field(6, ge=0)
    """How many categories, those with the most latents, have their random latents patched too."""


class ReportSection(Section):
    """`[report]`: how the change is computed and where the report is written."""

    denominator: Denominator = "labelled"
    """Latents that the shares are computed over: `labelled` = with a category or `none`,
    `assigned` = with a category, `isolated` = all in the latent set."""
    test: ExactTest = "fisher"
    """Exact test where there are no draws (imported latents, `isolate.draws = 0`); else the test is
    `documents`. `boschloo` has a little more power and takes longer."""
    folder: str = "report"
    """Folder of the report, relative to study.toml."""
    planted: dict[str, Literal["up", "down"]] = Field(default_factory=dict)
    """Direction that is known for a category, by slug; the report states which it found."""


class SqlSection(Section):
    """`[sql]`: saved queries."""

    folder: str = "queries"
    """Folder of the study's saved queries, one `NAME.sql` each, relative to study.toml."""


class ScoreSettings(Settings):
    """How explanations are scored on held-out examples."""

    methods: tuple[Literal["detection", "fuzzing"], ...] = ("detection", "fuzzing")
    """`detection` asks whether the latent is active in a text, `fuzzing` whether the right
    tokens are marked; [] = no scoring."""
    examples: int = Field(20, ge=2)
    """Largest number of examples per latent and method; the half of the evidence that is kept for
    scoring may hold fewer."""
    per_call: int | None = Field(None, ge=1)
    """Examples per judge call; without it, 20."""
    shuffled: bool = True
    """Also score another latent's explanation on the same examples, without telling the judge."""


class ScoresSection(Section, ScoreSettings):
    """`[scores]`: how explanations are scored on held-out examples, and with which controls."""

    judges: tuple[JudgeKindName, ...] = ("evidence", "openai")
    """Kinds of judges whose explanations are scored; each judge scores its own."""
    controls: int = Field(20, ge=0)
    """Control latents per comparison: specific to no side, with the same densities as the specific
    ones. They are explained and categorised too, which gives base rates, and never counted."""


class NullRunsSection(Section):
    """`[null_runs]`: what `difflens run --null-runs` repeats where no difference is expected."""

    seeds: int = Field(2, ge=0)
    """Additional crosscoders of the same models, each with another seed, labelled by the same
    judge."""
    permutations: int = Field(500, ge=0)
    """Random permutations of the sides over the labelled latents."""
    noise: float = Field(0.1, ge=0)
    """Noise of the copy that the reference model is compared with, in units of the root mean square
    of its activations; 0 skips this run."""
    noise_tokens: int = Field(200_000, ge=1000)
    """Tokens of that comparison; their activations are held in memory."""
    scrambled: bool = True
    """Run the study again on fine-tunes whose weight changes are scrambled: as large as the true
    ones, without their meaning. What is then called is false. Takes as long as the study."""
    rounded: bool = True
    """Run it again on each reference model and its int8 round trip: a tiny difference without
    meaning."""
    random_dictionary: bool = True
    """Run it again with a dictionary of random directions, on the same activations."""


class CrosscodersSection(Section):
    """`[[crosscoders]]`: one of several crosscoders, all trained by `[train]` on the same text.

    Without this table one crosscoder is trained over all models.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name; the database and the report show it after the study's name."""
    models: tuple[str, ...] = Field(min_length=2)
    """Names of its models, as in `[[models]]`."""


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
    """The crosscoder of one side: it holds the side's model and the one it is isolated against.

    ValueError where none or several hold both, or the named one does not.
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
