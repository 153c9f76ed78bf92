"""One HTTP connection to a server, and the key that it is asked with."""

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
            "export it anew"
        )
    return value


def without_key(words: str, variable: str | None) -> str:
    """The words with the key blotted out: servers repeat a wrong key in their error."""
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
    """What came back over a line."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json_object(self, endpoint: Endpoint) -> dict[str, Any]:
        """The JSON object that came; InputError for anything else. The key is blotted out of it."""
        text = without_key(self.content.decode("utf-8", "replace"), endpoint.api_key_env)
        body = parse_json(text, "the server sent no JSON object", any_number=True)
        if not isinstance(body, dict):
            raise InputError(f"the server sent no JSON object: {one_line(text[:200])!r}")
        return body


class ConnectionFailedError(Exception):
    """The connection failed; nothing usable came back. `unpaid` where the server saw nothing."""

    def __init__(self, words: str, unpaid: bool) -> None:
        super().__init__(words)
        self.unpaid = unpaid


class Connection:
    """Room for one request in flight at one endpoint.

    An answer of more than `longest_answer` bytes is given up, and so is a server from which nothing
    comes for `silence_s` seconds. Without `through_proxy` the environment's proxies are not asked.
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
        """Send a JSON body; LineError where no answer comes. The caller bounds the time."""
        return await self._ask("POST", path, json.dumps(body).encode())

    async def get(self, path: str) -> HttpAnswer:
        """Ask for something; LineError where no answer comes. The caller bounds the time."""
        return await self._ask("GET", path, None)

    async def _ask(self, method: str, path: str, payload: bytes | None) -> HttpAnswer:
        import aiohttp

        try:
            url = self.endpoint.base_url + path
            connected = self._connected()
            async with connected.request(
                method, url, data=payload, allow_redirects=False
            ) as response:
                content = await _bounded(response, self._longest_answer)
                return HttpAnswer(response.status, response.headers, content)
        except aiohttp.ClientConnectorError as error:
            raise ConnectionFailedError(
                f"cannot connect: {_why(error.os_error)}", unpaid=True
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ConnectionFailedError(_words(error), unpaid=False) from error

    async def aclose(self) -> None:
        """Hang up; a later request connects anew."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _connected(self) -> ClientSession:
        import aiohttp

        if self._session is None:
            # What is packed may unpack to any size.
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


class BlockingLine:
    """A line for callers that do not await, even within a running event loop.

    Its requests run in the loop of a thread of its own, so that the connection stays open between
    them; both end with this object.
    """

    def __init__(self, line: Connection) -> None:
        self._line = line
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_run, args=(self._loop,), daemon=True)
        thread.start()
        weakref.finalize(self, _end, line, self._loop, thread)

    def post(self, path: str, body: Mapping[str, Any], timeout_s: float) -> HttpAnswer:
        """Send a JSON body; LineError where no answer comes, TimeoutError where none is whole."""
        asked = asyncio.wait_for(self._line.post(path, body), timeout_s)
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end(line: Connection, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    closed = asyncio.run_coroutine_threadsafe(line.aclose(), loop)
    closed.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
    thread.join(timeout=1)


def tls_for(endpoints: tuple[Endpoint, ...]) -> ssl.SSLContext:
    """One context for all lines, because the system's certificates take 30 ms to read.

    Where no address begins with https nothing is read, and no certificate would be accepted.
    """
    if any(endpoint.base_url.startswith("https:") for endpoint in endpoints):
        return ssl.create_default_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address, asked once and not for each request."""
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


def _why(error: OSError) -> str:
    """Why there is no connection: asyncio says which address was tried, not what was wrong."""
    if isinstance(error, ConnectionError | TimeoutError) and error.errno is not None:
        return os.strerror(error.errno)
    return error.strerror or str(error)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
