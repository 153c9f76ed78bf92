"""How a call ends that did not go well: one line on stderr and an exit status, never a traceback.

Errors that say themselves what is wrong are printed as they are. Any other one is told by the
place where it happened, and its traceback is kept in a file that the line names. Ctrl-C, SIGTERM
and SIGHUP unwind what runs, once and quietly.
"""

from __future__ import annotations

import _thread
import atexit
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from labeler.cli.options import discard_stdout
from labeler.errors import USAGE_ERRORS, Place, WorkError, missing_extra
from labeler.store.secrets import Secrets, masked
from labeler.text import one_line, visible

EXIT_WORK_FAILED = 1
EXIT_WRONG_CALL = 2
EXIT_READER_GONE = 141
"""What a shell reports of a program whose reader ended first, as in `| head`."""
TRACEBACK_VARIABLE = "DIFFLENS_TRACEBACK"
"""Environment variable; with `1` every error's traceback is printed, before its line."""
LONGEST_WORDS = 500
PATIENCE_S = 5.0
"""Seconds that what runs has to end in order before a further signal ends it at once."""
_AGAIN_S = 0.02
_NUMBERS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def end(error: BaseException, arguments: list[str]) -> int:
    """Say in one line what ended a call; returns the exit status."""
    if os.environ.get(TRACEBACK_VARIABLE) == "1":
        traceback.print_exception(error)
    if isinstance(error, SystemExit):
        # The command library turns a broken pipe into an exit of its own.
        if not isinstance(error.__context__, BrokenPipeError):
            raise error
        error = error.__context__
    if isinstance(error, BrokenPipeError):
        discard_stdout()
        return EXIT_READER_GONE
    status, words = _judged(error, arguments)
    sys.stderr.write(f"difflens: {masked(visible(words))}\n")
    return status


def _judged(error: BaseException, arguments: list[str]) -> tuple[int, str]:
    """Exit status and words of an error."""
    if isinstance(error, USAGE_ERRORS):
        return EXIT_WRONG_CALL, str(error)
    if isinstance(error, WorkError):
        return EXIT_WORK_FAILED, str(error)
    if isinstance(error, typer.TyperException):
        return EXIT_WRONG_CALL, _call_words(error.format_message(), arguments)
    if words := missing_extra(error, " ".join(arguments[:1])):
        return EXIT_WRONG_CALL, words
    if isinstance(error, UnicodeEncodeError):
        for argument in arguments:
            if not _is_text(argument):
                return EXIT_WRONG_CALL, f"{argument}: is not UTF-8; rename it, or write it in UTF-8"
    if isinstance(error, OSError) and error.strerror:
        discard_stdout_if_full(error)
        return EXIT_WORK_FAILED, _system_words(error)
    from labeler.store.engine import unforeseen_failure

    foreseen = unforeseen_failure(error) if isinstance(error, Exception) else None
    return EXIT_WORK_FAILED, foreseen or _unforeseen_words(error, arguments)


def _is_text(argument: str) -> bool:
    try:
        argument.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def discard_stdout_if_full(error: OSError) -> None:
    """What could not be flushed would be tried, and complained of, once more at the exit."""
    if error.filename is None:
        discard_stdout()


def _call_words(message: str, arguments: list[str]) -> str:
    """What is wrong with a call; an SQL comment that was taken for an option says so."""
    dashed = any(one.startswith("--") and len(one.split()) > 1 for one in arguments)
    if not (dashed and message.startswith("No such option")):
        return message
    message = message.partition("\\x0a")[0]
    return f"{message}: an argument begins with dashes; write -- alone before it"


def _system_words(error: OSError) -> str:
    """What the system said: which file, and why."""
    filename = error.filename
    return f"{filename}: {error.strerror}" if filename is not None else str(error.strerror)


def _unforeseen_words(error: BaseException, arguments: list[str]) -> str:
    """Where it happened, what was said, and where the rest stands."""
    raised, places = error, _places(error)
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
        places = _places(error) + places
    command = " ".join(arguments[:1])
    where = ": ".join(reversed(places)) or command
    said = one_line(str(error), LONGEST_WORDS)
    words = f"{type(error).__name__}: {said}" if said else type(error).__name__
    log = _write_log(raised, arguments)
    kept = f"; the traceback is in {log}" if log is not None else ""
    return f"{one_line(where, LONGEST_WORDS)}: {words}{kept}"


def _places(error: BaseException) -> list[str]:
    """What was being done, innermost first."""
    return [note for note in getattr(error, "__notes__", ()) if isinstance(note, Place)]


def _write_log(error: BaseException, arguments: list[str]) -> Path | None:
    """Keep the traceback next to the study, or else in the system's folder for such files.

    None where nothing can be written. Only the user may read it: messages can hold corpus text.
    """
    secrets = Secrets.of_call(arguments, os.environ)
    text = secrets.masked("".join(traceback.format_exception(error)))
    for folder in (*_study_folders(arguments), Path(tempfile.gettempdir())):
        try:
            number, name = tempfile.mkstemp(".log", "difflens-error-", folder)
            with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        return Path(name)
    return None


def _study_folders(arguments: list[str]) -> list[Path]:
    """The folder of the study that the call names, if it names one."""
    files = [Path(argument) for argument in arguments if argument.endswith(".toml")]
    return [file.absolute().parent for file in files if file.is_file()][:1]


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

    def install(self) -> None:
        """Handle the signals, but for those that the caller has ignored, as nohup does.

        From the first handler on, a signal raises Interrupted, here too.
        """
        # Registered first, called last: what follows takes no signal and has nothing to lose.
        atexit.register(_ignore)
        before = sys.unraisablehook
        sys.unraisablehook = lambda args: self._raise_again(args) or before(args)
        for number in _NUMBERS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                signal.signal(number, self._handle)

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
            # Nobody asks how a library's own task ended that this breaks off; asyncio would tell.
            logging.getLogger("asyncio").disabled = True
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
