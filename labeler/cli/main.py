"""The command line: the application with all its commands, and how a call ends."""

from __future__ import annotations

import os
import sys
import warnings

import typer

from labeler import __version__
from labeler.cli import analysis, corpus, database, latents, servers, stages, taxonomy
from labeler.cli.ending import EndSignals, end
from labeler.cli.options import prepare_streams

EXIT_INTERRUPTED = 130
"""What the command library makes of Ctrl-C itself."""


def run(arguments: list[str], signals: EndSignals | None = None) -> int:
    """Run one call and return its exit status: 0 done, 1 work failed, 2 wrong call or config.

    128 and the signal's number where a signal ended it, 141 where nobody reads its output.
    """
    signals = signals or EndSignals()
    try:
        result = build_app()(args=arguments or ["--help"], standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:
        if signals.received is not None or isinstance(error, KeyboardInterrupt):
            return _interrupted(signals)
        return end(error, arguments)
    if result == EXIT_INTERRUPTED:
        return _interrupted(signals)
    return result if isinstance(result, int) else 0


def _interrupted(signals: EndSignals) -> int:
    sys.stderr.write(f"difflens: {signals.words}\n")
    return signals.status


def quiet_libraries() -> None:
    """Keep other libraries' progress bars and notices to their developers off the terminal."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b")


def _mask_stderr(arguments: list[str]) -> None:
    from labeler.store.secrets import MaskedStream, Secrets

    sys.stderr = MaskedStream(sys.stderr, Secrets.of_call(arguments, os.environ))


def main() -> None:
    """Console script. Nothing that it writes to stderr holds a password or key of the call."""
    signals = EndSignals()
    try:
        signals.install()
        prepare_streams()
        _mask_stderr(sys.argv[1:])
        quiet_libraries()
        status = run(sys.argv[1:], signals)
        signals.settle(status)
    except KeyboardInterrupt:
        # The signal came before the call began, or while its end was written.
        status = _interrupted(signals)
        signals.settle(status)
    sys.exit(status)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"difflens {__version__}")
        raise typer.Exit()


def build_app() -> typer.Typer:
    """Assemble the commands."""
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

    for register in (
        stages.register,
        latents.register_crosscoders,
        corpus.register,
        analysis.register,
        latents.register,
        servers.register,
        database.register,
        taxonomy.register,
    ):
        register(app)
    return app
