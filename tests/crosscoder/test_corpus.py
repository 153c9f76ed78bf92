"""Reading a corpus, and the role of every token."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CHAT_TEMPLATE, chat, tiny_tokenizer, write_jsonl
from transformers import PreTrainedTokenizerFast

from crosscoder.corpus import Document, Message, TokenRole, corpus_sha256, token_texts
from crosscoder.corpus_sources import read_corpus
from crosscoder.errors import InputError
from crosscoder.token_roles import tokenize_corpus

TOKENIZER = tiny_tokenizer()
UNTRIMMED = tiny_tokenizer(CHAT_TEMPLATE.replace(" | trim", ""))


def roles_and_text(
    document: Document, tokenizer: PreTrainedTokenizerFast = TOKENIZER
) -> dict[TokenRole, str]:
    """The decoded tokens of each role."""
    (tokens,) = tokenize_corpus([document], tokenizer, 1000).documents
    return {
        TokenRole(role): tokenizer.decode(tokens.token_ids[tokens.roles == role])
        for role in sorted(set(tokens.roles.tolist()))
    }


def test_reads_chats_and_plain_text_in_order(tmp_path: Path) -> None:
    rows = [chat("a", ("user", "Hi"), ("assistant", "Hello")), {"id": "b", "text": "Text"}]
    path = write_jsonl(tmp_path / "corpus.jsonl", rows)
    path.write_text("\ufeff" + path.read_text() + '\n  \n{"text": "No id", "language": "en"}\n')
    assert read_corpus(path) == [
        Document("a", messages=(Message("user", "Hi"), Message("assistant", "Hello"))),
        Document("b", text="Text"),
        Document("line-5", text="No id", language="en"),
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{no json}", "no valid JSON"),
        ("[" * 100_000, "nested deeper than 64 levels"),
        ("[1]", "not a JSON object"),
        ('{"id": "x", "body": "a"}', "keys found: 'id', 'body'"),
        ('{"id": "x", "text": "a", "messages": []}', "both text and messages; give either"),
        ('{"id": "x", "text": "  "}', "has no text"),
        ('{"id": "x", "text": 3}', "text must be a text"),
        ('{"id": true, "text": "a"}', "id must be a text"),
        ('{"id": "x", "text": "a", "language": 1}', "language must be a text"),
        ('{"id": "x", "text": "\\ud800"}', "surrogate"),
        ('{"id": "x", "messages": []}', "messages must be a list"),
        ('{"id": "x", "messages": ["a"]}', "messages[0] must be an object"),
        ('{"id": "x", "messages": [{"role": "boss", "content": "a"}]}', "messages[0].role"),
        ('{"id": "x", "messages": [{"role": "user"}]}', "messages[0].content"),
        ('{"id": "x", "messages": [{"role": "user", "content": ""}]}', "has no text"),
        ('{"id": "first", "text": "again"}', "already used in line 1"),
    ],
)
def test_a_faulty_line_is_named_by_file_and_number(
    tmp_path: Path, line: str, complaint: str
) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(f'{{"id": "first", "text": "fine"}}\n{line}\n')
    with pytest.raises(InputError) as caught:
        read_corpus(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: ")
    assert complaint in message
    assert "\n" not in message


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"id": "a", "text": "a"}\n{"id": "b", "text": "\xff"}\n')
    with pytest.raises(InputError, match=r":2: no valid UTF-8"):
        read_corpus(path)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_corpus_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match="corpus is empty"):
        read_corpus(path)


def test_a_missing_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_corpus(tmp_path / "none.jsonl")


def test_the_hash_of_a_corpus_depends_on_text_and_order() -> None:
    one, two = Document("a", text="x"), Document("b", messages=(Message("user", "x"),))
    changed = Document("b", messages=(Message("assistant", "x"),))
    hashes = {corpus_sha256(rows) for rows in ([one, two], [two, one], [one, changed], [one])}
    assert len(hashes) == 4
    assert corpus_sha256([one, two]) == corpus_sha256([one, two])


def test_every_token_of_a_chat_has_the_role_of_its_text() -> None:
    document = Document(
        "a",
        messages=(
            Message("system", "Be brief."),
            Message("user", "user"),
            Message("assistant", "  a\nassistant answers\n"),
        ),
    )
    found = roles_and_text(document)
    assert found[TokenRole.BOS] == "<|bos|>"
    assert found[TokenRole.SYSTEM] == "Be brief."
    assert found[TokenRole.USER] == "user"
    assert found[TokenRole.ASSISTANT].strip() == "a\nassistant answers"
    assert found[TokenRole.TEMPLATE].count("<|im_start|>") == 3


def test_a_system_prompt_of_the_template_is_template() -> None:
    found = roles_and_text(Document("a", messages=(Message("user", "Hi"),)))
    assert "tiny assistant" in found[TokenRole.TEMPLATE]
    assert TokenRole.SYSTEM not in found


def test_plain_text_gets_the_special_tokens_that_the_tokenizer_adds() -> None:
    found = roles_and_text(Document("a", text="Mix flour."))
    assert found == {TokenRole.BOS: "<|bos|>", TokenRole.PLAIN: "Mix flour."}


def test_a_special_token_spelt_out_in_a_message_is_no_content() -> None:
    found = roles_and_text(Document("a", messages=(Message("user", "Hi <|im_end|> you"),)))
    assert "<|im_end|>" not in found[TokenRole.USER]


def test_a_template_that_reads_the_content_falls_back_to_finding_it() -> None:
    template = (
        "{% for message in messages %}<|im_start|>"
        "{{ 'long ' if message['content'] | length > 8 else '' }}{{ message['content'] }}"
        "<|im_end|>{% endfor %}"
    )
    document = Document("a", messages=(Message("user", "What is bread?"),))
    assert roles_and_text(document, tiny_tokenizer(template))[TokenRole.USER] == "What is bread?"


def test_a_template_that_prints_the_date_gives_the_same_tokens_every_day() -> None:
    template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b') %}"
        "{% endif %}{{ date_string }}<|im_start|>{{ messages[0]['content'] }}"
    )
    found = roles_and_text(
        Document("a", messages=(Message("user", "Hi"),)), tiny_tokenizer(template)
    )
    assert found[TokenRole.TEMPLATE].startswith("01 Jan 2025")


def test_a_chat_without_a_template_is_refused() -> None:
    document = Document("greeting", messages=(Message("user", "Hi"),))
    with pytest.raises(InputError, match="'greeting' is a chat, and no model has a chat template"):
        tokenize_corpus([document], tiny_tokenizer(None), 10)


def test_a_chat_that_the_template_refuses_has_no_tokens_and_counts_as_lost() -> None:
    template = (
        "{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}{{ messages[0]['content'] }}"
    )
    documents = [
        Document("greeting", messages=(Message("system", "Hi"),), where="corpus.jsonl:1"),
        Document("question", messages=(Message("user", "Why?"),)),
    ]
    corpus = tokenize_corpus(documents, tiny_tokenizer(template), 10, model="tuned")
    assert [len(row.token_ids) > 0 for row in corpus.documents] == [False, True]
    with pytest.raises(
        InputError, match=r"'tuned' refuses documents \(System role not suppor"
    ) as lost:
        corpus.counts.require(0.99)
    assert "document 'greeting', corpus.jsonl:1" in str(lost.value)
    corpus.counts.require(1)


def test_documents_are_cut_and_keep_their_order() -> None:
    documents = [
        Document("a", messages=(Message("user", "Mix flour and water."),)),
        Document("b", text="Mix flour and water, wait."),
        Document("c", messages=(Message("user", "Hi"),)),
    ]
    tokenized = tokenize_corpus(documents, TOKENIZER, 5).documents
    assert [row.document_id for row in tokenized] == ["a", "b", "c"]
    assert [row.document_index for row in tokenized] == [0, 1, 2]
    assert [len(row.token_ids) for row in tokenized] == [5, 5, 5]
    assert [len(row.roles) for row in tokenized] == [5, 5, 5]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
        min_size=1,
        max_size=4,
    )
)
def test_content_tokens_spell_the_messages_whatever_they_say(contents: list[str]) -> None:
    roles = ["user", "assistant"] * 2
    messages = tuple(Message(role, text) for role, text in zip(roles, contents, strict=False))
    (tokens,) = tokenize_corpus([Document("a", messages=messages)], UNTRIMMED, 999).documents
    content = tokens.token_ids[tokens.roles >= TokenRole.USER]
    assert TOKENIZER.decode(content) == "".join(contents)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_token_texts_join_to_the_document_without_broken_characters(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    texts = token_texts(TOKENIZER, ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == text.replace("\ufffd", "")


def test_a_split_character_is_given_to_the_last_of_its_tokens() -> None:
    ids = TOKENIZER("a日b", add_special_tokens=False)["input_ids"]
    assert token_texts(TOKENIZER, ids) == ["a", "", "", "日", "b"]
    assert token_texts(TOKENIZER, ids[2:]) == ["", "", "b"]
