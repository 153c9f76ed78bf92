"""Entry point of `difflens`: assembles the commands and turns errors into one line and a status."""

from __future__ import annotations

import os
import sys
import warnings

import typer

from crosscoder.errors import InputError as CrosscoderInputError
from crosscoder.errors import WorkError as CrosscoderWorkError
from labeler import __version__
from labeler.cli import (
    analysis,
    crosscoders,
    database,
    demo,
    judge,
    labeling,
    labels,
    machine,
    review,
    stages,
    taxonomy,
)
from labeler.errors import UsageError, WorkError
from labeler.secrets import MaskedStream, Secrets, masked
from taxonomy.errors import InputError as TaxonomyInputError

USAGE_ERRORS = (UsageError, CrosscoderInputError, TaxonomyInputError)
WORK_ERRORS = (WorkError, CrosscoderWorkError)
EXIT_WORK_FAILED = 1
EXIT_WRONG_CALL = 2
EXIT_INTERRUPTED = 130
EXIT_READER_GONE = 141
"""What a shell reports of a program whose reader ended first, as in `| head`."""


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"difflens {__version__}")
        raise typer.Exit()


def build_app() -> typer.Typer:
    """The command-line application with all its commands."""
    app = typer.Typer(
        name="difflens",
        help="What did the fine-tune change, concept by concept, and how sure are we?",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def difflens(
        version: bool = typer.Option(
            False, "--version", callback=_show_version, is_eager=True, help="Print the version."
        ),
    ) -> None:
        """What did the fine-tune change, concept by concept, and how sure are we?"""

    rooms = (
        demo,
        stages,
        crosscoders,
        analysis,
        labeling,
        labels,
        judge,
        review,
        database,
        machine,
        taxonomy,
    )
    for room in rooms:
        room.register(app)
    return app


def run(arguments: list[str]) -> int:
    """Run one call and return its exit status: 0 done, 1 work failed, 2 wrong call or config."""
    try:
        result = build_app()(args=arguments or ["--help"], standalone_mode=False)
        sys.stdout.flush()
    except USAGE_ERRORS as error:
        return _end(error, EXIT_WRONG_CALL)
    except WORK_ERRORS as error:
        return _end(error, EXIT_WORK_FAILED)
    except typer.TyperException as error:
        return _end(ValueError(_call_words(error.format_message(), arguments)), EXIT_WRONG_CALL)
    except BrokenPipeError:
        return _end_unread()
    except SystemExit as ended:
        # The command library turns a broken pipe into an exit of its own.
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        return _end_unread()
    except OSError as error:
        return _end(ValueError(_words(error)), EXIT_WORK_FAILED)
    except Exception as error:
        from labeler.store.failures import unforeseen_failure

        words = unforeseen_failure(error)
        if words is None:
            raise
        return _end(ValueError(words), EXIT_WORK_FAILED)
    except (KeyboardInterrupt, typer.Abort):
        result = EXIT_INTERRUPTED
    if result == EXIT_INTERRUPTED:
        # The command library turns Ctrl-C into this status itself.
        sys.stderr.write("difflens: interrupted; the same command goes on from here\n")
    return result if isinstance(result, int) else 0


def _end(error: Exception, status: int) -> int:
    sys.stderr.write(f"difflens: {masked(str(error))}\n")
    return status


def _call_words(message: str, arguments: list[str]) -> str:
    """What is wrong with a call; an SQL comment that was taken for an option says so."""
    dashed = any(one.startswith("--") and len(one.split()) > 1 for one in arguments)
    if not (dashed and message.startswith("No such option")):
        return message
    message = message.partition("\\x0a")[0]
    return f"{message}: an argument begins with dashes; write -- alone before it"


def _end_unread() -> int:
    """End as other tools do when nobody reads on: Python would complain of what is unwritten."""
    if sys.__stdout__ is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
    return EXIT_READER_GONE


def _words(error: OSError) -> str:
    """What the system said: which file, and why."""
    words = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {words}" if error.filename is not None else words


def quiet_libraries() -> None:
    """Keep other libraries' progress bars and notices to their developers off the terminal."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b")


def main() -> None:
    """Console script. Nothing that it writes to stderr holds a password or key of the call."""
    quiet_libraries()
    secrets = Secrets.of_call(sys.argv[1:], os.environ)
    sys.stderr = MaskedStream(sys.stderr, secrets)
    sys.exit(run(sys.argv[1:]))
