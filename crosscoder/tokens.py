"""From documents to tokens with a role each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crosscoder.chat_templates import ChatTemplate, Refusal
from crosscoder.corpus import Document, TokenizedDocument, TokenRole
from crosscoder.errors import InputError
from crosscoder.manifest import TextPlan
from crosscoder.message_spans import render_chat
from crosscoder.text_counts import ROLE_OF_MESSAGE, TextCounts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEMPLATE_DATE = date(2025, 1, 1)
"""What a template's clock shows where the caller names no day."""

_BATCH = 256
_SPACES = np.array([code for code in range(0x3001) if chr(code).isspace()], dtype="<u4")


@dataclass(frozen=True)
class _RoleSpan:
    """Characters [start, end) of a rendered text that come from the document."""

    start: int
    end: int
    role: TokenRole


@dataclass(frozen=True)
class _Rendered:
    """A document as the tokenizer reads it."""

    text: str
    spans: tuple[_RoleSpan, ...]


@dataclass(frozen=True)
class TokenizedCorpus:
    """The tokens of every document, and what became of its text."""

    documents: tuple[TokenizedDocument, ...]
    """In corpus order; one that the chat template refuses has no tokens."""
    day: date
    """What the chat template's clock showed."""
    counts: TextCounts

    def plan(self, shards: Sequence[range]) -> TextPlan:
        """The record of these tokens, cut into `shards`."""
        digest = hashlib.sha256()
        for row in self.documents:
            digest.update(len(row.token_ids).to_bytes(8, "little"))
            digest.update(row.token_ids.astype("<i4").tobytes() + row.roles.tobytes())
        digest.update(repr([(shard.start, shard.stop) for shard in shards]).encode())
        return TextPlan(date=self.day, sha256=digest.hexdigest(), text=self.counts.record())


def tokenize_corpus(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    day: date = TEMPLATE_DATE,
    model: str = "",
) -> TokenizedCorpus:
    """Tokenise each document, cut it to `max_length` tokens and mark every token's role.

    Chats are rendered with the tokenizer's chat template, which brings its own special tokens and
    whose clock shows `day`; plain text gets those that the tokenizer adds. `model` is the name of
    the tokenizer's model in messages. InputError where there is no template for a chat, or it is
    no valid one or goes beyond the limits of `crosscoder.limits`.
    """
    if not tokenizer.is_fast:
        raise InputError(
            "the tokenizer gives no character offsets; use a model with a tokenizer.json"
        )
    counts = TextCounts(model)
    tokenized: list[TokenizedDocument] = []
    with ChatTemplate(tokenizer, day, model) as template:
        for start in range(0, len(documents), _BATCH):
            batch = documents[start : start + _BATCH]
            chats = [i for i, document in enumerate(batch) if document.messages is not None]
            plain = [i for i, document in enumerate(batch) if document.messages is None]
            rows: dict[int, TokenizedDocument] = {}
            for members, special in ((chats, False), (plain, True)):
                rendered = [_render(batch[i], tokenizer, template, counts) for i in members]
                encoded = _encode(rendered, tokenizer, special)
                for i, row, text in zip(members, encoded, rendered, strict=True):
                    ids, roles = _with_roles(row, text, tokenizer)
                    counts.add_cut(roles[max_length:])
                    rows[i] = TokenizedDocument(
                        start + i, batch[i].id, ids[:max_length], roles[:max_length]
                    )
            tokenized.extend(rows[i] for i in range(len(batch)))
    return TokenizedCorpus(tuple(tokenized), day, counts)


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


def _render(
    document: Document,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    counts: TextCounts,
) -> _Rendered:
    """The document's text; empty, and counted as lost, where the template refuses it."""
    if document.messages is None:
        counts.add_text(document)
        text = document.text or ""
        return _Rendered(text, (_RoleSpan(0, len(text), TokenRole.PLAIN),))
    if not tokenizer.chat_template:
        raise InputError(
            f"corpus document {document.id!r} is a chat, and no model has a chat template; "
            "use an instruction-tuned model or give the corpus as text"
        )
    chat = render_chat(document.messages, template, f"corpus {document.place}")
    if isinstance(chat, Refusal):
        counts.add_refused(document, chat.reason)
        return _Rendered("", ())
    counts.add_chat(document, chat.lost)
    roles = [ROLE_OF_MESSAGE[message.role] for message in document.messages]
    spans = (_RoleSpan(span.start, span.end, roles[span.message]) for span in chat.spans)
    return _Rendered(chat.text, tuple(spans))


def _with_roles(
    row: tuple[list[int], list[tuple[int, int]]],
    rendered: _Rendered,
    tokenizer: PreTrainedTokenizerFast,
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    ids = np.asarray(row[0], dtype=np.int32)
    offsets = np.asarray(row[1], dtype=np.int64).reshape(-1, 2)
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
