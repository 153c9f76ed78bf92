"""From documents to tokens with a role each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2.exceptions import TemplateError
from numpy.typing import NDArray

from crosscoder.corpus import Document, Message, TokenizedDocument, TokenRole
from crosscoder.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEMPLATE_DATE = "01 Jan 2025"
"""Date given to templates that print today's, so that a corpus has the same tokens every day."""

_BATCH = 256
_SPACES = np.array([code for code in range(0x3001) if chr(code).isspace()], dtype="<u4")
_ROLE_OF_MESSAGE = {
    "system": TokenRole.SYSTEM,
    "user": TokenRole.USER,
    "assistant": TokenRole.ASSISTANT,
}


@dataclass(frozen=True)
class _Span:
    """Characters [start, end) of a rendered text that come from the document."""

    start: int
    end: int
    role: TokenRole


@dataclass(frozen=True)
class _Rendered:
    """A document as the tokenizer reads it."""

    text: str
    spans: tuple[_Span, ...]


def tokenize_corpus(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerFast, max_length: int
) -> list[TokenizedDocument]:
    """Tokenise each document, cut it to `max_length` tokens and mark every token's role.

    Chats are rendered with the tokenizer's chat template, which brings its own special tokens;
    plain text gets those that the tokenizer adds. InputError where a chat cannot be rendered.
    """
    if not tokenizer.is_fast:
        raise InputError(
            "the tokenizer gives no character offsets; use a model with a tokenizer.json"
        )
    tokenized: list[TokenizedDocument] = []
    for start in range(0, len(documents), _BATCH):
        batch = documents[start : start + _BATCH]
        chats = [i for i, document in enumerate(batch) if document.messages is not None]
        plain = [i for i, document in enumerate(batch) if document.messages is None]
        rows: dict[int, TokenizedDocument] = {}
        for members, special in ((chats, False), (plain, True)):
            rendered = [_render(batch[i], tokenizer) for i in members]
            encoded = _encode(rendered, tokenizer, special)
            for i, row, text in zip(members, encoded, rendered, strict=True):
                ids, roles = _with_roles(row, text, tokenizer, max_length)
                rows[i] = TokenizedDocument(start + i, batch[i].id, ids, roles)
        tokenized.extend(rows[i] for i in range(len(batch)))
    return tokenized


def _encode(
    rendered: Sequence[_Rendered], tokenizer: PreTrainedTokenizerFast, special: bool
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Token ids and character offsets of each text."""
    if not rendered:
        return []
    encoding = tokenizer(
        [row.text for row in rendered],
        add_special_tokens=special,
        return_offsets_mapping=True,
        return_attention_mask=False,
        padding=False,
        truncation=False,
        verbose=False,
    )
    return list(zip(encoding["input_ids"], encoding["offset_mapping"], strict=True))


def _render(document: Document, tokenizer: PreTrainedTokenizerFast) -> _Rendered:
    if document.messages is None:
        text = document.text or ""
        return _Rendered(text, (_Span(0, len(text), TokenRole.PLAIN),))
    if not tokenizer.chat_template:
        raise InputError(
            f"corpus document {document.id!r} is a chat, and no model has a chat template; "
            "use an instruction-tuned model or give the corpus as text"
        )
    text = _apply_template(document, document.messages, tokenizer)
    spans = _spans_by_placeholder(document, document.messages, text, tokenizer)
    return _Rendered(text, spans or _spans_by_search(document.messages, text))


def _apply_template(
    document: Document, messages: Sequence[Message], tokenizer: PreTrainedTokenizerFast
) -> str:
    rows = [{"role": message.role, "content": message.content} for message in messages]
    try:
        text: Any = tokenizer.apply_chat_template(rows, tokenize=False, date_string=TEMPLATE_DATE)
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"corpus document {document.id!r}: the chat template refuses it ({reason}); "
            "change its messages"
        ) from None
    return str(text)


def _spans_by_placeholder(
    document: Document,
    messages: Sequence[Message],
    text: str,
    tokenizer: PreTrainedTokenizerFast,
) -> tuple[_Span, ...]:
    """Where each content lies, found by rendering placeholders in its stead.

    A search for the content itself would find the word "user" in the template's own markers.
    Empty where the template treats placeholders and contents differently.
    """
    marks = [f"\ue000{index}\ue001" for index in range(len(messages))]
    if any(mark in text for mark in marks):
        return ()
    stand_ins = [Message(m.role, mark) for m, mark in zip(messages, marks, strict=True)]
    try:
        skeleton = _apply_template(document, stand_ins, tokenizer)
    except InputError:
        return ()
    found = sorted((skeleton.find(mark), i) for i, mark in enumerate(marks) if mark in skeleton)
    spans: list[_Span] = []
    read = written = 0
    for at, index in found:
        literal = skeleton[read:at]
        content = messages[index].content
        if not text.startswith(literal, written):
            return ()
        start = written + len(literal)
        read = at + len(marks[index])
        following = skeleton[read : read + 1].replace(marks[0][0], "")
        for form in (content, content.strip(), content.rstrip(), content.lstrip()):
            end = start + len(form)
            if text.startswith(form, start) and text.startswith(following, end):
                break
        else:
            return ()
        spans.append(_Span(start, end, _ROLE_OF_MESSAGE[messages[index].role]))
        written = end
    return tuple(spans) if text[written:] == skeleton[read:] else ()


def _spans_by_search(messages: Sequence[Message], text: str) -> tuple[_Span, ...]:
    """Where each content lies, found in order in the rendered text; what is not found is left."""
    spans: list[_Span] = []
    read = 0
    for message in messages:
        for form in (message.content, message.content.strip()):
            start = text.find(form, read) if form else -1
            if start >= 0:
                read = start + len(form)
                spans.append(_Span(start, read, _ROLE_OF_MESSAGE[message.role]))
                break
    return tuple(spans)


def _with_roles(
    row: tuple[list[int], list[tuple[int, int]]],
    rendered: _Rendered,
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    ids = np.asarray(row[0][:max_length], dtype=np.int32)
    offsets = np.asarray(row[1][:max_length], dtype=np.int64).reshape(-1, 2)
    roles = _majority_roles(rendered, offsets)
    special = _special_tokens(tokenizer)
    for i in np.flatnonzero(np.isin(ids, list(special))).tolist():
        start, end = offsets[i]
        # A document that spells out a special token holds the template's marker, no content;
        # an unknown character that became the unknown token stays content.
        if start == end or rendered.text[start:end].strip() == special[int(ids[i])]:
            roles[i] = TokenRole.TEMPLATE
    if len(ids) and int(ids[0]) == tokenizer.bos_token_id and roles[0] == TokenRole.TEMPLATE:
        roles[0] = TokenRole.BOS
    return ids, roles


def _special_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    for token_id, token in tokenizer.added_tokens_decoder.items():
        if token.special:
            special[token_id] = token.content
    return special


def _majority_roles(rendered: _Rendered, offsets: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The role of most visible characters of each token; TEMPLATE on a tie or without characters.

    Spaces count only where there is nothing else: a token may take the template's space along.
    """
    characters = np.frombuffer(rendered.text.encode("utf-32-le"), dtype="<u4")
    by_character = np.zeros(len(characters), dtype=np.uint8)
    for span in rendered.spans:
        by_character[span.start : span.end] = span.role
    of_role = by_character == np.arange(len(TokenRole), dtype=np.uint8)[:, None]
    of_visible = of_role & ~np.isin(characters, _SPACES)
    counts = _counts_between(of_visible, offsets)
    blank = counts.sum(axis=0) == 0
    counts[:, blank] = _counts_between(of_role, offsets[blank])
    roles: NDArray[np.uint8] = counts.argmax(axis=0).astype(np.uint8)
    return roles


def _counts_between(flags: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many flags (R, L) are set in each [start, end) of offsets (T, 2): (R, T)."""
    totals = np.zeros((flags.shape[0], flags.shape[1] + 1), dtype=np.int64)
    np.cumsum(flags, axis=1, out=totals[:, 1:])
    difference: NDArray[np.int64] = totals[:, offsets[:, 1]] - totals[:, offsets[:, 0]]
    return difference
