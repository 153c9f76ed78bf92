"""`difflens label`: the judge explains latents, or the prompt and the cost are shown."""

from __future__ import annotations

from typing import Annotated

import typer

from labeler.cli.options import StudyPath


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(help="Let the judge explain each latent.")(label)


def label(
    study: StudyPath,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print calls, tokens and cost; ask nothing.")
    ] = False,
    show_prompt: Annotated[
        str | None,
        typer.Option(metavar="LATENT", help="Print a latent's prompt; ask nothing."),
    ] = None,
    max_tokens_total: Annotated[
        int | None, typer.Option(min=0, help="Stop before this call's tokens pass this number.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="Stop before this call's cost passes this.")
    ] = None,
) -> None:
    """Let the judge explain each latent; several processes may share the work."""
    from labeler.study.study_file import StudyFile

    file = StudyFile.read(study)
    if plan or show_prompt is not None:
        from labeler.cli.label_preview import warning_of

        warning = warning_of(file)
        if warning is not None:
            typer.echo(warning, err=True)
    if show_prompt is not None:
        from labeler.cli.label_preview import prompt_of

        typer.echo(prompt_of(file, show_prompt))
    elif plan:
        from labeler.cli.label_preview import planned

        for line in planned(file):
            typer.echo(line)
    else:
        _label(study, max_tokens_total, max_cost)


def _label(study: StudyPath, max_tokens: int | None, max_cost: float | None) -> None:
    from labeler.cli.stages import say_what_happened
    from labeler.judge.budget import Limits, Spending
    from labeler.progress import progress_for
    from labeler.stages.pipeline import run_stage
    from labeler.study.study_file import StudyFile

    limited = max_tokens is not None or max_cost is not None
    spending = Spending(Limits(max_tokens, max_cost)) if limited else None
    say_what_happened(run_stage(StudyFile.read(study), progress_for(), "label", spending))
    if spending is not None:
        used = spending.used
        typer.echo(f"label: used {used.tokens:,.0f} tokens, cost {used.cost:.6g}", err=True)
