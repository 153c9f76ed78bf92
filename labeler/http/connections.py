"""One HTTP connection to a server, and the API key it sends."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from crosscoder.errors import InputError
from crosscoder.limits import MAX_ANSWER_BYTES, parse_json
from labeler.errors import UsageError
from labeler.text import one_line

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession


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
