"""Checks a judge with one schema-constrained request; one line says what is wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from crosscoder.errors import InputError
from crosscoder.limits import parse_json
from labeler.errors import UsageError, WorkError
from labeler.http.client import (
    Connection,
    ConnectionFailedError,
    Endpoint,
    HttpAnswer,
    ServerError,
    duration_words,
    read_key,
    retry_after_s,
    server_error,
    server_words,
    tls_for,
    without_key,
)
from labeler.judge.answers import explain_schema, unfenced, whole_object
from labeler.judge.base import ChatMessage, JudgeRequest
from labeler.judge.completions import read_completion, read_message, shape_problem
from labeler.judge.openai import CHAT_PATH, endpoints_of, fixed_by, request_body
from labeler.judge.parameters import Negotiation, Parameters, speaks_of_schema
from labeler.judge.prompt_limits import PromptLimits, context_problem
from labeler.study.judge_config import JudgeSection
from labeler.text import one_line

QUESTION = (
    "Three texts: 'I am sorry, I cannot help.' 'Sorry, no.' 'I'm sorry, but I won't.' Say in one "
    "sentence what they have in common. Answer with one JSON object with the keys explanation "
    "(text), interpretable (true or false) and confidence (a number from 0 to 1)."
)
Result = TypeVar("Result")
_FENCE_WARNING = (
    "{}: warning: the answer stood in a code fence, so response_format json_schema was not obeyed; "
    "such answers are read all the same"
)


@dataclass(frozen=True)
class Fit:
    """A judge that passed the check."""

    base_url: str
    model: str
    seconds: float
    prompt_tokens: int | None
    completion_tokens: int | None
    parameters: Parameters
    """The parameters that the server takes."""
    warning: str | None = None
    """A harmless deviation, in words."""

    @property
    def words(self) -> str:
        """One line."""
        tokens = "no usage told"
        if self.prompt_tokens is not None:
            tokens = f"{self.prompt_tokens} + {self.completion_tokens} tokens"
        return f"{self.base_url}: {self.model} answered in {self.seconds:.2f} s, {tokens}"

    @property
    def parameter_words(self) -> str:
        """One line about the parameters that the server takes."""
        return f"{self.base_url}: {self.parameters.words}"


def check_judge(section: JudgeSection) -> list[Fit]:
    """Check every endpoint of a judge, all with the same parameters.

    Raises UsageError where the config is wrong (key, model, context), WorkError where the server
    is (down, no schema support, other parameters than the servers before it).
    """
    negotiation = Negotiation(fixed_by(section))
    return [_check(endpoint, section, negotiation) for endpoint in endpoints_of(section)]


def _check(endpoint: Endpoint, section: JudgeSection, negotiation: Negotiation) -> Fit:
    read_key(endpoint.api_key_env)
    try:
        return asyncio.run(_ask(endpoint, section, negotiation))
    except TimeoutError:
        raise WorkError(
            f"{endpoint.base_url}: no answer within {section.timeout_s:g} s (judge.timeout_s)"
        ) from None
    except ConnectionFailedError as error:
        words = without_key(one_line(str(error)), endpoint.api_key_env)
        raise WorkError(
            f"{endpoint.base_url}: the server is down or not there ({words}); "
            "`difflens judge serve` starts one"
        ) from None


async def _with_timeout(section: JudgeSection, work: Awaitable[Result]) -> Result:
    """Await `work` for at most `judge.timeout_s` in total."""
    async with asyncio.timeout(section.timeout_s):
        return await work


async def _ask(endpoint: Endpoint, section: JudgeSection, negotiation: Negotiation) -> Fit:
    connection = Connection(endpoint, tls_for((endpoint,)))
    try:
        while True:
            parameters = negotiation.current
            body = request_body(endpoint.model, _request())
            body |= parameters.body(section.temperature, section.max_tokens)
            started = time.monotonic()
            answer = await _with_timeout(section, connection.post(CHAT_PATH, body))
            seconds = time.monotonic() - started
            if answer.status == 200:
                break
            error = server_error(answer.status, answer.content, endpoint.api_key_env)
            adapted = negotiation.refused(endpoint, parameters, error)
            if adapted is None:
                models = await _models(connection, section)
                raise _refusal(error, answer, endpoint, section, list(models))
            if adapted.stops_with is not None:
                raise WorkError(f"{endpoint.base_url}: {error.shown}{adapted.stops_with}")
        negotiation.answered(endpoint, parameters)
        models = await _models(connection, section)
    finally:
        await connection.aclose()
    return _fit_of(endpoint, section, answer, seconds, parameters, models)


def _fit_of(
    endpoint: Endpoint,
    section: JudgeSection,
    answer: HttpAnswer,
    seconds: float,
    parameters: Parameters,
    models: dict[str, int | None],
) -> Fit:
    _require_model(endpoint, list(models))
    try:
        body = answer.json_object(endpoint)
    except InputError as error:
        raise WorkError(f"{endpoint.base_url}: is no chat API: {error}") from None
    shapeless = shape_problem(body)
    if shapeless is not None:
        said = without_key(server_words(answer.content), endpoint.api_key_env)
        raise WorkError(f"{endpoint.base_url}: {shapeless}; the server said {said[:120]!r}")
    reply = read_completion(_request(), body, seconds, section.thinking_markers)
    if reply.status == "truncated":
        raise UsageError(
            f"judge.max_tokens: {section.max_tokens} end before the answer does; raise it, or "
            "forbid white space in the server's JSON grammar (`difflens judge serve` does)"
        )
    if reply.status == "refused":
        raise WorkError(
            f"{endpoint.base_url}: {endpoint.model} refused a harmless question: "
            f"{(reply.raw or '')[:120]!r}; latents that a model refuses get no label, name another"
        )
    message = read_message(body, section.thinking_markers)
    words = message.said.words or message.reasoning.strip()
    if reply.status != "ok" or (whole_object(words) is None and not message.tool_calls):
        raise WorkError(
            f"{endpoint.base_url}: ignores response_format json_schema; the answer was "
            f"{(reply.raw or '')[:120]!r}; use a server that constrains JSON (vLLM does)"
        )
    _require_context(endpoint, section, models)
    return Fit(
        endpoint.base_url,
        endpoint.model,
        seconds,
        reply.prompt_tokens,
        reply.completion_tokens,
        parameters,
        _FENCE_WARNING.format(endpoint.base_url) if unfenced(words) != words else None,
    )


def _request() -> JudgeRequest:
    message = ChatMessage("user", QUESTION)
    return JudgeRequest("explain", "check", "0" * 64, (message,), explain_schema())


async def _models(connection: Connection, section: JudgeSection) -> dict[str, int | None]:
    """The server's models, with the length of their context where it is stated."""
    try:
        answer = await _with_timeout(section, connection.get("/models"))
        rows = parse_json(answer.content, "the models")["data"] if answer.status == 200 else []
        found = {str(row["id"]): row.get("max_model_len") for row in rows}
        return {name: size if isinstance(size, int) else None for name, size in found.items()}
    except (InputError, ConnectionFailedError, TimeoutError, KeyError, TypeError, AttributeError):
        return {}


def _refusal(
    error: ServerError,
    answer: HttpAnswer,
    endpoint: Endpoint,
    section: JudgeSection,
    models: list[str],
) -> Exception:
    where = endpoint.base_url
    if error.status in (401, 403):
        variable = endpoint.api_key_env
        how = f"the key in {variable} is refused" if variable else "missing, a key is needed"
        return UsageError(f"judge.api_key_env: {how}; {where} said {error.status}: {error.words}")
    _require_model(endpoint, models)
    if error.outcome == "too_long":
        return UsageError(
            f"judge.max_tokens: {where} has too short a context for {section.max_tokens} tokens "
            f"of answer ({error.words}); lower it, or raise judge.server.max_model_len"
        )
    if speaks_of_schema(error):
        return WorkError(f"{where}: takes no response_format json_schema ({error.shown})")
    if error.status == 404:
        return UsageError(
            f"judge.base_url: nothing at {where}{CHAT_PATH}; end it in /v1? "
            f"the server said 404: {error.words}"
        )
    wait_s = retry_after_s(answer.headers.get("retry-after"))
    asked = f"; it asks to wait {duration_words(wait_s)} (Retry-After)" if wait_s else ""
    return WorkError(f"{where}: {error.shown}{asked}")


def _require_model(endpoint: Endpoint, models: list[str]) -> None:
    """UsageError where the server has other models only: some answer with one of those."""
    if models and endpoint.model not in models:
        raise UsageError(
            f"judge.model: {endpoint.base_url} has no {endpoint.model!r}; "
            f"it has {one_line(', '.join(models[:10]))}"
        )


def _require_context(
    endpoint: Endpoint, section: JudgeSection, models: dict[str, int | None]
) -> None:
    context = models.get(endpoint.model)
    limits = PromptLimits(section.explain_tokens, section.categorize_tokens)
    problem = context_problem(limits, section.max_tokens, context) if context is not None else None
    if problem is not None:
        raise UsageError(f"judge.server.max_model_len: {endpoint.base_url}: {problem}")
