"""A corpus whose answers are cut, or are the models' own."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from tiny_models import CHAT_TEMPLATE, save_tiny_model, tiny_tokenizer

from crosscoder.answers import AnsweredCorpus, answered_corpus, cut_answers
from crosscoder.config import GenerationSettings
from crosscoder.corpus import Document, Message, TokenRole, corpus_sha256, document_units
from crosscoder.errors import InputError
from crosscoder.generation import write_answers
from crosscoder.harvest import HarvestConfig
from crosscoder.model_files import SubjectSpec
from crosscoder.models import inspect_subject
from crosscoder.token_roles import tokenize_corpus

DAY = date(2025, 1, 2)
NAMES = ("base", "tuned")
SETTINGS = GenerationSettings(max_new_tokens=5)
ASKED = (Message("system", "Be short."), Message("user", "How do I bake bread?"))
TURNS = (*ASKED, Message("assistant", "Mix."), Message("user", "And?"), Message("assistant", "."))
CHAT = Document("chat", TURNS, language="en", where="corpus.jsonl:1")
PLAIN = Document("plain", text="Mix flour, water, salt and yeast.")
OPENED = Document("opened", (Message("assistant", "Hello"), Message("user", "Hi")))


def answered(documents: list[Document], models: Path, out: Path) -> AnsweredCorpus:
    specs = [SubjectSpec(name, str(models / name)) for name in NAMES]
    template_model = inspect_subject(specs[0])
    return answered_corpus(documents, specs, SETTINGS, out, template_model, DAY, 60)


@pytest.mark.slow
def test_every_model_answers_the_first_turn_and_both_are_one_unit(
    subject_folder: Path, tmp_path: Path
) -> None:
    corpus = answered([PLAIN, CHAT, OPENED], subject_folder, tmp_path)
    plain, *answers, opened = corpus.documents
    assert (plain, opened) == (PLAIN, OPENED)
    assert [each.id for each in answers] == ["chat/base", "chat/tuned"]
    for name, document in zip(NAMES, answers, strict=True):
        spec = SubjectSpec(name, str(subject_folder / name))
        ((expected,),) = write_answers(spec, [ASKED], SETTINGS, tmp_path, day=DAY)
        assert document.messages == (*ASKED, Message("assistant", expected.text))
        assert (document.prompt, document.language) == ("chat", "en")
        assert corpus.counts[name].n_tokens == expected.n_tokens
        assert corpus.counts[name].n_finished == expected.is_finished
    assert document_units(corpus.documents) == (0, 1, 1, 2)
    assert (corpus.n_prompts, corpus.n_unanswered) == (1, 0)
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


@pytest.mark.slow
def test_a_prompt_that_is_too_long_is_read_without_an_answer(
    subject_folder: Path, tmp_path: Path
) -> None:
    long = Document("long", (Message("user", "bread " * 80), Message("assistant", "No.")))
    corpus = answered([CHAT, long], subject_folder, tmp_path)
    assert [each.id for each in corpus.documents] == ["chat/base", "chat/tuned", "long"]
    assert corpus.documents[2].messages == (Message("user", "bread " * 80),)
    assert (corpus.n_prompts, corpus.n_unanswered) == (2, 1)
    assert corpus.counts["base"].n_answers == 1


@pytest.mark.slow
def test_a_refused_prompt_is_left_to_the_harvest_to_count(tmp_path: Path) -> None:
    refusing = "{% if 'Be short' in messages|string %}{{ raise_exception('no') }}{% endif %}"
    for name in NAMES:
        save_tiny_model(tmp_path / name, chat_template=refusing + CHAT_TEMPLATE)
    other = Document("other", (Message("user", "Why?"),))
    corpus = answered([CHAT, other], tmp_path, tmp_path / "out")
    assert [each.id for each in corpus.documents] == ["chat", "other/base", "other/tuned"]
    tokenizer = inspect_subject(SubjectSpec("base", str(tmp_path / "base"))).tokenizer
    record = tokenize_corpus(corpus.documents, tokenizer, 60).counts.record()
    assert record.n_refused == 1


@pytest.mark.slow
def test_a_name_that_is_taken_is_refused(subject_folder: Path, tmp_path: Path) -> None:
    taken = Document("chat/base", text="Some text")
    with pytest.raises(InputError, match="would be named 'chat/base', as another document is"):
        answered([CHAT, taken], subject_folder, tmp_path)


def test_sharing_a_prompt_is_part_of_the_hash_of_a_corpus() -> None:
    alone = Document("a", text="x")
    assert corpus_sha256([alone]) != corpus_sha256([Document("a", text="x", prompt="p")])


@pytest.mark.parametrize("n_tokens", [0, 1, 3, 100])
def test_answers_are_cut_after_their_first_tokens(n_tokens: int) -> None:
    tokenizer = tiny_tokenizer()
    answer = "Mix flour, water and salt: \u00e9t\u00e9 \U0001f600."
    chat = Document("a", (*ASKED, Message("assistant", answer), Message("user", "And then?")))
    cut, plain = cut_answers([chat, PLAIN], tokenizer, n_tokens)
    assert plain == PLAIN
    assert cut.messages is not None
    assert [m for m in cut.messages if m.role != "assistant"] == [*ASKED, chat.messages[-1]]
    text = cut.messages[2].content
    assert answer.startswith(text)
    assert len(tokenizer(text, add_special_tokens=False).input_ids) == min(
        n_tokens, len(tokenizer(answer, add_special_tokens=False).input_ids)
    )


def test_prompts_alone_have_no_token_of_an_assistant() -> None:
    tokenizer = tiny_tokenizer()
    (whole,) = tokenize_corpus([CHAT], tokenizer, 100).documents
    (alone,) = tokenize_corpus(cut_answers([CHAT], tokenizer, 0), tokenizer, 100).documents
    assert (whole.roles == TokenRole.ASSISTANT).any()
    assert not (alone.roles == TokenRole.ASSISTANT).any()
    users = [tokens.token_ids[tokens.roles == TokenRole.USER].tolist() for tokens in (whole, alone)]
    assert users[0] == users[1]


def test_a_cut_is_part_of_the_key_and_no_cut_is_not() -> None:
    assert "answer_tokens" not in HarvestConfig(layer=0).deciding()
    assert HarvestConfig(layer=0, answer_tokens=0).deciding()["answer_tokens"] == 0
