"""Loads prompt files and builds requests from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from string import Template
from typing import Any, Literal

from crosscoder.files import sha256_text
from labeler.judge.answers import (
    NONE,
    SEE_ALL,
    categorize_schema,
    examples_schema,
    explain_schema,
    object_schema,
)
from labeler.judge.base import (
    CategoryOption,
    ChatMessage,
    Example,
    JudgeRequest,
    LatentRecord,
    ShownExample,
    Stage,
)
from labeler.judge.labelled_evidence import LabelledLatent
from labeler.judge.prompt_limits import (
    PromptLimits,
    by_turns,
    cut,
    estimated_tokens,
    fitting,
    strongest_first,
)
from labeler.judge.rendering import (
    OptionForm,
    escaped,
    frame,
    render_evidence,
    render_examples,
    render_facts,
    render_options,
    render_reviewed,
    scale_of,
)
from taxonomy.induction import NamingTask, PairTask
from taxonomy.tree import CategoryName

LIMITS = PromptLimits()
EXPLAIN_TEXTS, CATEGORIZE_TEXTS = 12, 5
"""Most texts that a prompt shows."""
LEAST_TEXTS = 3
"""Texts to which the `exclude` lines of the categories give way."""
REVIEWED_TEXTS, LONGEST_REVIEWED = 2, 24
"""Texts of a reviewed latent that a prompt shows as an example, and the most tokens of each."""
MOST_NAMED = 60
"""Most categories that are named without their definitions."""
TEMPLATE_TOKENS = 12
"""Tokens that a chat template adds to two messages."""
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


def explain_request(
    subject: LatentRecord, sample: int = 0, limit: int = LIMITS.explain
) -> JudgeRequest:
    """Ask what a latent stands for, in a prompt of about `limit` tokens at most.

    Of more than EXPLAIN_TEXTS texts, or than fit, those are shown that come first by turns of the
    kinds.
    """

    def request(windows: Sequence[Example]) -> JudgeRequest:
        framed = frame(render_evidence(windows, scale_of(subject.windows)))
        values = {"facts": render_facts(subject.facts), "frame": framed.text}
        return make_request(
            "explain", values, explain_schema(), token=framed.token, sample=sample, subject=subject
        )

    scale = scale_of(subject.windows)
    shown = [cut(window) for window in by_turns(subject.windows)][:EXPLAIN_TEXTS]
    room = limit - tokens_of(request(()))
    return request(fitting(shown, lambda one: tokens_of_text(one, scale), room))


def categorize_request(
    subject: LatentRecord,
    explanation: str,
    options: Sequence[CategoryOption],
    sample: int = 0,
    further: Sequence[str] = (),
    limit: int = LIMITS.categorize,
    reviewed: Sequence[LabelledLatent] = (),
) -> JudgeRequest:
    """Ask for the categories of a latent, in a prompt of about `limit` tokens at most.

    The options keep their order; `further` are the slugs of those that are only named. Where the
    options leave too little room for texts, they lose their `exclude` lines. The
    strongest texts are shown, as many as fit. `reviewed` are other latents with the categories
    that people gave them, shown before it; the last ones give way to its texts.
    """

    def request(
        windows: Sequence[Example], form: OptionForm, examples: Sequence[LabelledLatent]
    ) -> JudgeRequest:
        texts = render_evidence(windows, 0.0, with_strengths=False)
        blocks = (_examples(examples), f"explanation: {escaped(explanation)}", texts)
        framed = frame("\n".join(filter(None, blocks)))
        values = {
            "reviewed": REVIEWED_LINE if examples else "",
            "options": render_options(options, form),
            "frame": framed.text,
            "further": _further(further),
            "see_all": f', "{SEE_ALL}"' if further else "",
        }
        return make_request(
            "categorize",
            values,
            categorize_schema(
                [option.slug for option in options], [NONE, SEE_ALL] if further else [NONE]
            ),
            token=framed.token,
            sample=sample,
            subject=subject,
            options=tuple(options),
            further=tuple(further),
            explanation=explanation,
        )

    texts = [cut(window) for window in strongest_first(subject.windows)][:CATEGORIZE_TEXTS]
    lengths = [tokens_of_text(text) for text in texts]
    form: OptionForm = "bounded"
    examples, least = tuple(reviewed), sum(lengths[:LEAST_TEXTS])
    room = limit - tokens_of(request((), form, examples))
    if room < least:
        form = "definition"
        room = limit - tokens_of(request((), form, examples))
    while examples and room < least:
        examples = examples[:-1]
        room = limit - tokens_of(request((), form, examples))
    return request(fitting(texts, tokens_of_text, room), form, examples)


REVIEWED_LINE = (
    "\n- [r1] opens another latent that a person has put into the category named beside it."
)
"""What a prompt says of reviewed latents, where it shows any."""


def _examples(reviewed: Sequence[LabelledLatent]) -> str:
    """Reviewed latents, each with its category and its strongest texts, cut short."""
    shown = [
        (
            latent.category,
            [
                cut(window, LONGEST_REVIEWED)
                for window in strongest_first(latent.subject.windows)[:REVIEWED_TEXTS]
            ],
        )
        for latent in reviewed
    ]
    return render_reviewed(shown)


def tokens_of(request: JudgeRequest) -> int:
    """Estimated tokens of a request's messages."""
    return TEMPLATE_TOKENS + sum(estimated_tokens(each.content) for each in request.messages)


def tokens_of_text(window: Example, scale: float = 0.0) -> int:
    """Estimated tokens of an example as it is shown, with its strengths where there is a scale."""
    return estimated_tokens(render_evidence([window], scale, with_strengths=scale > 0))


def _further(slugs: Sequence[str]) -> str:
    if not slugs:
        return ""
    named = ", ".join(slugs[:MOST_NAMED])
    more = f" and {len(slugs) - MOST_NAMED} more" if len(slugs) > MOST_NAMED else ""
    return f"\n- {SEE_ALL}: one of these may fit better, show me their definitions: {named}{more}"


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
        "frame": framed.text,
    }
    return make_request(
        "behaviour",
        values,
        categorize_schema([option.slug for option in described]),
        token=framed.token,
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
        {"frame": framed.text},
        examples_schema([example.id for example in examples]),
        token=framed.token,
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
        "frame": framed.text,
    }
    return make_request("name", values, name_schema(), token=framed.token, sample=task.sample)


def merge_request(task: PairTask) -> JudgeRequest:
    """Ask whether two categories are one."""
    body = [
        *_category("first", task.first, task.first_examples),
        *_category("second", task.second, task.second_examples),
    ]
    framed = frame("\n".join(body))
    return make_request("merge", {"frame": framed.text}, merge_schema(), token=framed.token)


def _category(place: str, name: CategoryName, examples: tuple[str, ...]) -> list[str]:
    return [
        f"{place} category: {escaped(name.description)}",
        f"{place} category's members:",
        *_listed(examples),
    ]


def _listed(texts: tuple[str, ...]) -> list[str]:
    return [f"- {escaped(' '.join(text.split()))}" for text in texts]
