"""What an experiment on explanations (`judge.revise`) gives where the texts are the study's own.

    python benchmarks/experiment_control.py study.toml [--every 4]

A perfect judge writes texts like those on which a latent fires. Here the held-out windows of each
latent stand in for them: its strongest, then its weaker ones, as texts meant to activate it, its
hard negatives as the others, each read alone, without the text around it. So this bounds what the
measurement allows, and says nothing of a judge. The study must have been run up to `collect`.
Prints a line of JSON for the strongest and one for the weaker windows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crosscoder.progress import SilentProgress
from labeler.judge.base import CONTENT_ROLES, Example, LatentRecord
from labeler.judge.experiments import MeasuredText
from labeler.judge.latents import load_subjects
from labeler.labeling.revise import ACTIVE_SHARE, Experiment
from labeler.stages.base import StageContext
from labeler.stages.experiment import LatentMeasurement, revised_latents
from labeler.stages.pipeline import finished
from labeler.store.engine import read_session
from labeler.store.migrate import opened
from labeler.store.schema import Latent
from labeler.study.study_file import StudyFile

TEXTS = 6


def text_of(window: Example, is_meant: bool) -> MeasuredText | None:
    """The part of a window whose role holds its strongest token, or most of its tokens."""
    content = [at for at, role in enumerate(window.roles) if role in CONTENT_ROLES]
    if not content:
        return None
    strongest = max(content, key=lambda at: window.activations[at])
    role = window.roles[strongest if window.peak > 0 else content[len(content) // 2]]
    parts = zip(window.tokens, window.roles, strict=True)
    text = "".join(token for token, own in parts if own == role).strip()
    return MeasuredText(is_meant, role, "", text) if text else None


def texts_of(subject: LatentRecord, kinds: Sequence[str]) -> list[MeasuredText]:
    """At most TEXTS windows of the kinds, meant to activate the latent, and TEXTS others."""
    found = []
    for is_meant, chosen in ((True, kinds), (False, ("negative",))):
        made = [text_of(window, is_meant) for window in subject.of_kind(*chosen)]
        found += [text for text in made if text is not None][:TEXTS]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--every", type=int, default=4, help="take every n-th latent of the sides")
    arguments = parser.parse_args()
    study = StudyFile.read(arguments.study)
    with opened(study.database_url) as engine:
        context = finished(StageContext(study, engine, SilentProgress()), "collect")
        with read_session(engine) as session:
            latents = revised_latents(session, context)[:: arguments.every]
            subjects = load_subjects(session, latents, split="score")
            largest = {
                each: session.get_one(Latent, each).max_activation or 0.0 for each in latents
            }
        measure = LatentMeasurement(context).measure
        for name, kinds in (("strongest", ("top",)), ("weaker", ("quantile",))):
            rows = [(each.latent_id, text) for each in subjects for text in texts_of(each, kinds)]
            values = measure(rows)
            by_latent: dict[int, list[MeasuredText]] = {}
            for (latent_id, text), value in zip(rows, values, strict=True):
                measured = MeasuredText(text.is_meant, text.role, "", text.text, value)
                by_latent.setdefault(latent_id, []).append(measured)
            print(json.dumps({"meant": name, **summary(by_latent, largest)}))


def summary(
    texts: dict[int, list[MeasuredText]], largest: dict[int, float]
) -> dict[str, float | int]:
    """Means over the latents that have texts of both kinds."""
    experiments = [
        Experiment("", None, 0, tuple(found), ACTIVE_SHARE * largest[latent_id])
        for latent_id, found in texts.items()
        if {text.is_meant for text in found} == {True, False}
    ]
    purities = [each.purity for each in experiments if each.purity is not None]
    return {
        "latents": len(experiments),
        "responsiveness": round(float(np.mean([e.responsiveness or 0.0 for e in experiments])), 3),
        "purity": round(float(np.mean(purities)), 3),
        "hold": sum(each.holds for each in experiments),
    }


if __name__ == "__main__":
    main()
