"""Answers of subject models: what they are, and that none is written twice."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import CHAT_TEMPLATE, save_tiny_model, tiny_tokenizer

from crosscoder import generation
from crosscoder.config import GenerationSettings
from crosscoder.corpus import Message
from crosscoder.errors import InputError
from crosscoder.generation import Answer, AnswerFile, tokenize_prompts, write_answers
from crosscoder.model_files import SubjectSpec
from crosscoder.models import inspect_subject, load_subject

DAY = date(2025, 1, 2)
TEXTS = ("How do I bake bread?", "Hello", "Name three colours, and then one more.", "Why?")
PROMPTS = [(Message("user", text),) for text in TEXTS]
GREEDY = GenerationSettings(max_new_tokens=6, batch_size=2)
SAMPLED = GenerationSettings(max_new_tokens=3, batch_size=4, temperature=1.0, samples=2, seed=5)


def base(folder: Path) -> SubjectSpec:
    return SubjectSpec("base", str(folder / "base"))


def test_greedy_answers_are_the_likeliest_tokens_one_by_one(
    subject_folder: Path, tmp_path: Path
) -> None:
    answers = write_answers(base(subject_folder), PROMPTS, GREEDY, tmp_path)
    subject = load_subject(base(subject_folder))
    for text, (answer,) in zip(TEXTS, answers, strict=True):
        prompt = subject.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=False,
        )
        ids = list(prompt)
        for _ in range(GREEDY.max_new_tokens):
            logits = subject.model(torch.tensor([ids])).logits[0, -1]
            ids.append(int(logits.argmax()))
            if ids[-1] == subject.tokenizer.eos_token_id:
                break
        ended = ids[-1] == subject.tokenizer.eos_token_id
        written = ids[len(prompt) : len(ids) - ended]
        expected = subject.tokenizer.decode(written, skip_special_tokens=True)
        assert answer.text == expected.rstrip("\ufffd").strip()
        assert (answer.n_tokens, answer.is_finished) == (len(written), ended)


@pytest.mark.slow
def test_sampled_answers_do_not_depend_on_the_batch(subject_folder: Path, tmp_path: Path) -> None:
    one = SAMPLED.model_copy(update={"batch_size": 1})
    together = write_answers(base(subject_folder), PROMPTS, SAMPLED, tmp_path / "together")
    alone = write_answers(base(subject_folder), PROMPTS[::-1], one, tmp_path / "alone")
    assert together == alone[::-1]
    assert sum(len(set(answers)) > 1 for answers in together) >= 3


@pytest.mark.slow
def test_another_seed_gives_other_answers(subject_folder: Path, tmp_path: Path) -> None:
    other = SAMPLED.model_copy(update={"seed": 6})
    first = write_answers(base(subject_folder), PROMPTS, SAMPLED, tmp_path)
    assert write_answers(base(subject_folder), PROMPTS, other, tmp_path) != first
    assert len(list(tmp_path.iterdir())) == 2


def test_gumbel_noise_draws_from_the_softmax() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    sampling = generation._Sampling("base", list(range(4000)), temperature=2.0)
    drawn = sampling(torch.zeros(4000, 1), logits.expand(4000, 3)).argmax(dim=1)
    shares = torch.bincount(drawn, minlength=3) / 4000
    torch.testing.assert_close(shares, (logits[0] / 2).softmax(0), atol=0.03, rtol=0)


def test_finished_answers_are_read_without_the_weights(
    subject_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_answers(base(subject_folder), PROMPTS, GREEDY, tmp_path)
    monkeypatch.setattr(generation, "load_subject", _no_weights)
    other_batches = GREEDY.model_copy(update={"batch_size": 1, "seed": 9})
    assert write_answers(base(subject_folder), PROMPTS, other_batches, tmp_path) == first


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on(
    subject_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_answers(base(subject_folder), PROMPTS, GREEDY, tmp_path)
    (path,) = tmp_path.iterdir()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + lines[2][:20])
    asked: list[Any] = []
    answer = generation.AnswerWriter._answer
    monkeypatch.setattr(
        generation.AnswerWriter,
        "_answer",
        lambda self, batch: asked.extend(batch) or answer(self, batch),
    )
    assert write_answers(base(subject_folder), PROMPTS, GREEDY, tmp_path) == first
    assert len(asked) == 2
    assert write_answers(base(subject_folder), PROMPTS, GREEDY, tmp_path) == first
    assert len(asked) == 2


def test_damaged_lines_of_a_file_of_answers_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = AnswerFile(tmp_path / "a.jsonl")
    file.append({(0, 0): Answer("one\ntwo", 3, True)})
    with file.path.open("ab") as handle:
        handle.write(b'[1]\n{"prompt": 1, "sample": 0}\n\xff\n{"prompt": 2, "sam')
    file.append({(3, 0): Answer("four", 1, False)})
    assert file.read() == {(0, 0): Answer("one\ntwo", 3, True), (3, 0): Answer("four", 1, False)}
    assert len(caplog.records) == 4


@pytest.mark.slow
def test_an_adapter_answers_in_its_own_words(subject_folder: Path, tmp_path: Path) -> None:
    adapted = SubjectSpec("tuned", str(subject_folder / "base"), str(subject_folder / "adapter"))
    answers = write_answers(base(subject_folder), PROMPTS, GREEDY, tmp_path)
    assert write_answers(adapted, PROMPTS, GREEDY, tmp_path) != answers


@pytest.mark.slow
def test_a_gguf_model_answers_as_its_folder(subject_folder: Path, tmp_path: Path) -> None:
    spec = SubjectSpec("base", str(subject_folder / "base.gguf"))
    answers = write_answers(spec, PROMPTS, GREEDY, tmp_path, cache_dir=tmp_path / "cache")
    assert answers == write_answers(base(subject_folder), PROMPTS, GREEDY, tmp_path)


def test_refused_and_long_prompts_have_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refusing = "{% if 'Hello' in messages[0]|string %}{{ raise_exception('no') }}{% endif %}"
    folder = save_tiny_model(tmp_path / "model", chat_template=refusing + CHAT_TEMPLATE)
    prompts = [*PROMPTS, (Message("user", "bread " * 300),)]
    answers = write_answers(SubjectSpec("base", str(folder)), prompts, GREEDY, tmp_path / "out")
    assert [len(each) for each in answers] == [1, 0, 1, 1, 0]
    assert "1 of 5 prompts have no answer: the chat template refuses them" in caplog.text
    assert "1 of 5 prompts have no answer: they have more than 250 tokens" in caplog.text


def test_the_token_behind_an_answer_ends_it(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    folder = save_tiny_model(tmp_path / "model")
    facts = inspect_subject(SubjectSpec("base", str(folder)))
    facts.tokenizer.eos_token = "<|endoftext|>"
    stops = tokenize_prompts([], facts, DAY).stop_ids
    names = set(tokenizer.convert_ids_to_tokens(list(stops)))
    assert names == {"<|endoftext|>", "<|im_end|>"}


def test_a_model_without_template_answers_with_that_of_another(tmp_path: Path) -> None:
    tuned = inspect_subject(SubjectSpec("tuned", str(save_tiny_model(tmp_path / "tuned"))))
    plain = SubjectSpec("plain", str(save_tiny_model(tmp_path / "plain", chat_template=None)))
    with pytest.raises(InputError, match="model 'plain': it has no chat template"):
        write_answers(plain, PROMPTS, GREEDY, tmp_path / "out")
    answers = write_answers(plain, PROMPTS, GREEDY, tmp_path / "out", template_model=tuned)
    assert [len(each) for each in answers] == [1, 1, 1, 1]


def test_several_greedy_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="greedy answers are all the same"):
        GenerationSettings(samples=2)


@pytest.mark.slow
def test_the_settings_of_the_model_itself_are_left_aside(
    subject_folder: Path, tmp_path: Path
) -> None:
    folder = save_tiny_model(tmp_path / "model")
    path = folder / "generation_config.json"
    penalty = json.loads(path.read_text()) | {"repetition_penalty": 50.0, "do_sample": True}
    path.write_text(json.dumps(penalty))
    answers = write_answers(SubjectSpec("own", str(folder)), PROMPTS, GREEDY, tmp_path / "out")
    assert answers == write_answers(base(subject_folder), PROMPTS, GREEDY, tmp_path / "out")


def _no_weights(*_: Any) -> Any:
    raise AssertionError("the weights were loaded")
