"""What `difflens judge check` asks and prints."""

from __future__ import annotations

import typer

from labeler.errors import WorkError
from labeler.judge.base import JudgeKind, judge_kind
from labeler.study.study_file import StudyFile


def check_connection(study: StudyFile, is_required: bool) -> None:
    """Ask every server one question, where the judge has servers; UsageError if it must have."""
    section = study.config.judge
    kind = judge_kind(section.kind)
    if type(kind).check == JudgeKind.check and not is_required and not kind.reads_windows:
        return
    for fit in kind.check(section):
        typer.echo(fit.parameter_words)
        typer.echo(fit.words)
        if fit.warning is not None:
            typer.echo(fit.warning, err=True)


def check_puzzles(study: StudyFile) -> None:
    """Let the judge rank the explanations of puzzles."""
    from labeler.judge.factory import study_embedder, study_judge
    from labeler.labeling.puzzles import check_puzzles as check
    from labeler.progress import progress_for

    judge = study_judge(study, study_embedder(study))
    for line in check(judge, progress=progress_for()).lines:
        typer.echo(line)


def check_worth(study: StudyFile) -> None:
    """Measure the judge, store the result, print it in one line; WorkError where it is refused."""
    from dataclasses import replace

    from labeler.judge.factory import limits_of, study_embedder, study_judge
    from labeler.judge.few_shot import heads_folder
    from labeler.judge.labelled_evidence import fitting_set
    from labeler.judge.latents import leaf_options
    from labeler.labeling.category_questions import CategoryQuestions, QuestionConfig
    from labeler.labeling.judge_check import balanced, measure_judge, n_calls, others, store_check
    from labeler.labeling.puzzles import check_puzzles as check
    from labeler.progress import progress_for
    from labeler.store.engine import write_session
    from labeler.store.migrate import opened
    from taxonomy.tree import seed_taxonomy

    section, taxonomy = study.config.judge, seed_taxonomy()
    embedder, limits = study_embedder(study), limits_of(section)
    judge = study_judge(study, embedder)
    latents = balanced(fitting_set(), taxonomy)
    config = QuestionConfig(
        section.shortlist, limits, others(fitting_set(), latents), heads_folder()
    )
    questions = CategoryQuestions(leaf_options(taxonomy), embedder, config, reads_windows=False)
    typer.echo(
        f"judge: some {n_calls(len(latents))} calls about {len(latents)} labelled latents, then "
        "puzzles; --connection sends one call",
        err=True,
    )
    with opened(study.database_url, create=True) as engine:
        measures = measure_judge(judge, questions, latents, limits, progress_for())
        if measures.refusal is None:
            puzzles = check(judge, progress=progress_for())
            measures = replace(measures, puzzle_accuracy=puzzles.accuracy)
        with write_session(engine) as session:
            store_check(session, judge.identity, measures)
    if questions.note:
        typer.echo(questions.note)
    if measures.refusal is not None:
        raise WorkError(
            f"{judge.identity.name}: {measures.words}; name another model in judge.model"
        )
    typer.echo(f"{judge.identity.name}: {measures.words}")
