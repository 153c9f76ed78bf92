"""The subcommands of `difflens taxonomy` on a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from sqlalchemy import Engine

from labeler.errors import UsageError
from labeler.judge.budget import BudgetReachedError, Limits
from labeler.judge.factory import (
    require_embedding,
    study_embedder,
    study_judge,
    study_spending,
)
from labeler.store.comparisons import study_comparisons
from labeler.store.database_url import sqlite_file
from labeler.store.engine import read_session, require_existing, write_session
from labeler.store.migrate import opened
from labeler.store.query.result import QueryResult
from labeler.store.runs import begin_run, finish_run
from labeler.study.study_file import StudyFile, study_taxonomy
from labeler.taxonomies import deciding
from labeler.taxonomies import deciding as restoring
from labeler.taxonomies.deciding import Decided
from labeler.taxonomies.inducing import Mode, Proposed, draft_of, write_draft
from labeler.taxonomies.showing import (
    diff_rows,
    taxonomy_rows,
    taxonomy_yaml,
    tree_of,
    version_rows,
    version_tree,
)
from labeler.taxonomies.stability import StabilityPlan, comparison_stability
from taxonomy.stability import CategoryStability
from taxonomy.tree import Taxonomy

Part = Literal["categories", "reruns"]
CATEGORY_COLUMNS = (
    "comparison", "category", "kind", "reruns", "jaccard_mean", "jaccard_least",
    "reported_sign", "same_sign", "signed_reruns", "sign_stability", "unstable",
)  # fmt: skip
RERUN_COLUMNS = (
    "comparison", "kind", "setting", "latents", "ami", "ari", "coverage", "overlap",
)  # fmt: skip
_SIGNS = {1: "up", -1: "down", 0: "same", None: None}


def current_taxonomy(study: StudyFile) -> Taxonomy:
    """The study's categories; without a database, those of its file."""
    path = sqlite_file(study.database_url)
    if path is not None and not path.is_file():
        return study_taxonomy(study)
    with opened(study.database_url) as engine, read_session(engine) as session:
        return tree_of(session, study)


def version_taxonomy(study: StudyFile, version: str) -> Taxonomy:
    """The categories of a version that the database holds."""
    with _engine(study) as engine, read_session(engine) as session:
        return version_tree(session, study, version)


def show(study: StudyFile, version: str | None = None) -> QueryResult:
    """Active categories, or those of a version, with their latents."""
    with _engine(study) as engine, read_session(engine) as session:
        return taxonomy_rows(session, study, version)


def show_yaml(study: StudyFile, version: str | None = None) -> str:
    """The active version as a file to edit and accept, or an earlier one to read."""
    with _engine(study) as engine, read_session(engine) as session:
        return taxonomy_yaml(session, study, version)


def show_versions(study: StudyFile) -> QueryResult:
    """All versions that the database holds."""
    with _engine(study) as engine, read_session(engine) as session:
        return version_rows(session)


def diff(study: StudyFile, old: str | None = None, new: str | None = None) -> QueryResult:
    """Changes of the categories from one version to another, or to a file."""
    with _engine(study) as engine, read_session(engine) as session:
        return diff_rows(session, study, old, new)


def propose(
    study: StudyFile,
    mode: Mode | None = None,
    output: Path | None = None,
    limits: Limits | None = None,
) -> Proposed:
    """Make a proposal from the explanations and write it next to the study.

    BudgetReachedError before the judge passes `limits`; what it answered is kept.
    """
    require_embedding(study)
    wanted: Mode = mode or ("induce" if study.config.taxonomy.mode == "induce" else "residual")
    with (
        _engine(study) as engine,
        study_spending(study, engine, limits or Limits()) as spending,
    ):
        embedder = study_embedder(study)
        judge = study_judge(study, embedder, spending)
        with write_session(engine) as session:
            config = {"propose": wanted, "study": study.config.model_dump(mode="json")}
            run_id = begin_run(session, "taxonomy", config)
        spending.begin_run(engine, run_id)
        try:
            draft = draft_of(engine, study, judge, embedder, run_id, wanted)
        except BudgetReachedError as error:
            with write_session(engine) as session:
                finish_run(session, run_id, "interrupted", {"error": str(error)})
            raise
        with write_session(engine) as session:
            facts = {"embedder": embedder.name, "embedder_fingerprint": embedder.fingerprint}
            finish_run(session, run_id, result=facts)
    return write_draft(study, draft, output)


def accept(study: StudyFile, path: Path) -> Decided:
    """Make the version of a proposal active."""
    with _engine(study) as engine:
        return deciding.accept(engine, study, path)


def rename(study: StudyFile, slug: str, new_slug: str, name: str | None = None) -> Decided:
    """Give a category another slug or title."""
    with _engine(study) as engine:
        return deciding.rename(engine, study, slug, new_slug, name)


def merge(study: StudyFile, slugs: Sequence[str], into: str) -> Decided:
    """Make one category of several."""
    with _engine(study) as engine:
        return deciding.merge(engine, study, slugs, into)


def split(study: StudyFile, slug: str, into: Sequence[str]) -> Decided:
    """Put several categories in the place of one."""
    with _engine(study) as engine:
        return deciding.split(engine, study, slug, into)


def restore(study: StudyFile, version: str) -> Decided:
    """Make the categories of an earlier version active again."""
    with _engine(study) as engine:
        return restoring.restore(engine, study, version)


def stability(
    study: StudyFile, part: Part = "categories", n_subsamples: int = 20, share: float = 0.8
) -> QueryResult:
    """Do the labelling again in other ways, and say what of the result is still there."""
    require_embedding(study)
    plan = StabilityPlan(
        n_subsamples=n_subsamples,
        share=share,
        seed=study.config.study.seed,
        distance=study.config.taxonomy.cluster_distance,
        min_members=study.config.taxonomy.min_members,
    )
    with _engine(study) as engine:
        embedder = study_embedder(study)
        with read_session(engine) as session:
            rows = study_comparisons(session, study.config.comparison).present
            found = [comparison_stability(session, row, embedder, plan) for row in rows]
    known = [each for each in found if each is not None]
    if not known:
        raise UsageError("taxonomy stability: no latent has a label yet; categorize first")
    if part == "reruns":
        reruns = tuple(
            (each.comparison, row.kind, row.setting, row.n, row.ami, row.ari, row.coverage,
             row.overlap)
            for each in known
            for row in each.reruns
        )  # fmt: skip
        return QueryResult(RERUN_COLUMNS, reruns, truncated=False)
    categories = tuple(
        (each.comparison, *_category(row)) for each in known for row in each.categories
    )
    return QueryResult(CATEGORY_COLUMNS, categories, truncated=False)


def _category(row: CategoryStability) -> tuple[object, ...]:
    return (
        row.category, row.kind, row.n_reruns, row.jaccard_mean, row.jaccard_least,
        _SIGNS[row.reported_sign], row.same_sign, row.n_signed, row.sign_stability,
        row.is_unstable,
    )  # fmt: skip


@contextmanager
def _engine(study: StudyFile) -> Iterator[Engine]:
    require_existing(study.database_url)
    with opened(study.database_url) as engine:
        yield engine
