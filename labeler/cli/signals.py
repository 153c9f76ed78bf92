"""Ctrl-C, SIGTERM and SIGHUP end a command in order: what runs is unwound once, and quietly."""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

PATIENCE_S = 5.0
"""Seconds that what runs has to end in order before a further signal ends it at once."""
_AGAIN_S = 0.02
_NUMBERS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class EndSignals:
    """The signals that end a command: the first raises Interrupted, the others hurry or pass."""

    def __init__(self) -> None:
        self.received: int | None = None
        """The signal that ended the command; None while none has."""
        self._since = 0.0
        self._is_held = False
        self._status: int | None = None

    @classmethod
    def install(cls) -> EndSignals:
        """Handle the signals, but for those that the caller has ignored, as nohup does."""
        signals = cls()
        # Registered first, called last: what follows takes no signal and has nothing to lose.
        atexit.register(_ignore)
        before = sys.unraisablehook
        sys.unraisablehook = lambda args: signals._raise_again(args) or before(args)
        for number in _NUMBERS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                signal.signal(number, signals._handle)
        return signals

    @property
    def status(self) -> int:
        """The exit status that a shell reports of a program that the signal ended."""
        return 128 + (self.received or signal.SIGINT)

    @property
    def words(self) -> str:
        """What ended the command, in one line."""
        by = f" by {signal.Signals(self.received).name}" if self.received else ""
        shown = "" if self.received == signal.SIGINT else by
        return f"interrupted{shown}; the same command goes on from here"

    def settle(self, status: int) -> None:
        """All is said: a signal from here on ends the process at once with that status."""
        self._status = status

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._status is not None:
            _leave(self._status)
        if self.received is not None:
            if time.monotonic() - self._since > PATIENCE_S:
                _leave(self.status)
        elif _is_importing(frame):
            self._send_again(number)
        else:
            self.received = number
            self._since = time.monotonic()
            raise Interrupted(number)

    def _send_again(self, number: int) -> None:
        """Let a signal arrive once more in a moment; of several that wait the first one does."""
        if self._is_held:
            return
        self._is_held = True

        def send() -> None:
            self._is_held = False
            _thread.interrupt_main(signal.Signals(number))

        timer = threading.Timer(_AGAIN_S, send)
        timer.daemon = True
        timer.start()

    def _raise_again(self, args: Any) -> bool:
        """A signal that arrived in a finaliser is lost there: let it arrive once more."""
        if not isinstance(args.exc_value, Interrupted):
            return False
        self.received = None
        self._send_again(args.exc_value.number)
        return True


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported: compiled libraries abort where an import breaks off."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _leave(status: int) -> None:
    """End this process and its children at once."""
    for child in _children():
        try:
            if os.getpgid(child) == child:
                os.killpg(child, signal.SIGKILL)
            else:
                os.kill(child, signal.SIGKILL)
        except OSError:
            continue
    os._exit(status)


def _children() -> list[int]:
    """Processes that this one started; none where the system does not tell."""
    lists = Path("/proc/self/task").glob("*/children")
    try:
        return [int(pid) for each in lists for pid in each.read_text("ascii").split()]
    except OSError:
        return []


def _ignore() -> None:
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)
