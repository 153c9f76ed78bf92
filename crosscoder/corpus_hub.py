"""Datasets on the Hugging Face Hub: the rows that are read of one, and the file that keeps them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from crosscoder.corpus_files import CorpusRow
from crosscoder.corpus_formats import DocumentReader
from crosscoder.corpus_settings import HUB, SourceSettings
from crosscoder.corpus_sources import drawn
from crosscoder.errors import InputError, WorkError
from crosscoder.files import whole_file

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def keep_hub_rows(name: str, settings: SourceSettings, seed: int, target: Path) -> None:
    """Write the rows that are read of a dataset as JSON lines, whole or not at all.

    The file is read in place of the dataset with `kept_settings`. InputError where the dataset, its
    split or its columns are wrong; WorkError where the Hub cannot be reached.
    """
    reader = DocumentReader(settings)
    rows = itertools.islice(hub_rows(name, settings, reader.wanted), settings.first)
    count = 0
    with whole_file(target) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row, _ in drawn(rows, reader, seed):
            value = row.value()
            if "id" not in settings.columns and value.get("id") is None:
                value = {**value, "id": row.name}
            file.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
            count += 1
        if not count:
            raise InputError(f"{HUB}{name}: no row was read; see corpus.split and corpus.first")


def kept_settings(settings: SourceSettings) -> SourceSettings:
    """How the kept rows are read: what chose them plays no part any more."""
    chosen = dict.fromkeys(("split", "subset", "revision", "first", "sample"))
    return settings.model_copy(update=chosen)


def hub_rows(name: str, settings: SourceSettings, wanted: Collection[str]) -> Iterator[CorpusRow]:
    """The rows of a split, by the columns that are wanted.

    Raises ModuleNotFoundError where the `datasets` library is not installed.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{HUB}{name}: no name of a dataset; write {HUB}OWNER/NAME")
    import datasets

    try:
        data = datasets.load_dataset(
            name,
            settings.subset,
            split=settings.split or "train",
            revision=settings.revision,
            streaming=settings.streaming,
        )
        columns = data.column_names
        if columns:
            data = data.select_columns(_wanted(name, columns, wanted))
        for number, value in enumerate(data, start=1):
            yield CorpusRow(f"row-{number}", f"{HUB}{name}: row {number}", value)
    except InputError:
        raise
    except (ConnectionError, TimeoutError) as error:
        raise WorkError(f"{HUB}{name}: the Hub cannot be reached ({_words(error)})") from error
    except Exception as error:
        # The library has no one type for a wrong name, subset, split or a gated dataset.
        raise InputError(
            f"{HUB}{name}: cannot be read ({_words(error)}); see corpus.subset, corpus.split and "
            "corpus.revision"
        ) from error


def _wanted(name: str, columns: list[str], wanted: Collection[str]) -> list[str]:
    found = [column for column in columns if column in wanted]
    if not found:
        shown = ", ".join(map(repr, columns[:20]))
        raise InputError(
            f"{HUB}{name}: no column of a known format; columns found: {shown}; name your own: "
            'corpus.columns = { text = "..." }'
        )
    return found


def _words(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 300 else f"{words[:300]}..."
