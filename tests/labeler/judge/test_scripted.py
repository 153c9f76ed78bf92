from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from judge_subjects import OPTIONS, refusals, subject

from labeler.embedding.embedders import TfidfEmbedder
from labeler.errors import UsageError
from labeler.judge.base import JudgeReply
from labeler.judge.factory import make_judge
from labeler.judge.prompts import categorize_request, explain_request
from labeler.study.judge_config import JudgeSection

EXPLAINED = {"explanation": "x", "interpretable": True, "confidence": 0.5}
NONE = {"outcome": "none", "categories": []}


def write(folder: Path, *lines: object) -> JudgeSection:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "script.jsonl").write_text(text + "\n", encoding="utf-8")
    return JudgeSection(kind="scripted", script="script.jsonl")


def test_the_first_line_that_fits_answers(tmp_path: Path) -> None:
    section = write(
        tmp_path,
        {"stage": "explain", "latent_index": 8, "answer": "never"},
        {"stage": "explain", "crosscoder": "other", "answer": "never"},
        {"stage": "explain", "contains": "no such words", "answer": "never"},
        "",
        {"stage": "explain", "latent_index": 7, "contains": "sorry", "answer": EXPLAINED},
        {"stage": "categorize", "answer": "free text"},
    )
    judge = make_judge(section, folder=tmp_path)
    seen: list[JudgeReply] = []

    async def note(reply: JudgeReply) -> None:
        seen.append(reply)

    async def both() -> list[JudgeReply]:
        return [
            await judge.ask(explain_request(subject(refusals())), note),
            await judge.ask(categorize_request(subject(refusals()), "x", OPTIONS), note),
        ]

    first, second = asyncio.run(both())
    assert first.parsed == EXPLAINED
    assert (second.status, second.raw) == ("parse_error", "free text")
    assert seen == [first, second]


def test_a_request_without_a_line_is_an_error_and_no_label(tmp_path: Path) -> None:
    judge = make_judge(write(tmp_path, {"stage": "categorize", "answer": NONE}), folder=tmp_path)
    reply = asyncio.run(judge.ask(explain_request(subject(refusals()))))
    assert (reply.status, reply.error) == (
        "parse_error",
        "no line of the script fits this request",
    )


def test_another_script_is_another_judge(tmp_path: Path) -> None:
    first = make_judge(write(tmp_path, {"stage": "explain", "answer": "a"}), folder=tmp_path)
    second = make_judge(write(tmp_path, {"stage": "explain", "answer": "b"}), folder=tmp_path)
    assert first.identity.params_sha256 != second.identity.params_sha256


@pytest.mark.parametrize("line", ["{", '{"stage": "explain"}', '{"stage": "explain", "x": 1}'])
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str) -> None:
    section = write(tmp_path, {"stage": "explain", "answer": "a"}, line)
    with pytest.raises(UsageError, match=r"judge\.script: .*script\.jsonl, line 2: "):
        make_judge(section, folder=tmp_path)


def test_a_missing_script_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"judge\.script: .*gone"):
        make_judge(JudgeSection(kind="scripted", script="gone.jsonl"), folder=tmp_path)
    with pytest.raises(UsageError, match=r"judge\.script: missing"):
        make_judge(JudgeSection(kind="scripted"))


def test_the_evidence_judge_needs_vectors() -> None:
    with pytest.raises(UsageError, match=r"judge\.kind: evidence needs"):
        make_judge(JudgeSection())
    judge = make_judge(JudgeSection(), TfidfEmbedder(["one two", "two three"]))
    assert judge.identity.name == "evidence-tfidf"
