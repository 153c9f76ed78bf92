"""`taxonomy propose`: makes a proposal and writes it beside the study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from labeler.embedding.base import Embedder
from labeler.errors import UsageError
from labeler.judge.base import Judge
from labeler.store.engine import read_session
from labeler.store.study_comparisons import study_comparisons
from labeler.store.taxonomies import load_version
from labeler.study import StudyFile
from labeler.taxonomies.inducing import Draft, DraftRequest, Mode, make_draft
from labeler.taxonomies.versions import stored_version
from labeler.text import plural
from taxonomy.induction import InductionConfig
from taxonomy.naming import NamingPlan
from taxonomy.proposal import proposal_text
from taxonomy.settings import ClusterSettings

PROPOSAL_NAME = "taxonomy-proposal.yaml"


@dataclass(frozen=True)
class Proposed:
    """What became of a wish for a proposal; `path` is None where no category came out."""

    path: Path | None
    draft: Draft | None
    accept_command: str = ""
    needs: str = ""
    """The setting without which the study does not accept it."""

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
    """Make a proposal from the explanations that the database holds; None where nothing came."""
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
    """Write a proposal where a person finds it.

    The same text again changes nothing; UsageError where another one, maybe edited, is there.
    """
    if draft is None:
        return Proposed(None, None)
    path = (study.folder / PROPOSAL_NAME) if output is None else output
    command = f"difflens taxonomy accept {study.path.name} {_beside(path, study)}"
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


def _beside(path: Path, study: StudyFile) -> str:
    resolved = path.resolve()
    return resolved.name if resolved.parent == study.folder else str(path)
