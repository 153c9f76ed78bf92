"""The text that all subject models read: documents, and their tokens as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crosscoder.files import json_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    TOOL = 6
    """Content of a tool's message: text that neither the user nor the model wrote."""


CONTENT_ROLES = (TokenRole.USER, TokenRole.ASSISTANT, TokenRole.PLAIN)
"""Roles whose tokens may take part in training, scaling and evidence."""


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    """`system`, `user`, `assistant` or `tool`."""
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
