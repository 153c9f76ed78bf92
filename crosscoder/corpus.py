"""The text that all subject models read: documents of a JSONL file, and their tokens as text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crosscoder.errors import InputError
from crosscoder.files import json_sha256
from crosscoder.limits import MAX_LINE_BYTES, parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


MESSAGE_ROLES = ("system", "user", "assistant")


class TokenRole(IntEnum):
    """What a token is; only USER, ASSISTANT and PLAIN tokens are content."""

    TEMPLATE = 0
    """Inserted by the chat template: markers, role names, a default system prompt."""
    BOS = 1
    """The tokenizer's beginning-of-sequence token."""
    SYSTEM = 2
    """Content of a system message of the document."""
    USER = 3
    """Content of a user message."""
    ASSISTANT = 4
    """Content of an assistant message."""
    PLAIN = 5
    """Text of a document without messages."""


CONTENT_ROLES = (TokenRole.USER, TokenRole.ASSISTANT, TokenRole.PLAIN)
"""Roles whose tokens may take part in training, scaling and evidence."""


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


@dataclass(frozen=True)
class Document:
    """One text that the models read: a chat or plain text, never both."""

    id: str
    messages: tuple[Message, ...] | None = None
    text: str | None = None
    language: str | None = None
    prompt: str | None = None
    """Identifier of the prompt that it answers, where several documents answer the same one."""
    where: str = field(default="", compare=False)
    """File and line that it was read from."""

    @property
    def place(self) -> str:
        """What messages call it."""
        return f"document {self.id!r}" + (f", {self.where}" if self.where else "")


@dataclass(frozen=True)
class TokenizedDocument:
    """The tokens of one document, cut to the longest length."""

    document_index: int
    document_id: str
    token_ids: NDArray[np.int32]
    """(T,)"""
    roles: NDArray[np.uint8]
    """(T,) TokenRole."""
    prompt: str | None = None
    """As `Document.prompt`."""


def document_units(documents: Sequence[Document | TokenizedDocument]) -> tuple[int, ...]:
    """The independent unit that each document belongs to, counted from 0 in corpus order.

    A unit is one document, or neighbouring documents that answer the same prompt: what the models
    make of two answers to one prompt is not independent.
    """
    units: list[int] = []
    before: str | None = None
    for document in documents:
        is_same = before is not None and document.prompt == before
        units.append(units[-1] + (not is_same) if units else 0)
        before = document.prompt
    return tuple(units)


def read_corpus(path: Path) -> list[Document]:
    """Read `{"id", "messages": [{"role", "content"}]}` or `{"id", "text"}` lines.

    Blank lines are skipped; a document without `id` is called `line-N`.
    InputError names the file and the line of the first fault.
    """
    documents: list[Document] = []
    lines_by_id: dict[str, int] = {}
    for number, line in _numbered_lines(path):
        document = _parse_line(line, number, f"{path}:{number}")
        if document.id in lines_by_id:
            raise InputError(
                f"{path}:{number}: id {document.id!r} is already used in line "
                f"{lines_by_id[document.id]}; give each document its own"
            )
        lines_by_id[document.id] = number
        documents.append(document)
    if not documents:
        raise InputError(f"{path}: the corpus is empty; put one JSON document on each line")
    return documents


def corpus_sha256(documents: Sequence[Document]) -> str:
    """SHA-256 over identifiers, roles, text and shared prompts of the documents, in order."""
    rows = [
        [
            document.id,
            document.text,
            [[m.role, m.content] for m in document.messages or ()],
            *([] if document.prompt is None else [document.prompt]),
        ]
        for document in documents
    ]
    return json_sha256(rows)


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers counted from 1."""
    try:
        # Binary lines end at newlines only: JSON strings may hold other separators (U+2028).
        with path.open("rb") as file:
            for number in itertools.count(1):
                line = file.readline(MAX_LINE_BYTES + 1)
                if not line:
                    return
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(
                        f"{path}:{number}: is longer than {MAX_LINE_BYTES:,} bytes; put one "
                        "document on a line"
                    )
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line.strip():
                    yield number, _decoded(line, f"{path}:{number}")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name the corpus in corpus.path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{where}: no valid UTF-8; save the file as UTF-8") from None


def _parse_line(line: str, number: int, where: str) -> Document:
    try:
        row = parse_json(line, where)
    except InputError as error:
        hint = "; put one object on a line" if "Extra data" in str(error) else ""
        raise InputError(f"{error}{hint}") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: not a JSON object; write {{'id': ..., 'text': ...}}")
    identifier = row.get("id", f"line-{number}")
    if not isinstance(identifier, str) or not identifier:
        raise InputError(f"{where}: id must be a text that is not empty")
    language = row.get("language")
    if language is not None and not isinstance(language, str):
        raise InputError(f"{where}: language must be a text such as 'en'")
    if ("text" in row) == ("messages" in row):
        raise InputError(f"{where}: give either text or messages")
    if "text" in row:
        text = _text(row["text"], "text", where)
        document = Document(identifier, text=text, language=language, where=where)
        contents = [document.text or ""]
    else:
        messages = _messages(row["messages"], where)
        document = Document(identifier, messages=messages, language=language, where=where)
        contents = [message.content for message in messages]
    if not any(content.strip() for content in contents):
        raise InputError(f"{where}: the document has no text; remove the line")
    return document


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: messages must be a list of {{'role', 'content'}} objects")
    messages = []
    for position, item in enumerate(value):
        key = f"messages[{position}]"
        if not isinstance(item, dict):
            raise InputError(f"{where}: {key} must be an object with role and content")
        role = item.get("role")
        if role not in MESSAGE_ROLES:
            raise InputError(f"{where}: {key}.role is {role!r}; use {', '.join(MESSAGE_ROLES)}")
        content = _text(item.get("content"), f"{key}.content", where)
        messages.append(Message(role, content))
    return tuple(messages)


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: {key} must be a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"{where}: {key} holds half of a surrogate pair (\\ud800-\\udfff); remove it"
        ) from None
    return value


@dataclass(frozen=True)
class DocumentTokens:
    """Token columns of one document, all of one length."""

    token_ids: NDArray[np.int32]
    roles: NDArray[np.uint8]
    """TokenRole."""
    mask: NDArray[np.bool_]
    """True where the token takes part in training, scaling and evidence."""


_UNKNOWN = "\ufffd"
_LONGEST_CHARACTER = 4
"""Bytes of the longest UTF-8 character, so the most tokens that one can be split over."""


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text that each token adds, so that the joined texts are the decoded document.

    A character split over several tokens is given to the last of them; the others are empty.
    Bytes that never make a character are left out.
    """
    texts: list[str] = []
    context = resolved = shown = waiting = 0
    for index in range(len(ids)):
        text = _decode(tokenizer, ids[context : index + 1])
        visible = text.rstrip(_UNKNOWN)
        waiting = waiting + 1 if len(visible) <= shown else 0
        whole = visible == text or waiting >= _LONGEST_CHARACTER
        texts.append(visible[shown:].replace(_UNKNOWN, ""))
        shown = max(shown, len(visible))
        if whole:
            # One finished token stays as context: some decoders drop a leading space.
            context, resolved, waiting = resolved, index + 1, 0
            shown = len(_decode(tokenizer, ids[context:resolved]))
    return texts


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
