"""Creates the judge and the embedder of a study."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import URL, Engine

from labeler.embedding.base import Embedder
from labeler.embedding.embedders import check_embedding, make_embedder
from labeler.errors import UsageError
from labeler.judge.base import Judge, judge_kind
from labeler.judge.budget import Ledger, Limits, MeteredJudge, Prices, Spending
from labeler.judge.prompt_limits import PromptLimits
from labeler.store.database_url import sqlite_file, url_of_file
from labeler.store.engine import open_engine
from labeler.store.migrate import require_current
from labeler.study.judge_config import JudgeSection
from labeler.study.study_file import StudyFile, study_taxonomy


def make_judge(
    section: JudgeSection,
    embedder: Embedder | None = None,
    folder: Path | None = None,
    spending: Spending | None = None,
) -> Judge:
    """The judge of `[judge]`; some kinds need an embedder, paths lie relative to `folder`.

    With `spending`, a judge that costs something is counted, and stops before a limit is exceeded.
    Raises UsageError that names the key which is missing or wrong.
    """
    kind = judge_kind(section.kind)
    if kind.needs_embedder and embedder is None:
        raise UsageError(f"judge.kind: {section.kind} needs the vectors of [embedding]")
    judge = kind.make(section, folder, embedder)
    if spending is None or not kind.is_metered:
        return judge
    return MeteredJudge(judge, spending, prices_of(section), section.max_tokens)


def study_embedder(study: StudyFile) -> Embedder:
    """The embedder of `[embedding]`; TF-IDF is fitted on the taxonomy's own texts."""
    taxonomy = study_taxonomy(study)
    texts = [
        text
        for category in taxonomy.leaves()
        for text in (category.definition, *category.prototypes)
    ]
    return make_embedder(study.config.embedding, texts, study.folder)


def judges_embedder(study: StudyFile) -> Embedder | None:
    """The embedder where a judge of the study uses it; else None, and nothing is loaded."""
    kinds = [judge_kind(one.kind) for one in judge_sections(study)]
    return study_embedder(study) if any(kind.needs_embedder for kind in kinds) else None


def study_judge(
    study: StudyFile, embedder: Embedder | None, spending: Spending | None = None
) -> Judge:
    """The judge of `[judge]`, within the limits of `spending`."""
    return make_judge(study.config.judge, embedder, study.folder, spending)


def require_judge(study: StudyFile) -> None:
    """Raise UsageError early where `[judge]` is incomplete."""
    if not judge_kind(study.config.judge.kind).needs_embedder:
        make_judge(study.config.judge, folder=study.folder)


def require_embedding(study: StudyFile) -> None:
    """Raise UsageError where `[embedding]` cannot work; nothing is loaded."""
    check_embedding(study.config.embedding, study.folder)


def judge_sections(study: StudyFile) -> tuple[JudgeSection, ...]:
    """`[judge]` and `[[judges]]`."""
    return (study.config.judge, *study.config.judges)


def judge_prices(study: StudyFile) -> dict[str, Prices]:
    """The prices of the study's judges, by the judge's name."""
    named = {
        judge_kind(section.kind).expected_name(section, study.config.embedding): prices_of(section)
        for section in judge_sections(study)
    }
    return {name: prices for name, prices in named.items() if prices is not None}


def require_prices(study: StudyFile) -> None:
    """Raise UsageError where a judge that costs something has no prices for a limit on cost."""
    for section in judge_sections(study):
        key = "judge" if section is study.config.judge else "judges"
        if judge_kind(section.kind).is_metered and prices_of(section) is None:
            raise UsageError(
                f"{key}.price_prompt_per_million, {key}.price_completion_per_million: missing; "
                "--max-cost needs both"
            )


@contextmanager
def study_spending(study: StudyFile, engine: Engine, limits: Limits) -> Iterator[Spending]:
    """The spending of a study and its null runs within limits, begun with what they have used.

    UsageError where a limit on cost meets a judge without prices.
    """
    if limits.max_cost is not None:
        require_prices(study)
    with ExitStack() as stack:
        engines = [engine, *_other_engines(study, stack)]
        spending = Spending(limits, Ledger(engines, judge_prices(study)))
        spending.read_ledger()
        yield spending


def _other_engines(study: StudyFile, stack: ExitStack) -> Iterator[Engine]:
    """The other databases of the study that is run and of its null runs.

    One of an earlier version is left out: it is brought up to date, and counted, when it runs.
    """
    whole, own = study.original, sqlite_file(study.database_url)
    files = [path for path in whole.null_run_databases if path != own]
    urls: list[str | URL] = [url_of_file(path) for path in files]
    for url in urls if whole is study else [whole.database_url, *urls]:
        engine = open_engine(url)
        stack.callback(engine.dispose)
        try:
            require_current(engine)
        except UsageError:
            continue
        yield engine


def limits_of(section: JudgeSection) -> PromptLimits:
    """Most tokens of a judge's prompts."""
    return PromptLimits(section.explain_tokens, section.categorize_tokens)


def prices_of(section: JudgeSection) -> Prices | None:
    """Prices of a judge's tokens; None unless both are given."""
    prompt, completion = section.price_prompt_per_million, section.price_completion_per_million
    return None if prompt is None or completion is None else Prices(prompt, completion)
