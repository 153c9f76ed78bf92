"""One HTTP connection to a judge's server.

A line has a client of its own with room for one connection. A client that holds hundreds of
connections searches all of them for every request: measured at 256 in flight, that took 18 ms
(httpx) or 1.7 ms (httpx2) of CPU a request, against 0.7 ms with one connection a client.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labeler.judge.keys import read_key

if TYPE_CHECKING:
    from httpx2 import AsyncClient

LONGEST_BODY = 32 * 2**20
"""Bytes of a server's answer beyond which it is given up."""


@dataclass(frozen=True)
class Endpoint:
    """One server of the judge's model."""

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


class LineError(Exception):
    """The connection failed; nothing usable came back. `unpaid` where the server saw nothing."""

    def __init__(self, words: str, unpaid: bool) -> None:
        super().__init__(words)
        self.unpaid = unpaid


class Line:
    """Room for one request in flight at one endpoint."""

    def __init__(self, endpoint: Endpoint, tls: ssl.SSLContext) -> None:
        self.endpoint = endpoint
        self._tls = tls
        self._client: AsyncClient | None = None

    async def post(self, path: str, body: Mapping[str, Any]) -> HttpAnswer:
        """Send a JSON body; LineError where no answer comes. The caller bounds the time."""
        import httpx2

        payload = json.dumps(body).encode()
        try:
            async with self._connected().stream("POST", path, content=payload) as response:
                content = await _bounded(response)
                return HttpAnswer(response.status_code, response.headers, content)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise LineError(f"cannot connect: {_words(error)}", unpaid=True) from error
        except (httpx2.HTTPError, OSError) as error:
            raise LineError(_words(error), unpaid=False) from error

    async def aclose(self) -> None:
        """Hang up; a later request connects anew."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _connected(self) -> AsyncClient:
        import httpx2

        if self._client is None:
            headers = {"content-type": "application/json"}
            key = read_key(self.endpoint.api_key_env)
            if key is not None:
                headers["authorization"] = f"Bearer {key}"
            self._client = httpx2.AsyncClient(
                base_url=self.endpoint.base_url,
                headers=headers,
                timeout=None,
                limits=httpx2.Limits(max_connections=1),
                verify=self._tls,
            )
        return self._client


def tls_for(endpoints: tuple[Endpoint, ...]) -> ssl.SSLContext:
    """One context for all lines, because the system's certificates take 30 ms to read.

    Where no address begins with https nothing is read, and no certificate would be accepted.
    """
    if any(endpoint.base_url.startswith("https:") for endpoint in endpoints):
        return ssl.create_default_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def _bounded(response: Any) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > LONGEST_BODY:
            raise LineError(f"the answer is longer than {LONGEST_BODY >> 20} MiB", unpaid=False)
        parts.append(part)
    return b"".join(parts)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
