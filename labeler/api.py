"""difflens from Python: the verbs of the command line as methods of a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crosscoder.progress import Progress, SilentProgress
from labeler.study.study_file import StudyFile
from taxonomy.tree import Taxonomy

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy import Engine

    from labeler.exchange.feature_df import FeatureTableResult
    from labeler.exchange.folders import ExchangeExport, ExchangeResult
    from labeler.exchange.labels_round_trip import LabelImportResult
    from labeler.exchange.latents_import import ImportResult
    from labeler.judge.budget import Limits
    from labeler.stages.pipeline import StageReport
    from labeler.stages.status import StudyStatus
    from labeler.store.query.result import QueryResult
    from labeler.taxonomies.deciding import Decided
    from labeler.taxonomies.inducing import Proposed


class Study:
    """A study: its config, and everything that can be done with it.

    >>> study = Study.open("study.toml")
    >>> study.category_change()
    """

    def __init__(self, file: StudyFile) -> None:
        self.file = file

    @classmethod
    def open(cls, path: str | Path) -> Study:
        """Read a study.toml; UsageError names the key that is wrong."""
        return cls(StudyFile.read(Path(path)))

    def run(
        self,
        first: str | None = None,
        last: str | None = None,
        progress: Progress | None = None,
        limits: Limits | None = None,
    ) -> list[StageReport]:
        """Run the stages up to `last`, redoing `first` and those after it.

        `limits` are those on all judge calls of the study; BudgetReachedError before one is passed.
        """
        from labeler.stages.pipeline import run_study

        return list(run_study(self.file, progress or SilentProgress(), first, last, limits))

    def run_stage(
        self, name: str, progress: Progress | None = None, limits: Limits | None = None
    ) -> StageReport:
        """Run one stage on the product of the one before it; `report` needs labels alone."""
        from labeler.stages.pipeline import run_stage

        return run_stage(self.file, progress or SilentProgress(), name, limits)

    def status(self) -> StudyStatus:
        """Stages done, stale or open; coverage; what review is left."""
        from labeler.stages.status import study_status

        return study_status(self.file)

    def taxonomy(self) -> Taxonomy:
        """The categories that the study works with: as decided last, else its file or the seed."""
        from labeler.taxonomies.verbs import current_taxonomy

        return current_taxonomy(self.file)

    def taxonomy_diff(self, old: str | None = None, new: str | None = None) -> QueryResult:
        """What became of the categories between two versions, or towards a proposal's file."""
        from labeler.taxonomies.verbs import diff

        return diff(self.file, old, new)

    def propose_taxonomy(
        self, mode: Literal["induce", "residual"] | None = None, output: str | Path | None = None
    ) -> Proposed:
        """Make categories from explanations; writes a file to read, edit and accept."""
        from labeler.taxonomies.verbs import propose

        return propose(self.file, mode, None if output is None else Path(output))

    def accept_taxonomy(self, path: str | Path) -> Decided:
        """Make the version of a proposal active, with every label that keeps its meaning."""
        from labeler.taxonomies.verbs import accept

        return accept(self.file, Path(path))

    def merge_categories(self, slugs: Sequence[str], into: str) -> Decided:
        """Make one category of several; their labels stay."""
        from labeler.taxonomies.verbs import merge

        return merge(self.file, slugs, into)

    def split_category(self, slug: str, into: Sequence[str]) -> Decided:
        """Put several categories in the place of one; its labels go back to judge and review."""
        from labeler.taxonomies.verbs import split

        return split(self.file, slug, into)

    def rename_category(self, slug: str, new_slug: str, name: str | None = None) -> Decided:
        """Give a category another slug or title; its labels stay."""
        from labeler.taxonomies.verbs import rename

        return rename(self.file, slug, new_slug, name)

    def restore_taxonomy(self, version: str) -> Decided:
        """Make a new version with the categories of an earlier one; its labels come back."""
        from labeler.taxonomies.verbs import restore

        return restore(self.file, version)

    def taxonomy_stability(
        self, part: Literal["categories", "reruns"] = "categories", n_subsamples: int = 20
    ) -> QueryResult:
        """Which categories and signs hold when the labelling is done again in other ways."""
        from labeler.taxonomies.verbs import stability

        return stability(self.file, part, n_subsamples)

    def sql(self, statement: str, max_rows: int = 10_000, timeout: float = 30.0) -> QueryResult:
        """One read-only statement; UsageError for a refused one, WorkError past the deadline."""
        from labeler.store.query.query import run_query

        return run_query(self.file.database_url, statement, max_rows=max_rows, timeout=timeout)

    def saved_queries(self) -> QueryResult:
        """Names, titles and origins of the saved questions: the study's own and the shipped."""
        from labeler.store.query.result import QueryResult
        from labeler.store.query.saved_queries import saved_queries

        rows = tuple(
            (each.name, each.source, each.title) for each in saved_queries(self.file.query_folder)
        )
        return QueryResult(("name", "source", "title"), rows, truncated=False)

    def category_change(self) -> pd.DataFrame:
        """The view v_category_change: one row per comparison and category."""
        return self._frame("select * from v_category_change order by comparison, level, category")

    def statistics(self) -> pd.DataFrame:
        """The newest report's rows: intervals, p, q and verdicts."""
        return self._frame(
            "select * from v_category_change_statistic order by comparison, level, category"
        )

    def behaviour(self) -> pd.DataFrame:
        """The view v_category_behaviour: how often each category's behaviour shows, by model."""
        return self._frame("select * from v_category_behaviour order by comparison, category")

    def behaviour_answers(self) -> pd.DataFrame:
        """The view v_behaviour_answer: every answer to a held-out prompt with its class."""
        return self._frame(
            "select * from v_behaviour_answer order by category, prompt_id, model, sample"
        )

    def category_effects(self) -> pd.DataFrame:
        """The view v_category_effect: what categories, sides and all latents do to the output."""
        return self._frame(
            "select * from v_category_effect order by comparison, target, kind, name, scope"
        )

    def latent_effects(self) -> pd.DataFrame:
        """The view v_latent_effect: what each latent does to the output, by first order."""
        return self._frame("select * from v_latent_effect order by target, rank")

    def effective_labels(self) -> pd.DataFrame:
        """The view v_effective_label: one row per latent and category."""
        return self._frame(
            "select * from v_effective_label order by comparison, side, latent_id, rank"
        )

    def import_latents(
        self,
        path: str | Path,
        dry_run: bool = False,
        create_categories: bool = False,
        as_written: bool = False,
    ) -> ImportResult:
        """Import latents labelled elsewhere; the database is made or migrated first.

        UsageError for explanations that all look garbled, unless `as_written`.
        """
        from labeler.exchange.latents_import import import_latents
        from labeler.store.engine import read_session
        from labeler.taxonomies.showing import tree_of

        with self.engine(create=True) as engine:
            with read_session(engine) as session:
                taxonomy = tree_of(session, self.file)
            return import_latents(
                engine, Path(path), taxonomy, dry_run, create_categories, as_written
            )

    def import_features(
        self, path: str | Path, target: str, reference: str, name: str | None = None
    ) -> FeatureTableResult:
        """Import a published feature_df.csv: its latents with their scaling, all or none."""
        from labeler.exchange.feature_df import import_feature_table

        with self.engine(create=True) as engine:
            return import_feature_table(engine, Path(path), target, reference, name)

    def export_crosscoder(
        self, folder: str | Path, crosscoder: str | None = None, name_class: bool = False
    ) -> None:
        """Write the study's crosscoder in dictionary_learning's Hub layout.

        Of several, `crosscoder` names one in `[[crosscoders]]`. `name_class` writes the class into
        config.json too, for diffing-toolkit. UsageError where there is no such crosscoder, and
        where `train` is not done with the present config.
        """
        from crosscoder.published import export_dictionary_learning
        from labeler.stages.base import StageContext
        from labeler.stages.pipeline import finished
        from labeler.stages.train import named_crosscoder, trained_crosscoder

        one = named_crosscoder(self.file, crosscoder)
        with self.engine() as engine:
            context = finished(StageContext(self.file, engine, SilentProgress()), "train")
        export_dictionary_learning(trained_crosscoder(context, one), Path(folder), name_class)

    def export_labels(self, path: str | Path, overwrite: bool = False) -> int:
        """Write the active labels to a CSV or JSONL file; returns how many.

        UsageError where the file is there already, unless `overwrite`.
        """
        from labeler.exchange.labels_round_trip import export_labels

        with self.engine() as engine:
            return export_labels(engine, Path(path), overwrite)

    def export_latents(
        self,
        folder: str | Path,
        form: str,
        crosscoder: str | None = None,
        overwrite: bool = False,
        creator_id: str | None = None,
    ) -> ExchangeExport:
        """Write labelled latents as `neuronpedia`, `delphi` or `saedashboard`; what was written.

        `creator_id` is the user of Neuronpedia whom the rows belong to; that format needs one.
        UsageError where the folder holds anything, unless `overwrite`.
        """
        from labeler.exchange.folders import export_latents

        with self.engine() as engine:
            return export_latents(
                engine, Path(folder), form, crosscoder, overwrite, creator_id=creator_id
            )

    def import_explanations(
        self,
        folder: str | Path,
        form: str,
        crosscoder: str,
        dry_run: bool = False,
        new_crosscoder: bool = False,
    ) -> ExchangeResult:
        """Add explanations, scores and evidence of another tool's folder to a crosscoder's latents.

        UsageError where the study has no such crosscoder, unless `new_crosscoder` makes one.
        """
        from labeler.exchange.folders import import_latents

        with self.engine(create=True) as engine:
            return import_latents(engine, Path(folder), form, crosscoder, dry_run, new_crosscoder)

    def import_labels(
        self,
        path: str | Path,
        reviewer: str,
        dry_run: bool = False,
        all_changed: bool = False,
    ) -> LabelImportResult:
        """Take corrections from a CSV or JSONL file: all of them, or on any conflict none.

        UsageError for garbled text, and for a file of which nearly every explanation differs,
        unless `all_changed`.
        """
        from labeler.exchange.labels_round_trip import import_labels

        with self.engine() as engine:
            return import_labels(engine, Path(path), reviewer, dry_run, all_changed)

    def _frame(self, statement: str) -> pd.DataFrame:
        import pandas as pd

        from labeler.store.engine import read_session

        with self.engine() as engine, read_session(engine) as session:
            return pd.read_sql_query(statement, session.connection())

    @contextmanager
    def engine(self, create: bool = False) -> Iterator[Engine]:
        """The study's database: made or migrated first if `create`, else there and current."""
        from labeler.store.engine import require_existing
        from labeler.store.migrate import opened

        if not create:
            require_existing(self.file.database_url)
        with opened(self.file.database_url, create) as engine:
            yield engine
