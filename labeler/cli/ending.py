"""How a call ends that did not go well: one line on stderr and an exit status, never a traceback.

Errors that say themselves what is wrong are printed as they are. Any other one is told by the
place where it happened, and its traceback is kept in a file that the line names.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from pathlib import Path

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
