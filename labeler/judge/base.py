"""What every judge is: its requests and replies as data, its protocol, and the kinds of judges."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from crosscoder.errors import InputError
from crosscoder.files import canonical_json, json_sha256, sha256_text
from labeler.errors import UsageError
from labeler.study.config import JUDGE_KINDS

if TYPE_CHECKING:
    from labeler.embedding.base import Embedder
    from labeler.judge.background import Background
    from labeler.judge.check import Fit
    from labeler.judge.lessons import Lesson
    from labeler.study.judge_config import EmbeddingSection, JudgeSection


Stage = Literal[
    "explain", "categorize", "detect", "fuzz", "name", "merge", "behaviour", "experiment", "revise"
]
ReplyStatus = Literal["ok", "parse_error", "refused", "too_long", "truncated", "transport_error"]
CONTENT_ROLES = frozenset({"user", "assistant", "plain"})
"""Roles of written text; tokens of other roles belong to the chat template."""


@dataclass(frozen=True)
class JudgeIdentity:
    """Identity of a judge; answers of judges with equal identity are interchangeable."""

    name: str
    """Name shown in reports, e.g. `evidence-minilm`."""
    model: str
    """Model behind the judge."""
    endpoint_kind: str
    """A kind of JUDGE_KINDS, or `import`."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Everything that can change an answer; no address, key, timeout or concurrency."""

    @property
    def params_sha256(self) -> str:
        """Hash of the parameters."""
        return json_sha256(dict(self.params))


@dataclass(frozen=True)
class Example:
    """Part of a document, token by token; the three sequences have equal length."""

    kind: str
    """`top`, `quantile`, `negative` or `other_model`."""
    split: str
    """`explain` or `score`."""
    tokens: tuple[str, ...]
    roles: tuple[str, ...]
    """Lower-case role of each token: template, bos, system, user, assistant, plain."""
    activations: tuple[float, ...]
    """Activation of the latent, 0 where it is not active."""
    quantile: int | None = None

    def __post_init__(self) -> None:
        """Refuse sequences of different length."""
        if not len(self.tokens) == len(self.roles) == len(self.activations):
            raise ValueError("tokens, roles and activations of an example differ in length")

    @cached_property
    def peak(self) -> float:
        """Largest activation in the example."""
        return max(self.activations, default=0.0)


@dataclass(frozen=True)
class LatentFacts:
    """Statistics of a latent from the crosscoder; None where unknown or undefined."""

    target_model: str | None = None
    reference_model: str | None = None
    delta_norm: float | None = None
    """1 = only the target model has a decoder vector, 0 = only the reference model."""
    nu_error: float | None = None
    nu_reconstruction: float | None = None
    density: float | None = None
    """Share of tokens on which the latent is active."""
    n_documents: int | None = None


@dataclass(frozen=True)
class LatentRecord:
    """One latent with the evidence that a judge may see."""

    latent_id: int
    crosscoder: str
    latent_index: int
    windows: tuple[Example, ...]
    facts: LatentFacts = LatentFacts()

    def of_kind(self, *kinds: str) -> tuple[Example, ...]:
        """Examples of the given kinds, in order."""
        return tuple(window for window in self.windows if window.kind in kinds)


@dataclass(frozen=True)
class CategoryOption:
    """A category that a judge may choose."""

    slug: str
    name: str
    parent: str | None
    definition: str
    include_when: str = ""
    exclude_when: str = ""
    prototypes: tuple[str, ...] = ()
    behaviour: str = ""
    """What an answer of the category looks like."""

    @property
    def description(self) -> str:
        """Name and definition in one sentence."""
        return f"{self.name}: {self.definition}" if self.definition else self.name


@dataclass(frozen=True)
class ShownExample:
    """A text that a judge is asked about, under a neutral id."""

    id: str
    window: Example
    marks: frozenset[int] = frozenset()
    """`fuzz`: positions of the marked tokens, right or wrong; `detect` shows none."""


@dataclass(frozen=True)
class ChatMessage:
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class JudgeRequest:
    """One request: as a chat for language models, and as data for the evidence judge."""

    stage: Stage
    prompt_name: str
    prompt_sha256: str
    """Hash of the prompt file's text."""
    messages: tuple[ChatMessage, ...]
    schema: Mapping[str, Any]
    """JSON schema of the answer."""
    sample: int = 0
    """Number of the answer, where a question is asked several times."""
    subject: LatentRecord | None = None
    options: tuple[CategoryOption, ...] = ()
    """The categories with their definitions, in the order in which they are shown."""
    further: tuple[str, ...] = ()
    """Slugs of the categories that `categorize` only names: the judge may ask to see them all."""
    explanation: str | None = None
    lesson: Lesson | None = None
    """Reviewed latents from which a judge that reads windows learns; a prompt shows some itself."""
    examples: tuple[ShownExample, ...] = ()
    """The texts that `detect` and `fuzz` ask about."""
    answer: str | None = None
    """The answer of a chat model that `behaviour` asks about."""
    token: str | None = None
    """The random token of the marker lines around the data, which no answer may hold."""
    background: Background | None = None
    """Other text of the study, for a judge that compares the latent's text with it."""

    @property
    def example_ids(self) -> tuple[str, ...]:
        """Ids of the examples, in the order in which they are shown."""
        return tuple(example.id for example in self.examples)

    def sha256(self, identity: JudgeIdentity) -> str:
        """Hash of judge and question; run and latent number are not part of it."""
        asked: dict[str, Any] = {
            "judge": [identity.name, identity.model, identity.endpoint_kind],
            "params": dict(identity.params),
            "stage": self.stage,
            "messages": [[message.role, message.content] for message in self.messages],
            "schema": dict(self.schema),
            "sample": self.sample,
        }
        if self.subject is not None and judge_kind(identity.endpoint_kind).reads_windows:
            asked["windows"] = [_window_content(window) for window in self.subject.windows]
            asked["prototypes"] = [list(option.prototypes) for option in self.options]
            if self.lesson is not None:
                asked["lesson"] = self.lesson.sha256
        if self.background is not None:
            asked["background"] = self.background.fingerprint
        return sha256_text(canonical_json(asked).encode("utf-8", "backslashreplace").decode())


@dataclass(frozen=True)
class JudgeReply:
    """Result of one call; `parsed` is set exactly where `status` is ok."""

    status: ReplyStatus
    raw: str | None = None
    """The judge's answer, unchanged."""
    parsed: dict[str, Any] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    estimated_prompt_tokens: int | None = None
    """What counts towards a limit where the server reports nothing."""
    estimated_completion_tokens: int | None = None
    latency_s: float | None = None
    error: str | None = None
    may_be_charged: bool = False
    """Whether the server may have worked for it without a word: a timeout, a lost connection."""
    parameters: Mapping[str, Any] | None = None
    """Request parameters that the server takes; None where unknown."""

    def __post_init__(self) -> None:
        """Check that `parsed` and `status` agree."""
        if (self.status == "ok") != (self.parsed is not None):
            raise ValueError("a reply has a parsed answer exactly where its status is ok")


OnAttempt = Callable[[JudgeReply], Awaitable[None]]
"""Called after every attempt, the last one included, in order."""


async def ignore_attempt(_: JudgeReply) -> None:
    """Record nothing."""


@runtime_checkable
class UsesParameters(Protocol):
    """A judge that adapts its request parameters to its server."""

    def use_parameters(self, known: Mapping[str, Any]) -> None:
        """Start with the parameters that an earlier run found."""
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """A judge that computes faster for many requests at once."""

    @property
    def ahead(self) -> int:
        """Requests that it reads together."""
        ...

    def read_ahead(self, requests: Sequence[JudgeRequest]) -> None:
        """Compute what the answers to requests need, before each of them is asked."""
        ...


class Judge(Protocol):
    """Explains latents and assigns categories to them."""

    @property
    def identity(self) -> JudgeIdentity:
        """The judge's identity."""
        ...

    @property
    def concurrency(self) -> int:
        """Requests that it takes at a time."""
        ...

    async def ask(
        self, request: JudgeRequest, on_attempt: OnAttempt = ignore_attempt
    ) -> JudgeReply:
        """Answer one request; WorkError where no further request can succeed."""
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...


def _window_content(window: Example) -> list[Any]:
    activations = [float(f"{value:.6g}") for value in window.activations]
    return [window.kind, window.quantile, list(window.tokens), list(window.roles), activations]


class JudgeKind:
    """A value of `judge.kind`: a subclass registers itself in JUDGE_KINDS, and says what differs.

    Judges of it have the kind's name as their identity's `endpoint_kind`.
    """

    note: ClassVar[str] = "A judge of a kind that is not installed here."
    """What the report says of such a judge, in one sentence."""
    needs_embedder: ClassVar[bool] = False
    """Whether it computes with the vectors of `[embedding]`."""
    is_metered: ClassVar[bool] = True
    """Whether its calls cost something: they are planned, priced and kept within the limits of a
    run, and of the latents on no side only `random_latents` are labelled."""
    reads_windows: ClassVar[bool] = False
    """Whether it answers from a latent's windows and the prototypes, which no message holds."""
    writes_texts: ClassVar[bool] = True
    """Whether it can write texts that test an explanation (`judge.revise`)."""
    reads_background: ClassVar[bool] = False
    """Whether it explains a latent by what sets its text apart from other text of the study."""
    names_categories: ClassVar[bool] = True
    """Whether it can name a cluster of explanations."""
    examples_per_call: ClassVar[int] = 20
    """Examples of `[scores]` in one call, where `per_call` says nothing else."""
    cannot_score: ClassVar[Mapping[str, str]] = {}
    method: ClassVar[int | None] = None
    """Version of how a judge that costs nothing answers: a new one makes its labels again."""
    """Methods of `[scores]` that it can not answer, each with the reason."""

    def make(self, section: JudgeSection, folder: Path | None, embedder: Embedder | None) -> Judge:
        """The judge of a section; its relative paths lie in `folder`.

        `embedder` is there where the kind needs one. Raises UsageError that names the key which
        is missing or wrong.
        """
        raise NotImplementedError

    def expected_name(self, section: JudgeSection, embedding: EmbeddingSection) -> str:
        """The name of the judge that would be made; nothing is loaded and nobody is asked."""
        return section.model or section.kind

    def check(self, section: JudgeSection) -> Sequence[Fit]:
        """Ask every server of the judge one question; UsageError where the kind has no server."""
        checked = [
            name for name in JUDGE_KINDS.names() if type(judge_kind(name)).check != JudgeKind.check
        ]
        raise UsageError(
            f"judge.kind: {section.kind} has no server to check; {', '.join(checked)} has"
        )


def judge_kind(name: str) -> JudgeKind:
    """The kind of that name; the plain JudgeKind where none is registered.

    The database knows more kinds than that: imported labels, judges of an extension that is gone.
    """
    try:
        JUDGE_KINDS.require(name)
    except InputError:
        return JudgeKind()
    kind: type[JudgeKind] = JUDGE_KINDS.get(name)
    return kind()
