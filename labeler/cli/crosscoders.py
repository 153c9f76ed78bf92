"""Commands on crosscoders: export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labeler.cli.options import StudyPath
from labeler.errors import doing


def register(app: typer.Typer) -> None:
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
