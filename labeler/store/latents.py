"""Models, corpora, crosscoders, latents and their evidence, sets, comparisons in the database."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from labeler.errors import UsageError
from labeler.store.effective import refresh_effective, stamp_change
from labeler.store.schema import (
    Comparison,
    ComparisonSeed,
    ComparisonSetting,
    Corpus,
    Crosscoder,
    CrosscoderModel,
    Evidence,
    EvidenceDocument,
    Latent,
    LatentScaling,
    LatentSet,
    LatentSetMember,
    SideDraw,
    SubjectModel,
    TaxonomyVersion,
)
from labeler.store.statements import chunks, get_or_create, number, require_same_length
from labeler.text import clip

Row = Mapping[str, Any]
"""Column -> value."""
SHIFT_COLUMNS = ("strength_shift", "shift_low", "shift_high", "shift_t", "shift_q")
LARGEST_INDEX = 2**31 - 1
"""Largest value of an integer column in both databases."""
BY_ID = "id"
"""Prefix of a latent_id, where the number may also be an index."""
_SPELLINGS = "write crosscoder:latent_index, or id:latent_id"


def get_or_create_subject_model(
    session: Session, name: str, fingerprint: str, **facts: Any
) -> SubjectModel:
    """The subject model of that name and content; facts: path, adapter, n_layers, d_model, ..."""
    return get_or_create(session, SubjectModel, {"name": name, "fingerprint": fingerprint}, **facts)


def get_or_create_corpus(
    session: Session, name: str, sha256: str, n_documents: int, **facts: Any
) -> Corpus:
    """The corpus of that content; facts: path, n_tokens."""
    return get_or_create(
        session, Corpus, {"sha256": sha256}, name=name, n_documents=n_documents, **facts
    )


def get_or_create_crosscoder(
    session: Session,
    name: str,
    sha256: str | None = None,
    models: Sequence[SubjectModel] = (),
    **facts: Any,
) -> Crosscoder:
    """The crosscoder with these weights. Where its name is taken, it gets the start of their hash.

    facts: run_id, corpus_id, path, n_latents, config. Use the returned row's name.
    """
    if sha256 is not None:
        same = session.execute(
            select(Crosscoder).where(
                Crosscoder.sha256 == sha256,
                Crosscoder.name.in_([name, f"{name}@{sha256[:8]}"]),
            )
        ).scalar_one_or_none()
        if same is not None:
            return same
    taken = session.execute(select(Crosscoder).where(Crosscoder.name == name)).scalar_one_or_none()
    if taken is not None and sha256 is None:
        return taken
    unique_name = name if taken is None else f"{name}@{str(sha256)[:8]}"
    row = get_or_create(session, Crosscoder, {"name": unique_name}, sha256=sha256, **facts)
    for position, model in enumerate(models):
        get_or_create(
            session,
            CrosscoderModel,
            {"crosscoder_id": row.id, "position": position},
            subject_model_id=model.id,
        )
    return row


def add_latents(session: Session, crosscoder_id: int, latents: Iterable[Row]) -> dict[int, int]:
    """Add missing latents; returns latent_index -> latent_id of all given ones.

    `latents` are columns of Latent, all with the same keys; other columns stay unknown.
    """
    rows = {int(row["latent_index"]): row for row in latents}
    ids: dict[int, int] = {}
    for part in chunks(rows):
        ids |= _latent_ids(session, crosscoder_id, part)
    missing = [rows[index] for index in rows if index not in ids]
    if missing:
        session.execute(
            insert(Latent), [{**row, "crosscoder_id": crosscoder_id} for row in missing]
        )
        for part in chunks([row["latent_index"] for row in missing]):
            ids |= _latent_ids(session, crosscoder_id, part)
    return ids


def _latent_ids(session: Session, crosscoder_id: int, indices: Sequence[int]) -> dict[int, int]:
    query = select(Latent.latent_index, Latent.id).where(
        Latent.crosscoder_id == crosscoder_id, Latent.latent_index.in_(indices)
    )
    return {row.latent_index: row.id for row in session.execute(query)}


def set_stability(session: Session, rows: Iterable[Row]) -> None:
    """Store how latents compare with other seeds: `id` and the columns of Latent for that."""
    session.execute(update(Latent), [_finite(row) for row in rows])


def add_scaling(
    session: Session, target_model_id: int, reference_model_id: int, rows: Iterable[Row]
) -> int:
    """Add the scaling of one ordered pair; existing rows are kept. Returns the number of new rows.

    `rows` are columns of LatentScaling, all with the same keys; NaN = undefined. A row from before
    strength shifts were measured is completed.
    """
    pair = {"target_model_id": target_model_id, "reference_model_id": reference_model_id}
    query = select(LatentScaling.id, LatentScaling.latent_id, LatentScaling.strength_shift)
    known = {row.latent_id: row for row in session.execute(query.filter_by(**pair))}
    given = [_finite(row) for row in rows]
    fresh = [row | pair for row in given if row["latent_id"] not in known]
    if fresh:
        session.execute(insert(LatentScaling), fresh)
    complete = [
        {"id": known[row["latent_id"]].id, **{name: row[name] for name in SHIFT_COLUMNS}}
        for row in given
        if row["latent_id"] in known
        and known[row["latent_id"]].strength_shift is None
        and row.get("strength_shift") is not None
    ]
    if complete:
        session.execute(update(LatentScaling), complete)
    return len(fresh)


def _finite(row: Row) -> dict[str, Any]:
    return {
        name: number(value) if isinstance(value, float) else value for name, value in row.items()
    }


def create_latent_set(
    session: Session,
    name: str,
    rule: str,
    run_id: int,
    members: Iterable[Row] = (),
    rule_params: Mapping[str, Any] | None = None,
    **facts: Any,
) -> LatentSet:
    """A new latent set; facts: crosscoder_id, target_model_id, against_model_id, message."""
    row = LatentSet(
        name=name, rule=rule, rule_params=dict(rule_params or {}), run_id=run_id, **facts
    )
    session.add(row)
    session.flush()
    add_members(session, row.id, members)
    return row


def add_side_draws(session: Session, comparison: Comparison, **draws: Any) -> None:
    """Store the drawn sides of a comparison's two sets, once; columns of SideDraw."""
    key = {
        "target_set_id": comparison.target_set_id,
        "reference_set_id": comparison.reference_set_id,
    }
    get_or_create(session, SideDraw, key, **draws)


def add_members(session: Session, latent_set_id: int, members: Iterable[Row]) -> int:
    """Add missing latents to a set; returns their number. None is removed.

    `members` are columns of LatentSetMember, all with the same keys.
    """
    known = set(
        session.execute(
            select(LatentSetMember.latent_id).where(LatentSetMember.latent_set_id == latent_set_id)
        ).scalars()
    )
    fresh = {row["latent_id"]: row for row in members if row["latent_id"] not in known}
    if fresh:
        session.execute(
            insert(LatentSetMember),
            [_finite(row) | {"latent_set_id": latent_set_id} for row in fresh.values()],
        )
    return len(fresh)


def find_comparison(session: Session, name: str) -> Comparison | None:
    """The comparison of that name."""
    return session.execute(select(Comparison).where(Comparison.name == name)).scalar_one_or_none()


def ensure_comparison(
    session: Session, name: str, target_set_id: int, reference_set_id: int
) -> Comparison:
    """The comparison of that name, pointing to these sets; its effective labels are refreshed."""
    row = find_comparison(session, name)
    if row is None:
        row = Comparison(name=name, target_set_id=target_set_id, reference_set_id=reference_set_id)
        session.add(row)
    elif (row.target_set_id, row.reference_set_id) != (target_set_id, reference_set_id):
        row.target_set_id = target_set_id
        row.reference_set_id = reference_set_id
        stamp_change(session, row.id)
    session.flush()
    refresh_effective(session, comparison_ids=[row.id])
    return row


def mark_seed(session: Session, comparison_id: int, leading: str, seed: int) -> None:
    """Say that a comparison is the one called `leading` by the crosscoders of another seed."""
    first = find_comparison(session, leading)
    if first is None:
        raise LookupError(f"no comparison {leading}")
    key = {"comparison_id": comparison_id}
    get_or_create(session, ComparisonSeed, key, leading_id=first.id, seed=seed)


def current_setting(session: Session, comparison_id: int) -> ComparisonSetting | None:
    """The active setting of a comparison."""
    return session.execute(
        select(ComparisonSetting)
        .where(ComparisonSetting.comparison_id == comparison_id)
        .order_by(ComparisonSetting.id.desc())
        .limit(1)
    ).scalar_one_or_none()


def ensure_comparison_setting(
    session: Session, comparison_id: int, taxonomy_version_id: int, judge_id: int
) -> ComparisonSetting:
    """Make a taxonomy version and a judge active, unless they are; the version is frozen."""
    now = current_setting(session, comparison_id)
    if now is not None and (now.taxonomy_version_id, now.judge_id) == (
        taxonomy_version_id,
        judge_id,
    ):
        return now
    freeze_version(session, taxonomy_version_id)
    row = ComparisonSetting(
        comparison_id=comparison_id, taxonomy_version_id=taxonomy_version_id, judge_id=judge_id
    )
    session.add(row)
    stamp_change(session, comparison_id)
    session.flush()
    refresh_effective(session, comparison_ids=[comparison_id])
    return row


def freeze_version(session: Session, taxonomy_version_id: int) -> None:
    """Freeze a taxonomy version: from now on its categories never change."""
    version = session.get_one(TaxonomyVersion, taxonomy_version_id)
    if not version.frozen:
        version.frozen = True
        session.flush()


def find_latent(session: Session, name: str) -> Latent:
    """The latent named `crosscoder:latent_index`, `id:latent_id`, or by a bare number.

    UsageError for an unknown latent, and for an ambiguous number: one latent's index and another's
    id, or the index of several.
    """
    crosscoder, separator, digits = name.rpartition(":")
    if not (digits.isascii() and digits.isdigit()):
        raise UsageError(f"latent {clip(name, 80)!r}: {_SPELLINGS}")
    digits = digits.lstrip("0") or "0"
    if len(digits) > len(str(LARGEST_INDEX)) or int(digits) > LARGEST_INDEX:
        raise _unknown(name)
    number = int(digits)
    by_id = session.get(Latent, number)
    if separator:
        found = _by_index(session, number, crosscoder)
        if not found and crosscoder == BY_ID and by_id is not None:
            found = [by_id]
        if not found:
            raise _unknown(name)
        return found[0]
    meant = {latent.id: latent for latent in _by_index(session, number)}
    if by_id is not None:
        meant[by_id.id] = by_id
    if not meant:
        raise _unknown(name)
    if len(meant) > 1:
        raise _ambiguous(session, name, list(meant.values()), by_id)
    return next(iter(meant.values()))


def latent_title(session: Session, latent: Latent) -> str:
    """The latent by both of its names."""
    crosscoder = session.get_one(Crosscoder, latent.crosscoder_id)
    return f"{crosscoder.name}:{latent.latent_index} (latent_id {latent.id})"


def _by_index(session: Session, index: int, crosscoder: str | None = None) -> list[Latent]:
    query = (
        select(Latent)
        .join(Crosscoder, Crosscoder.id == Latent.crosscoder_id)
        .where(Latent.latent_index == index)
        .order_by(Crosscoder.name)
    )
    if crosscoder is not None:
        query = query.where(Crosscoder.name == crosscoder)
    return list(session.execute(query).scalars())


def _unknown(name: str) -> UsageError:
    return UsageError(
        f"latent {clip(name, 80)!r}: not in the database; see v_effective_label for names"
    )


def _ambiguous(
    session: Session, name: str, meant: list[Latent], by_id: Latent | None
) -> UsageError:
    by_index = [latent_title(session, each) for each in meant if each is not by_id]
    said = [f"the latent_index of {' and of '.join(by_index)}"]
    if by_id is not None:
        said.append(f"the latent_id of {latent_title(session, by_id)}")
    return UsageError(f"latent {name!r}: is {', and '.join(said)}; {_SPELLINGS}")


@dataclass(frozen=True)
class EvidenceRow:
    """One example of a latent; the four sequences have equal length."""

    latent_id: int
    kind: str
    split: str
    document_id: str
    start: int
    tokens: Sequence[str]
    token_ids: Sequence[int]
    roles: Sequence[str]
    activations: Sequence[float]
    quantile: int | None = None


def add_evidence(session: Session, run_id: int, rows: Iterable[EvidenceRow]) -> int:
    """Add examples; returns their number.

    A document keeps the half (explain or score) that it was first given for a latent, so what a
    score is measured on never becomes what an explanation was written from.
    """
    pending = list(rows)
    halves = _halves(session, pending)
    if halves.fresh:
        session.execute(
            insert(EvidenceDocument), [_document(key, half) for key, half in halves.fresh.items()]
        )
    if pending:
        session.execute(
            insert(Evidence), [_window(run_id, row, halves.split_of(row)) for row in pending]
        )
    return len(pending)


def latents_with_evidence(session: Session, run_id: int) -> set[int]:
    """Latents with evidence of that run, which an interrupted collection need not repeat."""
    query = select(Evidence.latent_id).where(Evidence.run_id == run_id).distinct()
    return set(session.execute(query).scalars())


def having_evidence(session: Session, latent_ids: Collection[int]) -> set[int]:
    """Those of the latents of which any run collected evidence."""
    found: set[int] = set()
    for part in chunks(latent_ids):
        query = select(Evidence.latent_id).where(Evidence.latent_id.in_(part)).distinct()
        found |= set(session.execute(query).scalars())
    return found


def evidence_of(session: Session, latent_id: int, split: str | None = None) -> list[Evidence]:
    """Examples of a latent from the newest run that collected any, in the order of collection."""
    newest = (
        select(func.max(Evidence.run_id)).where(Evidence.latent_id == latent_id).scalar_subquery()
    )
    query = select(Evidence).where(Evidence.latent_id == latent_id, Evidence.run_id == newest)
    if split is not None:
        query = query.where(Evidence.split == split)
    return list(session.execute(query.order_by(Evidence.id)).scalars())


@dataclass(frozen=True)
class _Halves:
    """The half of each (latent, document): those already stored and those to be stored."""

    known: dict[tuple[int, str], str]
    fresh: dict[tuple[int, str], str]

    def split_of(self, row: EvidenceRow) -> str:
        """The half in which the row's document lies."""
        key = (row.latent_id, row.document_id)
        return self.known[key] if key in self.known else self.fresh[key]


def _halves(session: Session, rows: Sequence[EvidenceRow]) -> _Halves:
    known: dict[tuple[int, str], str] = {}
    for latents in chunks({row.latent_id for row in rows}):
        stored = session.execute(
            select(EvidenceDocument).where(EvidenceDocument.latent_id.in_(latents))
        ).scalars()
        known |= {(row.latent_id, row.document_id): row.split for row in stored}
    fresh: dict[tuple[int, str], str] = {}
    for row in rows:
        key = (row.latent_id, row.document_id)
        if key not in known:
            fresh.setdefault(key, row.split)
    return _Halves(known, fresh)


def _document(key: tuple[int, str], split: str) -> dict[str, object]:
    return {"latent_id": key[0], "document_id": key[1], "split": split}


def _window(run_id: int, row: EvidenceRow, split: str) -> dict[str, object]:
    require_same_length(
        "tokens, token_ids, roles and activations of a window",
        row.tokens,
        row.token_ids,
        row.roles,
        row.activations,
    )
    activations = [number(value) or 0.0 for value in row.activations]
    return {
        **vars(row),
        "run_id": run_id,
        "split": split,
        "tokens": list(row.tokens),
        "token_ids": [int(token) for token in row.token_ids],
        "roles": list(row.roles),
        "activations": activations,
        "max_activation": max(activations, default=0.0),
    }
