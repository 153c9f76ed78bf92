"""What `difflens run --plan` prints: the state and size of every stage, and how much text shows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
from sqlalchemy import Engine, func, select

from crosscoder.errors import InputError
from crosscoder.progress import SilentProgress
from labeler.errors import USAGE_ERRORS, UsageError
from labeler.judge.base import judge_kind
from labeler.judge.budget import Limits
from labeler.judge.factory import judge_sections, study_spending
from labeler.labeling.behaviour_prompts import read_prompts
from labeler.stages.base import STAGE_NAMES, StageContext
from labeler.stages.behaviour import prompts_path
from labeler.stages.judge_plan import ASKING, study_plan
from labeler.stages.judge_plan import plan_lines as judge_plan_lines
from labeler.stages.pipeline import study_stages
from labeler.stages.status import StageStatus, stage_states
from labeler.store.comparisons import study_comparisons
from labeler.store.database_url import sqlite_file
from labeler.store.engine import open_engine, read_session
from labeler.store.migrate import opened
from labeler.store.runs import latest_done_run
from labeler.store.schema import Latent, LatentSet, LatentSetMember, metadata
from labeler.study.corpus_text import corpus_documents, unread_sources
from labeler.study.study_file import StudyFile
from labeler.text import plural

SAMPLED_DOCUMENTS = 400
"""Documents that are tokenized to estimate the tokens of a corpus."""


@dataclass(frozen=True)
class TextSize:
    """The study's text; None where it is not known without reading more than its files."""

    n_documents: int | None = None
    n_tokens: int | None = None
    how: str = ""
    """Where the tokens come from, or why nothing is known."""

    @property
    def words(self) -> str:
        """In a line."""
        if self.n_documents is None:
            return self.how
        said = plural(self.n_documents, "document")
        if self.n_tokens is None:
            return f"{said}, tokens not counted ({self.how})"
        return f"{said}, {self.n_tokens:,} tokens ({self.how})"


@dataclass(frozen=True)
class _Known:
    """What the database says; empty where there is none yet."""

    states: tuple[StageStatus, ...]
    seconds: dict[str, float]
    """Seconds that the newest finished run of a stage took."""
    n_tokens: int | None = None
    """Tokens of the newest harvest."""
    n_latents: int | None = None
    n_comparisons: int = 0
    """Comparisons that the study shows, imported ones among them."""
    n_selected: int | None = None
    """Latents on the sides of the newest isolation."""


def print_plan(study: StudyFile, first: str | None, last: str | None) -> None:
    """Print what `run` would do with these options; nothing is changed, asked or computed."""
    for line in plan_lines(study, first, last):
        typer.echo(line)


def plan_lines(study: StudyFile, first: str | None = None, last: str | None = None) -> list[str]:
    """The lines of the plan; UsageError for an unknown stage or an empty range."""
    names = study_stages(study, first, last)
    known = _known(study, names)
    text = _text_size(study, known)
    sizes = dict(zip(STAGE_NAMES, _sizes(study, known, text), strict=True))
    forced = names[names.index(first) :] if first else ()
    lines = []
    for state in known.states:
        name = state.stage
        word = _WORDS["stale" if name in forced and state.state == "done" else state.state]
        took = f"; took {known.seconds[name]:,.0f} s before" if name in known.seconds else ""
        lines.append(f"{name:<11} {word:<6} {sizes[name]}{took}")
        if state.note:
            lines.append(f"            {state.note}")
    asking = [name for name in names if name in ASKING]
    if asking:
        done = [state.stage for state in known.states if state.state == "done"]
        lines += [f"  {line}" for line in planned(study, asking, set(done) - set(forced))]
    return [*lines, *_power_lines(text)]


_WORDS = {"done": "done", "stale": "again", "open": "to do"}


def _known(study: StudyFile, names: Sequence[str]) -> _Known:
    path = sqlite_file(study.database_url)
    if path is not None and not path.is_file():
        return _Known(tuple(StageStatus(name, "open", "") for name in names), {})
    with opened(study.database_url) as engine:
        states = stage_states(StageContext(study, engine, SilentProgress()), names)
        with read_session(engine) as session:
            runs = {name: latest_done_run(session, name) for name in STAGE_NAMES}
            isolated, harvested = runs["isolate"], runs["harvest"]
            return _Known(
                states,
                {
                    name: (run.finished_at - run.started_at).total_seconds()
                    for name, run in runs.items()
                    if run is not None and run.finished_at is not None
                },
                None if harvested is None else (harvested.result or {}).get("n_tokens"),
                session.scalar(select(func.count()).select_from(Latent)) or None,
                len(study_comparisons(session, study.config.comparison).shown),
                None
                if isolated is None
                else session.scalar(
                    select(func.count(func.distinct(LatentSetMember.latent_id)))
                    .join(LatentSet, LatentSet.id == LatentSetMember.latent_set_id)
                    .where(LatentSet.run_id == isolated.id)
                ),
            )


def _text_size(study: StudyFile, known: _Known) -> TextSize:
    section = study.config.corpus
    if section is None:
        return TextSize(how="no [corpus] in study.toml yet")
    missing = unread_sources(study, section)
    if missing:
        if missing[0].hub_name is not None:
            return TextSize(how=f"{missing[0].path} is fetched by `harvest`")
        return TextSize(how=f"no corpus at {missing[0].path}")
    try:
        documents = corpus_documents(study, section)
    except InputError as error:
        raise UsageError(str(error)) from None
    is_done = any(each.stage == "harvest" and each.state == "done" for each in known.states)
    if is_done and known.n_tokens is not None:
        return TextSize(len(documents), known.n_tokens, "as harvested")
    if section.answers == "both":
        return TextSize(len(documents), None, "every model answers the prompts first")
    if section.answer_tokens is not None:
        return TextSize(len(documents), None, "assistant messages are cut")
    tokenizer = _tokenizer(study)
    if tokenizer is None:
        return TextSize(len(documents), None, "no model has a tokenizer.json on this machine")
    from tokenizers import Tokenizer

    step = max(1, len(documents) // SAMPLED_DOCUMENTS)
    sample = documents[::step]
    texts = [
        each.text or "\n".join(message.content for message in each.messages or ())
        for each in sample
    ]
    encoded = Tokenizer.from_file(str(tokenizer)).encode_batch(texts)
    n_tokens = sum(min(len(one.ids), section.max_length) for one in encoded)
    return TextSize(
        len(documents),
        round(n_tokens * len(documents) / len(sample)),
        f"estimated from {len(sample)} of them, without the chat template",
    )


def _tokenizer(study: StudyFile) -> Path | None:
    """tokenizer.json of the first model that has one in a local folder, if it can be read."""
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        return None
    paths = [study.resolve(model.path) / "tokenizer.json" for model in study.config.models]
    return next((path for path in paths if path.is_file()), None)


def _sizes(study: StudyFile, known: _Known, text: TextSize) -> Iterator[str]:
    """What each stage of STAGE_NAMES works on."""
    config = study.config
    yield f"{text.words}, {plural(len(config.models), 'model')}"
    if config.crosscoder.path is not None:
        yield f"loads {config.crosscoder.path}"
        of_all = f"{known.n_latents:,} latents" if known.n_latents else "the latents of that"
    else:
        seeds = f", {config.train.seeds} seeds at once" if config.train.seeds > 1 else ""
        yield (
            f"{config.train.n_latents:,} latents, {config.train.epochs:g} passes over the text"
            f"{seeds}"
        )
        of_all = f"{known.n_latents or config.train.n_latents:,} latents"
    n_compared = len(config.comparison) or known.n_comparisons
    compared = plural(n_compared, "comparison") if n_compared else "the imported comparisons"
    yield f"{of_all}, {compared}, {config.isolate.draws:,} draws"
    selected = _selected(study, known)
    collected = selected if config.collect.latents == "selected" else of_all
    if config.collect.latents == "eligible":
        collected = f"at most {of_all}"
    yield f"{collected} ({config.collect.latents})"
    labelled = selected if judge_kind(config.judge.kind).is_metered else collected
    yield f"{labelled}, {plural(len(judge_sections(study)), 'judge')}"
    yield "every explanation"
    yield f"{compared}, at most {config.effect.max_tokens:,} tokens"
    yield _prompts_size(study)
    yield compared


def _prompts_size(study: StudyFile) -> str:
    if study.config.behaviour.prompts is None:
        return "no prompts are named"
    try:
        prompts = read_prompts(prompts_path(study), None)
    except UsageError as error:
        return str(error)
    n_judged = sum(prompt.check is None for prompt in prompts)
    return f"{plural(len(prompts), 'prompt')}, the judge classifies the answers to {n_judged}"


def _selected(study: StudyFile, known: _Known) -> str:
    if known.n_selected:
        return f"{known.n_selected:,} latents on the sides"
    limit = study.config.isolate.isolation_rule().limit
    if limit is None:
        return "the latents that pass the rule"
    return f"at most {2 * limit * len(study.config.comparison):,} latents on the sides"


def planned(
    study: StudyFile, names: Sequence[str] = ("label",), done: Collection[str] = ()
) -> list[str]:
    """The calls of every judge of the study in some stages, as lines; an error is its own line."""
    lines = []
    for section in judge_sections(study):
        kind = judge_kind(section.kind)
        if not kind.is_metered:
            name = kind.expected_name(section, study.config.embedding)
            lines.append(f"{name}: computes on this machine, no call is paid")
    with _database(study) as engine, study_spending(study, engine, Limits()) as spending:
        context = StageContext(study, engine, SilentProgress(), spending=spending)
        try:
            return [*lines, *judge_plan_lines(study_plan(context, names, done), spending)]
        except USAGE_ERRORS as error:
            return [*lines, str(error)]


@contextmanager
def _database(study: StudyFile) -> Iterator[Engine]:
    """The study's database; an empty one in memory where there is none yet."""
    path = sqlite_file(study.database_url)
    if path is None or path.is_file():
        with opened(study.database_url) as engine:
            yield engine
        return
    engine = open_engine("sqlite://")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def _power_lines(text: TextSize) -> list[str]:
    from taxonomy.power import PLANTED_CHANGE

    table = ", ".join(
        f"in {share:.0%} of texts of {documents:,} documents"
        for documents, share in PLANTED_CHANGE.called
    )
    lines = [
        f"power       measured ({PLANTED_CHANGE.source}): {PLANTED_CHANGE.change} is found {table}"
    ]
    if text.n_documents is not None:
        share = PLANTED_CHANGE.at(text.n_documents)
        lines.append(
            f"            with {plural(text.n_documents, 'document')} such a change is found in "
            f"about {share:.0%}; after `report`, the report says what this study's own changes need"
        )
    return lines
