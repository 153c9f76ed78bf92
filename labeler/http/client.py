"""One HTTP connection to a server, the API key it sends, and what the server's errors mean.

An error concerns one request, every request, or passes with time.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from crosscoder.errors import InputError
from crosscoder.limits import MAX_ANSWER_BYTES, parse_json
from labeler.errors import UsageError
from labeler.text import one_line

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession


SHOWN_CHARACTERS = 500
"""Most characters of a server's error that are kept."""
UNKNOWN_IN_A_ROW = 5
"""Refusals for unknown reasons in a row, per stage, after which a control request is sent."""
YEAR_S = 365 * 86400.0
RequestOutcome = Literal["too_long", "refused"]
"""Outcomes that concern one request alone."""
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|string_above_max_length|"
    r"context (?:length|window|size)|context is too (?:short|small)|"
    r"(?:prompt|input|request|message)s? (?:is|are) too (?:long|large)|"
    r"reduce the length|longer than the (?:model|maximum)|too many (?:input )?tokens|"
    r"maximum number of (?:input )?tokens|max(?:imum)?[ _](?:input|prompt|model|seq)\w*[ _]len|"
    r"tokens? .{0,40}(?:exceeds?|must be <=)|exceeds? .{0,60}tokens?",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content[_ ](?:filter|management|policy|moderation)|content_policy_violation|"
    r"responsible ?ai|data_?inspection|prohibited_content|moderation|\bflagged\b|"
    r"usage polic|safety (?:system|filter|polic|setting)|violat\w+ .{0,60}polic|"
    r"(?:inappropriate|sensitive|unsafe|harmful) content",
    re.IGNORECASE,
)
_MODERATED = re.compile(r"moderation|\bflagged\b|content_filter|content_policy", re.IGNORECASE)
"""A 403 that matches comes from a content filter; any other is about the key."""
_BY_STATUS: dict[int, RequestOutcome] = {413: "too_long", 451: "refused"}
_OF_THE_CALL = frozenset({400, 413, 422, 451})
"""Statuses about the content of the request, not about its sender or address."""


def read_key(variable: str | None, key: str = "judge.api_key_env") -> str | None:
    """The value of an environment variable; None where the config names no variable.

    Raises UsageError that names the config's key where the variable is not set or no key at all.
    """
    if variable is None:
        return None
    value = os.environ.get(variable)
    if not value:
        raise UsageError(f"{key}: environment variable {variable} is not set; export it first")
    if not (value.isascii() and value.isprintable()):
        # An HTTP header cannot hold it, and the client's own error would print it.
        raise UsageError(
            f"{key}: the key in {variable} holds a line break or a character outside ASCII; "
            "export it again"
        )
    return value


def without_key(words: str, variable: str | None) -> str:
    """The words without the key: servers repeat a wrong key in their error."""
    value = os.environ.get(variable) if variable is not None else None
    return words.replace(value, "***") if value else words


@dataclass(frozen=True)
class Endpoint:
    """One server of a model."""

    base_url: str
    model: str
    """The model's name at this server."""
    api_key_env: str | None = None
    concurrency: int = 16


@dataclass(frozen=True)
class HttpAnswer:
    """An answer of a server."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json_object(self, endpoint: Endpoint) -> dict[str, Any]:
        """The answer as a JSON object, without the key; InputError for anything else."""
        text = without_key(self.content.decode("utf-8", "replace"), endpoint.api_key_env)
        body = parse_json(text, "the server sent no JSON object", any_number=True)
        if not isinstance(body, dict):
            raise InputError(f"the server sent no JSON object: {one_line(text[:200])!r}")
        return body


class ConnectionFailedError(Exception):
    """The connection failed. `unpaid`: the server never saw the request."""

    def __init__(self, words: str, unpaid: bool) -> None:
        super().__init__(words)
        self.unpaid = unpaid


class Connection:
    """One connection to an endpoint: at most one request at a time.

    ConnectionFailedError for an answer of more than `longest_answer` bytes, and where nothing comes
    for `silence_s` seconds. Without `through_proxy` the environment's proxies are not used.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        tls: ssl.SSLContext,
        longest_answer: int = MAX_ANSWER_BYTES,
        silence_s: float | None = None,
        through_proxy: bool = True,
    ) -> None:
        self.endpoint = endpoint
        self._tls = tls
        self._longest_answer = longest_answer
        self._silence_s = silence_s
        self._proxy = proxy_for(endpoint.base_url) if through_proxy else None
        self._session: ClientSession | None = None

    async def post(self, path: str, body: Mapping[str, Any]) -> HttpAnswer:
        """POST a JSON body; ConnectionFailedError without an answer. The caller bounds the time."""
        return await self._request("POST", path, json.dumps(body).encode())

    async def get(self, path: str) -> HttpAnswer:
        """GET a path; ConnectionFailedError without an answer. The caller bounds the time."""
        return await self._request("GET", path, None)

    async def _request(self, method: str, path: str, payload: bytes | None) -> HttpAnswer:
        import aiohttp

        try:
            url = self.endpoint.base_url + path
            connected = self._open_session()
            async with connected.request(
                method, url, data=payload, allow_redirects=False
            ) as response:
                content = await _bounded(response, self._longest_answer)
                return HttpAnswer(response.status, response.headers, content)
        except aiohttp.ClientConnectorError as error:
            raise ConnectionFailedError(
                f"cannot connect: {_connect_problem(error.os_error)}", unpaid=True
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ConnectionFailedError(_describe(error), unpaid=False) from error

    async def aclose(self) -> None:
        """Close the connection; a later request opens it again."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open_session(self) -> ClientSession:
        import aiohttp

        if self._session is None:
            # Compressed content may unpack to any size.
            headers = {"content-type": "application/json", "accept-encoding": "identity"}
            key = read_key(self.endpoint.api_key_env)
            if key is not None:
                headers["authorization"] = f"Bearer {key}"
            self._session = aiohttp.ClientSession(
                headers=headers,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._silence_s, sock_read=self._silence_s
                ),
                connector=aiohttp.TCPConnector(limit=1, ssl=self._tls),
                cookie_jar=aiohttp.DummyCookieJar(),
                proxy=self._proxy,
            )
        return self._session


class BlockingConnection:
    """A connection for synchronous callers, even within a running event loop.

    Its requests run in the event loop of a thread of its own, so that the connection stays open
    between them. Thread and connection end with this object.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_run_loop, args=(self._loop,), daemon=True)
        thread.start()
        weakref.finalize(self, _close, connection, self._loop, thread)

    def post(self, path: str, body: Mapping[str, Any], timeout_s: float) -> HttpAnswer:
        """POST a JSON body.

        Raises ConnectionFailedError without an answer, TimeoutError where it is late.
        """
        asked = asyncio.wait_for(self._connection.post(path, body), timeout_s)
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result()


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _close(
    connection: Connection, loop: asyncio.AbstractEventLoop, thread: threading.Thread
) -> None:
    closed = asyncio.run_coroutine_threadsafe(connection.aclose(), loop)
    closed.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
    thread.join(timeout=1)


def tls_for(endpoints: tuple[Endpoint, ...]) -> ssl.SSLContext:
    """One TLS context for all connections, because the system's certificates take 30 ms to read.

    Without an https address no certificates are read, and none would be accepted.
    """
    if any(endpoint.base_url.startswith("https:") for endpoint in endpoints):
        return ssl.create_default_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address."""
    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme, proxies.get("all"))


async def _bounded(response: ClientResponse, longest: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > longest:
            raise ConnectionFailedError(
                f"the answer is longer than {longest >> 20} MiB", unpaid=False
            )
        parts.append(part)
    return b"".join(parts)


def _connect_problem(error: OSError) -> str:
    """Cause of a failed connection; asyncio's own message only names the address."""
    if isinstance(error, ConnectionError | TimeoutError) and error.errno is not None:
        return os.strerror(error.errno)
    return error.strerror or str(error)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


@dataclass(frozen=True)
class ServerError:
    """An answer with a status other than 200."""

    status: int
    words: str
    """The server's message on one line, without the key."""
    codes: tuple[str, ...] = ()
    """Machine-readable names of the error: code, type, parameter."""

    @cached_property
    def text(self) -> str:
        """Words and codes, for searching."""
        return " ".join([self.words, *self.codes])

    @property
    def shown(self) -> str:
        """Status and words."""
        return f"{self.status}: {self.words}"

    @property
    def is_of_the_call(self) -> bool:
        """Whether the error is about the content of the request."""
        return self.status in _OF_THE_CALL

    @property
    def outcome(self) -> RequestOutcome | None:
        """The request's outcome, where the error concerns this request alone; else None."""
        if self.status == 403:
            return "refused" if _MODERATED.search(self.text) else None
        if self.status == 500:
            return "too_long" if "exceed" in self.text and "context size" in self.text else None
        if not self.is_of_the_call:
            return None
        if self.status in _BY_STATUS:
            return _BY_STATUS[self.status]
        if _FILTERED.search(self.text):
            return "refused"
        return "too_long" if _TOO_LONG.search(self.text) else None


def server_error(status: int, content: bytes, key_variable: str | None = None) -> ServerError:
    """Read an error's body of any form, without the key in the named variable."""
    words = without_key(server_words(content), key_variable)
    try:
        body = parse_json(content, "the error")
    except InputError:
        return ServerError(status, words)
    return ServerError(status, words, tuple(_codes(body)))


def server_words(content: bytes) -> str:
    """A server's error message on one line, else the beginning of the body."""
    try:
        body = parse_json(content, "the error")
    except InputError:
        body = None
    if isinstance(body, dict):
        inner = body.get("error", body)
        message = inner.get("message", inner.get("detail")) if isinstance(inner, dict) else inner
        if isinstance(message, list):
            message = "; ".join(_complaint(each) for each in message if isinstance(each, dict))
        if isinstance(message, str) and message:
            return _shown(message)
    return _shown(content[: 4 * SHOWN_CHARACTERS].decode("utf-8", "replace"))


def _complaint(detail: Mapping[str, Any]) -> str:
    """One error of a validator: place and message, without the value, which is the prompt."""
    where = detail.get("loc")
    parts = [str(part) for part in where] if isinstance(where, list) else []
    return f"{'.'.join(parts)}: {detail.get('msg', '')}"


def _shown(text: str) -> str:
    return one_line(text[: 4 * SHOWN_CHARACTERS])[:SHOWN_CHARACTERS] or "no words"


def _codes(body: Any) -> Iterator[str]:
    """Error codes at the first two levels of the body."""
    if not isinstance(body, Mapping):
        return
    inner = body.get("error")
    for part in (body, inner if isinstance(inner, Mapping) else {}):
        for key in ("code", "type", "param", "innererror"):
            value = part.get(key)
            if isinstance(value, Mapping):
                value = value.get("code")
            if isinstance(value, str):
                yield one_line(value[:SHOWN_CHARACTERS])


@dataclass
class UnknownRefusals:
    """Counts refusals for unknown reasons, by stage, since the last answer."""

    since_answer: dict[str, int] = field(default_factory=dict)
    """A stage without any answer yet has no entry."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def answered(self, stage: str) -> None:
        """A request of the stage was answered."""
        self.since_answer[stage] = 0

    def must_ask(self, stage: str) -> bool:
        """Count a refusal; True where a control request must tell if every request is refused."""
        count = self.since_answer.get(stage)
        if count is None or count >= UNKNOWN_IN_A_ROW:
            return True
        self.since_answer[stage] = count + 1
        return False

    def rest(self) -> None:
        """Drop the lock: it belongs to the event loop in which it was first used."""
        self.lock = asyncio.Lock()


def is_worth_retrying(status_code: int) -> bool:
    """Whether a server that answers with this HTTP status may answer differently later."""
    return status_code in (408, 429) or status_code >= 500


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header, given in seconds or as an HTTP date; None without one."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return None
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    if seconds != seconds:
        return None
    return min(max(seconds, 0.0), YEAR_S)


def duration_words(seconds: float) -> str:
    """A duration in its largest fitting unit."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
