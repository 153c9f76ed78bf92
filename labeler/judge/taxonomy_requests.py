"""Questions about categories themselves: what a cluster is called, whether two are one."""

from __future__ import annotations

from typing import Any

from labeler.judge.answers import object_schema
from labeler.judge.base import JudgeRequest
from labeler.judge.rendering import escaped, frame
from labeler.judge.requests import make_request
from taxonomy.consolidation import PairTask
from taxonomy.naming import CategoryName, NamingTask

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
