"""A chat server on this machine that answers from a list, faults included."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Step:
    """What the server does with one request."""

    content: str | None = None
    """Content of the answer; null where None."""
    message: dict[str, Any] = field(default_factory=dict)
    """More keys of the answer's message."""
    finish_reason: str = "stop"
    status: int = 200
    body: str | None = None
    """Whole body instead of a completion."""
    headers: dict[str, str] = field(default_factory=dict)
    reset: bool = False
    """Cut the connection without a word."""
    delay_s: float = 0.0
    drip: bool = False
    """Send the body one byte at a time, `delay_s` after each."""


@dataclass(frozen=True)
class Received:
    """A request that the server got."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


Answerer = Callable[[Received, int], Step]


class StubServer:
    """Answers request n by `answerer(request, n)` and keeps what it received."""

    def __init__(
        self, answerer: Answerer, port: int = 0, models: dict[str, int] | None = None
    ) -> None:
        """`models` are the names that `GET /v1/models` lists, with their context."""
        self._answerer = answerer
        self._models = models or {}
        self._lock = threading.Lock()
        self.received: list[Received] = []
        self.connections: set[socket.socket] = set()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                stub.connections.add(self.connection)

            def finish(self) -> None:
                stub.connections.discard(self.connection)
                super().finish()

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = json.loads(self.rfile.read(length))
                step = stub.take(Received(self.path, lower_case(self.headers.items()), body))
                try:
                    perform(self, step)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def do_GET(self) -> None:
                is_health = self.path == "/health"
                payload = b"" if is_health else json.dumps(stub.model_list()).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """Base URL as a config names it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def take(self, request: Received) -> Step:
        """Record a request and choose what to do with it."""
        with self._lock:
            self.received.append(request)
            number = len(self.received) - 1
        return self._answerer(request, number)

    def model_list(self) -> dict[str, Any]:
        """The body of `GET /v1/models`."""
        rows = [{"id": name, "max_model_len": size} for name, size in self._models.items()]
        return {"object": "list", "data": rows}

    @contextmanager
    def running(self) -> Iterator[StubServer]:
        """Serve while the block runs."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            for connection in tuple(self.connections):
                # A server that ends leaves no connection open.
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def serving(*steps: Step) -> Iterator[StubServer]:
    """A server that goes through `steps` and then repeats the last one."""
    with StubServer(lambda _, number: steps[min(number, len(steps) - 1)]).running() as server:
        yield server


def lower_case(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by lower-case name."""
    return {name.lower(): value for name, value in headers}


def perform(handler: BaseHTTPRequestHandler, step: Step) -> None:
    """Send one answer, or the fault that stands in its place."""
    if step.reset:
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.close_connection = True
        handler.connection.close()
        return
    if not step.drip:
        time.sleep(step.delay_s)
    payload = (step.body if step.body is not None else json.dumps(completion(step))).encode()
    handler.send_response(step.status)
    headers = {"content-type": "application/json", "content-length": str(len(payload))}
    for name, value in (headers | step.headers).items():
        handler.send_header(name, value)
    handler.end_headers()
    if not step.drip:
        handler.wfile.write(payload)
        return
    for byte in payload:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(step.delay_s)


def completion(step: Step) -> dict[str, Any]:
    """The body of a chat completion."""
    message = {"role": "assistant", "content": step.content} | step.message
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "stub",
        "choices": [{"index": 0, "message": message, "finish_reason": step.finish_reason}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }
