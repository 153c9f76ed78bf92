"""Shapes of a corpus row: one class each, which detects it and makes chats or text of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from crosscoder.corpus import Document, Message
from crosscoder.corpus_messages import (
    Row,
    chat,
    found,
    hh_turns,
    prompt_messages,
    system_messages,
    text_of,
    turns,
)
from crosscoder.corpus_settings import CORPUS_FORMATS, PreferenceSide, SourceSettings
from crosscoder.errors import InputError


@dataclass(frozen=True)
class Content:
    """What one document of a row says: a chat or plain text, never both."""

    messages: tuple[Message, ...] | None = None
    text: str | None = None
    answer: str | None = None
    """`chosen` or `rejected` where both answers to one prompt are read."""

    @property
    def texts(self) -> tuple[str, ...]:
        """All of its text, message by message."""
        return (
            (self.text or "",) if self.messages is None else tuple(m.content for m in self.messages)
        )


class CorpusFormat(ABC):
    """One shape of a row. A subclass has no state; an instance is made for each source."""

    name: ClassVar[str]
    """Its name in `CORPUS_FORMATS`."""
    keys: ClassVar[tuple[str, ...]]
    """Every column that it may read; tables are read by these alone."""
    shape: ClassVar[str]
    """What a row looks like, for messages."""

    def __init__(self, preference: PreferenceSide = "chosen") -> None:
        """`preference` is the answer that a preference pair is read for."""
        self.preference = preference

    @abstractmethod
    def detect(self, row: Row) -> bool:
        """Whether a row has this shape; looks at keys and types, never at all of a text."""

    @abstractmethod
    def parse(self, row: Row, where: str) -> list[Content]:
        """The documents of a row; InputError, which begins with `where`, names what is wrong."""


class _Chat(CorpusFormat):
    """A list of turns under one key."""

    key: ClassVar[str]

    def detect(self, row: Row) -> bool:
        """The key is there."""
        return self.key in row

    def parse(self, row: Row, where: str) -> list[Content]:
        """One chat."""
        return [Content(chat(_needed(row, self.key, self, where), self.key, where))]


@CORPUS_FORMATS.register("messages")
class Messages(_Chat):
    """`{"messages": [{"role", "content"}]}`."""

    name = key = "messages"
    keys = ("messages",)
    shape = '{"messages": [{"role", "content"}]}'


@CORPUS_FORMATS.register("sharegpt")
class ShareGpt(_Chat):
    """`{"conversations": [{"from", "value"}]}`, with an optional `system`."""

    name, key = "sharegpt", "conversations"
    keys = ("conversations", "system")
    shape = '{"conversations": [{"from", "value"}]}'

    def parse(self, row: Row, where: str) -> list[Content]:
        """One chat; a `system` beside it comes first."""
        messages = chat(_needed(row, self.key, self, where), self.key, where)
        if messages[0].role != "system":
            messages = (*system_messages(row, where), *messages)
        return [Content(messages)]


@CORPUS_FORMATS.register("lmsys")
class Lmsys(_Chat):
    """`{"conversation": [{"role", "content"}]}`, as LMSYS-Chat-1M and WildChat."""

    name, key = "lmsys", "conversation"
    keys = ("conversation",)
    shape = '{"conversation": [{"role", "content"}]}'


@CORPUS_FORMATS.register("preference")
class Preference(CorpusFormat):
    """`{"prompt", "chosen", "rejected"}`, each a text or a list of messages."""

    name = "preference"
    keys = ("prompt", "chosen", "rejected", "system")
    shape = '{"prompt", "chosen", "rejected"}'

    def detect(self, row: Row) -> bool:
        """Both answers are there."""
        return "chosen" in row and "rejected" in row

    def parse(self, row: Row, where: str) -> list[Content]:
        """The chat with the answer that is asked for, or with each."""
        if self.preference != "both":
            return [Content(self._chat(row, self.preference, where))]
        sides = ("chosen", "rejected")
        return [Content(self._chat(row, side, where), answer=side) for side in sides]

    def _chat(self, row: Row, side: str, where: str) -> tuple[Message, ...]:
        answer = _needed(row, side, self, where)
        prompt = row.get("prompt")
        if isinstance(answer, str):
            written = hh_turns(answer) if prompt is None else None
            if written is not None:
                return written
            if prompt is None:
                raise InputError(f"{where}: {side} is a text without a prompt; {found(row)}")
            return (
                *prompt_messages(row, "prompt", where),
                Message("assistant", text_of(answer, side, where)),
            )
        messages = chat(answer, side, where)
        # UltraFeedback repeats the prompt inside each side, TRL's own sets do not.
        if prompt is None or messages[0].role != "assistant":
            return messages
        return (*prompt_messages(row, "prompt", where), *messages)


@CORPUS_FORMATS.register("alpaca")
class Alpaca(CorpusFormat):
    """`{"instruction", "input", "output"}`; Dolly's `context` and `response` do as well."""

    name = "alpaca"
    keys = ("instruction", "input", "context", "output", "response", "system")
    shape = '{"instruction", "input", "output"}'

    def detect(self, row: Row) -> bool:
        """An instruction is there."""
        return "instruction" in row

    def parse(self, row: Row, where: str) -> list[Content]:
        """The instruction, a blank line and the input are the user's; the output is the answer."""
        parts = [text_of(_needed(row, "instruction", self, where), "instruction", where)]
        given = first_key(row, ("input", "context"))
        if given is not None and (extra := text_of(row[given], given, where)).strip():
            parts.append(extra)
        messages = [*system_messages(row, where), Message("user", "\n\n".join(parts))]
        answer = first_key(row, ("output", "response"))
        if answer is not None:
            messages.append(Message("assistant", text_of(row[answer], answer, where)))
        return [Content(tuple(messages))]


@CORPUS_FORMATS.register("prompt")
class PromptResponse(CorpusFormat):
    """A prompt and its response, under any of the usual names; each a text or messages."""

    prompts: ClassVar[tuple[str, ...]] = ("prompt", "question", "query", "problem", "input")
    responses: ClassVar[tuple[str, ...]] = (
        "response", "completion", "answer", "output", "solution",
    )  # fmt: skip
    name = "prompt"
    keys = (*prompts, *responses, "system")
    shape = '{"prompt", "response"}'

    def detect(self, row: Row) -> bool:
        """A prompt is there, alone or with a response; other first halves need their second."""
        prompt = first_key(row, self.prompts)
        return prompt is not None and (
            prompt == "prompt" or first_key(row, self.responses) is not None
        )

    def parse(self, row: Row, where: str) -> list[Content]:
        """The chat of the prompt and, where there is one, the response."""
        prompt = first_key(row, self.prompts)
        if prompt is None:
            raise InputError(_misses(row, "prompt", self, where))
        messages = prompt_messages(row, prompt, where)
        response = first_key(row, self.responses)
        if response is not None:
            messages += turns(row[response], response, "assistant", where)
        return [Content(messages)]


@CORPUS_FORMATS.register("text")
class PlainText(CorpusFormat):
    """`{"text"}` or `{"content"}`: a document without roles."""

    name = "text"
    keys = ("text", "content")
    shape = '{"text"}'

    def detect(self, row: Row) -> bool:
        """One of the keys is there."""
        return first_key(row, self.keys) is not None

    def parse(self, row: Row, where: str) -> list[Content]:
        """One text."""
        key = first_key(row, self.keys)
        if key is None:
            raise InputError(_misses(row, "text", self, where))
        return [Content(text=text_of(row[key], key, where))]


@CORPUS_FORMATS.register("auto")
class Detected(CorpusFormat):
    """Whichever of the other formats detects a row first."""

    name = "auto"
    shape = "any of the formats"

    def __init__(self, preference: PreferenceSide = "chosen") -> None:
        """All registered formats, in their order."""
        super().__init__(preference)
        names = (name for name in CORPUS_FORMATS.names() if name != "auto")
        self.formats = tuple(CORPUS_FORMATS.get(name)(preference) for name in names)

    def detect(self, row: Row) -> bool:
        """Whether any detects it."""
        return any(each.detect(row) for each in self.formats)

    def parse(self, row: Row, where: str) -> list[Content]:
        """As the format that detects the row parses it."""
        return self.format_of(row, where).parse(row, where)

    def format_of(self, row: Row, where: str) -> CorpusFormat:
        """The first format that detects a row; InputError where none does, or it is two at once."""
        if "text" in row and "messages" in row:
            raise InputError(
                f"{where}: holds both text and messages; give either, or name the one to read: "
                'corpus.format = "messages"'
            )
        for each in self.formats:
            if each.detect(row):
                return each
        shapes = ", ".join(each.shape for each in self.formats)
        raise InputError(
            f"{where}: no known format; {found(row)}; the formats are {shapes}; name your own "
            'columns: corpus.columns = { text = "..." }'
        )


class ReadRow(NamedTuple):
    """A row that was read."""

    format: str
    """Name of its format."""
    keys: tuple[str, ...]
    """All its keys; none where the row is a text."""
    documents: list[Document]


class DocumentReader:
    """Makes documents of the rows of one source."""

    def __init__(self, settings: SourceSettings) -> None:
        """InputError where `columns` names a key that the format does not read."""
        self.settings = settings
        self.format = CORPUS_FORMATS.get(settings.format)(settings.preference)
        formats = self.format.formats if isinstance(self.format, Detected) else (self.format,)
        self.known = tuple(
            dict.fromkeys(["id", "language", *(key for one in formats for key in one.keys)])
        )
        """Every key that a row may be read by."""
        self._columns = settings.columns
        unknown = next((key for key in settings.columns if key not in self.known), None)
        if unknown is not None:
            raise InputError(
                f"corpus.columns: {settings.format!r} reads no {unknown!r}; left of the equals "
                f"sign stands one of {', '.join(self.known)}"
            )
        self._names_text = bool(settings.columns.keys() - {"id", "language"})

    @property
    def wanted(self) -> frozenset[str]:
        """The columns that are read of a table."""
        renamed = {key for key in self._columns.values() if key}
        return frozenset(
            renamed | (set() if self._names_text else set(self.known)) | {"id", "language"}
        )

    def read(self, value: Any, name: str, where: str) -> ReadRow:
        """The documents of one row, whose own name, e.g. `line-5`, is the id where it has none.

        Raises InputError, which begins with `where`.
        """
        row = self._renamed(value, where)
        identifier = _identifier(row, name, where)
        language = row.get("language")
        if language is not None and not isinstance(language, str):
            raise InputError(f"{where}: language must be a text such as 'en'")
        documents = []
        form = self.format
        if isinstance(form, Detected):
            form = form.format_of(row, where)
        for content in form.parse(row, where):
            if not any(text.strip() for text in content.texts):
                raise InputError(
                    f"{where}: the document has no text; remove it, or drop such rows: "
                    'corpus.faulty = "drop"'
                )
            shared = content.answer is not None
            documents.append(
                Document(
                    f"{identifier}/{content.answer}" if shared else identifier,
                    content.messages,
                    content.text,
                    language,
                    identifier if shared else None,
                    where,
                )
            )
        return ReadRow(form.name, tuple(value) if isinstance(value, dict) else (), documents)

    def _renamed(self, value: Any, where: str) -> dict[str, Any]:
        """The row by the format's own keys, without null values."""
        if isinstance(value, str):
            value = {"text": value}
        if not isinstance(value, dict):
            raise InputError(f"{where}: not a JSON object; write {{'id': ..., 'text': ...}}")
        row = {key: item for key, item in value.items() if not _is_null(item)}
        if not self._columns:
            return row
        kept = {} if self._names_text else row.copy()
        kept |= {key: row[key] for key in ("id", "language") if key in row}
        for key, column in self._columns.items():
            kept.pop(key, None)
            if column in row:
                kept[key] = row[column]
        if self._names_text and not kept.keys() - {"id", "language"}:
            raise InputError(f"{where}: has none of the columns of corpus.columns; {found(row)}")
        return kept


def _is_null(value: Any) -> bool:
    """None, or the NaN that pandas writes in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def first_key(row: Row, keys: Sequence[str]) -> str | None:
    """The first of the keys that the row has."""
    return next((key for key in keys if key in row), None)


def _needed(row: Row, key: str, form: CorpusFormat, where: str) -> Any:
    if key not in row:
        raise InputError(_misses(row, key, form, where))
    return row[key]


def _misses(row: Row, key: str, form: CorpusFormat, where: str) -> str:
    return (
        f"{where}: format {form.name!r} reads {form.shape}; {found(row)}; set corpus.format, or "
        f'corpus.columns = {{ {key} = "..." }}'
    )


def _identifier(row: Row, name: str, where: str) -> str:
    identifier = row.get("id", name)
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        return str(identifier)
    if not isinstance(identifier, str) or not identifier:
        raise InputError(f"{where}: id must be a text that is not empty, or a whole number")
    text: str = text_of(identifier, "id", where)
    return text
