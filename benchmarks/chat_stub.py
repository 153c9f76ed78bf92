"""A chat server with a fixed latency, in a process of its own: answers every chat alike.

    python benchmarks/chat_stub.py PORT LATENCY_S

It reads no more of a request than it must, so that its own CPU stays out of the figures. Prints
nothing; `GET /stats` tells how many requests came and how many were in flight at most.
"""

from __future__ import annotations

import asyncio
import json
import sys

ANSWER = {"explanation": "fires on one word", "interpretable": True, "confidence": 0.5}
PROMPT_TOKENS, ANSWER_TOKENS = 1000, 25
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


def completion() -> bytes:
    """The one answer."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": json.dumps(ANSWER)},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": ANSWER_TOKENS}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()


class Chats:
    """What the connections share."""

    def __init__(self, latency_s: float) -> None:
        body = completion()
        self.reply = HEAD % len(body) + body
        self.latency_s = latency_s
        self.n_requests = 0
        self.in_flight = 0
        self.most_in_flight = 0

    def stats(self) -> bytes:
        """The counts as a whole HTTP answer; the peak starts anew."""
        body = json.dumps({"n_requests": self.n_requests, "peak": self.most_in_flight}).encode()
        self.most_in_flight = self.in_flight
        return HEAD % len(body) + body


class Connection(asyncio.Protocol):
    """Cuts requests out of the stream and answers each after the latency."""

    def __init__(self, chats: Chats) -> None:
        self._chats = chats
        self._received = bytearray()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end]).lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n")[0]) if at >= 0 else 0
            if len(self._received) < end + 4 + length:
                return
            del self._received[: end + 4 + length]
            self._take(head)

    def _take(self, head: bytes) -> None:
        assert self._transport is not None
        if head.startswith(b"get "):
            self._transport.write(self._chats.stats())
            return
        chats = self._chats
        chats.n_requests += 1
        chats.in_flight += 1
        chats.most_in_flight = max(chats.most_in_flight, chats.in_flight)
        asyncio.get_running_loop().call_later(chats.latency_s, self._answer)

    def _answer(self) -> None:
        self._chats.in_flight -= 1
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._chats.reply)


async def serve(port: int, latency_s: float) -> None:
    """Serve until the process is stopped."""
    chats = Chats(latency_s)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(chats), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
