"""Commands on latents and labels: import, export, the spreadsheet round trip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from labeler.cli.options import StudyPath
from labeler.errors import UsageError, doing


def known_format(name: str) -> str:
    """A value of `--format`; ValueError where no format has this name."""
    from labeler.exchange.formats import FORMATS

    if name not in FORMATS.names():
        raise ValueError(f"{name!r} is not one of {', '.join(map(repr, FORMATS.names()))}.")
    return name


class FormatCommand(TyperCommand):
    """A command whose help names the registered formats: only then are extensions looked for."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """List the options."""
        from labeler.exchange.formats import FORMATS

        for option in self.params:
            if "--format" in option.opts:
                option.metavar = f"<{'|'.join(FORMATS.names())}>"
        super().format_options(ctx, formatter)


LabelsPlace = Annotated[
    Path, typer.Argument(metavar="FILE", help="CSV, or JSONL by its name; a folder for --format.")
]
FormatName = Annotated[
    str | None,
    typer.Option("--format", parser=known_format, help="A folder of another tool, not a file."),
]
CrosscoderName = Annotated[
    str | None, typer.Option(help="With --format: whose latents; may be left out if there is one.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and count, change nothing.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("import")(import_)
    group = typer.Typer(help="Spreadsheet round trip of labels.", no_args_is_help=True)
    group.command("export", cls=FormatCommand)(export_labels)
    group.command("import", cls=FormatCommand)(import_labels)
    app.add_typer(group, name="labels")


def import_(
    study: StudyPath,
    latents: Annotated[Path, typer.Argument(metavar="latents.csv", help="Labelled latents.")],
    dry_run: DryRun = False,
    create_categories: Annotated[
        bool, typer.Option("--create-categories", help="Add unknown slugs to a new version.")
    ] = False,
    as_written: Annotated[
        bool, typer.Option("--as-written", help="Take text that looks garbled as it is.")
    ] = False,
) -> None:
    """Import latents that were labelled elsewhere; no models are needed."""
    from labeler.api import Study

    with doing(f"importing {latents}"):
        result = Study.open(study).import_latents(latents, dry_run, create_categories, as_written)
    typer.echo(result.summary(), err=True)


def export_labels(
    study: StudyPath,
    file: LabelsPlace,
    form: FormatName = None,
    crosscoder: CrosscoderName = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a file that is there, and its edits.")
    ] = False,
    creator_id: Annotated[
        str | None,
        typer.Option(help="With --format neuronpedia: the user there who is to own the rows."),
    ] = None,
) -> None:
    """Write every active label, with the revision that a correction is based on.

    With --format the labelled latents of one crosscoder, as another tool reads them.
    """
    from labeler.api import Study

    if form is None:
        from labeler.exchange.formats import only_with

        if creator_id is not None:
            raise UsageError(only_with("creator_id"))
        with doing(f"exporting {file}"):
            count = Study.open(study).export_labels(file, overwrite=force)
        typer.echo(f"{file}: {count} labels", err=True)
        return
    with doing(f"exporting {file}"):
        done = Study.open(study).export_latents(
            file, form, crosscoder, overwrite=force, creator_id=creator_id
        )
    typer.echo(f"{file}: {done.n_latents} latents as {form}", err=True)
    if done.left_out is not None:
        typer.echo(done.left_out, err=True)


def import_labels(
    study: StudyPath,
    file: LabelsPlace,
    reviewer: Annotated[
        str | None, typer.Option(help="Who decided; the name you are logged in with if not given.")
    ] = None,
    form: FormatName = None,
    crosscoder: CrosscoderName = None,
    new_crosscoder: Annotated[
        bool,
        typer.Option("--new-crosscoder", help="Make the crosscoder of that name, without weights."),
    ] = False,
    dry_run: DryRun = False,
    all_changed: Annotated[
        bool, typer.Option("--all-changed", help="Nearly every explanation is meant to differ.")
    ] = False,
) -> None:
    """Take corrections back from a spreadsheet: all of them, or on any conflict none.

    With --format explanations, scores and evidence of another tool's folder, next to the study's.
    """
    from labeler.api import Study

    if form is not None:
        if crosscoder is None:
            raise UsageError("--crosscoder: name the crosscoder whose latents the folder describes")
        with doing(f"importing {file}"):
            done = Study.open(study).import_explanations(
                file, form, crosscoder, dry_run, new_crosscoder
            )
        typer.echo(done.summary, err=True)
        return
    name = _user_name() if reviewer is None else reviewer.strip()
    if not name:
        raise UsageError("--reviewer: is empty; say who decided")
    with doing(f"importing {file}"):
        result = Study.open(study).import_labels(file, name, dry_run, all_changed)
    typer.echo(result.summary(), err=True)


def _user_name() -> str:
    import getpass

    return getpass.getuser()


def register_crosscoders(app: typer.Typer) -> None:
    """Add the group `crosscoder` to the application."""
    group = typer.Typer(help="Crosscoders from and for other tools.", no_args_is_help=True)
    group.command("export")(export_crosscoder)
    group.command("import")(import_features)
    app.add_typer(group, name="crosscoder")


def export_crosscoder(
    study: StudyPath,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder to write into.")],
    crosscoder: Annotated[
        str | None, typer.Option(help="Which of [[crosscoders]], where there are several.")
    ] = None,
    name_class: Annotated[
        bool,
        typer.Option(
            "--name-class",
            help="Name the class in config.json too: diffing-toolkit wants that of a local folder,"
            " dictionary_learning's older forks refuse it.",
        ),
    ] = False,
) -> None:
    """Write the study's crosscoder in dictionary_learning's Hub layout."""
    from labeler.api import Study

    with doing(f"exporting {folder}"):
        Study.open(study).export_crosscoder(folder, crosscoder, name_class)
    typer.echo(f"{folder}: model.safetensors, config.json, trainer_config.json", err=True)


def import_features(
    study: StudyPath,
    table: Annotated[Path, typer.Argument(metavar="feature_df.csv", help="Published statistics.")],
    target: Annotated[str, typer.Option(help="The fine-tuned model's name.")],
    reference: Annotated[str, typer.Option(help="The base model's name.")],
    name: Annotated[str | None, typer.Option(help="What to call the crosscoder.")] = None,
) -> None:
    """Import the latents of a published feature_df.csv with their scaling."""
    from labeler.api import Study

    with doing(f"importing {table}"):
        result = Study.open(study).import_features(table, target, reference, name)
    typer.echo(
        f"{result.crosscoder}: {result.n_rows} latents, {result.n_scaled} with a new scaling",
        err=True,
    )
