"""A model's chat template, run in a process of its own within limits and with a clock that stands.

`crosscoder.template_child` is that process. Templates are foreign programs: how much they write,
how long they take and how much memory they use is bounded, and what they say of a conversation
they refuse is kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscoder import limits
from crosscoder.errors import InputError, WorkError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Conversation = Sequence[Mapping[str, Any]]
"""`{"role", "content"}` objects; content is a text or a list of parts."""

_CHILD = Path(__file__).with_name("template_child.py")


@dataclass(frozen=True)
class Refusal:
    """The template has no text for a conversation."""

    reason: str
    """Its words, on one line."""


class ChatTemplate:
    """Renders conversations with the chat template of a tokenizer; a context manager.

    Its process is started by the first conversation and ended with the context.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, day: date, model: str) -> None:
        """`day` is what the template's clock shows; `model` names it in messages."""
        self.model = model
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
