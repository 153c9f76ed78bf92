"""The group `taxonomy`: what the categories are, and what a person decides about them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from labeler.cli.analysis import OutputFormat, print_rows
from labeler.cli.options import MaxCost, MaxTokens, StudyPath, print_data
from labeler.errors import UsageError

if TYPE_CHECKING:
    from labeler.study.study_file import StudyFile


class ShowFormat(StrEnum):
    """How categories are printed."""

    TEXT = "text"
    YAML = "yaml"
    TABLE = "table"
    CSV = "csv"
    JSON = "json"


class ProposalMode(StrEnum):
    """What a proposal is made from."""

    INDUCE = "induce"
    RESIDUAL = "residual"


class StabilityPart(StrEnum):
    """Which table of the stability is printed."""

    CATEGORIES = "categories"
    RERUNS = "reruns"


Format = Annotated[OutputFormat, typer.Option("--format", help="How rows are printed.")]
Slug = Annotated[str, typer.Argument(help="Slug of a category.", metavar="SLUG")]


def register(app: typer.Typer) -> None:
    """Add the group to the application."""
    group = typer.Typer(help="The categories and their versions.", no_args_is_help=True)
    for command in (show, propose, accept, merge, split, rename, restore, diff, stability):
        group.command()(command)
    app.add_typer(group, name="taxonomy")


def show(
    study: StudyPath,
    output: Annotated[
        ShowFormat, typer.Option("--format", help="yaml = a file to edit and accept.")
    ] = ShowFormat.TEXT,
    versions: Annotated[bool, typer.Option("--versions", help="List all versions.")] = False,
    version: Annotated[
        str | None, typer.Option(help="An earlier version, as --versions names it.")
    ] = None,
) -> None:
    """Print the categories that the study works with, or had in an earlier version."""
    from labeler.cli.inspection import print_taxonomy
    from labeler.taxonomies import verbs

    opened = _read(study)
    if versions:
        rows = "table" if output in (ShowFormat.TEXT, ShowFormat.YAML) else output.value
        print_rows(verbs.show_versions(opened), OutputFormat(rows))
    elif output is ShowFormat.TEXT:
        print_taxonomy(
            verbs.current_taxonomy(opened)
            if version is None
            else verbs.version_taxonomy(opened, version)
        )
    elif output is ShowFormat.YAML:
        print_data(verbs.show_yaml(opened, version))
    else:
        print_rows(verbs.show(opened, version), OutputFormat(output.value))


def propose(
    study: StudyPath,
    mode: Annotated[
        ProposalMode | None,
        typer.Option(help="induce = from all explanations, residual = from what is left."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="File to write; taxonomy-proposal.yaml next to the study.")
    ] = None,
    max_tokens_total: MaxTokens = None,
    max_cost: MaxCost = None,
) -> None:
    """Make categories from explanations and write them as a file that a person reads and edits."""
    from labeler.judge.budget import Limits
    from labeler.taxonomies import verbs

    limits = Limits(max_tokens_total, max_cost)
    chosen: Literal["induce", "residual"] | None = None
    if mode is not None:
        chosen = "induce" if mode is ProposalMode.INDUCE else "residual"
    typer.echo(verbs.propose(_read(study), chosen, output, limits).summary(), err=True)


def accept(
    study: StudyPath,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A proposal, edited or not.")],
) -> None:
    """Make the version of a proposal active, with every label that keeps its meaning."""
    from labeler.taxonomies import verbs

    typer.echo(verbs.accept(_read(study), file).summary(), err=True)


def merge(
    study: StudyPath,
    slugs: Annotated[list[str], typer.Argument(help="Categories.", metavar="SLUG...")],
    into: Annotated[str | None, typer.Option(help="One of them, or a new slug.")] = None,
) -> None:
    """Make one category of several; their labels stay."""
    from labeler.taxonomies import verbs

    if into is None:
        raise UsageError(
            "taxonomy merge: what shall the one category be called? give --into SLUG, one of"
            f" {', '.join(slugs)}, or a new slug"
        )
    typer.echo(verbs.merge(_read(study), slugs, into).summary(), err=True)


def split(
    study: StudyPath,
    slug: Slug,
    into: Annotated[
        list[str] | None, typer.Option(help="A new slug; give it twice or more.")
    ] = None,
) -> None:
    """Put several categories in the place of one; its labels go back to judge and review."""
    from labeler.taxonomies import verbs

    if not into:
        raise UsageError(
            f"taxonomy split: into what? name each new category of {slug} by --into SLUG, twice or"
            " more"
        )
    typer.echo(verbs.split(_read(study), slug, into).summary(), err=True)


def rename(
    study: StudyPath,
    slug: Slug,
    new_slug: Annotated[str, typer.Argument(help="Its new slug.", metavar="NEW")],
    name: Annotated[str | None, typer.Option(help="Its new title.")] = None,
) -> None:
    """Give a category another slug or title; its labels stay."""
    from labeler.taxonomies import verbs

    typer.echo(verbs.rename(_read(study), slug, new_slug, name).summary(), err=True)


def restore(
    study: StudyPath,
    version: Annotated[str, typer.Argument(help="An earlier version.", metavar="VERSION")],
) -> None:
    """Go back: a new version with an earlier one's categories, labels and decisions."""
    from labeler.taxonomies import verbs

    typer.echo(verbs.restore(_read(study), version).summary(), err=True)


def diff(
    study: StudyPath,
    old: Annotated[str | None, typer.Argument(help="A version, or a file.")] = None,
    new: Annotated[str | None, typer.Argument(help="A version, or a file.")] = None,
    output: Format = OutputFormat.TABLE,
) -> None:
    """Print what became of the categories between two versions, or towards a file."""
    from labeler.taxonomies import verbs

    print_rows(verbs.diff(_read(study), old, new), output)


def stability(
    study: StudyPath,
    part: Annotated[
        StabilityPart, typer.Option(help="A row for each category, or for each rerun.")
    ] = StabilityPart.CATEGORIES,
    subsamples: Annotated[int, typer.Option(help="Subsamples.", min=2)] = 20,
    share: Annotated[float, typer.Option(help="Share of latents in one.", min=0.5, max=0.99)] = 0.8,
    output: Format = OutputFormat.TABLE,
) -> None:
    """Do the labelling again in other ways; print which categories and signs hold."""
    from labeler.taxonomies import verbs

    result = verbs.stability(_read(study), part.value, subsamples, share)
    print_rows(result, output)


def _read(study: Path) -> StudyFile:
    from labeler.study.study_file import StudyFile

    return StudyFile.read(study)
