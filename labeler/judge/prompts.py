"""Loads prompt files and builds requests from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from string import Template
from typing import Any, Literal

from crosscoder.files import sha256_text
from labeler.judge.answers import categorize_schema, examples_schema, explain_schema, object_schema
from labeler.judge.base import (
    CategoryOption,
    ChatMessage,
    JudgeRequest,
    LatentRecord,
    ShownExample,
    Stage,
)
from labeler.judge.rendering import (
    escaped,
    frame,
    render_evidence,
    render_examples,
    render_facts,
    render_options,
)
from taxonomy.induction import NamingTask, PairTask
from taxonomy.tree import CategoryName

_SYSTEM, _USER = "### system\n", "### user\n"


@dataclass(frozen=True)
class PromptFile:
    """A prompt file of the package."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Hash of the text."""
        return sha256_text(self.text)

    def messages(self, values: Mapping[str, str]) -> tuple[ChatMessage, ...]:
        """Fill in both parts; a `$` inside a value stays as it is."""
        system, user = self.text.removeprefix(_SYSTEM).split(_USER)
        return (
            ChatMessage("system", Template(system).substitute(values).strip()),
            ChatMessage("user", Template(user).substitute(values).strip()),
        )


@cache
def prompt_file(name: str) -> PromptFile:
    """Read a prompt of the package."""
    source = resources.files("labeler.judge").joinpath("prompts", f"{name}.txt")
    return PromptFile(name, source.read_text(encoding="utf-8"))


def make_request(
    stage: Stage, values: Mapping[str, str], schema: Mapping[str, Any], **more: Any
) -> JudgeRequest:
    """A request from the prompt with the stage's name; `more` are further fields of the request."""
    prompt = prompt_file(stage)
    return JudgeRequest(
        stage=stage,
        prompt_name=prompt.name,
        prompt_sha256=prompt.sha256,
        messages=prompt.messages(values),
        schema=schema,
        **more,
    )


def explain_request(subject: LatentRecord, sample: int = 0) -> JudgeRequest:
    """Ask what a latent stands for."""
    framed = frame(render_evidence(subject))
    values = {
        "facts": render_facts(subject.facts),
        "token": framed.token,
        "frame": framed.text,
    }
    return make_request("explain", values, explain_schema(), sample=sample, subject=subject)


def categorize_request(
    subject: LatentRecord,
    explanation: str,
    options: Sequence[CategoryOption],
    sample: int = 0,
) -> JudgeRequest:
    """Ask for the categories of a latent; the options keep their order."""
    framed = frame(f"explanation: {escaped(explanation)}\n{render_evidence(subject)}")
    values = {
        "options": render_options(tuple(options)),
        "token": framed.token,
        "frame": framed.text,
    }
    return make_request(
        "categorize",
        values,
        categorize_schema([option.slug for option in options]),
        sample=sample,
        subject=subject,
        options=tuple(options),
        explanation=explanation,
    )


def behaviour_request(
    messages: Sequence[tuple[str, str]],
    answer: str,
    options: Sequence[CategoryOption],
) -> JudgeRequest:
    """Ask which categories' behaviours an answer to a chat shows; nothing tells the model.

    Only options with a `behaviour` line can be chosen; the others say what else there is.
    """
    described = [option for option in options if option.behaviour]
    turns = [f"{role}: {escaped(content)}" for role, content in messages]
    framed = frame("\n".join([*turns, f"answer: {escaped(answer)}"]))
    values = {
        "options": "\n".join(f"- {each.slug}: {escaped(each.behaviour)}" for each in described),
        "token": framed.token,
        "frame": framed.text,
    }
    return make_request(
        "behaviour",
        values,
        categorize_schema([option.slug for option in described]),
        options=tuple(options),
        answer=answer,
    )


def detect_request(
    explanation: str, examples: Sequence[ShownExample], sample: int = 0
) -> JudgeRequest:
    """Ask on which of some texts a latent with this explanation fires."""
    return _examples_request("detect", explanation, examples, sample)


def fuzz_request(
    explanation: str, examples: Sequence[ShownExample], sample: int = 0
) -> JudgeRequest:
    """Ask in which of some texts the marked tokens are those on which the latent fires."""
    return _examples_request("fuzz", explanation, examples, sample)


def _examples_request(
    stage: Literal["detect", "fuzz"],
    explanation: str,
    examples: Sequence[ShownExample],
    sample: int,
) -> JudgeRequest:
    # The token depends on the explanation alone, so that its prompts share a prefix.
    framed = frame(render_examples(explanation, examples), key=explanation)
    return make_request(
        stage,
        {"token": framed.token, "frame": framed.text},
        examples_schema([example.id for example in examples]),
        sample=sample,
        explanation=explanation,
        examples=tuple(examples),
    )


_KINDS = {
    2: ("cluster of explanations",
        "Each explanation says on which text one latent of a language model fires."),
    1: ("group of categories",
        "Each member is a category of explanations with its definition; you name what is above."),
}  # fmt: skip


def name_schema() -> dict[str, Any]:
    """JSON schema of a name."""
    keys = ("name", "definition", "include_when", "exclude_when")
    return object_schema({key: {"type": "string"} for key in keys})


def merge_schema() -> dict[str, Any]:
    """JSON schema of a comparison."""
    return object_schema({"same": {"type": "boolean"}, "reason": {"type": "string"}})


def name_request(task: NamingTask) -> JudgeRequest:
    """Ask for the name of a cluster, or of a group of categories."""
    kind, purpose = _KINDS[task.level]
    framed = frame("\n".join(["members:", *_listed(task.members), "outsiders:",
                              *(_listed(task.outsiders) or ["- (none)"])]))  # fmt: skip
    values = {
        "kind": kind,
        "purpose": purpose,
        "size": str(task.size),
        "token": framed.token,
        "frame": framed.text,
    }
    return make_request("name", values, name_schema(), sample=task.sample)


def merge_request(task: PairTask) -> JudgeRequest:
    """Ask whether two categories are one."""
    body = [
        *_category("first", task.first, task.first_examples),
        *_category("second", task.second, task.second_examples),
    ]
    framed = frame("\n".join(body))
    return make_request("merge", {"token": framed.token, "frame": framed.text}, merge_schema())


def _category(place: str, name: CategoryName, examples: tuple[str, ...]) -> list[str]:
    return [
        f"{place} category: {escaped(name.description)}",
        f"{place} category's members:",
        *_listed(examples),
    ]


def _listed(texts: tuple[str, ...]) -> list[str]:
    return [f"- {escaped(' '.join(text.split()))}" for text in texts]
