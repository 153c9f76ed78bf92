"""Looks at what `difflens label` would ask, without asking: the plan, and one prompt."""

from __future__ import annotations

from pathlib import Path

from crosscoder.progress import SilentProgress
from labeler.judge.base import JudgeRequest
from labeler.judge.latents import load_subject
from labeler.judge.prompts import explain_request
from labeler.labeling.plan import plan_labels, plan_lines
from labeler.stages.base import StageContext
from labeler.stages.judges import labelled_latents
from labeler.store.engine import read_session, require_existing
from labeler.store.migrate import opened
from labeler.study.judge_config import JudgeSection
from labeler.study.study_file import StudyFile


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


def planned(study: StudyFile) -> list[str]:
    """The plan of every judge of the study, as lines."""
    from labeler.judge.base import judge_kind
    from labeler.judge.factory import make_judge

    require_existing(study.database_url)
    lines: list[str] = []
    with opened(study.database_url) as engine:
        with read_session(engine) as session:
            latents = labelled_latents(session, StageContext(study, engine, SilentProgress()))
        for section in (study.config.judge, *study.config.judges):
            kind = judge_kind(section.kind)
            if not kind.is_metered:
                name = kind.expected_name(section, study.config.embedding)
                lines.append(f"{name}: computes on this machine, no call is paid")
                continue
            judge = make_judge(section, folder=study.folder)
            folder = model_folder(study, section)
            lines += plan_lines(plan_labels(engine, judge, section, study.config, latents, folder))
    return lines


def model_folder(study: StudyFile, section: JudgeSection) -> Path | None:
    """Local folder of the judge's model, whose tokenizer counts exactly; None where it has none."""
    for name in (section.server.model_path, section.model):
        if name and study.resolve(name).is_dir():
            return study.resolve(name)
    return None


def prompt_of(study: StudyFile, name: str) -> str:
    """The chat that would ask for a latent's explanation; UsageError for an unknown latent."""
    from labeler.store.latents import find_latent

    require_existing(study.database_url)
    with opened(study.database_url) as engine, read_session(engine) as session:
        subject = load_subject(session, find_latent(session, name).id)
    return shown(explain_request(subject))


def shown(request: JudgeRequest) -> str:
    """A request's chat for a terminal; text of the corpus is escaped in it already."""
    parts = [f"### {message.role}\n{message.content}" for message in request.messages]
    return "\n\n".join(parts)
