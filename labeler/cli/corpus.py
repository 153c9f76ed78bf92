"""The group `corpus`: what is recognised in the text of a study, before any model reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from labeler.cli.options import StudyPath
from labeler.errors import UsageError, WorkError
from labeler.text import listed, one_line, plural

if TYPE_CHECKING:
    from crosscoder.corpus_check import SourceCheck
    from labeler.study.config import CorpusSection

SHARES = (0.0, 0.05, 0.5, 0.95, 1.0)
"""Shares of the documents whose lengths are shown: shortest, 5%, median, 95%, longest."""
SHOWN_FAULTS = 10
"""Reasons for faulty rows that are shown of a source."""
SHOWN_KEYS = 20
SHOWN_LANGUAGES = 6
LONGEST_LINE = 400
"""Characters of a message of a faulty row that are shown."""


def register(app: typer.Typer) -> None:
    """Add the group to the application."""
    group = typer.Typer(help="The text that the models read.", no_args_is_help=True)
    group.command()(check)
    group.callback()(_group)
    app.add_typer(group, name="corpus")


def _group() -> None:
    """The text that the models read."""


def check(study: StudyPath) -> None:
    """Print what is recognised in each source: format, roles, lengths, language, faulty rows.

    Reads the text as `harvest` would; needs no model. Exit status 1 where `harvest` would refuse.
    """
    from crosscoder.corpus_check import check_source
    from labeler.study.corpus_text import local_source, text_sources
    from labeler.study.study_file import StudyFile

    opened = StudyFile.read(study)
    section = opened.config.corpus
    if section is None:
        raise UsageError(f"{study}: [corpus] is missing; add it")
    refusals: list[str] = []
    for source in text_sources(section):
        found = check_source(local_source(opened, section, source), section.seed)
        typer.echo(f"{source.name or source.key}: {one_line(source.path)}")
        for line in check_lines(found, section):
            typer.echo(f"  {line}")
        refusals += refused(found, source.name)
    if refusals:
        raise WorkError(f"corpus check: `harvest` would refuse: {'; '.join(refusals)}")


def refused(check: SourceCheck, name: str) -> Iterator[str]:
    """Why `harvest` would not read the source."""
    of = f" of {name}" if name else ""
    if check.n_faulty and check.source.settings.faulty == "refuse":
        yield (
            f"{plural(check.n_faulty, 'row')}{of} cannot be read (correct them, or set "
            'corpus.faulty = "drop")'
        )
    if check.n_same_ids:
        yield (
            f"{plural(check.n_same_ids, 'document')}{of} with the id of an earlier one (give each "
            'its own, or number them: corpus.columns = { id = "" })'
        )
    if not check.n_documents:
        yield f"there is no document{of}"


def check_lines(check: SourceCheck, section: CorpusSection) -> Iterator[str]:
    """What was found in one source, a line for each thing."""
    settings = check.source.settings
    files = listed([f"{plural(n, 'file')} of {kind}" for kind, n in check.files.most_common()])
    drawn = f", {check.n_read:,} drawn" if settings.sample is not None else ""
    yield f"rows        {check.n_rows:,}{drawn}, in {files}"
    yield f"documents   {check.n_documents:,}"
    if check.formats:
        yield f"format      {_counts(check.formats, check.n_read)}"
        yield f"keys        {_keys(check)}"
    for role, count in check.roles.items():
        what = "texts" if role == "plain" else "messages"
        yield (
            f"{role:<12}{count.n_messages:,} {what}, {count.n_characters:,} characters, about "
            f"{count.n_tokens:,} tokens"
        )
    if check.n_documents:
        yield from _length_lines(check, section.max_length)
        yield f"language    {_languages(check)}"
        yield f"duplicates  {check.n_duplicates:,} documents have the same text as an earlier one"
    if check.n_faulty:
        does = "refused" if settings.faulty == "refuse" else "dropped"
        yield f"{does:<12}{plural(check.n_faulty, 'row')}:"
        by_number = sorted(check.faults.values(), key=lambda fault: -fault.n_rows)
        for fault in by_number[:SHOWN_FAULTS]:
            yield f"  {fault.n_rows:,}, the first: {one_line(fault.first, LONGEST_LINE)}"
        if len(by_number) > SHOWN_FAULTS:
            yield f"  and {len(by_number) - SHOWN_FAULTS:,} other reasons"


def _length_lines(check: SourceCheck, max_length: int) -> Iterator[str]:
    from crosscoder.corpus_check import BYTES_PER_TOKEN

    low, five, median, ninety_five, high = (
        f"{n // BYTES_PER_TOKEN:,}" for n in check.quantiles(SHARES)
    )
    yield (
        f"length      {low} to {high} tokens per document, median {median}, 90% from {five} to "
        f"{ninety_five} (estimated: {BYTES_PER_TOKEN} bytes of text per token)"
    )
    longer = check.n_longer(max_length)
    if longer:
        share = longer / check.n_documents
        yield (
            f"cut         about {longer:,} documents ({share:.1%}), at corpus.max_length = "
            f"{max_length}"
        )


def _keys(check: SourceCheck) -> str:
    """The keys of the rows, those of all rows first."""
    counts: Counter[str] = Counter()
    for keys, n in check.keys.items():
        counts.update(dict.fromkeys(keys, n))
    if not counts:
        return "none: each row is a text"
    shown = [
        one_line(key, 40) + ("" if n == check.n_read else f" (in {n:,})")
        for key, n in counts.most_common(SHOWN_KEYS)
    ]
    more = len(counts) - SHOWN_KEYS
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def _languages(check: SourceCheck) -> str:
    """As the documents state it, or as it is guessed from some of them."""
    if check.languages:
        return f"{_counts(check.languages, check.n_documents)} (as the documents state it)"
    from labeler.judge.evidence_statistics import LanguageIdentifier

    identifier = LanguageIdentifier()
    guessed = Counter(identifier.identify(text) or "unclear" for text in check.sampled_texts)
    total = guessed.total()
    return f"{_counts(guessed, total)} (guessed from {plural(total, 'document')})"


def _counts(counts: Counter[str], total: int) -> str:
    shown = [
        one_line(name, 40) if n == total else f"{one_line(name, 40)} {n / total:.1%}"
        for name, n in counts.most_common(SHOWN_LANGUAGES)
    ]
    more = len(counts) - SHOWN_LANGUAGES
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")
