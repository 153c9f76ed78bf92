"""A judge behind OpenAI-compatible chat endpoints: vLLM, llama-server, a hosted API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscoder.errors import InputError
from labeler.errors import UsageError, WorkError
from labeler.http.client import (
    Connection,
    ConnectionFailedError,
    Endpoint,
    HttpAnswer,
    ServerError,
    UnknownRefusals,
    duration_words,
    is_worth_retrying,
    read_key,
    retry_after_s,
    server_error,
    without_key,
)
from labeler.judge.answers import Marker
from labeler.judge.base import (
    ChatMessage,
    JudgeIdentity,
    JudgeKind,
    JudgeReply,
    JudgeRequest,
    OnAttempt,
    ignore_attempt,
)
from labeler.judge.completions import read_completion
from labeler.judge.endpoints import (
    AttemptResult,
    Clock,
    Endpoints,
    RetryReason,
    Sleep,
    retry_policy,
    retry_reason_of,
)
from labeler.judge.parameters import FixedParameters, Negotiation, Parameters, speaks_of_schema
from labeler.judge.prompt_limits import PromptLimits, context_problem
from labeler.study.config import JUDGE_KINDS
from labeler.study.judge_config import JudgeSection
from labeler.text import one_line

if TYPE_CHECKING:
    from labeler.embedding.base import Embedder
    from labeler.judge.check import Fit

CHAT_PATH = "/chat/completions"
RETRY_ELSEWHERE: tuple[RetryReason, ...] = ("transport", "away", "wait")
"""Reasons for which the next attempt goes to another server, where there is one."""
CONTROL_QUESTION = "Answer with any JSON object that the schema allows. Keep every text empty."
"""A request without corpus text: it tells whether every request would be refused."""


@JUDGE_KINDS.register("openai")
class OpenAiKind(JudgeKind):
    """`kind = "openai"`: servers of `base_url` or of `[[judge.endpoints]]`."""

    note = "A language model behind an OpenAI-compatible endpoint."

    def make(
        self, section: JudgeSection, folder: Path | None, embedder: Embedder | None
    ) -> OpenAiJudge:
        """A judge that asks the section's servers."""
        return OpenAiJudge.from_section(section)

    def check(self, section: JudgeSection) -> Sequence[Fit]:
        """Ask every server one question."""
        from labeler.judge.check import check_judge

        return check_judge(section)


@dataclass(frozen=True)
class Patience:
    """How long one request is retried; nothing of this changes an answer."""

    timeout_s: float = 120.0
    """Seconds for one attempt, from the first byte sent to the last received."""
    max_attempts: int = 5
    """Attempts at one request that ends in a transport error, 408, 429 or 5xx."""
    max_answers: int = 3
    """Attempts at one request that ends in an unusable answer."""
    restart_wait_s: float = 180.0
    """Seconds to wait for servers that answered before and went away."""
    longest_wait_s: float = 3600.0
    """Seconds that a server may ask for with Retry-After, waits in a row together."""


@dataclass
class _RetryState:
    """What earlier attempts at one request tell the next one."""

    failed_at: Endpoint | None = None


class OpenAiJudge:
    """Sends chats with `response_format` = JSON schema and reports every attempt.

    Transport errors, 408, 429 and 5xx are retried, unusable answers a few times. A wait that a
    server asks for (Retry-After) does not count as an attempt. A request that is too long, or
    that a filter refuses, ends as `too_long` or `refused`. Any other 4xx that every request would
    get is a WorkError with the server's message. The first request to a server goes alone and
    finds out which parameters the server takes. Of several endpoints one that is down gets no
    requests until it is back. `sleep` and `clock` are replaced in tests.
    """

    def __init__(
        self,
        identity: JudgeIdentity,
        endpoints: tuple[Endpoint, ...],
        patience: Patience | None = None,
        sleep: Sleep = asyncio.sleep,
        clock: Clock = time.monotonic,
        fixed: FixedParameters | None = None,
        markers: Sequence[Marker] = (),
    ) -> None:
        self._identity = identity
        self._endpoints = Endpoints(endpoints, sleep, clock)
        self._patience = patience or Patience()
        self._sleep = sleep
        self._negotiation = Negotiation(fixed or FixedParameters())
        self._markers = tuple(markers)
        self._unknown = UnknownRefusals()

    @classmethod
    def from_section(
        cls,
        section: JudgeSection,
        sleep: Sleep = asyncio.sleep,
        clock: Clock = time.monotonic,
    ) -> OpenAiJudge:
        """The judge of `[judge]`; UsageError names a key that is missing."""
        endpoints = endpoints_of(section)
        _require_context(section)
        for endpoint in endpoints:
            read_key(endpoint.api_key_env)
        patience = Patience(
            timeout_s=section.timeout_s,
            max_attempts=section.max_attempts,
            restart_wait_s=section.restart_wait_s,
            longest_wait_s=section.longest_wait_s,
        )
        return cls(
            identity_of(section),
            endpoints,
            patience,
            sleep,
            clock,
            fixed_by(section),
            section.thinking_markers,
        )

    def use_parameters(self, known: Mapping[str, Any]) -> None:
        """Start with the parameters that an earlier run found."""
        self._negotiation.start_from(known)

    @property
    def identity(self) -> JudgeIdentity:
        """Model and sampling parameters; not the addresses, not the keys."""
        return self._identity

    @property
    def concurrency(self) -> int:
        """Requests in flight, at all endpoints together."""
        return self._endpoints.concurrency

    async def ask(
        self, request: JudgeRequest, on_attempt: OnAttempt = ignore_attempt
    ) -> JudgeReply:
        """Ask until there is an answer or the attempts are used up; returns the last reply."""
        patience = self._patience
        policy = retry_policy(patience.max_attempts, patience.max_answers, self._sleep)
        result: AttemptResult = await policy(self._attempt, request, on_attempt, _RetryState())
        if result.unpaid and not self._endpoints.has_answered:
            raise WorkError(
                f"judge {self._urls()}: nobody answers there ({result.reply.error}); start "
                "the server (`difflens judge serve`) or correct the address, then run again"
            )
        return result.reply

    async def aclose(self) -> None:
        """Close the connections; a later `ask` opens new ones."""
        self._negotiation.rest()
        self._unknown.rest()
        await self._endpoints.aclose()

    async def _attempt(
        self, request: JudgeRequest, on_attempt: OnAttempt, state: _RetryState
    ) -> AttemptResult:
        connection = await self._endpoints.take(avoid=state.failed_at)
        try:
            result = await self._send_alone_if_first(connection, request)
        except BaseException:
            await connection.aclose()
            raise
        finally:
            self._endpoints.give_back(connection)
        state.failed_at = connection.endpoint if result.retry_reason in RETRY_ELSEWHERE else None
        await on_attempt(result.reply)
        if result.stops_the_batch:
            raise WorkError(
                f"judge {connection.endpoint.base_url}: {result.reply.error}{result.advice}"
            )
        if result.retry_reason == "wait":
            self._check_wait(connection.endpoint)
        if result.retry_reason == "away" and not self._endpoints.is_any_up:
            self._check_outage()
        return result

    async def _send_alone_if_first(
        self, connection: Connection, request: JudgeRequest
    ) -> AttemptResult:
        """Send a request; alone, where it is the first to its server."""
        negotiation, endpoint = self._negotiation, connection.endpoint
        if not negotiation.is_open(endpoint):
            async with negotiation.gate(endpoint):
                if not negotiation.is_open(endpoint):
                    result = await self._send(connection, request)
                    if result.retry_reason != "parameters" and not result.stops_the_batch:
                        negotiation.open(endpoint)
                    return result
        return await self._send(connection, request)

    async def _send(self, connection: Connection, request: JudgeRequest) -> AttemptResult:
        started = time.monotonic()
        parameters = self._negotiation.current
        answer = await self._post(connection, request, parameters, started)
        if isinstance(answer, AttemptResult):
            return answer
        seconds = time.monotonic() - started
        if answer.status == 200:
            return self._read_answer(connection.endpoint, request, parameters, answer, seconds)
        return await self._read_error(connection, request, parameters, answer, seconds)

    async def _post(
        self, connection: Connection, request: JudgeRequest, parameters: Parameters, started: float
    ) -> HttpAnswer | AttemptResult:
        identity = self._identity.params
        sampling = parameters.body(identity["temperature"], identity["max_tokens"])
        body = request_body(connection.endpoint.model, request) | sampling
        try:
            async with asyncio.timeout(self._patience.timeout_s):
                return await connection.post(CHAT_PATH, body)
        except TimeoutError:
            words = f"no answer within {self._patience.timeout_s:g} s"
            return await self._disconnected(connection, started, words, unpaid=False)
        except ConnectionFailedError as error:
            return await self._disconnected(connection, started, str(error), error.unpaid)

    def _read_answer(
        self,
        endpoint: Endpoint,
        request: JudgeRequest,
        parameters: Parameters,
        answer: HttpAnswer,
        seconds: float,
    ) -> AttemptResult:
        try:
            body = answer.json_object(endpoint)
        except InputError as error:
            self._endpoints.failed(endpoint, unreachable=False)
            return _transport_error(str(error), seconds)
        self._endpoints.answered(endpoint)
        self._negotiation.answered(endpoint, parameters)
        self._unknown.answered(request.stage)
        reply = read_completion(request, body, seconds, self._markers)
        return AttemptResult(replace(reply, parameters=parameters.as_json), retry_reason_of(reply))

    async def _read_error(
        self,
        connection: Connection,
        request: JudgeRequest,
        parameters: Parameters,
        answer: HttpAnswer,
        seconds: float,
    ) -> AttemptResult:
        endpoint = connection.endpoint
        error = server_error(answer.status, answer.content, endpoint.api_key_env)
        if error.outcome is not None:
            self._endpoints.answered(endpoint)
            words = error.shown
            if error.outcome == "too_long":
                longest = self._identity.params["max_tokens"]
                # No number that differs by latent: errors are counted by their words.
                words += f" (prompt and judge.max_tokens = {longest} exceed the served context)"
            return AttemptResult(JudgeReply(error.outcome, error=words, latency_s=seconds), "no")
        if is_worth_retrying(error.status):
            return self._read_temporary_error(endpoint, answer, error, seconds)
        self._endpoints.answered(endpoint)
        adapted = self._negotiation.refused(endpoint, parameters, error)
        if adapted is not None and adapted.stops_with is None:
            return AttemptResult(_failed(error.shown, seconds), "parameters")
        if adapted is not None and adapted.stops_with is not None:
            return _stop_batch(error, seconds, adapted.stops_with)
        if speaks_of_schema(error):
            return _stop_batch(
                error, seconds, "; every answer needs response_format json_schema, and this server "
                "takes none: use one that constrains JSON (vLLM does)",
            )  # fmt: skip
        if not error.is_of_the_call:
            return _stop_batch(error, seconds)
        return await self._check_with_control(connection, request, parameters, error, seconds)

    def _read_temporary_error(
        self, endpoint: Endpoint, answer: HttpAnswer, error: ServerError, seconds: float
    ) -> AttemptResult:
        wait_s = retry_after_s(answer.headers.get("retry-after"))
        if wait_s:
            self._endpoints.asked_to_wait(endpoint, wait_s)
            return AttemptResult(_failed(error.shown, seconds), "wait")
        self._endpoints.failed(endpoint, unreachable=False)
        return _transport_error(error.shown, seconds)

    async def _check_with_control(
        self,
        connection: Connection,
        request: JudgeRequest,
        parameters: Parameters,
        error: ServerError,
        seconds: float,
    ) -> AttemptResult:
        """Send a control request to tell whether only this request is refused, or every one.

        The control has the stage's schema and the same parameters but no text of the corpus. It
        is sent where no request of the stage was ever answered, and again after some refusals in
        a row.
        """
        refused = JudgeReply("refused", error=error.shown, latency_s=seconds)
        async with self._unknown.lock:
            if not self._unknown.must_ask(request.stage):
                return AttemptResult(refused, "no")
            control = replace(request, messages=(ChatMessage("user", CONTROL_QUESTION),))
            answer = await self._post(connection, control, parameters, time.monotonic())
            if isinstance(answer, AttemptResult) or is_worth_retrying(answer.status):
                return _transport_error(error.shown, seconds)
            if answer.status != 200:
                return _stop_batch(
                    error, seconds, "; a request without any text of the corpus is refused as well"
                )
            self._unknown.answered(request.stage)
            self._unknown.must_ask(request.stage)
        return AttemptResult(_with_usage(refused, connection.endpoint, control, answer), "no")

    async def _disconnected(
        self, connection: Connection, started: float, words: str, unpaid: bool
    ) -> AttemptResult:
        """The connection broke; an unpaid request is no attempt if a server is up."""
        await connection.aclose()
        self._endpoints.failed(connection.endpoint, unreachable=unpaid)
        seconds = time.monotonic() - started
        said = without_key(one_line(words), connection.endpoint.api_key_env)
        if unpaid and (self._endpoints.has_answered or self._endpoints.is_any_up):
            return AttemptResult(_failed(said, seconds), "away", unpaid=True)
        reply = replace(_failed(said, seconds), may_be_charged=not unpaid)
        return AttemptResult(reply, "transport", is_waited_for=unpaid, unpaid=unpaid)

    def _check_outage(self) -> None:
        silent = self._endpoints.seconds_without_answer()
        rests = self._endpoints.is_available_within(self._patience.longest_wait_s)
        if silent > self._patience.restart_wait_s and not rests:
            raise WorkError(
                f"judge {self._urls()}: went away and did not come back within "
                f"{self._patience.restart_wait_s:g} s (judge.restart_wait_s); "
                "what was answered is kept, run again to go on"
            )

    def _check_wait(self, endpoint: Endpoint) -> None:
        """Say how long a server asked to wait; WorkError where that is longer than allowed."""
        wait, longest = self._endpoints.retry_after(endpoint), self._patience.longest_wait_s
        is_too_long = wait.needed_s > longest
        if is_too_long and not self._endpoints.is_available_within(longest, avoid=endpoint):
            raise WorkError(
                f"judge {endpoint.base_url}: asks to wait {duration_words(wait.needed_s)} "
                f"(Retry-After), more than {duration_words(longest)} (judge.longest_wait_s); "
                "what was answered is kept, run again later"
            )
        wait.announce(endpoint.base_url, self._endpoints.clock())

    def _urls(self) -> str:
        return ", ".join(endpoint.base_url for endpoint in self._endpoints.endpoints)


def identity_of(section: JudgeSection) -> JudgeIdentity:
    """Identity of the judge: the same for every endpoint of one model."""
    if section.model is None:
        raise UsageError("judge.model: missing; kind = openai needs it")
    return JudgeIdentity(
        name=section.model,
        model=section.model,
        endpoint_kind="openai",
        params={"temperature": section.temperature, "max_tokens": section.max_tokens},
    )


def _require_context(section: JudgeSection) -> None:
    """UsageError where prompts and answers do not fit in the context that `judge serve` gives."""
    context = section.server.max_model_len
    limits = PromptLimits(section.explain_tokens, section.categorize_tokens)
    problem = context_problem(limits, section.max_tokens, context) if context is not None else None
    if problem is not None:
        raise UsageError(f"judge.server.max_model_len: {problem}")


def endpoints_of(section: JudgeSection) -> tuple[Endpoint, ...]:
    """The servers of `[judge]`; UsageError where none or both kinds of address are given."""
    if section.model is None:
        raise UsageError("judge.model: missing; kind = openai needs it")
    if (section.base_url is None) == (not section.endpoints):
        problem = "missing" if section.base_url is None else "stands next to [[judge.endpoints]]"
        raise UsageError(
            f"judge.base_url: {problem}; kind = openai needs it, or several [[judge.endpoints]]"
        )
    if section.base_url is not None:
        own = Endpoint(section.base_url, section.model, section.api_key_env, section.concurrency)
        return (own,)
    found = tuple(
        Endpoint(
            base_url=row.base_url,
            model=row.model or section.model,
            api_key_env=row.api_key_env or section.api_key_env,
            concurrency=row.concurrency or section.concurrency,
        )
        for row in section.endpoints
    )
    if len({endpoint.base_url for endpoint in found}) < len(found):
        raise UsageError("judge.endpoints: an address is named twice; raise its concurrency")
    return found


def fixed_by(section: JudgeSection) -> FixedParameters:
    """The parameters that the config sets."""
    return FixedParameters(section.max_tokens_key, section.send_temperature)


def request_body(model: str, request: JudgeRequest) -> dict[str, Any]:
    """Body of a request, without the sampling parameters."""
    schema = {"name": request.stage, "schema": dict(request.schema), "strict": True}
    return {
        "model": model,
        "messages": [
            {"role": message.role, "content": message.content} for message in request.messages
        ],
        "response_format": {"type": "json_schema", "json_schema": schema},
    }


def _with_usage(
    refused: JudgeReply, endpoint: Endpoint, control: JudgeRequest, answer: HttpAnswer
) -> JudgeReply:
    """The refusal with the tokens that the control request used."""
    try:
        told = read_completion(control, answer.json_object(endpoint), 0.0)
    except InputError:
        return refused
    return replace(
        refused, prompt_tokens=told.prompt_tokens, completion_tokens=told.completion_tokens
    )


def _stop_batch(error: ServerError, seconds: float, advice: str = "") -> AttemptResult:
    return AttemptResult(
        _failed(error.shown, seconds), "transport", stops_the_batch=True, advice=advice
    )


def _failed(words: str, seconds: float) -> JudgeReply:
    return JudgeReply(status="transport_error", error=words, latency_s=seconds)


def _transport_error(words: str, seconds: float) -> AttemptResult:
    return AttemptResult(_failed(words, seconds), "transport")
