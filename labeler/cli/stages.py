"""Commands that run the main job: demo, init, run, one command per stage, and status."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labeler.cli.options import MaxCost, MaxTokens, StudyPath
from labeler.errors import UsageError, require_extra

if TYPE_CHECKING:
    from labeler.judge.budget import Limits
    from labeler.stages.pipeline import StageReport
    from labeler.study.study_file import StudyFile


STAGE_HELP = {
    "harvest": "Let the models read the text and store their activations.",
    "train": "Train the crosscoder.",
    "isolate": "Find the latents that only one model has.",
    "collect": "Collect the evidence of each isolated latent.",
    "label": "Let the judge explain each latent.",
    "categorize": "Cluster the explanations and map them to the taxonomy.",
    "effect": "Measure what the latents do to the output.",
    "behaviour": "Let the models answer held-out prompts, and classify the answers.",
    "report": "Compute the change statistics and write the report.",
}


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(demo)
    app.command()(init)
    app.command()(run)
    own: dict[str, Callable[..., None]] = {"label": label, "report": report}
    for name, text in STAGE_HELP.items():
        make = _asking_command if name in ("categorize", "behaviour") else _stage_command
        app.command(name, help=text)(own.get(name) or make(name))
    app.command()(status)


def init(
    study: Annotated[Path, typer.Argument(metavar="study.toml", help="File to write.")],
) -> None:
    """Write a commented config to start from."""
    from labeler.study.study_file import write_template

    write_template(study)
    typer.echo(f"wrote {study}", err=True)


def run(
    study: StudyPath,
    first: Annotated[
        str | None, typer.Option("--from", help="Redo this stage and those after it.")
    ] = None,
    last: Annotated[str | None, typer.Option("--until", help="Stop after this stage.")] = None,
    null_runs: Annotated[
        bool,
        typer.Option(
            "--null-runs",
            help="Also run the null runs: other seeds, permuted sides, null models.",
        ),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Print what would be done and its size; change nothing."),
    ] = False,
    max_tokens_total: MaxTokens = None,
    max_cost: MaxCost = None,
    thorough: Annotated[bool, typer.Option("--thorough", hidden=True)] = False,
) -> None:
    """Run every stage, skipping what is already done with the same inputs."""
    from labeler.study.study_file import StudyFile

    if thorough:
        typer.echo("--thorough: this option is now called --null-runs; use that", err=True)
    null_runs = null_runs or thorough
    file = StudyFile.read(study)
    if null_runs and file.config.crosscoders:
        raise UsageError(
            "--null-runs: they are for one crosscoder over all models; leave the option out, or "
            "remove [[crosscoders]] from the study"
        )
    if null_runs and last not in (None, "report"):
        raise UsageError(
            f"--null-runs needs the labels of the whole study; leave out --until {last}"
        )
    if plan:
        from labeler.cli.planning import print_plan

        if null_runs:
            raise UsageError("--plan does not say what --null-runs does; leave one of them out")
        print_plan(file, first, last)
        return
    limits = limits_of(max_tokens_total, max_cost)
    run_and_print(file, first, last, limits)
    if null_runs:
        run_nulls_and_print(file, limits)


def limits_of(max_tokens_total: int | None, max_cost: float | None) -> Limits:
    """The limits that the options of a command set."""
    from labeler.judge.budget import Limits

    return Limits(max_tokens_total, max_cost)


def run_nulls_and_print(study: StudyFile, limits: Limits | None = None) -> None:
    """Run the null runs of a finished study, then write its report with them."""
    from labeler.progress import progress_for
    from labeler.stages.null_runs import run_null_runs

    for report in run_null_runs(study, progress_for(), limits):
        say_what_happened(report)
    run_and_print(study, "report", "report")


def run_and_print(
    study: StudyFile, first: str | None, last: str | None, limits: Limits | None = None
) -> None:
    """Run stages, say on stderr what each did, and print the change table at the end."""
    from labeler.progress import progress_for
    from labeler.stages.pipeline import run_study

    reports = []
    for report in run_study(study, progress_for(), first, last, limits):
        reports.append(report)
        say_what_happened(report)
    if all(report.was_done for report in reports):
        typer.echo("nothing to do: every stage is done with the same inputs", err=True)
    if reports and reports[-1].stage == "report":
        print_report(study)


def say_what_happened(report: StageReport) -> None:
    """One line on stderr about a stage."""
    took = "" if report.was_done else f" ({report.seconds:.1f} s)"
    typer.echo(f"{report.stage}: {report.message}{took}", err=True)
    for line in report.details:
        typer.echo(f"  {line}", err=True)


def print_report(study: StudyFile) -> None:
    """Print the newest change table of each comparison and the report's path."""
    from labeler.report.tables import print_change_tables

    print_change_tables(study)


def report(
    study: StudyPath,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="OTHER.toml",
            help="Another study; compare its newest report with this one's.",
        ),
    ] = None,
) -> None:
    """Compute the change statistics and write the report."""
    from labeler.progress import progress_for
    from labeler.stages.pipeline import run_stage
    from labeler.stages.status import warn_of_stale_stages
    from labeler.study.study_file import StudyFile

    file = StudyFile.read(study)
    if compare is None:
        say_what_happened(run_stage(file, progress_for(), "report"))
        warn_of_stale_stages(file)
        print_report(file)
        return
    from labeler.stages.report import compare_studies, read_other

    other = StudyFile.read(compare)
    if other.path == file.path:
        raise UsageError(f"--compare: {compare} is this study itself; name another one")
    others = read_other(other)
    say_what_happened(run_stage(file, progress_for(), "report"))
    warn_of_stale_stages(file)
    print_report(file)
    compare_studies(file, others)


def _stage_command(name: str) -> Callable[..., None]:
    def command(study: StudyPath) -> None:
        _run_one(study, name)

    command.__name__ = name
    return command


def _asking_command(name: str) -> Callable[..., None]:
    def command(
        study: StudyPath, max_tokens_total: MaxTokens = None, max_cost: MaxCost = None
    ) -> None:
        _run_one(study, name, limits_of(max_tokens_total, max_cost))

    command.__name__ = name
    return command


def _run_one(study: Path, name: str, limits: Limits | None = None) -> None:
    from labeler.progress import progress_for
    from labeler.stages.pipeline import run_stage
    from labeler.study.study_file import StudyFile

    say_what_happened(run_stage(StudyFile.read(study), progress_for(), name, limits))


def status(study: StudyPath) -> None:
    """Show the stages that are done, stale or open, the coverage, and what review is left."""
    from labeler.stages.status import print_status
    from labeler.study.study_file import StudyFile

    print_status(StudyFile.read(study))


def demo(
    workdir: Annotated[Path, typer.Option(help="Folder of the demo's study.")] = Path(
        "difflens-demo"
    ),
) -> None:
    """Run the whole main job on a real pair of small models, minutes on two cores."""
    from labeler.cli.demo import announce, prepare

    require_extra("models", "demo")
    typer.echo(announce(), err=True)
    run_and_print(prepare(workdir), None, None)


def label(
    study: StudyPath,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print calls, tokens and cost; ask nothing.")
    ] = False,
    show_prompt: Annotated[
        str | None,
        typer.Option(metavar="LATENT", help="Print a latent's prompt; ask nothing."),
    ] = None,
    max_tokens_total: MaxTokens = None,
    max_cost: MaxCost = None,
) -> None:
    """Let the judge explain each latent; several processes may share the work."""
    if plan or show_prompt is not None:
        from labeler.cli.inspection import print_what_is_asked
        from labeler.study.study_file import StudyFile

        print_what_is_asked(StudyFile.read(study), show_prompt)
    else:
        _run_one(study, "label", limits_of(max_tokens_total, max_cost))
