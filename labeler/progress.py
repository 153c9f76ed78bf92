"""Progress of long work: a bar on a terminal, plain lines elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from crosscoder.progress import Advance, Progress, SilentProgress

PLAIN_INTERVAL_S = 5.0
"""Seconds between two plain lines of one task."""


class TerminalProgress:
    """A rich progress bar with rate and time left."""

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Show one bar of `total` units while the block runs."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        bar = Bar(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        started = time.monotonic()
        with bar:
            task = bar.add_task(label, total=total, unit=unit, rate="")
            done = 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                elapsed = max(time.monotonic() - started, 1e-9)
                bar.update(task, advance=count, rate=_rate(done, elapsed, unit))

            yield advance

    def say(self, line: str) -> None:
        """Write the line."""
        sys.stderr.write(line + "\n")


class PlainProgress:
    """One line at the start, one every few seconds, one at the end."""

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Report one task of `total` units while the block runs."""
        started = last = self._clock()
        done = 0

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            now = self._clock()
            if now - last >= PLAIN_INTERVAL_S and done < total:
                last = now
                elapsed = now - started
                left = elapsed / max(done, 1) * (total - done)
                self._write(
                    f"{label}: {done:,}/{total:,} {unit}, "
                    f"{_rate(done, elapsed, unit)}, {left:.0f} s left"
                )

        yield advance
        elapsed = self._clock() - started
        self._write(f"{label}: {done:,} {unit} in {elapsed:.1f} s")

    def say(self, line: str) -> None:
        """Write the line."""
        self._write(line)

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def _rate(done: int, elapsed: float, unit: str) -> str:
    return f"{done / max(elapsed, 1e-9):,.1f} {unit}/s"


def progress_for(stream: TextIO | None = None) -> Progress:
    """The bar on a terminal, plain lines elsewhere."""
    stream = stream if stream is not None else sys.stderr
    return TerminalProgress() if stream.isatty() else PlainProgress(stream)


__all__ = ["PlainProgress", "Progress", "SilentProgress", "TerminalProgress", "progress_for"]
