"""A judge behind any OpenAI-compatible chat endpoint: vLLM, llama-server, a hosted API."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labeler.errors import UsageError, WorkError
from labeler.judge.base import (
    JudgeIdentity,
    JudgeReply,
    JudgeRequest,
    OnAttempt,
    ignore_attempt,
)
from labeler.judge.completions import read_completion
from labeler.judge.retrying import Ended, again, is_worth_retrying, retry_after_s, retry_policy
from labeler.sections.judging import JudgeSection

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

Sleep = Callable[[float], Awaitable[None]]
NO_KEY = "none"
"""Sent where the config names no key: servers without authentication ignore it."""


@dataclass(frozen=True)
class ServerSettings:
    """How the server is reached; nothing of this changes an answer."""

    base_url: str
    api_key_env: str | None = None
    timeout_s: float = 120.0
    """Seconds for one request, from the first byte sent to the last received."""
    concurrency: int = 16
    max_attempts: int = 5
    """Tries of one request that ends in a transport error, 408, 429 or 5xx."""
    max_answers: int = 3
    """Tries of one request that ends in an unusable answer."""


class OpenAiJudge:
    """Sends chats with `response_format` = JSON schema and reports every ended attempt.

    Transport errors, 408, 429 and 5xx are retried (Retry-After is obeyed), unusable answers a few
    times; any other 4xx is a WorkError with the server's words. `sleep` is replaced in tests.
    """

    def __init__(
        self,
        identity: JudgeIdentity,
        settings: ServerSettings,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._identity = identity
        self._settings = settings
        self._sleep = sleep
        self._client: AsyncOpenAI | None = None

    @classmethod
    def from_section(cls, section: JudgeSection, sleep: Sleep = asyncio.sleep) -> OpenAiJudge:
        """The judge of `[judge]`; UsageError names a key that is missing."""
        if section.base_url is None or section.model is None:
            missing = "base_url" if section.base_url is None else "model"
            raise UsageError(f"judge.{missing}: missing; kind = openai needs it")
        _read_key(section.api_key_env)
        identity = JudgeIdentity(
            name=section.model,
            model=section.model,
            endpoint_kind="openai",
            params={"temperature": section.temperature, "max_tokens": section.max_tokens},
        )
        settings = ServerSettings(
            base_url=section.base_url,
            api_key_env=section.api_key_env,
            timeout_s=section.timeout_s,
            concurrency=section.concurrency,
            max_attempts=section.max_attempts,
        )
        return cls(identity, settings, sleep)

    @property
    def identity(self) -> JudgeIdentity:
        """Model and sampling parameters; not the address, not the key."""
        return self._identity

    @property
    def concurrency(self) -> int:
        """Requests in flight."""
        return self._settings.concurrency

    async def ask(
        self, request: JudgeRequest, on_attempt: OnAttempt = ignore_attempt
    ) -> JudgeReply:
        """Ask until there is an answer or the tries are used up; the last reply is returned."""
        policy = retry_policy(self._settings.max_attempts, self._settings.max_answers, self._sleep)
        ended: Ended = await policy(self._attempt, request, on_attempt)
        return ended.reply

    async def aclose(self) -> None:
        """Close the connections; a later `ask` opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _attempt(self, request: JudgeRequest, on_attempt: OnAttempt) -> Ended:
        ended = await self._send(request)
        await on_attempt(ended.reply)
        if ended.stops_the_batch:
            raise WorkError(f"judge {self._settings.base_url}: {ended.reply.error}")
        return ended

    async def _send(self, request: JudgeRequest) -> Ended:
        from openai import APIStatusError, OpenAIError

        started = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                body = await self._complete(request)
        except TimeoutError:
            return self._failed(started, f"no answer within {self._settings.timeout_s:g} s")
        except APIStatusError as error:
            return self._refused_by_server(started, error)
        except (OpenAIError, OSError, ValueError) as error:
            return self._failed(started, _words(error))
        reply = read_completion(request, body, time.monotonic() - started)
        return Ended(reply, again(reply))

    async def _complete(self, request: JudgeRequest) -> dict[str, Any]:
        schema = {"name": request.stage, "schema": dict(request.schema), "strict": True}
        body = await self._connected().post(
            "/chat/completions",
            cast_to=object,
            body={
                "model": self._identity.model,
                "messages": [
                    {"role": message.role, "content": message.content}
                    for message in request.messages
                ],
                "response_format": {"type": "json_schema", "json_schema": schema},
                "temperature": self._identity.params["temperature"],
                "max_tokens": self._identity.params["max_tokens"],
            },
        )
        if not isinstance(body, dict):
            raise ValueError(f"the server sent no JSON object: {str(body)[:200]!r}")
        return body

    def _refused_by_server(self, started: float, error: APIStatusError) -> Ended:
        words = f"{error.status_code}: {_server_words(error)}"
        if is_worth_retrying(error.status_code):
            wait = retry_after_s(error.response.headers.get("retry-after"))
            return self._failed(started, words, wait_s=wait)
        return self._failed(started, words, stops_the_batch=True)

    def _failed(
        self,
        started: float,
        words: str,
        wait_s: float | None = None,
        stops_the_batch: bool = False,
    ) -> Ended:
        reply = JudgeReply(
            status="transport_error",
            error=self._without_key(words),
            latency_s=time.monotonic() - started,
        )
        return Ended(reply, "transport", wait_s, stops_the_batch)

    def _without_key(self, words: str) -> str:
        """Servers repeat a wrong key in their error; it must reach no log and no row."""
        key = _read_key(self._settings.api_key_env)
        return words if key == NO_KEY else words.replace(key, "***")

    def _connected(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI

        if self._client is None:
            self._client = AsyncOpenAI(
                base_url=self._settings.base_url,
                api_key=_read_key(self._settings.api_key_env),
                timeout=self._settings.timeout_s,
                max_retries=0,
            )
        return self._client


def _read_key(variable: str | None) -> str:
    if variable is None:
        return NO_KEY
    key = os.environ.get(variable)
    if not key:
        raise UsageError(
            f"judge.api_key_env: environment variable {variable} is not set; export it first"
        )
    return key


def _server_words(error: APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, dict) else inner
        if isinstance(message, str) and message:
            return message
    return error.response.text[:500] or error.message


def _words(error: BaseException) -> str:
    cause = error.__cause__
    detail = f" ({cause})" if cause is not None and str(cause) else ""
    return f"{type(error).__name__}: {error}{detail}"
