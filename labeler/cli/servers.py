"""Commands that start servers: `judge serve` with `judge check`, and `review`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labeler.cli.ending import Interrupted
from labeler.cli.options import StudyPath

if TYPE_CHECKING:
    from labeler.judge.vllm import ServerPlan
    from labeler.study.study_file import StudyFile


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    judge = typer.Typer(help="Start the judge's server; check a judge.", no_args_is_help=True)
    judge.command()(serve)
    judge.command()(check)
    app.add_typer(judge, name="judge")
    app.command()(review)


def serve(
    study: StudyPath,
    log: Annotated[
        Path | None, typer.Option(help="File for the server's output.", show_default=False)
    ] = None,
) -> None:
    """Start vLLM with the study's judge, print its URL when it is healthy, stop it on Ctrl-C."""
    from labeler.judge.vllm import find_entry_point, plan_server, require_servable
    from labeler.study.study_file import StudyFile

    file = StudyFile.read(study)
    section = file.config.judge
    require_servable(section, file.folder)
    python = section.server.python
    if python is not None:
        # Not resolved: the link of a virtual environment is what makes it one.
        python = str(file.folder / Path(python).expanduser())
    entry_point = find_entry_point(python, [file.folder, Path.cwd()])
    plan = plan_server(section, file.folder, entry_point)
    _serve(plan, log or file.artifacts / "judge-server.log", file)


def _serve(plan: ServerPlan, log: Path, file: StudyFile) -> None:
    from labeler.errors import WorkError
    from labeler.judge.vllm import died, running_server

    typer.echo(f"judge: starting with {plan.entry_point.words}, log in {log}", err=True)
    try:
        with running_server(plan, log, lambda line: typer.echo(f"judge: {line}", err=True)) as one:
            typer.echo(plan.url)
            typer.echo(
                f"judge: healthy; `difflens judge check {file.path.name}` says what its labels are "
                "worth, Ctrl-C stops it",
                err=True,
            )
            one.wait()
            raise WorkError(died(one, log, plan.hub_name))
    except KeyboardInterrupt as stop:
        typer.echo("judge: stopped", err=True)
        number = stop.number if isinstance(stop, Interrupted) else signal.SIGINT
        # Ctrl-C is how a server is meant to end; any other signal is a shell's to be told of.
        raise typer.Exit(0 if number == signal.SIGINT else 128 + number) from None


def check(
    study: StudyPath,
    connection: Annotated[
        bool, typer.Option("--connection", help="Send one request to every server, no more.")
    ] = False,
    puzzles: Annotated[
        bool, typer.Option("--puzzles", help="Only rank true above false explanations of puzzles.")
    ] = False,
) -> None:
    """Ask every server of the judge one question, then measure what the judge's labels are worth.

    The judge labels latents that people labelled: how often it is right, whether it prefers an
    answer, whether the order of the categories or its confidence mislead. The result is stored for
    the report. A judge that gives one label nearly always is refused.
    """
    from labeler.cli.judge_check import check_connection, check_puzzles, check_worth
    from labeler.study.study_file import StudyFile

    file = StudyFile.read(study)
    if puzzles:
        check_puzzles(file)
        return
    check_connection(file, is_required=connection)
    if not connection:
        check_worth(file)


def review(
    study: StudyPath,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that others reach needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8400,
    reviewer: Annotated[
        str | None, typer.Option(help="Who decides; the name you are logged in with if not given.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="What reviewers sign in with; better in a file.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file whose first line is the token.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A further name of this server.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=32, help="Processes that answer; one, or with a token one a core."),
    ] = None,
) -> None:
    """Review labels in the browser: `http://127.0.0.1:8400/`, until Ctrl-C."""
    from labeler.review.server import ServerOptions, serve

    names = tuple(allow_host or ())
    serve(study, ServerOptions(host, port, reviewer, token, token_file, names, workers))
