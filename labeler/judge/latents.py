"""Reads latents with their evidence for a judge from the database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, func, or_, select
from sqlalchemy.orm import Session, aliased

from labeler.judge.base import CategoryOption, Example, LatentFacts, LatentRecord
from labeler.store.controls import matched_sets
from labeler.store.schema import (
    Category,
    Comparison,
    Crosscoder,
    Evidence,
    Latent,
    LatentScaling,
    LatentSet,
    LatentSetMember,
    SubjectModel,
)
from labeler.store.statements import chunks
from taxonomy.tree import Taxonomy

_LATENT_COLUMNS = (
    Latent.id,
    Latent.latent_index,
    Latent.density,
    Latent.n_documents,
    Crosscoder.name.label("crosscoder"),
)
_WINDOW_COLUMNS = (
    Evidence.latent_id,
    Evidence.kind,
    Evidence.split,
    Evidence.tokens,
    Evidence.roles,
    Evidence.activations,
    Evidence.quantile,
)
_TEXT_COLUMNS = (
    Latent.crosscoder_id,
    Evidence.document_id,
    Evidence.start,
    Evidence.tokens,
    Evidence.roles,
)
_SCALING_COLUMNS = (
    LatentScaling.latent_id,
    LatentScaling.target_model_id,
    LatentScaling.reference_model_id,
    LatentScaling.delta_norm,
    LatentScaling.nu_error,
    LatentScaling.nu_reconstruction,
)


def load_subject(session: Session, latent_id: int, split: str = "explain") -> LatentRecord:
    """One latent with its examples of one half and its statistics."""
    return load_subjects(session, [latent_id], split)[0]


def load_subjects(
    session: Session, latent_ids: Sequence[int], split: str = "explain"
) -> list[LatentRecord]:
    """Latents in the given order; the number of queries hardly grows with theirs."""
    latents: dict[int, Row[Any]] = {}
    for part in chunks(latent_ids):
        query = (
            select(*_LATENT_COLUMNS)
            .join(Crosscoder, Crosscoder.id == Latent.crosscoder_id)
            .where(Latent.id.in_(part))
        )
        latents |= {row.id: row for row in session.execute(query)}
    windows = _windows(session, latent_ids, split)
    facts = _facts(session, latents)
    return [
        LatentRecord(
            latent_id=latent_id,
            crosscoder=latents[latent_id].crosscoder,
            latent_index=latents[latent_id].latent_index,
            windows=tuple(windows.get(latent_id, ())),
            facts=facts[latent_id],
        )
        for latent_id in latent_ids
    ]


MOST_BACKGROUND_LATENTS = 2_000
"""Latents whose evidence is read for the background, spread evenly over all."""
MOST_BACKGROUND_TOKENS = 200_000


def background_texts(session: Session) -> list[Example]:
    """The text that the explain half of the study's evidence covers, each token once.

    Windows of a document that overlap or touch become one text. There is as much as the largest
    number of latents and of tokens allow.
    """
    ids = list(
        session.execute(
            select(Evidence.latent_id).distinct().order_by(Evidence.latent_id)
        ).scalars()
    )
    ids = ids[:: max(1, -(-len(ids) // MOST_BACKGROUND_LATENTS))]
    documents: dict[tuple[int, str], dict[int, tuple[str, str]]] = defaultdict(dict)
    n_tokens = 0
    for part in chunks(ids):
        if n_tokens >= MOST_BACKGROUND_TOKENS:
            break
        query = (
            select(*_TEXT_COLUMNS)
            .join(Latent, Latent.id == Evidence.latent_id)
            .where(Evidence.latent_id.in_(part), Evidence.split == "explain")
        )
        for crosscoder_id, document_id, start, tokens, roles in session.connection().execute(query):
            known = documents[crosscoder_id, document_id]
            n_tokens -= len(known)
            known.update(enumerate(zip(tokens, roles, strict=True), start))
            n_tokens += len(known)
    return [text for _, tokens in sorted(documents.items()) for text in _texts(tokens)]


def latents_of(session: Session, comparison_ids: Collection[int]) -> list[int]:
    """Latents on either side of the comparisons, by rank within their set, each once."""
    ids: dict[int, None] = {}
    for part in chunks(sorted(set(comparison_ids))):
        query = (
            select(LatentSetMember.latent_id)
            .join(
                Comparison,
                or_(
                    Comparison.target_set_id == LatentSetMember.latent_set_id,
                    Comparison.reference_set_id == LatentSetMember.latent_set_id,
                ),
            )
            .where(Comparison.id.in_(part))
            .order_by(
                LatentSetMember.latent_set_id, LatentSetMember.rank, LatentSetMember.latent_id
            )
        )
        ids.update(dict.fromkeys(session.execute(query).scalars()))
    return list(ids)


def options_of(session: Session, taxonomy_version_id: int) -> tuple[CategoryOption, ...]:
    """Leaf categories of a taxonomy version in their order."""
    rows = session.execute(
        select(Category)
        .where(Category.taxonomy_version_id == taxonomy_version_id)
        .order_by(Category.position, Category.id)
    ).scalars()
    categories = list(rows)
    by_id = {category.id: category for category in categories}
    parents = {category.parent_id for category in categories}
    return tuple(
        CategoryOption(
            slug=category.slug,
            name=category.name,
            parent=by_id[category.parent_id].slug if category.parent_id is not None else None,
            definition=category.definition,
            include_when=category.include_when,
            exclude_when=category.exclude_when,
            prototypes=tuple(category.prototypes),
            behaviour=category.behaviour or "",
        )
        for category in categories
        if category.id not in parents
    )


def _texts(tokens: Mapping[int, tuple[str, str]]) -> Iterator[Example]:
    """The runs of neighbouring positions among tokens with their roles, without activation."""
    places = sorted(tokens)
    starts = [at for at, place in enumerate(places) if place - 1 not in tokens]
    for start, end in zip(starts, [*starts[1:], len(places)], strict=True):
        run = [tokens[place] for place in places[start:end]]
        texts, roles = zip(*run, strict=True)
        yield Example("background", "explain", texts, roles, (0.0,) * len(run))


def leaf_options(taxonomy: Taxonomy) -> tuple[CategoryOption, ...]:
    """Leaf categories of a taxonomy that is not stored, in their order."""
    return tuple(
        CategoryOption(
            leaf.slug, leaf.name, leaf.parent, leaf.definition, leaf.include_when,
            leaf.exclude_when, tuple(leaf.prototypes), leaf.behaviour or "",
        )
        for leaf in taxonomy.leaves()
    )  # fmt: skip


def _windows(session: Session, latent_ids: Collection[int], split: str) -> dict[int, list[Example]]:
    """Examples of each latent from the newest run that collected any for it."""
    found: dict[int, list[Example]] = defaultdict(list)
    for part in chunks(latent_ids):
        newest = (
            select(Evidence.latent_id, func.max(Evidence.run_id).label("run_id"))
            .where(Evidence.latent_id.in_(part))
            .group_by(Evidence.latent_id)
            .subquery()
        )
        query = (
            select(*_WINDOW_COLUMNS)
            .join(
                newest,
                (newest.c.latent_id == Evidence.latent_id) & (newest.c.run_id == Evidence.run_id),
            )
            .where(Evidence.split == split)
            .order_by(Evidence.id)
        )
        # Rows from the connection are faster than from the session, and a server waits for them.
        for row in session.connection().execute(query):
            latent_id, kind, half, tokens, roles, activations, quantile = row
            window = Example(
                kind=kind,
                split=half,
                tokens=tuple(tokens),
                roles=tuple(roles),
                activations=tuple(map(float, activations)),
                quantile=quantile,
            )
            found[latent_id].append(window)
    return found


def _facts(session: Session, latents: Mapping[int, Row[Any]]) -> dict[int, LatentFacts]:
    """Facts for the pair of models of a latent's set."""
    sets = _sets_of(session, latents)
    pairs = _pairs(session, set(sets.values()))
    scalings: dict[tuple[int, int, int], Any] = {}
    for part in chunks(latents):
        query = select(*_SCALING_COLUMNS).where(LatentScaling.latent_id.in_(part))
        for row in session.execute(query):
            scalings[(row.latent_id, row.target_model_id, row.reference_model_id)] = row
    facts = {}
    for latent_id, latent in latents.items():
        pair = pairs.get(sets.get(latent_id, 0))
        scaling = scalings.get((latent_id, pair.target_id, pair.against_id)) if pair else None
        facts[latent_id] = LatentFacts(
            target_model=pair.target if pair else None,
            reference_model=pair.against if pair else None,
            delta_norm=scaling.delta_norm if scaling else None,
            nu_error=scaling.nu_error if scaling else None,
            nu_reconstruction=scaling.nu_reconstruction if scaling else None,
            density=latent.density,
            n_documents=latent.n_documents,
        )
    return facts


def _sets_of(session: Session, latent_ids: Collection[int]) -> dict[int, int]:
    """The newest latent set that holds a latent, else that of the latent it is matched with.

    A latent in no set that is matched with none has the newest set of its crosscoder, so that a
    judge sees the same facts of it as of the latents in sets.
    """
    found: dict[int, int] = {}
    for part in chunks(latent_ids):
        query = (
            select(
                LatentSetMember.latent_id,
                func.max(LatentSetMember.latent_set_id).label("latent_set_id"),
            )
            .where(LatentSetMember.latent_id.in_(part))
            .group_by(LatentSetMember.latent_id)
        )
        found |= {row.latent_id: row.latent_set_id for row in session.execute(query)}
    others = [latent_id for latent_id in latent_ids if latent_id not in found]
    found |= matched_sets(session, others) if others else {}
    for part in chunks(latent_id for latent_id in others if latent_id not in found):
        query = (
            select(Latent.id, func.max(LatentSet.id).label("latent_set_id"))
            .join(LatentSet, LatentSet.crosscoder_id == Latent.crosscoder_id)
            .where(Latent.id.in_(part), LatentSet.target_model_id.is_not(None))
            .group_by(Latent.id)
        )
        found |= {row.id: row.latent_set_id for row in session.execute(query)}
    return found


def _pairs(session: Session, latent_set_ids: Collection[int]) -> dict[int, Row[Any]]:
    """The two models of each latent set that has them."""
    target, against = aliased(SubjectModel), aliased(SubjectModel)
    found: dict[int, Row[Any]] = {}
    for part in chunks(latent_set_ids):
        query = (
            select(
                LatentSet.id,
                target.id.label("target_id"),
                target.name.label("target"),
                against.id.label("against_id"),
                against.name.label("against"),
            )
            .join(target, target.id == LatentSet.target_model_id)
            .join(against, against.id == LatentSet.against_model_id)
            .where(LatentSet.id.in_(part))
        )
        found |= {row.id: row for row in session.execute(query)}
    return found
