"""The process in which chat templates run: `python -P template_child.py`, talked to in JSON lines.

A chat template is a program that came with a model. Python cannot stop one operation of such a
program (`'a' * 10**10`) from within, so it runs in a process of its own, whose memory and
processor time the system bounds. The first line that comes in is the setup (`template`, `values`,
`date`, `opens_answer`, `max_characters`, `max_bytes`, `max_seconds`); every further line is a list
of conversations, and is answered by a list of `{"text"}`, `{"refused"}` or `{"limit"}`.

The environment is that of transformers' `apply_chat_template`, except that the clock stands still
and nothing is drawn at random. Imports nothing of this project, so that it starts in an instant.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, TextIO

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

Setup = dict[str, Any]


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`: marks for training what the assistant said; renders what is inside."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_inside")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _inside(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """`dict(...)` in a template, without the attributes of Python's own type."""

    def __call__(self, *arguments: Any, **named: Any) -> dict[Any, Any]:
        return dict(*arguments, **named)

    def fromkeys(self, *arguments: Any) -> dict[Any, Any]:
        return dict.fromkeys(*arguments)


class _Namespace(jinja2.utils.Namespace):
    """`namespace(...)` in a template; names with a leading underscore are refused."""

    def __init__(*arguments: Any, **named: Any) -> None:
        self, arguments = arguments[0], arguments[1:]
        values = dict(*arguments, **named)
        for name in values:
            _Namespace._check(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"the name {name!r} is not allowed")


def _environment(now: datetime) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.filters["random"] = jinja2.filters.do_first
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = now.strftime
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    del environment.globals["lipsum"]
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: object) -> None:
    raise jinja2.TemplateError(str(message))


class _Renderer:
    """One template, rendered for many conversations within the limits."""

    def __init__(self, setup: Setup) -> None:
        self._values = setup["values"]
        self._opens_answer = setup["opens_answer"]
        self._max_characters = setup["max_characters"]
        self._max_seconds = setup["max_seconds"]
        environment = _environment(datetime.fromisoformat(setup["date"]))
        with _Deadline(self._max_seconds):
            self._template = environment.from_string(setup["template"])

    def render(self, messages: list[dict[str, Any]]) -> dict[str, str]:
        try:
            with _Deadline(self._max_seconds):
                return self._render(messages)
        except MemoryError:
            return {"limit": "memory"}
        except Exception as error:
            return {"refused": _words(error)}

    def _render(self, messages: list[dict[str, Any]]) -> dict[str, str]:
        parts: list[str] = []
        size = 0
        for part in self._template.generate(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=self._opens_answer,
            **self._values,
        ):
            parts.append(part)
            size += len(part)
            if size > self._max_characters:
                return {"limit": "characters"}
        return {"text": "".join(parts)}


class _Deadline:
    """The system ends this process if what is inside takes more processor time than that."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, self._seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _words(error: Exception) -> str:
    """What a template that cannot be rendered says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _limit_memory(n_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = n_bytes if hard == resource.RLIM_INFINITY else min(n_bytes, hard)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    except (ValueError, OSError):
        # Some systems do not bound the address space of a process; its time stays bounded.
        return


def _answer(answer: object, sink: TextIO) -> None:
    sink.write(json.dumps(answer) + "\n")
    sink.flush()


def main(source: TextIO, sink: TextIO) -> None:
    """Answer until the other side closes its end."""
    setup = json.loads(source.readline())
    _limit_memory(setup["max_bytes"])
    try:
        renderer = _Renderer(setup)
    except MemoryError:
        return _answer({"limit": "memory"}, sink)
    except Exception as error:
        return _answer({"refused": _words(error)}, sink)
    _answer({}, sink)
    for line in source:
        _answer([renderer.render(messages) for messages in json.loads(line)], sink)


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
