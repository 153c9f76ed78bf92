"""Answers of the models to held-out prompts, by an OpenAI-compatible server that serves them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from crosscoder.config import GenerationSettings
from crosscoder.errors import InputError
from crosscoder.files import json_sha256
from labeler.errors import WorkError
from labeler.http.client import (
    Connection,
    ConnectionFailedError,
    Endpoint,
    is_worth_retrying,
    retry_after_s,
    server_error,
    tls_for,
    without_key,
)
from labeler.judge.completions import read_message, shape_problem
from labeler.labeling.behaviour_prompts import BehaviourPrompt
from labeler.store.behaviour import AnswerRow
from labeler.study.behaviour_config import BehaviourSection

CHAT_PATH = "/chat/completions"
FIRST_WAIT_S, LONGEST_BACKOFF_S = 0.5, 30.0
"""Seconds before the second attempt, doubled with each further one."""
LONGEST_WAIT_S = 600.0
"""Seconds that a server may ask for with Retry-After."""
Sleep = Callable[[float], Awaitable[None]]
Keep = Callable[[AnswerRow], None]
"""Stores an answer as soon as it is there."""


@dataclass(frozen=True)
class WantedAnswer:
    """An answer that is to be made."""

    key: str
    prompt: BehaviourPrompt
    sample: int

    def row(self, model: str, text: str | None, is_finished: bool) -> AnswerRow:
        """The answer as it is stored; text None = the model gave none."""
        return AnswerRow(
            self.key, model, self.prompt.id, self.sample, self.prompt.text, text, is_finished
        )


def wanted_answers(
    identity: Any, prompts: Sequence[BehaviourPrompt], settings: GenerationSettings
) -> list[WantedAnswer]:
    """Every answer of one model; `identity` is what tells the model from others, as JSON values."""
    deciding = {key: value for key, value in settings.deciding().items() if key != "samples"}
    return [
        WantedAnswer(
            json_sha256([identity, [list(turn) for turn in prompt.messages], deciding, sample]),
            prompt,
            sample,
        )
        for prompt in prompts
        for sample in range(settings.samples)
    ]


class _TryAgainError(Exception):
    """A failure that may pass; `wait_s` is the time that the server asked for."""

    def __init__(self, words: str, wait_s: float | None = None) -> None:
        super().__init__(words)
        self.wait_s = wait_s


class AnswerServer:
    """Asks one server for the answers of its models; `sleep` is replaced in tests."""

    def __init__(self, section: BehaviourSection, sleep: Sleep = asyncio.sleep) -> None:
        self._section = section
        self._sleep = sleep
        self._backoff = wait_exponential(FIRST_WAIT_S, LONGEST_BACKOFF_S) + wait_random(
            0, FIRST_WAIT_S
        )

    def name_of(self, model: str) -> str:
        """The model's name at the server."""
        return self._section.server_models.get(model, model)

    def answer(self, model: str, wanted: Sequence[WantedAnswer], keep: Keep) -> None:
        """Ask for answers of one model, and hand over each as it comes.

        Connection errors, 408, 429 and 5xx are tried again. A prompt that is too long, or that a
        filter refuses, has no answer. WorkError where the server fails for good; what was answered
        is kept.
        """
        asyncio.run(self._answer_all(model, wanted, keep))

    async def _answer_all(self, model: str, wanted: Sequence[WantedAnswer], keep: Keep) -> None:
        endpoint = Endpoint(
            str(self._section.base_url), self.name_of(model), self._section.api_key_env
        )
        tls = tls_for((endpoint,))
        connections = [Connection(endpoint, tls) for _ in range(self._section.concurrency)]
        left = iter(wanted)

        async def work(connection: Connection) -> None:
            for each in left:
                keep(await self._with_retries(connection, model, each))

        try:
            async with asyncio.TaskGroup() as group:
                for connection in connections:
                    group.create_task(work(connection))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            for connection in connections:
                await connection.aclose()

    async def _with_retries(
        self, connection: Connection, model: str, wanted: WantedAnswer
    ) -> AnswerRow:
        policy = AsyncRetrying(
            retry=retry_if_exception_type(_TryAgainError),
            stop=stop_after_attempt(self._section.max_attempts),
            wait=self._wait,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return await policy(self._ask, connection, model, wanted)
        except _TryAgainError as error:
            raise self._failure(str(error)) from None

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.wait_s if isinstance(error, _TryAgainError) else None
        return float(self._backoff(state)) if asked is None else min(asked, LONGEST_WAIT_S)

    async def _ask(self, connection: Connection, model: str, wanted: WantedAnswer) -> AnswerRow:
        endpoint = connection.endpoint
        body = request_body(endpoint.model, wanted, self._section)
        try:
            async with asyncio.timeout(self._section.timeout_s):
                answer = await connection.post(CHAT_PATH, body)
        except (TimeoutError, ConnectionFailedError) as error:
            await connection.aclose()
            words = str(error) or f"no answer within {self._section.timeout_s:g} s"
            raise _TryAgainError(without_key(words, endpoint.api_key_env)) from None
        if answer.status == 200:
            try:
                text, is_finished = read_answer(answer.json_object(endpoint))
            except InputError as error:
                raise _TryAgainError(str(error)) from None
            return wanted.row(model, text, is_finished)
        problem = server_error(answer.status, answer.content, endpoint.api_key_env)
        if problem.outcome is not None:
            return wanted.row(model, None, False)
        if is_worth_retrying(problem.status):
            raise _TryAgainError(problem.shown, retry_after_s(answer.headers.get("retry-after")))
        raise self._failure(problem.shown)

    def _failure(self, words: str) -> WorkError:
        return WorkError(
            f"behaviour.base_url {self._section.base_url}: {words}; what was answered is kept, "
            "run again to go on"
        )


def request_body(name: str, wanted: WantedAnswer, settings: GenerationSettings) -> dict[str, Any]:
    """Body of one chat completion; each sample has a seed of its own."""
    body: dict[str, Any] = {
        "model": name,
        "messages": [
            {"role": role, "content": content} for role, content in wanted.prompt.messages
        ],
        "max_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
    }
    if settings.temperature > 0:
        body["seed"] = settings.seed + wanted.sample
    return body


def read_answer(body: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Text and whether the model ended it; None where a filter gave no text.

    InputError for a body that is no chat completion.
    """
    problem = shape_problem(body)
    if problem is not None:
        raise InputError(problem)
    message = read_message(body)
    if message.refusal is not None and not message.said.words:
        return None, False
    return message.said.words.strip(), not message.is_cut
