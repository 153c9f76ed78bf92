"""Exports latents to a folder in another tool's format, and imports them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from labeler.errors import UsageError
from labeler.exchange.formats import (
    FORMATS,
    HUMAN,
    ExchangeExplanation,
    ExchangeLatent,
    ExchangeWindow,
    ExportedCrosscoder,
    check_options,
)
from labeler.exchange.scores import RedrawnScores, add_imported_score, redraw_scores
from labeler.store.engine import read_session, write_session
from labeler.store.judging import add_explanation, get_or_create_judge, newest_explanations
from labeler.store.latents import (
    EvidenceRow,
    add_evidence,
    add_latents,
    evidence_of,
    get_or_create_crosscoder,
)
from labeler.store.runs import begin_run, finish_run
from labeler.store.schema import (
    Comparison,
    ComparisonSeed,
    Crosscoder,
    Evidence,
    Explanation,
    Judge,
    Latent,
    LatentSet,
)
from labeler.store.schema.base import storable
from labeler.store.schema.judging import IMPORT

FIRING_KINDS = ("top", "quantile")
ROLE = "plain"


@dataclass(frozen=True)
class ExchangeResult:
    """What an import did, or with `dry_run` would have done."""

    n_latents: int
    n_explanations: int
    """New ones."""
    n_windows: int
    """New ones, of latents that had no evidence."""
    dry_run: bool
    n_scores: int = 0
    """New ones, undefined ones included."""

    @property
    def summary(self) -> str:
        """The result in words."""
        verb = "would write" if self.dry_run else "wrote"
        scores = f", {self.n_scores} scores" if self.n_scores else ""
        return (
            f"{self.n_latents} latents: {verb} {self.n_explanations} explanations{scores} and "
            f"{self.n_windows} windows of evidence"
        )


@dataclass(frozen=True)
class ExchangeExport:
    """What an export wrote."""

    n_latents: int
    n_scores: int = 0
    n_scores_left_out: int = 0
    """Scores whose examples could not be drawn again exactly."""

    @property
    def left_out(self) -> str | None:
        """What the folder lacks, in words; None where nothing is missing."""
        if not self.n_scores_left_out:
            return None
        return (
            f"{self.n_scores} scores written, {self.n_scores_left_out} left out: their examples "
            "are not exactly those that were asked about (imported scores have none; evidence, "
            "seed or prompt may have changed since)"
        )


def export_latents(
    engine: Engine,
    folder: Path,
    form: str,
    crosscoder: str | None = None,
    overwrite: bool = False,
    **options: str | None,
) -> ExchangeExport:
    """Write the latents of one crosscoder that are labelled or have an imported explanation.

    `options` are the format's own. UsageError where one is missing or does not fit the format;
    where `crosscoder` is missing and there are several, is unknown, or has no such latent; and
    where the folder is not empty, unless `overwrite`. InputError for an unknown format.
    """
    own_options = check_options(form, options)
    writer = FORMATS.get(form)()
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise UsageError(
            f"{folder}: is there already; choose another folder, or overwrite it by --force"
        )
    with read_session(engine) as session:
        row = _crosscoder(session, crosscoder)
        found = _latents(session, row)
        if not found:
            raise UsageError(
                f"crosscoder {row.name}: no latent of it is labelled, or explained by an import; "
                "nothing was written"
            )
        redrawn = _scores(session, found) if writer.takes_scores else RedrawnScores()
        described = _described(row)
    latents = [
        replace(latent, scores=redrawn.by_latent.get(latent_id, ()))
        for latent_id, latent in found.items()
    ]
    n_scores = sum(len(latent.scores) for latent in latents)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        n_latents = writer.write(folder, latents, described, own_options)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror}; name a folder") from None
    return ExchangeExport(n_latents, n_scores, redrawn.n_left_out)


def _described(row: Crosscoder) -> ExportedCrosscoder:
    config = row.config or {}
    return ExportedCrosscoder(
        name=row.name,
        models=tuple(config.get("model_names") or ()),
        layer=config.get("layer") or 0,
        d_model=config.get("d_model"),
    )


def import_latents(
    engine: Engine,
    folder: Path,
    form: str,
    crosscoder: str,
    dry_run: bool = False,
    new_crosscoder: bool = False,
) -> ExchangeResult:
    """Read a folder and add what is new: everything, or nothing on any mistake.

    Explanations and scores are stored under judges of the kind `import`, which are never active.
    Evidence is added to latents that have none. A crosscoder with weights must have the latents.
    UsageError for a name that is not in the study, unless `new_crosscoder` creates one without
    weights.
    """
    latents = FORMATS.get(form)().read(folder)
    with write_session(engine, dry_run=dry_run) as session:
        if not new_crosscoder:
            _require_crosscoder(session, crosscoder)
        return _write(session, folder, form, crosscoder, latents, dry_run)


_LABELLED = text(
    "SELECT DISTINCT v.latent_id, v.explanation, v.source, coalesce(v.reviewer, v.judge) AS who"
    " FROM v_effective_label AS v WHERE v.crosscoder = :crosscoder"
)
_IMPORTED = (
    select(Explanation.latent_id, Explanation.text, Judge.model.label("who"))
    .join(Judge, Judge.id == Explanation.judge_id)
    .join(Latent, Latent.id == Explanation.latent_id)
    .where(Judge.is_import)
    .order_by(Explanation.id)
)
_OF_SEEDS = (
    select(LatentSet.crosscoder_id)
    .join(Comparison, Comparison.target_set_id == LatentSet.id)
    .join(ComparisonSeed, ComparisonSeed.comparison_id == Comparison.id)
)
"""Crosscoders of further seeds: exported where they are named."""


def _crosscoder(session: Session, name: str | None) -> Crosscoder:
    rows = list(session.execute(select(Crosscoder).order_by(Crosscoder.id)).scalars())
    names = [row.name for row in rows]
    of_seeds = set(session.execute(_OF_SEEDS).scalars())
    found = [row for row in rows if row.name == name or (name is None and row.id not in of_seeds)]
    if name is None and len(found) != 1:
        raise UsageError(f"--crosscoder: name one of {', '.join(names) or '(there is none)'}")
    if not found:
        raise UsageError(f"--crosscoder: {name!r} is not one of {', '.join(names)}")
    return found[0]


def _require_crosscoder(session: Session, name: str) -> None:
    names = list(session.execute(select(Crosscoder.name).order_by(Crosscoder.id)).scalars())
    if name in names:
        return
    near = get_close_matches(name, names, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(
        f"--crosscoder: {name!r} is not one of {', '.join(names) or '(there is none)'}; "
        f"{guess}--new-crosscoder makes one of that name, without weights"
    )


def _latents(session: Session, crosscoder: Crosscoder) -> dict[int, ExchangeLatent]:
    """Latents with an active label or an imported explanation, by id, in the order of their index.

    Of a crosscoder without weights, which holds imports only, all latents.
    """
    known = _active_explanations(session, crosscoder)
    for latent_id, explanations in _imported_explanations(session, crosscoder).items():
        known.setdefault(latent_id, explanations)
    ids = set(known)
    if crosscoder.sha256 is None:
        own = select(Latent.id).where(Latent.crosscoder_id == crosscoder.id)
        ids |= set(session.execute(own).scalars())
    latents = [session.get_one(Latent, latent_id) for latent_id in ids]
    return {
        latent.id: ExchangeLatent(
            latent.latent_index,
            tuple(known.get(latent.id, ())),
            tuple(_window(row) for row in evidence_of(session, latent.id)
                  if row.kind in FIRING_KINDS),
            latent.density,
            latent.max_activation,
        )
        for latent in sorted(latents, key=lambda latent: latent.latent_index)
    }  # fmt: skip


def _active_explanations(
    session: Session, crosscoder: Crosscoder
) -> dict[int, list[ExchangeExplanation]]:
    """Explanations of labelled latents; an empty list where the label came without one."""
    said: dict[int, list[ExchangeExplanation]] = defaultdict(list)
    for row in session.execute(_LABELLED, {"crosscoder": crosscoder.name}):
        known = said[row.latent_id]
        if row.explanation:
            author = HUMAN if row.source == "human" else row.who or "difflens"
            explanation = ExchangeExplanation(row.explanation, author)
            if explanation not in known:
                known.append(explanation)
    return said


def _imported_explanations(
    session: Session, crosscoder: Crosscoder
) -> dict[int, list[ExchangeExplanation]]:
    """The newest imported explanation of each author."""
    newest: dict[int, dict[str, str]] = defaultdict(dict)
    for row in session.execute(_IMPORTED.where(Latent.crosscoder_id == crosscoder.id)):
        newest[row.latent_id][row.who] = row.text
    return {
        latent_id: [ExchangeExplanation(words, who) for who, words in texts.items()]
        for latent_id, texts in newest.items()
    }


def _scores(session: Session, latents: Mapping[int, ExchangeLatent]) -> RedrawnScores:
    """Scores of the exported explanations."""
    texts = {
        latent_id: latent.explanations[0].text
        for latent_id, latent in latents.items()
        if latent.explanations
    }
    return redraw_scores(session, texts)


def _window(row: Evidence) -> ExchangeWindow:
    return ExchangeWindow(tuple(row.tokens), tuple(row.activations), row.quantile)


def _write(
    session: Session,
    folder: Path,
    form: str,
    name: str,
    latents: Sequence[ExchangeLatent],
    dry_run: bool,
) -> ExchangeResult:
    run_id = begin_run(session, "import", {"folder": folder.name, "format": form})
    crosscoder = get_or_create_crosscoder(session, name)
    known = {
        row.latent_index: row.id
        for row in session.execute(
            select(Latent).where(Latent.crosscoder_id == crosscoder.id)
        ).scalars()
    }
    missing = [latent.index for latent in latents if latent.index not in known]
    if crosscoder.sha256 is not None and missing:
        raise UsageError(f"{folder}: crosscoder {name} has no latent {missing[0]}")
    known |= add_latents(
        session,
        crosscoder.id,
        [
            {
                "latent_index": latent.index,
                "density": latent.density,
                "max_activation": latent.max_activation,
            }
            for latent in latents
            if latent.index not in known
        ],
    )
    n_explanations = n_scores = n_windows = 0
    for latent in latents:
        latent_id = known[latent.index]
        written = [_explain(session, run_id, form, latent_id, said) for said in latent.explanations]
        n_explanations += sum(each.is_new for each in written)
        for score in latent.scores:
            n_scores += add_imported_score(session, run_id, written[0].row, score)
        n_windows += _add_windows(session, run_id, form, latent_id, latent.windows)
    finish_run(session, run_id)
    return ExchangeResult(len(latents), n_explanations, n_windows, dry_run, n_scores)


@dataclass(frozen=True)
class _Said:
    """An explanation in the database."""

    row: Explanation
    is_new: bool


def _explain(
    session: Session, run_id: int, form: str, latent_id: int, said: ExchangeExplanation
) -> _Said:
    """Write an explanation unless it already is the newest of its author."""
    judge = get_or_create_judge(session, f"{form}: {said.author}"[:200], said.author[:300], IMPORT)
    newest = newest_explanations(session, [latent_id], judge.id).get(latent_id)
    if newest is not None and newest.text == storable(said.text):
        return _Said(newest, is_new=False)
    return _Said(add_explanation(session, run_id, latent_id, judge.id, said.text), is_new=True)


def _add_windows(
    session: Session, run_id: int, form: str, latent_id: int, windows: Sequence[ExchangeWindow]
) -> int:
    """Write the windows of a latent that has no evidence, each text once."""
    if evidence_of(session, latent_id):
        return 0
    rows: dict[str, EvidenceRow] = {}
    for window in windows:
        document = f"{form}-{_hash(window)}"
        rows.setdefault(
            document,
            EvidenceRow(
                latent_id=latent_id,
                kind="top" if window.quantile is None else "quantile",
                split="explain" if len(rows) % 2 == 0 else "score",
                document_id=document,
                start=0,
                tokens=window.tokens,
                token_ids=[-1] * len(window.tokens),
                roles=[ROLE] * len(window.tokens),
                activations=window.values,
                quantile=window.quantile,
            ),
        )
    return add_evidence(session, run_id, rows.values())


def _hash(window: ExchangeWindow) -> str:
    content = "\0".join(window.tokens).encode("utf-8", "backslashreplace")
    return hashlib.sha256(content).hexdigest()[:32]
