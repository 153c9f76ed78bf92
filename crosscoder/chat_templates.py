"""A model's chat template: its text for a conversation, and which characters are which message's.

Templates are foreign programs. They run in a process of their own (`crosscoder.template_child`)
with a clock that stands; how much they write, how long they take and how much memory they use is
bounded, and what they say of a conversation they refuse is kept.

Messages are found in the text in three ways, from the surest to the most general; the first that
explains the whole text is taken:

1. The template is rendered again with a placeholder for each content. What lies around the
   placeholders is the template's own, and the text is that with the contents, as they are or
   trimmed, put in.
2. It is rendered with a mark at either end of each content. If the text without the marks is the
   same, all of a message's text lies between its marks, however it was rewritten.
3. The text is aligned with what the first way expects: the template's own text and the contents.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscoder import limits
from crosscoder.alignment import Piece, common_pieces
from crosscoder.corpus import Message
from crosscoder.errors import InputError, WorkError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


Conversation = Sequence[Mapping[str, Any]]
"""`{"role", "content"}` objects; content is a text or a list of parts."""

_CHILD = Path(__file__).with_name("template_child.py")
# Letters and figures alone: no escape changes them.
_PLACEHOLDER = re.compile(r"QxPlace(\d+)PlaceQx")
_MARK = re.compile(r"QxOpen(\d+)OpenQx|QxClose(\d+)CloseQx")


@dataclass(frozen=True)
class Refusal:
    """The template has no text for a conversation."""

    reason: str
    """Its words, on one line."""


class ChatTemplate:
    """Renders conversations with the chat template of a tokenizer; a context manager.

    Its process is started by the first conversation and ended with the context.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        day: date,
        model: str,
        opens_answer: bool = False,
    ) -> None:
        """`day` is what the template's clock shows; `model` names it in messages.

        With `opens_answer` the text ends where the assistant's answer begins.
        """
        self.model = model
        self._opens_answer = opens_answer
        self._tokenizer = tokenizer
        self._day = day
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> ChatTemplate:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def render(self, conversations: Sequence[Conversation], where: str) -> list[str | Refusal]:
        """The text of each conversation, or why the template refuses it.

        InputError, which begins with `where`, where the template is no valid one or goes beyond
        MAX_RENDERED_CHARACTERS, MAX_RENDER_SECONDS or MAX_RENDER_BYTES.
        """
        if self._process is None:
            self._process = self._start()
            self._check_answer(self._ask(self._setup(), where), where)
        answers = self._ask(conversations, where)
        return [self._render_answer(answer, where) for answer in answers]

    def _render_answer(self, answer: dict[str, str], where: str) -> str | Refusal:
        if "refused" in answer:
            return Refusal(_printable(answer["refused"]))
        if "limit" in answer:
            raise self._beyond(answer["limit"], where)
        text = answer["text"]
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return Refusal("it writes half of a surrogate pair")
        return text

    def _check_answer(self, answer: dict[str, str], where: str) -> None:
        if "refused" in answer:
            raise InputError(
                f"{self._name}: no valid template ({_printable(answer['refused'])}); "
                "name a model with another one in harvest.template_model"
            )
        if "limit" in answer:
            raise self._beyond(answer["limit"], where)

    def _setup(self) -> dict[str, Any]:
        try:
            template = self._tokenizer.get_chat_template()
        except ValueError as error:
            raise InputError(f"{self._name}: {error}") from None
        day = {"date_string": self._day.strftime("%d %b %Y")}
        return {
            "template": template,
            "values": {**self._tokenizer.special_tokens_map, **day},
            "date": datetime(self._day.year, self._day.month, self._day.day).isoformat(),
            "opens_answer": self._opens_answer,
            "max_characters": limits.MAX_RENDERED_CHARACTERS,
            "max_bytes": limits.MAX_RENDER_BYTES,
            "max_seconds": limits.MAX_RENDER_SECONDS,
        }

    def _start(self) -> subprocess.Popen[str]:
        # A session of its own: Ctrl-C and a closed terminal are this process's to handle; the
        # other one ends when its input does.
        return subprocess.Popen(
            [sys.executable, "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            start_new_session=True,
        )

    def _ask(self, question: object, where: str) -> Any:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise WorkError("the process that renders chat templates is not there")
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if not answer.endswith("\n"):
            raise self._death_error(process, where)
        return json.loads(answer)

    def _death_error(self, process: subprocess.Popen[str], where: str) -> Exception:
        """Why there is no answer; the system ends the process with a signal of its own."""
        import signal

        status = process.wait()
        if status == -signal.SIGPROF:
            return self._beyond("seconds", where)
        return InputError(
            f"{where}: {self._name} ended the process that renders it (status {status}); "
            "name a model with another one in harvest.template_model"
        )

    def _beyond(self, limit: str, where: str) -> InputError:
        words = {
            "characters": f"makes more than {limits.MAX_RENDERED_CHARACTERS:,} characters",
            "seconds": f"takes more than {limits.MAX_RENDER_SECONDS:g} seconds",
            "memory": f"needs more than {limits.MAX_RENDER_BYTES:,} bytes of memory",
        }[limit]
        return InputError(
            f"{where}: {self._name} {words} for this document; shorten the document, or name a "
            "model with another template in harvest.template_model"
        )

    @property
    def _name(self) -> str:
        return f"the chat template of model {self.model!r}"

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        process.wait()


def _printable(text: str) -> str:
    """The words of a template, safe to print on one line."""
    return "".join(each if each.isprintable() else " " for each in text)


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of a rendered text that come from one message."""

    start: int
    end: int
    message: int


@dataclass(frozen=True)
class RenderedChat:
    """A chat as the template writes it, and what of it is the messages'."""

    text: str
    spans: tuple[Span, ...]
    lost: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Stretches of a message's content that the text lacks, by message; white space aside."""


def render_chat(
    messages: Sequence[Message], template: ChatTemplate, where: str
) -> RenderedChat | Refusal:
    """Render the messages and find their text; a refusal where the template has no text for them.

    Contents are given as texts, or as lists of one part where the template reads only those.
    InputError as `ChatTemplate.render` raises it.
    """
    contents = [message.content for message in messages]
    best = _best_form(messages, template, where)
    text = best.text
    if isinstance(text, Refusal):
        return text
    if best.skeleton is not None:
        exact = _with_contents(contents, text, best.skeleton)
        if exact is not None:
            return exact
    if not _MARK.search(text):
        chat = _conversation(messages, _mark_ends(contents), best.as_parts)
        (marked,) = template.render([chat], where)
        found = _between_marks(contents, text, marked, best.shown)
        if found is not None:
            return found
    return _align(contents, text, best.skeleton or "")


def render_prompt(messages: Sequence[Message], template: ChatTemplate, where: str) -> str | Refusal:
    """The text of the messages alone, in the form in which `render_chat` gives them."""
    return _best_form(messages, template, where).text


@dataclass(frozen=True)
class _Form:
    """A chat rendered with its contents as texts or as parts."""

    text: str | Refusal
    skeleton: str | None
    """The text with a placeholder for each content; None where that cannot be had."""
    n_messages: int
    as_parts: bool

    @property
    def shown(self) -> frozenset[int]:
        """The messages that the skeleton shows."""
        return frozenset(int(index) for index in _PLACEHOLDER.findall(self.skeleton or ""))

    @property
    def is_whole(self) -> bool:
        """Whether there is a text that shows every message."""
        return not isinstance(self.text, Refusal) and len(self.shown) == self.n_messages

    @property
    def rank(self) -> tuple[bool, int]:
        """Of two forms the one with the higher rank is taken."""
        return not isinstance(self.text, Refusal), len(self.shown)


def _best_form(messages: Sequence[Message], template: ChatTemplate, where: str) -> _Form:
    """The form that shows most of the messages; texts rather than parts where both do."""
    forms = (_render(messages, template, where, as_parts) for as_parts in (False, True))
    best = next(forms)
    if best.is_whole:
        return best
    other = next(forms)
    return other if other.rank > best.rank else best


def _render(
    messages: Sequence[Message], template: ChatTemplate, where: str, as_parts: bool
) -> _Form:
    contents = [message.content for message in messages]
    placeholders = [f"QxPlace{index}PlaceQx" for index in range(len(messages))]
    chats = [_conversation(messages, each, as_parts) for each in (contents, placeholders)]
    text, skeleton = template.render(chats, where)
    if isinstance(skeleton, Refusal) or (isinstance(text, str) and _PLACEHOLDER.search(text)):
        return _Form(text, None, len(messages), as_parts)
    return _Form(text, skeleton, len(messages), as_parts)


def _conversation(
    messages: Sequence[Message], contents: Sequence[str], as_parts: bool
) -> Conversation:
    return [
        {
            "role": message.role,
            "content": [{"type": "text", "text": content}] if as_parts else content,
        }
        for message, content in zip(messages, contents, strict=True)
    ]


def _with_contents(contents: Sequence[str], text: str, skeleton: str) -> RenderedChat | None:
    """The chat if its text is the skeleton with every content, whole or trimmed, put in."""
    # Literal, message, literal, message, ..., literal.
    parts = _PLACEHOLDER.split(skeleton)
    spans: list[Span] = []
    written = 0
    for place in range(1, len(parts), 2):
        literal, message, following = parts[place - 1], int(parts[place]), parts[place + 1][:1]
        if not text.startswith(literal, written):
            return None
        start = written + len(literal)
        content = contents[message]
        for form in (content, content.strip(), content.rstrip(), content.lstrip()):
            written = start + len(form)
            if text.startswith(form, start) and text.startswith(following, written):
                break
        else:
            return None
        spans.append(Span(start, written, message))
    if text[written:] != parts[-1]:
        return None
    shown = {span.message for span in spans}
    lost = {m: (content,) for m, content in enumerate(contents) if m not in shown}
    return RenderedChat(
        text, tuple(spans), {m: rows for m, rows in lost.items() if rows[0].strip()}
    )


def _mark_ends(contents: Sequence[str]) -> list[str]:
    """Each content with a mark before its first and after its last visible character."""
    marked = []
    for index, content in enumerate(contents):
        core = content.strip()
        head, _, tail = content.partition(core) if core else (content, "", "")
        ends = (f"QxOpen{index}OpenQx", f"QxClose{index}CloseQx") if core else ("", "")
        marked.append(f"{head}{ends[0]}{core}{ends[1]}{tail}")
    return marked


def _between_marks(
    contents: Sequence[str], text: str, marked: str | Refusal, shown: frozenset[int]
) -> RenderedChat | None:
    """The chat if marks change nothing and each message that is `shown` lies between its own."""
    if isinstance(marked, Refusal) or _MARK.sub("", marked) != text:
        return None
    found: list[Span] = []
    removed = 0
    opened: tuple[int, int] | None = None
    for match in _MARK.finditer(marked):
        at = match.start() - removed
        removed += len(match.group())
        opens, message = match.group(1) is not None, int(match.group(1) or match.group(2))
        if opens == (opened is not None) or (opened is not None and opened[0] != message):
            return None
        if opened is not None:
            found.append(Span(opened[1], at, message))
        opened = (message, at) if opens else None
    marked_messages = {span.message for span in found}
    if opened or any(contents[m].strip() for m in shown - marked_messages):
        return None
    return _locate(contents, text, _pieces_between_marks(contents, text, found))


def _pieces_between_marks(
    contents: Sequence[str], text: str, regions: Sequence[Span]
) -> Iterator[_Found]:
    for region in regions:
        written = text[region.start : region.end]
        for piece in common_pieces([contents[region.message]], written):
            span = Span(region.start + piece.start, region.start + piece.end, region.message)
            yield _Found(span, piece.source_start, piece.source_end)


def _align(contents: Sequence[str], text: str, skeleton: str) -> RenderedChat:
    """The chat by an alignment of its text with the template's own text and the contents."""
    expected: list[tuple[int | None, str]] = []
    for place, part in enumerate(_PLACEHOLDER.split(skeleton)):
        expected.append((int(part), contents[int(part)]) if place % 2 else (None, part))
    shown = {message for message, _ in expected}
    for message in (m for m in range(len(contents)) if m not in shown):
        # What the skeleton lacks is expected behind the message before it.
        behind = [place for place, (m, _) in enumerate(expected) if m == message - 1]
        expected.insert(behind[-1] + 1 if behind else 0, (message, contents[message]))
    pieces = common_pieces([each for _, each in expected], text)
    return _locate(contents, text, _pieces_of_messages(expected, pieces))


def _pieces_of_messages(
    expected: Sequence[tuple[int | None, str]], pieces: Sequence[Piece]
) -> Iterator[_Found]:
    for piece in pieces:
        message = expected[piece.source][0]
        if message is not None:
            span = Span(piece.start, piece.end, message)
            yield _Found(span, piece.source_start, piece.source_end)


@dataclass(frozen=True)
class _Found:
    """A stretch of the text and the stretch [start, end) of a content that it comes from."""

    span: Span
    start: int
    end: int


def _locate(contents: Sequence[str], text: str, found: Iterator[_Found]) -> RenderedChat:
    """The chat with its spans, and what of the contents is nowhere in it."""
    spans: list[Span] = []
    known: dict[int, list[tuple[int, int]]] = {m: [] for m in range(len(contents))}
    for each in found:
        spans.append(each.span)
        known[each.span.message].append((each.start, each.end))
    lost = {m: tuple(_gaps(contents[m], stretches)) for m, stretches in known.items()}
    return RenderedChat(text, tuple(spans), {m: rows for m, rows in lost.items() if rows})


def _gaps(content: str, stretches: Sequence[tuple[int, int]]) -> Iterator[str]:
    """What lies between the stretches of a content, where it is more than white space."""
    reached = 0
    for start, end in [*sorted(stretches), (len(content), len(content))]:
        if start > reached and content[reached:start].strip():
            yield content[reached:start]
        reached = max(reached, end)
