"""Shapes of a corpus row: what each is detected by and what chats or text it makes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer, write_jsonl

from crosscoder.corpus import Document, Message, TokenRole, document_units
from crosscoder.corpus_formats import Content, CorpusFormat, DocumentReader
from crosscoder.corpus_settings import CORPUS_FORMATS, SourceSettings
from crosscoder.corpus_sources import Source, read_corpus, read_sources
from crosscoder.errors import InputError
from crosscoder.token_roles import tokenize_corpus

QUESTION, ANSWER = Message("user", "Bread?"), Message("assistant", "Bake it.")
CHAT = (QUESTION, ANSWER)
TURNS = [{"role": "user", "content": "Bread?"}, {"role": "assistant", "content": "Bake it."}]
BRIEF = Message("system", "Be brief.")


def parsed(row: Any, **keys: Any) -> list[Document]:
    return DocumentReader(SourceSettings(**keys)).read(row, "line-1", "here").documents


def chats(row: Any, **keys: Any) -> list[tuple[Message, ...] | None]:
    return [document.messages for document in parsed(row, **keys)]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": TURNS}, CHAT),
        ({"messages": json.dumps(TURNS)}, CHAT),
        ({"messages": TURNS, "text": None, "score": float("nan")}, CHAT),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Bread?"},
                    {"from": "gpt", "value": "Bake it."},
                ]
            },
            CHAT,
        ),
        ({"conversations": TURNS, "system": "Be brief."}, (BRIEF, *CHAT)),
        ({"conversation": TURNS, "model": "a", "turn": 1}, CHAT),
        ({"instruction": "Bread?", "input": "", "output": "Bake it."}, CHAT),
        (
            {"instruction": "Bread?", "input": "Rye.", "output": "Bake it."},
            (Message("user", "Bread?\n\nRye."), ANSWER),
        ),
        ({"instruction": "Bread?", "context": "", "response": "Bake it.", "category": "qa"}, CHAT),
        ({"prompt": "Bread?", "response": "Bake it."}, CHAT),
        ({"prompt": "Bread?", "completion": "Bake it.", "system": "Be brief."}, (BRIEF, *CHAT)),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, CHAT),
        ({"question": "Bread?", "answer": "Bake it."}, CHAT),
        ({"input": "Bread?", "output": "Bake it."}, CHAT),
        ({"prompt": "Bread?"}, (QUESTION,)),
        ({"prompt": "Bread?", "chosen": "Bake it.", "rejected": "No."}, CHAT),
        ({"prompt": "Bread?", "chosen": TURNS, "rejected": TURNS}, CHAT),
        ({"prompt": "Bread?", "chosen": TURNS[1:], "rejected": TURNS[1:]}, CHAT),
        (
            {"chosen": "\n\nHuman: Bread?\n\nAssistant: Bake it.", "rejected": "\n\nHuman: Bread?"},
            CHAT,
        ),
    ],
)
def test_a_chat_of_every_common_shape_is_read(
    row: dict[str, Any], messages: tuple[Message, ...]
) -> None:
    assert chats(row) == [messages]


@pytest.mark.parametrize("row", [{"text": "Rye."}, {"content": "Rye."}, "Rye."])
def test_plain_text_is_read_from_its_usual_columns(row: Any) -> None:
    assert parsed(row) == [Document("line-1", text="Rye.")]


def test_the_side_of_a_preference_pair_is_an_option() -> None:
    row = {"id": 7, "prompt": "Bread?", "chosen": "Bake it.", "rejected": "No."}
    refusal = (QUESTION, Message("assistant", "No."))
    assert chats(row, preference="rejected") == [refusal]
    both = parsed(row, preference="both")
    assert [(each.id, each.messages) for each in both] == [
        ("7/chosen", CHAT),
        ("7/rejected", refusal),
    ]
    assert document_units(both) == (0, 0)


@pytest.mark.parametrize(
    ("role", "read_as"),
    [("developer", "system"), ("User", "user"), ("model", "assistant"), ("function", "tool")],
)
def test_roles_have_one_name(role: str, read_as: str) -> None:
    assert chats({"messages": [{"role": role, "content": "x"}]}) == [(Message(read_as, "x"),)]


def test_parts_are_joined_and_tool_calls_become_text() -> None:
    parts = [{"type": "text", "text": "Bake "}, {"type": "text", "text": "it."}]
    call = {"type": "function", "function": {"name": "oven", "arguments": '{"heat": 220}'}}
    (messages,) = chats(
        {
            "messages": [
                {"role": "user", "content": parts},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "hot"},
            ]
        }
    )
    assert messages == (
        Message("user", "Bake it."),
        Message(
            "assistant",
            '<tool_call>\n{"name": "oven", "arguments": {"heat": 220}}\n</tool_call>',
        ),
        Message("tool", "hot"),
    )


def test_a_tool_message_has_tokens_of_its_own_role() -> None:
    document = Document("a", (QUESTION, ANSWER, Message("tool", "hot oven")))
    tokenizer = tiny_tokenizer()
    (tokens,) = tokenize_corpus([document], tokenizer, 100).documents
    assert tokenizer.decode(tokens.token_ids[tokens.roles == TokenRole.TOOL]) == "hot oven"


def test_columns_name_what_a_format_reads() -> None:
    row = {"uid": "a", "body": "Rye.", "messages": TURNS, "id": "b"}
    assert parsed(row, columns={"text": "body"}) == [Document("b", text="Rye.")]
    assert parsed(row, columns={"text": "body", "id": "uid"}) == [Document("a", text="Rye.")]
    assert parsed(row, columns={"id": ""}) == [Document("line-1", CHAT)]


@pytest.mark.parametrize(
    ("row", "keys", "words"),
    [
        ({"a": 1, "b": 2}, {}, "keys found: 'a', 'b'; the formats are {\"messages\""),
        ({"text": "x"}, {"format": "messages"}, 'reads {"messages": [{"role"'),
        ({"a": "x"}, {"columns": {"text": "b"}}, "none of the columns of corpus.columns"),
        ({"a": "x"}, {"columns": {"txt": "a"}}, "reads no 'txt'; left of the equals sign"),
        ({"messages": [{"role": "boss", "content": "x"}]}, {}, "messages[0].role is 'boss'"),
        ({"conversations": [{"from": "x", "value": "y"}]}, {}, "conversations[0].from is 'x'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            {},
            "messages[0].content[0] is a part of type 'image_url'; only text is read",
        ),
        ({"messages": [{"role": "user", "content": None}]}, {}, "messages[0].content must be"),
        ({"chosen": "x", "rejected": "y"}, {}, "chosen is a text without a prompt"),
        ({"messages": "hello"}, {}, "messages must be a list"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_keys_that_were_found(
    row: Any, keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        parsed(row, **keys)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def lyrics() -> Iterator[None]:
    @CORPUS_FORMATS.register("lyrics")
    class Lyrics(CorpusFormat):
        name = "lyrics"
        keys = ("verses",)
        shape = '{"verses": [...]}'

        def detect(self, row: Any) -> bool:
            return "verses" in row

        def parse(self, row: Any, where: str) -> list[Content]:
            return [Content(text="\n".join(row["verses"]))]

    yield
    CORPUS_FORMATS.unregister("lyrics")


def test_a_format_of_your_own_is_detected(lyrics: None) -> None:
    row = {"verses": ["Rye,", "bread."]}
    assert parsed(row)[0].text == parsed(row, format="lyrics")[0].text == "Rye,\nbread."


def test_faulty_rows_stop_the_reading_or_are_dropped(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "a.jsonl", [{"text": "a"}, {"text": " "}, {"b": 1}, {"text": "b"}]
    )
    with pytest.raises(InputError, match=":2: the document has no text"):
        read_corpus(path)
    dropping = Source(path, SourceSettings(faulty="drop"))
    assert [each.id for each in read_sources([dropping])] == ["line-1", "line-4"]


ROLE = st.sampled_from(["system", "user", "assistant", "tool"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), TEXT), min_size=1)
)
def test_a_chat_is_the_same_in_every_shape_of_turns(turns: list[tuple[str, str]]) -> None:
    messages = tuple(Message(role, text) for role, text in turns)
    openai = [{"role": role, "content": text} for role, text in turns]
    parts = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    sharegpt = [{"from": role, "value": text} for role, text in turns]
    rows = (
        {"messages": openai},
        {"messages": parts},
        {"conversation": openai},
        {"conversations": sharegpt},
        {"messages": json.dumps(openai)},
    )
    assert [chats(row) for row in rows] == [[messages]] * len(rows)
