"""The process that runs one question and is killed when it takes too long.

No check inside a database library reaches every loop of it: one `instr` over megabytes runs for
minutes between two looks at the clock. A process can be ended at any moment, so each question has
one of its own. It imports the standard library alone (and psycopg for PostgreSQL), and is up in
some ten milliseconds. The request comes as JSON on standard input, the answer leaves as frames on
standard output; when standard input closes, whoever asked is gone, and the process ends.
"""

from __future__ import annotations

import _thread
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from labeler.errors import UsageError, WorkError
from labeler.store.query.result import Limits, RowCounter, as_json, pack, too_hungry

OVERTIME_S = 1.0
"""Seconds after the deadline at which the kernel ends the process, should nobody else do it."""
MEMORY_FACTOR = 2
"""Address space of the process in multiples of the database's own limit: values are copied."""
_SPARE_BYTES = 256 << 20
_FRAME_ROWS = 200
_FRAME_BYTES = 500_000


def main() -> None:
    """Run the question on standard input."""
    request = json.loads(sys.stdin.buffer.readline())
    limits = Limits(**request["limits"])
    _confine(limits)
    endings: list[Callable[[], object]] = []
    _thread.start_new_thread(_end_with_asker, (endings,))
    try:
        _answer(_rows(request, limits, endings), limits)
    except MemoryError:
        _send(pack("error", ["work", str(too_hungry())]))
    except RecursionError:
        _send(pack("error", ["work", "sql: a value is nested too deep; ask for a part of it"]))
    except (UsageError, WorkError) as error:
        _send(pack("error", ["usage" if isinstance(error, UsageError) else "work", str(error)]))
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        _send(pack("error", ["work", f"sql: the question failed: {words}"]))
    os._exit(0)


def _confine(limits: Limits) -> None:
    if limits.nice:
        os.nice(limits.nice)
    largest = MEMORY_FACTOR * limits.max_heap_bytes + _SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (largest, largest))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The signal's own action ends the process within any call, where no Python code would run.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits.timeout_s + OVERTIME_S)


def _end_with_asker(endings: Sequence[Callable[[], object]]) -> None:
    """End the process when its standard input does; what runs on a server is cancelled first."""
    os.read(0, 1)
    for end in endings:
        end()
    os._exit(1)


def _rows(
    request: dict[str, Any], limits: Limits, endings: list[Callable[[], object]]
) -> Iterator[Sequence[Any]]:
    """Column names, then rows."""
    if request["kind"] == "sqlite":
        from labeler.store.query.sqlite import ask_sqlite

        _send(pack("started", None))
        return ask_sqlite(request["database"], request["statement"], limits)
    from labeler.store.query.postgresql import ask_postgresql

    def connected(cancel: Callable[[], object]) -> None:
        endings.append(cancel)
        _thread.start_new_thread(_call_later, (limits.timeout_s, cancel))
        _send(pack("started", None))

    return ask_postgresql(request["database"], request["statement"], limits, connected)


def _call_later(seconds: float, call: Callable[[], object]) -> None:
    time.sleep(seconds)
    call()


def _answer(rows: Iterator[Sequence[Any]], limits: Limits) -> None:
    _send(pack("columns", next(rows)))
    counter = RowCounter(limits)
    batch: list[Any] = []
    sent = 0
    for row in counter.kept(rows):
        batch.append([as_json(value) for value in row])
        if len(batch) == _FRAME_ROWS or counter.size - sent > _FRAME_BYTES:
            _send(pack("rows", batch))
            batch, sent = [], counter.size
    _send(pack("rows", batch))
    _send(pack("end", counter.truncated))


def _send(frame: bytes) -> None:
    rest = memoryview(frame)
    while rest:
        rest = rest[os.write(1, rest) :]
