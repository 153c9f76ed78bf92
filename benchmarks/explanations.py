"""What the evidence judge's explanations tell of held-out text, in finished studies.

    python benchmarks/explanations.py DATABASE... [--minilm FOLDER] [--weights] [--show N]

For the latents of the comparisons' sides and their controls: balanced accuracy of detection with a
latent's own explanation and with another latent's (the pairs, examples and questions are those of
`[scores]`), the difference with its paired t interval, and how often examples of each kind are
said to fire. Nothing is written. `--weights` fits the weights of
`labeler/judge/evidence_detection.py` by logistic regression on the own explanations of all studies
together; `--show` prints some explanations. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.embedding.base import CachedEmbedder
from labeler.embedding.embedders import MiniLmEmbedder, find_minilm
from labeler.judge.background import Background
from labeler.judge.base import JudgeRequest, LatentRecord
from labeler.judge.embedding_judge import EvidenceJudge, EvidenceKind
from labeler.judge.evidence_detection import Cues, likeness
from labeler.judge.evidence_statistics import LanguageIdentifier
from labeler.judge.latents import background_texts, latents_of, load_subjects
from labeler.judge.prompts import explain_request
from labeler.labeling.score import score_requests, shuffled_sources
from labeler.labeling.trials import Trial, draw_trials, paired_difference, score_of
from labeler.store.controls import control_latents
from labeler.store.engine import open_engine, read_session
from labeler.store.schema import Comparison, Explanation

EXAMPLES, SEED = 20, 0
"""Those of `[scores]` and of a study without a seed of its own."""


@dataclass(frozen=True)
class Study:
    """The latents of a study, with the text that they are compared with."""

    name: str
    shown: tuple[LatentRecord, ...]
    """The explain half of their evidence."""
    held_out: Mapping[int, LatentRecord]
    background: Background


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    folder = arguments.minilm or find_minilm()
    if folder is None:
        raise SystemExit("no sentence model found: give its folder with --minilm")
    embedder = CachedEmbedder(MiniLmEmbedder(folder), capacity=400_000)
    judge = EvidenceJudge(embedder)
    found: dict[str, dict[str, float | None]] = {}
    parts: list[tuple[NDArray[np.float64], NDArray[np.bool_]]] = []
    for path in arguments.databases:
        study = read_study(path)
        own = explanations(study, judge)
        found[study.name] = measured(study, own, judge)
        for row in list(own.values())[: arguments.show]:
            print(f"  {row.text}")
        if arguments.weights:
            parts += scores_and_truths(study, own, embedder)
    if parts:
        print(fitted(parts))
    print(json.dumps(found))


def read_study(path: Path) -> Study:
    """The latents of all comparisons of a database, and the text of its evidence."""
    with read_session(open_engine(f"sqlite:///{path}")) as session:
        latents = _latents(session)
        texts = background_texts(session)
        return Study(
            name=f"{path.parent.name}/{path.stem}",
            shown=tuple(load_subjects(session, latents)),
            held_out={each.latent_id: each for each in load_subjects(session, latents, "score")},
            background=Background.of(texts, LanguageIdentifier()),
        )


def _latents(session: Session) -> list[int]:
    comparisons = list(session.execute(select(Comparison.id)).scalars())
    found = [*latents_of(session, comparisons), *control_latents(session, comparisons)]
    return list(dict.fromkeys(found))


def explanations(study: Study, judge: EvidenceJudge) -> dict[int, Explanation]:
    """The interpretable explanations by latent, written to no database."""
    found: dict[int, Explanation] = {}
    for subject in study.shown:
        request = replace(explain_request(subject), background=study.background)
        answer = _answer(judge, request)
        if answer["interpretable"]:
            text = str(answer["explanation"])
            found[subject.latent_id] = Explanation(
                latent_id=subject.latent_id, text=text, interpretable=True
            )
    return found


def measured(
    study: Study, own: Mapping[int, Explanation], judge: EvidenceJudge
) -> dict[str, float | None]:
    """Own and shuffled balanced accuracy; prints them with the share said to fire by kind."""
    pairs: list[tuple[float, float]] = []
    said: dict[str, list[bool]] = defaultdict(list)
    others = shuffled_sources(own, SEED)
    for latent_id, row in own.items():
        trials = _trials(study, latent_id)
        scores = []
        for whose, text in (("own", row.text), ("shuffled", others[latent_id].text)):
            answers: dict[str, bool] = {}
            for request in score_requests(
                "detection", text, trials, EvidenceKind.examples_per_call
            ):
                answers |= _answer(judge, request)["answers"]
            scores.append(score_of(trials, answers).balanced_accuracy)
            for trial in trials:
                said[f"{whose}, {trial.example.window.kind}"].append(answers[trial.example.id])
        if scores[0] is not None and scores[1] is not None:
            pairs.append((scores[0], scores[1]))
    result = paired_difference([one for one, _ in pairs], [other for _, other in pairs])
    print(
        f"{study.name}: {result.n} latents, own {result.own:.3f}, shuffled {result.shuffled:.3f}, "
        f"difference {result.difference:.3f} [{result.low:.3f}, {result.high:.3f}]"
    )
    print("  said to fire: " + "; ".join(f"{k} {np.mean(v):.2f}" for k, v in sorted(said.items())))
    return {"own": result.own, "shuffled": result.shuffled, "difference": result.difference}


def scores_and_truths(
    study: Study, own: Mapping[int, Explanation], embedder: CachedEmbedder
) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Per latent what its own explanation finds in each text (n, 3), and whether it fires there."""
    languages = LanguageIdentifier()
    found = []
    for latent_id, row in own.items():
        trials = _trials(study, latent_id)
        windows = [trial.example.window for trial in trials]
        cues = Cues.of(row.text)
        parts = np.column_stack(
            [
                cues.found(windows),
                cues.in_languages(windows, languages),
                likeness(cues.examples or (row.text,), windows, embedder),
            ]
        )
        found.append((parts, np.array([trial.truth for trial in trials])))
    return found


def fitted(parts: Sequence[tuple[NDArray[np.float64], NDArray[np.bool_]]]) -> str:
    """Weights of a logistic regression, relative to that of the cues found."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(class_weight="balanced")
    model.fit(np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]))
    weights = model.coef_[0] / model.coef_[0, 0]
    return f"weights: cues 1, languages {weights[1]:.2f}, likeness {weights[2]:.2f}"


def _trials(study: Study, latent_id: int) -> tuple[Trial, ...]:
    return draw_trials("detection", study.held_out[latent_id].windows, EXAMPLES, SEED)


def _answer(judge: EvidenceJudge, request: JudgeRequest) -> dict[str, Any]:
    parsed = asyncio.run(judge.ask(request)).parsed
    assert parsed is not None
    return parsed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("databases", nargs="+", type=Path)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--weights", action="store_true")
    parser.add_argument("--show", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
