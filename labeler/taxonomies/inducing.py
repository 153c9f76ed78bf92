"""`taxonomy propose`: induces categories from explanations; the judge or their terms name them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from labeler.embedding.base import Embedder
from labeler.embedding.embedders import fitted_to
from labeler.errors import UsageError, WorkError
from labeler.judge.base import Judge, JudgeRequest, judge_kind
from labeler.judge.calls import CallStore, StoredCall, ask_each
from labeler.judge.evidence_statistics import snippet
from labeler.judge.latents import load_subject
from labeler.judge.prompts import merge_request, name_request
from labeler.store.comparisons import study_comparisons
from labeler.store.engine import read_session
from labeler.store.judging import explanations_for
from labeler.store.schema import EffectiveLabel, Explanation
from labeler.store.schema import Judge as JudgeRow
from labeler.store.taxonomies import load_version
from labeler.study.study_file import StudyFile
from labeler.taxonomies.showing import stored_version
from labeler.text import plural
from taxonomy.clustering import LEAST_TEXTS, canonical_text, canonicalise
from taxonomy.counts import ClusterSettings
from taxonomy.induction import (
    InducedCategory,
    Induction,
    InductionConfig,
    NamingPlan,
    NamingTask,
    PairTask,
    induce,
)
from taxonomy.mapping import normalise_rows
from taxonomy.proposal import Proposal, extended_taxonomy, follow, induced_taxonomy, proposal_text
from taxonomy.tree import CategoryName, Taxonomy

TERMS_IN_A_NAME = 3
SAME_TERMS = 0.5
"""Share of common terms in two names from which their categories are equal."""
Mode = Literal["induce", "residual"]
MOST_PROTOTYPES = 6
SHOWN_MEMBERS = 3
KNOWN_SIMILARITY = 0.5
"""Cosine of two descriptions from which a new category is compared with an existing one."""


class JudgeNamer:
    """Asks the judge; every call is recorded, and an answered request is not sent again."""

    def __init__(self, engine: Engine, judge: Judge, run_id: int) -> None:
        self._judge = judge
        self._store = CallStore(engine, judge.identity, run_id)
        self._store.prepare(judge)

    @property
    def name(self) -> str:
        """Name of the judge."""
        return self._judge.identity.name

    def names(self, tasks: Sequence[NamingTask]) -> list[CategoryName | None]:
        """A name for each task; WorkError where the judge names none of them."""
        calls = self._ask([name_request(task) for task in tasks])
        found = [
            CategoryName(**call.parsed) if call.parsed and call.parsed["name"].strip() else None
            for call in calls
        ]
        if tasks and not any(found):
            raise WorkError(f"judge {self.name} named none of {len(tasks)}: {calls[-1].error}")
        return found

    def merges(self, tasks: Sequence[PairTask]) -> list[bool]:
        """Whether the two categories of each task are equal; False without an answer."""
        calls = self._ask([merge_request(task) for task in tasks])
        return [call.parsed is not None and bool(call.parsed["same"]) for call in calls]

    def _ask(self, requests: Sequence[JudgeRequest]) -> list[StoredCall]:
        return asyncio.run(ask_each(self._judge, self._store, requests))


class TermNamer:
    """Names a cluster by contrastive terms, without a judge.

    A word's score is the share of members with it minus the share of outsiders with it. Two
    categories are equal where their names share at least half of their words.
    """

    name = "contrastive terms"

    def names(self, tasks: Sequence[NamingTask]) -> list[CategoryName | None]:
        """The best terms of each task; None where the members have no word."""
        return [self._name(task) for task in tasks]

    def merges(self, tasks: Sequence[PairTask]) -> list[bool]:
        """Whether the two names share at least half of their words."""
        return [_shared(task.first.name, task.second.name) >= SAME_TERMS for task in tasks]

    def _name(self, task: NamingTask) -> CategoryName | None:
        terms = contrastive_terms(task.members, task.outsiders)
        if not terms:
            return None
        return CategoryName(
            name=", ".join(terms[:TERMS_IN_A_NAME]),
            definition=" ".join(task.members[0].split()),
        )


def contrastive_terms(members: Sequence[str], outsiders: Sequence[str], n: int = 6) -> list[str]:
    """Words by their share of members minus their share of outsiders, best first."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(
        stop_words="english", binary=True, token_pattern=r"(?u)\b[^\W\d_]{3,}\b"
    )
    try:
        counts = vectorizer.fit_transform([*members, *outsiders]).toarray()
    except ValueError:
        return []
    inside = counts[: len(members)].mean(axis=0)
    outside = counts[len(members) :].mean(axis=0) if outsiders else np.zeros(counts.shape[1])
    words = vectorizer.get_feature_names_out()
    order = sorted(range(len(words)), key=lambda row: (outside[row] - inside[row], words[row]))
    return [str(words[row]) for row in order if inside[row] > outside[row]][:n]


def namer_of(engine: Engine, judge: Judge, run_id: int) -> JudgeNamer | TermNamer:
    """The judge where it can name clusters, else contrastive terms (evidence judge)."""
    if judge_kind(judge.identity.endpoint_kind).names_categories:
        return JudgeNamer(engine, judge, run_id)
    return TermNamer()


def _shared(first: str, second: str) -> float:
    a, b = Counter(first.split(", ")), Counter(second.split(", "))
    union = sum((a | b).values())
    return sum((a & b).values()) / union if union else 0.0


@dataclass(frozen=True)
class Draft:
    """A proposal and the data that it was made from."""

    proposal: Proposal
    notes: Mapping[str, tuple[str, ...]]
    """Slug -> notes on the explanations of its category."""
    n_explanations: int
    n_left_out: int
    n_categories: int
    distance: float
    named_by: str
    known: tuple[str, ...]
    """Induced categories that exist already; they are left out of the proposal."""


@dataclass(frozen=True)
class DraftRequest:
    """Input and settings of a proposal."""

    mode: Mode
    comparison_ids: tuple[int, ...]
    current: Taxonomy | None
    """The active version; None where a taxonomy is made from nothing."""
    config: InductionConfig = field(default_factory=InductionConfig)


def make_draft(
    engine: Engine, judge: Judge, embedder: Embedder, run_id: int, request: DraftRequest
) -> Draft | None:
    """Make a proposal; None without any category, because too few explanations are alike."""
    with read_session(engine) as session:
        found = _explanations(session, judge, request)
    texts = [explanation.text for explanation in found]
    fitted = fitted_to(embedder, [canonical_text(text) for text in texts])
    namer = namer_of(engine, judge, run_id)
    if request.config.cluster_distance is None and len(canonicalise(texts).texts) < LEAST_TEXTS:
        return None
    if not texts:
        return None
    induction = induce(texts, fitted.embed, namer.names, namer.merges, request.config)
    known: tuple[str, ...] = ()
    if request.mode == "residual" and request.current is not None:
        induction, known = _without_known(induction, request.current, fitted, namer)
    if not induction.categories:
        return None
    with read_session(engine) as session:
        prototypes = [
            _prototypes(session, [found[row].latent_id for row in category.members], category)
            for category in induction.categories
        ]
    taxonomy = _taxonomy(request, induction, prototypes)
    based_on = None
    if request.mode == "residual" and request.current is not None:
        based_on = follow(request.current)
    return Draft(
        proposal=Proposal(taxonomy=taxonomy, based_on=based_on),
        notes=_notes(taxonomy, induction, texts),
        n_explanations=len(texts),
        n_left_out=len(induction.left_out),
        n_categories=len(induction.categories),
        distance=induction.distance,
        named_by=namer.name,
        known=known,
    )


def _explanations(session: Session, judge: Judge, request: DraftRequest) -> list[Explanation]:
    """Interpretable explanations of the comparisons; for `residual` those labelled none."""
    identity = judge.identity
    judge_id = session.execute(
        select(JudgeRow.id).where(
            JudgeRow.name == identity.name, JudgeRow.params_sha256 == identity.params_sha256
        )
    ).scalar()
    query = select(EffectiveLabel.latent_id).where(
        EffectiveLabel.comparison_id.in_(request.comparison_ids)
    )
    if request.mode == "residual":
        query = query.where(EffectiveLabel.outcome == "none")
    latents = sorted(set(session.execute(query).scalars()))
    known = explanations_for(session, latents, judge_id or 0)
    return [known[key] for key in latents if key in known and known[key].interpretable]


def _without_known(
    induction: Induction, current: Taxonomy, embedder: Embedder, namer: JudgeNamer | TermNamer
) -> tuple[Induction, tuple[str, ...]]:
    """Leave out categories that the namer considers equal to the nearest existing one."""
    leaves = current.leaves()
    names = [category.name for category in induction.categories]
    if not names:
        return induction, ()
    old = normalise_rows(embedder.embed([leaf.description for leaf in leaves]))
    new = normalise_rows(embedder.embed([name.description for name in names]))
    similarity = new @ old.T
    nearest = similarity.argmax(axis=1)
    asked = [row for row in range(len(names)) if similarity[row, nearest[row]] >= KNOWN_SIMILARITY]
    tasks = [
        PairTask(
            first=names[row],
            second=CategoryName(leaves[nearest[row]].name, leaves[nearest[row]].definition),
            first_examples=induction.categories[row].examples[:5],
            second_examples=leaves[nearest[row]].prototypes[:5],
            similarity=float(similarity[row, nearest[row]]),
        )
        for row in asked
    ]
    same = {row for row, is_same in zip(asked, namer.merges(tasks), strict=True) if is_same}
    kept = [category for row, category in enumerate(induction.categories) if row not in same]
    left = [member for row in same for member in induction.categories[row].members]
    smaller = replace(
        induction,
        categories=tuple(kept),
        left_out=tuple(sorted([*induction.left_out, *left])),
    )
    known = tuple(f"{names[row].name} = {leaves[nearest[row]].slug}" for row in sorted(same))
    return smaller, known


def _prototypes(
    session: Session, latent_ids: Sequence[int], category: InducedCategory
) -> tuple[str, ...]:
    """Texts on which the members fire; without evidence, explanations."""
    found: list[str] = []
    for latent_id in latent_ids:
        windows = [
            window for window in load_subject(session, latent_id).windows if window.kind == "top"
        ]
        pieces = [piece for window in windows if (piece := snippet(window)) is not None]
        if pieces:
            found.append(max(pieces, key=lambda piece: piece.peak).text)
        if len(found) == MOST_PROTOTYPES:
            break
    return tuple(found) or category.examples[:MOST_PROTOTYPES]


def _taxonomy(
    request: DraftRequest, induction: Induction, prototypes: Sequence[tuple[str, ...]]
) -> Taxonomy:
    if request.mode == "residual" and request.current is not None:
        return extended_taxonomy(request.current, induction, lambda row: prototypes[row])
    return induced_taxonomy(induction, "induced", "1", lambda row: prototypes[row])


def _notes(
    taxonomy: Taxonomy, induction: Induction, texts: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Notes on the explanations of each new leaf."""
    by_name: dict[str, list[int]] = {}
    for row, category in enumerate(induction.categories):
        by_name.setdefault(" ".join(category.name.name.split()), []).append(row)
    notes: dict[str, tuple[str, ...]] = {}
    for leaf in reversed(taxonomy.leaves()):
        rows = by_name.get(leaf.name)
        if rows:
            members = induction.categories[rows.pop()].members
            shown = [f'"{_short(texts[member])}"' for member in members[:SHOWN_MEMBERS]]
            notes[leaf.slug] = (f"made from {len(members)} explanations, such as", *shown)
    return notes


def _short(text: str) -> str:
    short = canonical_text(text)
    return short if len(short) <= 90 else short[:89] + "\u2026"


PROPOSAL_NAME = "taxonomy-proposal.yaml"


@dataclass(frozen=True)
class Proposed:
    """Result of `propose`; `path` is None without any category."""

    path: Path | None
    draft: Draft | None
    accept_command: str = ""
    needs: str = ""
    """The setting that the study needs to accept the proposal."""

    def summary(self) -> str:
        """The result in words."""
        if self.draft is None or self.path is None:
            return "no category came out: too few explanations are alike"
        draft = self.draft
        words = [
            f"{plural(draft.n_categories, 'category', 'categories')} from "
            f"{plural(draft.n_explanations, 'explanation')} "
            f"({draft.n_left_out} left out), named by {draft.named_by}, cluster distance "
            f"{draft.distance:.3f}: {self.path}"
        ]
        if draft.known:
            words.append(f"there already: {'; '.join(draft.known)}")
        first = f" set {self.needs} in the study," if self.needs else ""
        words.append(f"read it,{first} then: {self.accept_command}")
        return "\n".join(words)


def draft_of(
    engine: Engine,
    study: StudyFile,
    judge: Judge,
    embedder: Embedder,
    run_id: int,
    mode: Mode,
) -> Draft | None:
    """Make a proposal from the stored explanations; None without any category."""
    section = study.config.taxonomy
    seed = study.config.study.seed
    with read_session(engine) as session:
        version = stored_version(session, study)
        current = None if version is None else load_version(session, version.id)
        of_study = study_comparisons(session, study.config.comparison)
    if not of_study.present:
        raise UsageError(f"taxonomy propose: no comparison is there yet; {of_study.why_none}")
    if mode == "residual" and current is None:
        raise UsageError(
            "taxonomy propose: nothing is categorised yet, so nothing is left; "
            "run `categorize` first, or use --mode induce"
        )
    config = InductionConfig(
        **section.model_dump(include=set(ClusterSettings.model_fields)),
        naming=NamingPlan(seed=seed),
        seed=seed,
    )
    ids = tuple(row.id for row in of_study.present)
    request = DraftRequest(mode, ids, current, config)
    return make_draft(engine, judge, embedder, run_id, request)


def write_draft(study: StudyFile, draft: Draft | None, output: Path | None = None) -> Proposed:
    """Write a proposal next to the study, or to `output`.

    UsageError where the file exists with another text, perhaps edited.
    """
    if draft is None:
        return Proposed(None, None)
    path = (study.folder / PROPOSAL_NAME) if output is None else output
    command = f"difflens taxonomy accept {study.path.name} {_shown_path(path, study)}"
    text = proposal_text(draft.proposal, command, draft.notes)
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise UsageError(
                f"{path}: another proposal is there, maybe with your edits; accept or remove it, "
                "or name another file by --output"
            )
    else:
        try:
            path.write_text(text, encoding="utf-8")
        except FileNotFoundError:
            raise UsageError(f"{path.parent}: no such folder; make it first") from None
    is_own = draft.proposal.based_on is None and study.config.taxonomy.mode != "induce"
    return Proposed(path, draft, command, 'taxonomy.mode = "induce"' if is_own else "")


def _shown_path(path: Path, study: StudyFile) -> str:
    resolved = path.resolve()
    return resolved.name if resolved.parent == study.folder else str(path)
