"""Which tokens of a rendered chat take part, whatever the template does to the messages."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Callable

import pytest
from chat_template_table import KEEP_WHOLE, REWRITE, conversations
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer

from crosscoder.chat_templates import ChatTemplate, Refusal, RenderedChat, render_chat
from crosscoder.corpus import Document, Message
from crosscoder.token_roles import TEMPLATE_DATE, tokenize_corpus

GOLDEN = {
    "chat_ml": "efa7d5bc2a000c11",
    "trimmed": "0dbc3cb3d7035f52",
    "default_system": "5ed9170e3cd313d1",
    "header_ids": "b7eec24ee8923d80",
    "instruction": "a94843e083708a73",
    "system_in_user_turn": "2ebae9b15145cb8d",
    "role_names_changed": "cdfd0173023d6c90",
    "generation_marked": "e8bf3b10224f3db3",
    "dated": "069789e16e6fd71e",
}
"""SHA-256 of ids and roles of 200 chats, as they were before rewriting templates were aligned."""


def answer(content: str) -> str:
    return content.split("</think>")[-1].lstrip("\n")


def thought_and_answer(content: str) -> str:
    thought = ""
    if "</think>" in content:
        thought = content.split("</think>")[0].rstrip("\n").split("<think>")[-1]
    return thought + answer(content)


SURVIVES: dict[str, Callable[[Message], str]] = {
    **{name: lambda message: message.content for name in KEEP_WHOLE},
    "collapsed": lambda message: " ".join(message.content.split()),
    "thinking_dropped": lambda message: (
        answer(message.content) if message.role == "assistant" else message.content
    ),
    "thinking_written_again": lambda message: (
        thought_and_answer(message.content) if message.role == "assistant" else message.content
    ),
    "json_escaped": lambda message: json.dumps(message.content, ensure_ascii=False)[1:-1],
    "json_ascii": lambda message: json.dumps(message.content)[1:-1],
    "html_escaped": lambda message: (
        html.escape(message.content).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
    ),
    "parts_only": lambda message: message.content,
    "content_counted": lambda message: message.content,
}
"""What of a message is in the text that a template renders."""

TOKENIZERS = {name: tiny_tokenizer(text) for name, text in {**KEEP_WHOLE, **REWRITE}.items()}


def rendered(name: str, documents: list[Document]) -> list[RenderedChat]:
    chats = []
    with ChatTemplate(TOKENIZERS[name], TEMPLATE_DATE, name) as template:
        for document in documents:
            chat = render_chat(document.messages or (), template, document.id)
            assert not isinstance(chat, Refusal)
            chats.append(chat)
    return chats


def visible(text: str, name: str) -> str:
    """The characters that count: the escapes of white space are white space."""
    if name.startswith("json"):
        for blank in ("\\n", "\\t", "\\r", "\\u2028"):
            text = text.replace(blank, " ")
    if name == "thinking_written_again":
        # The template writes the marks of thinking itself; whose they are cannot be told.
        text = text.replace("<think>", "").replace("</think>", "")
    return "".join(text.split())


def text_of(chat: RenderedChat, message: int) -> str:
    return "".join(chat.text[s.start : s.end] for s in chat.spans if s.message == message)


def check(name: str, documents: list[Document]) -> None:
    for document, chat in zip(documents, rendered(name, documents), strict=True):
        for index, message in enumerate(document.messages or ()):
            found = visible(text_of(chat, index), name)
            assert found == visible(SURVIVES[name](message), name), (document, chat)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_template_that_keeps_messages_whole_gives_the_tokens_it_always_gave(name: str) -> None:
    digest = hashlib.sha256()
    corpus = tokenize_corpus(conversations(0, 200), TOKENIZERS[name], 512)
    for row in corpus.documents:
        digest.update(len(row.token_ids).to_bytes(4, "little"))
        digest.update(row.token_ids.tobytes() + row.roles.tobytes())
    assert digest.hexdigest()[:16] == GOLDEN[name]
    assert all(row.n_lost == 0 for row in corpus.counts.record().roles)


@pytest.mark.parametrize("name", SURVIVES)
def test_what_survives_of_each_message_is_found_and_nothing_else(name: str) -> None:
    check(name, conversations(1, 150))


CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"])
WORDS = st.lists(st.text(CHARACTERS, min_size=1, max_size=9), min_size=1, max_size=6).map(" ".join)
PHRASES = st.sampled_from(["user", "assistant", "a", "", "Then bake it.\n\nWait.", '<b> & "x"'])
CHATS = st.lists(st.one_of(WORDS, PHRASES), min_size=1, max_size=4)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(contents=CHATS, name=st.sampled_from(["trimmed", "collapsed", "parts_only", "chat_ml"]))
def test_any_conversation_is_found_whole_by_templates_that_drop_nothing(
    contents: list[str], name: str
) -> None:
    roles = ["user", "assistant"] * 2
    messages = tuple(Message(role, text) for role, text in zip(roles, contents, strict=False))
    document = Document("a", messages=messages)
    check(name, [document])
    (chat,) = rendered(name, [document])
    assert not chat.lost
