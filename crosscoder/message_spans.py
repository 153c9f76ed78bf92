"""Which characters of a rendered chat come from which message.

Three ways, from the surest to the most general; the first that explains the whole text is taken:

1. The template is rendered again with a placeholder for each content. What lies around the
   placeholders is the template's own, and the text is that with the contents, as they are or
   trimmed, put in.
2. It is rendered with a mark at either end of each content. If the text without the marks is the
   same, all of a message's text lies between its marks, however it was rewritten.
3. The text is aligned with what the first way expects: the template's own text and the contents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from crosscoder.alignment import Piece, common_pieces
from crosscoder.chat_templates import ChatTemplate, Conversation, Refusal
from crosscoder.corpus import Message

# Letters and figures alone: no escape changes them.
_PLACEHOLDER = re.compile(r"QxPlace(\d+)PlaceQx")
_MARK = re.compile(r"QxOpen(\d+)OpenQx|QxClose(\d+)CloseQx")


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
    forms = (_render(messages, template, where, as_parts) for as_parts in (False, True))
    best = next(forms)
    if not best.is_whole:
        other = next(forms)
        best = other if other.rank > best.rank else best
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
