"""What commands print of latents, their history, categories, and of what `label` would ask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations

import typer
from sqlalchemy import select, text
from sqlalchemy.orm import Session, aliased

from labeler.api import Study
from labeler.cli.planning import planned
from labeler.errors import UsageError
from labeler.judge.base import JudgeRequest
from labeler.judge.latents import load_subject
from labeler.judge.prompts import explain_request
from labeler.report.basis import sets_of, shift_words
from labeler.report.latent_effects import (
    effect_lines,
    read_latent_effects,
    read_patched_sets,
)
from labeler.report.model import Measure
from labeler.report.shift_bar import shift_word
from labeler.store.engine import read_session, require_existing
from labeler.store.experiments import TestedLatent, latent_tests
from labeler.store.history import HistoryEntry, latent_history
from labeler.store.latents import evidence_of, find_latent, latent_title
from labeler.store.migrate import opened
from labeler.store.schema import (
    Comparison,
    Crosscoder,
    Evidence,
    Latent,
    LatentScaling,
    SubjectModel,
)
from labeler.study.study_file import StudyFile
from labeler.text import one_line, plural
from taxonomy.tree import Taxonomy

SHOWN_ROLES = frozenset({"user", "assistant", "plain", "system", "tool"})
TURN = " | "
"""Between two turns of a chat."""


def print_latent(study: Study, name: str) -> None:
    """Print a latent's facts, scaling and evidence; UsageError where there is no such latent."""
    with study.engine() as engine, read_session(engine) as session:
        latent = find_latent(session, name)
        crosscoder = session.get_one(Crosscoder, latent.crosscoder_id)
        typer.echo(latent_title(session, latent))
        typer.echo(
            f"density {_number(latent.density)}  documents {_count(latent.n_documents)}  "
            f"max activation {_number(latent.max_activation)}  "
            f"mean {_number(latent.mean_activation)}"
        )
        if latent.n_seeds:
            typer.echo(
                f"comes again in {_number(latent.p_reappear)} of "
                f"{plural(latent.n_seeds, 'other seed')}  "
                f"best cosine {_number(latent.best_cosine)}  "
                f"span match {_number(latent.span_match)}"
            )
        lines = (
            *_norm_lines(study, crosscoder, latent),
            *_scaling_lines(session, latent),
            *effect_lines(
                read_latent_effects(session, latent.id), read_patched_sets(session, latent.id)
            ),
            *_label_lines(session, latent),
            *_test_lines(latent_tests(session, latent.id)),
        )
        for line in lines:
            typer.echo(line)
        for window in evidence_of(session, latent.id):
            typer.echo(f"  {_window_title(window):<22} {_marked(window)}")


def print_history(study: Study, name: str) -> None:
    """Print every judge label and decision of a latent, oldest first."""
    with study.engine() as engine, read_session(engine) as session:
        latent = find_latent(session, name)
        typer.echo(latent_title(session, latent))
        entries = latent_history(session, latent.id)
    for entry in entries:
        typer.echo(_history_line(entry))
    if not entries:
        typer.echo("nobody has labelled this latent yet", err=True)


def print_taxonomy(taxonomy: Taxonomy) -> None:
    """Print the categories, groups first, each with its definition."""
    typer.echo(f"{taxonomy.name} version {taxonomy.version}")
    for group in (row for row in taxonomy.categories if row.level == 1):
        typer.echo(f"\n{group.slug}: {one_line(group.definition)}")
        for leaf in (row for row in taxonomy.categories if row.parent == group.slug):
            typer.echo(f"  {leaf.slug}: {one_line(leaf.definition)}")


def _history_line(entry: HistoryEntry) -> str:
    """When, who, what, and why, on one line."""
    through = f", entered by {entry.entered_by}" if entry.entered_by else ""
    parts = [f"{entry.at:%Y-%m-%d %H:%M:%S}", f"{entry.kind} by {entry.who}{through}:", entry.what]
    parts += [", ".join(entry.categories)] if entry.categories else []
    parts += [f"(confidence {entry.confidence:.2f})"] if entry.confidence is not None else []
    parts += [f"revision {entry.revision}"] if entry.revision is not None else []
    parts += [f"restores {entry.restores}"] if entry.restores is not None else []
    parts += ["control"] if entry.is_control else []
    parts += [f"under {entry.taxonomy_version}"]
    parts += ["(carried over from an earlier version)"] if entry.carried_from is not None else []
    parts += [f"- {entry.explanation}"] if entry.explanation else []
    parts += [f"(note: {entry.note})"] if entry.note else []
    return one_line(" ".join(parts))


def _norm_lines(study: Study, crosscoder: Crosscoder, latent: Latent) -> Iterator[str]:
    """Decoder norm in each model and the cosines between the models' decoder rows, where the
    crosscoder's file is at hand and what was written."""
    path = study.file.folder / str(crosscoder.path) / "crosscoder.safetensors"
    names = (crosscoder.config or {}).get("model_names")
    if crosscoder.path is None or names is None or not path.is_file():
        return
    from safetensors import safe_open

    from crosscoder.checkpoints import require_whole_crosscoder

    try:
        require_whole_crosscoder(path.parent)
    except UsageError as error:
        yield f"decoder norms: not known, {error}"
        return
    with safe_open(path, framework="np") as file:
        rows = file.get_slice("W_dec")[latent.latent_index : latent.latent_index + 1][0]
    rows = rows.astype("float64")
    norms = ((rows**2).sum(axis=1) ** 0.5).tolist()
    shown = [f"{_number(norm)} {name}" for norm, name in zip(norms, names, strict=True)]
    cosines = [
        f"{_number(float(rows[i] @ rows[j]) / (norms[i] * norms[j]))} {names[i]} and {names[j]}"
        for i, j in combinations(range(len(names)), 2)
        if norms[i] and norms[j]
    ]
    cosine = f"; cosine {', '.join(cosines)}" if cosines else ""
    yield f"decoder norms: {', '.join(shown)}{cosine}"


def _scaling_lines(session: Session, latent: Latent) -> Iterator[str]:
    target, reference = aliased(SubjectModel), aliased(SubjectModel)
    query = (
        select(LatentScaling, target.name, reference.name)
        .join(target, target.id == LatentScaling.target_model_id)
        .join(reference, reference.id == LatentScaling.reference_model_id)
        .where(LatentScaling.latent_id == latent.id)
        .order_by(LatentScaling.id)
    )
    for row, target_name, reference_name in session.execute(query):
        error = _interval(row.nu_error, row.nu_error_low, row.nu_error_high)
        reconstruction = _interval(
            row.nu_reconstruction, row.nu_reconstruction_low, row.nu_reconstruction_high
        )
        yield (
            f"{target_name} against {reference_name}: delta_norm {_number(row.delta_norm)}  "
            f"nu_error {error}  nu_reconstruction {reconstruction}{_shift(row)}"
        )


def _shift(row: LatentScaling) -> str:
    """The strength shift in words; empty where none was measured."""
    if row.strength_shift is None:
        return ""
    shift = Measure(row.strength_shift, row.shift_low, row.shift_high)
    interval = _interval(shift.value, shift.low, shift.high)
    return f"  strength_shift {interval} ({shift_word(shift)})"


def _label_lines(session: Session, latent: Latent) -> Iterator[str]:
    rows = session.execute(
        text(
            "select comparison, side, outcome, category, source, explanation "
            "from v_effective_label where latent_id = :latent order by comparison, side, rank"
        ),
        {"latent": latent.id},
    )
    for row in rows:
        label = row.category or row.outcome
        by = f" ({row.source})" if row.source else ""
        said = f": {row.explanation}" if row.explanation else ""
        side = f"{row.side}{_side_word(session, row.comparison, row.side)}"
        yield one_line(f"{row.comparison}/{side}: {label}{by}{said}")


def _test_lines(tests: Iterable[TestedLatent]) -> Iterator[str]:
    """Explanations tested by experiment: the verdict, then each round with its texts."""
    for tested in tests:
        yield one_line(f"experiment by {tested.judge}: {tested.words}")
        for each in tested.rounds:
            yield "  " + one_line(
                f"round {each.round + 1}, {each.verdict}, threshold {each.threshold:.3g}, "
                f"{each.counts}: {each.text}"
            )
            for row in each.texts:
                meant = "fires" if row.is_meant else "quiet"
                before = f"user: {row.before}{TURN}" if row.before else ""
                shown = one_line(f"{before}{row.role}: {row.text}")
                yield f"    {meant} {_number(row.activation):<8} {shown}"


def _side_word(session: Session, name: str, side: str) -> str:
    """What the latents of a side are called, where they were chosen by their shift."""
    comparison = session.execute(select(Comparison).where(Comparison.name == name)).scalar_one()
    words = shift_words(*sets_of(session, comparison))
    return "" if words is None else f" ({words[0 if side == 'target' else 1]})"


def _window_title(window: Evidence) -> str:
    stratum = "" if window.quantile is None else f" {window.quantile}"
    return f"{window.kind}{stratum} {window.max_activation:.2f}"


def _marked(window: Evidence) -> str:
    """The window's content on one line, tokens on which the latent fires in double brackets.

    Turns of a chat, between which its template stands, are kept apart.
    """
    parts: list[str] = []
    is_new_turn = False
    for token, role, activation in zip(
        window.tokens, window.roles, window.activations, strict=True
    ):
        if role not in SHOWN_ROLES:
            is_new_turn = bool(parts)
        else:
            parts += [TURN] if is_new_turn else []
            is_new_turn = False
            parts.append(f"[[{token}]]" if activation > 0 else token)
    return one_line("".join(parts))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.3f} [{_number(low)}, {_number(high)}]"


def print_what_is_asked(study: StudyFile, latent: str | None) -> None:
    """Print the prompt of a latent, or without one the plan; warn where a stage is not current."""
    warning = warning_of(study)
    if warning is not None:
        typer.echo(warning, err=True)
    for line in planned(study) if latent is None else [prompt_of(study, latent)]:
        typer.echo(line)


def warning_of(study: StudyFile) -> str | None:
    """What of the study a plan or a prompt can not know yet; None where all is current."""
    from labeler.stages.status import not_current

    require_existing(study.database_url)
    late = not_current(study, "label")
    if not late:
        return None
    names = ", ".join(f"`{stage.stage}` is {stage.state}" for stage in late)
    return (
        f"label: {names}: this is what the database holds, not what the present config will make "
        f"of it; `difflens run {study.path.name} --until {late[-1].stage}` brings it up to date"
    )


def prompt_of(study: StudyFile, name: str) -> str:
    """The chat that would ask for a latent's explanation; UsageError for an unknown latent."""
    from labeler.judge.factory import limits_of

    require_existing(study.database_url)
    with opened(study.database_url) as engine, read_session(engine) as session:
        subject = load_subject(session, find_latent(session, name).id)
    limits = limits_of(study.config.judge)
    return shown(explain_request(subject, limit=limits.explain))


def shown(request: JudgeRequest) -> str:
    """A request's chat for a terminal; text of the corpus is escaped in it already."""
    parts = [f"### {message.role}\n{message.content}" for message in request.messages]
    return "\n\n".join(parts)
