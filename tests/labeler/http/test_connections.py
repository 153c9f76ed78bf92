"""One connection to a judge's server, and what it says when there is none."""

from __future__ import annotations

import asyncio
import socket

import pytest
from stub_server import Step, serving

from labeler.http.connections import (
    Connection,
    ConnectionFailedError,
    Endpoint,
    HttpAnswer,
    proxy_for,
    tls_for,
)


def send(url: str, n: int = 1, key_env: str | None = None) -> list[HttpAnswer]:
    """The answers to requests that follow each other on one line."""

    async def ask() -> list[HttpAnswer]:
        endpoint = Endpoint(url, "m", key_env)
        line = Connection(endpoint, tls_for((endpoint,)))
        try:
            return [await line.post("/chat/completions", {"number": at}) for at in range(n)]
        finally:
            await line.aclose()

    return asyncio.run(ask())


def test_requests_share_one_connection() -> None:
    with serving(Step("yes")) as server:
        answers = send(server.url, n=3)
        assert len(server.connections) <= 1
    assert [answer.status for answer in answers] == [200] * 3
    assert [request.body for request in server.received] == [{"number": at} for at in range(3)]


def test_a_redirect_is_not_followed_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with serving(Step("yes")) as elsewhere:
        moved = Step("no", status=307, headers={"location": f"{elsewhere.url}/chat/completions"})
        with serving(moved) as server:
            (answer,) = send(server.url, key_env="JUDGE_KEY")
    assert answer.status == 307
    assert elsewhere.received == []
    assert server.received[0].headers["authorization"] == "Bearer secret"


def test_a_cookie_is_not_sent_back() -> None:
    with serving(Step("yes", headers={"set-cookie": "seen=1; Path=/"})) as server:
        send(server.url, n=2)
    assert all("cookie" not in request.headers for request in server.received)


def test_a_closed_port_is_a_refused_connection() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(
        ConnectionFailedError, match=r"^cannot connect: Connection refused$"
    ) as caught:
        send(f"http://127.0.0.1:{port}/v1")
    assert caught.value.unpaid


def test_a_cut_connection_may_have_been_paid_for() -> None:
    with serving(Step(reset=True)) as server, pytest.raises(ConnectionFailedError) as caught:
        send(server.url)
    assert not caught.value.unpaid


def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with serving(Step("through the proxy")) as proxy:
        address = proxy.url.removesuffix("/v1")
        monkeypatch.setenv("http_proxy", address)
        monkeypatch.setenv("no_proxy", "127.0.0.1,.inside")
        assert proxy_for("https://judge.example/v1") is None
        assert proxy_for("http://judge.inside/v1") is None
        assert proxy_for("http://127.0.0.1:8000/v1") is None
        assert proxy_for("http://judge.example/v1") == address
        (answer,) = send("http://judge.example/v1")
    assert b"through the proxy" in answer.content
    assert proxy.received[0].path == "http://judge.example/v1/chat/completions"
