"""Delphi's folder of results: explanations and scores, one file per latent."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosscoder import limits
from labeler.errors import UsageError
from labeler.exchange.formats import (
    FORMATS,
    ExchangeExample,
    ExchangeExplanation,
    ExchangeLatent,
    ExchangeScore,
    ExchangeWindow,
    ExportedCrosscoder,
    FolderFormat,
    latent_index,
)
from labeler.labeling.trials import ExampleAnswer, Method
from labeler.store.schema.base import storable

_SCORES = "scores"
SCORERS: dict[Method, str] = {"detection": "detection", "fuzzing": "fuzz"}
SILENT = -1
"""Distance of a text on which the latent does not fire."""
_TRUTHS = ("activating", "ground_truth")
"""Keys of the right answer in newer and older files."""


def write_scores(folder: Path, latents: Iterable[ExchangeLatent], hookpoint: str) -> int:
    """Write the scores that have examples; returns how many.

    UsageError, before anything is written, where the folder has another score of the same latent:
    it would stand next to an explanation that it did not test.
    """
    pending: list[tuple[Path, ExchangeScore]] = []
    for latent in latents:
        scores = {score.method: score for score in latent.scores}
        for method in SCORERS:
            path = _path(folder, method, hookpoint, latent.index)
            if method in scores:
                pending.append((path, scores[method]))
            elif path.exists():
                raise UsageError(f"{path}: belongs to another export; name an empty folder")
    for path, score in pending:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([_record(example) for example in score.examples])
        path.write_text(text, encoding="ascii")
    return len(pending)


def read_scores(
    folder: Path, hookpoint: str, explained: Collection[int]
) -> dict[int, tuple[ExchangeScore, ...]]:
    """Scores of the explained latents of a hookpoint; UsageError names file and record.

    Folders of other scorers are ignored. A score of a latent without an explanation is an error.
    """
    found: dict[int, list[ExchangeScore]] = defaultdict(list)
    for method, scorer in SCORERS.items():
        for path in sorted((folder / _SCORES / scorer).glob("*_latent*.txt")):
            index = _index(path, hookpoint)
            if index not in explained:
                raise UsageError(f"{path}: latent {index} has no explanation in explanations/")
            found[index].append(ExchangeScore(method, tuple(_examples(path))))
    return {index: tuple(scores) for index, scores in found.items()}


def _path(folder: Path, method: Method, hookpoint: str, index: int) -> Path:
    return folder / _SCORES / SCORERS[method] / f"{hookpoint}_latent{index}.txt"


def _index(path: Path, hookpoint: str) -> int:
    name, _, digits = path.stem.rpartition("_latent")
    index = limits.whole_number(digits)
    if index is None:
        raise UsageError(f"{path}: the name must end in _latent and a number")
    if name != hookpoint.replace("/", "--"):
        raise UsageError(f"{path}: is of another hookpoint than the explanations, {hookpoint}")
    return index


def _record(example: ExchangeExample) -> dict[str, Any]:
    window = example.window or ExchangeWindow((), ())
    truth, said = example.answer.truth, example.answer.said
    return {
        "str_tokens": [storable(token) for token in window.tokens],
        "activations": list(window.values),
        "distance": _distance(window),
        "activating": truth,
        "prediction": said,
        "probability": None,
        "correct": None if said is None else said == truth,
    }


def _distance(window: ExchangeWindow) -> int | None:
    if window.quantile is not None:
        return window.quantile
    return SILENT if max(window.values, default=0.0) <= 0 else None


def _examples(path: Path) -> Iterator[ExchangeExample]:
    records = limits.parse_json(limits.read_text(path), path)
    if not isinstance(records, list):
        raise UsageError(f"{path}: must be a JSON list of examples")
    for number, record in enumerate(records, start=1):
        yield ExchangeExample(_answer(f"{path}: record {number}", record))


def _answer(where: str, record: Any) -> ExampleAnswer:
    if not isinstance(record, dict):
        raise UsageError(f"{where}: must be an object")
    truths = {key: _flag(where, key, record[key]) for key in _TRUTHS if key in record}
    if not truths:
        raise UsageError(f"{where}: {_TRUTHS[0]} is missing")
    if len(set(truths.values())) > 1:
        raise UsageError(f"{where}: {' and '.join(truths)} contradict each other")
    if "prediction" not in record:
        raise UsageError(f"{where}: prediction is missing; null says that it was not understood")
    truth = next(iter(truths.values()))
    if record["prediction"] is None:
        return ExampleAnswer(truth, None)
    said = _flag(where, "prediction", record["prediction"], " or null")
    correct = record.get("correct")
    if correct is not None and _flag(where, "correct", correct, " or null") != (said == truth):
        raise UsageError(f"{where}: correct contradicts prediction and {next(iter(truths))}")
    return ExampleAnswer(truth, said)


def _flag(where: str, key: str, value: Any, otherwise: str = "") -> bool:
    """A flag written as a boolean, or as 0 or 1 like the answers of judges."""
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise UsageError(f"{where}: {key} must be true, false, 1, 0{otherwise}, not {_shown(value)}")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


_EXPLANATIONS = "explanations"
AUTHOR = "delphi"
_NAME = re.compile(r"(?P<hookpoint>.*)_latent(?P<index>\d+)", re.DOTALL)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@FORMATS.register("delphi")
class Delphi(FolderFormat):
    """`--format delphi`: the first explanation of each latent, and its scores."""

    name = "delphi"
    takes_scores = True

    def read(self, folder: Path) -> list[ExchangeLatent]:
        """Explanations and scores of one hookpoint."""
        return read_delphi(folder)

    def write(
        self,
        folder: Path,
        latents: Sequence[ExchangeLatent],
        crosscoder: ExportedCrosscoder,
        options: Mapping[str, str],
    ) -> int:
        """One file for each explanation and for each score."""
        return write_delphi(folder, latents, crosscoder.name)


def write_delphi(folder: Path, latents: Iterable[ExchangeLatent], hookpoint: str) -> int:
    """Write the first explanation of each latent and its scores; returns how many latents.

    The format has room for one explanation. UsageError where the folder has outdated scores.
    """
    name = _UNSAFE.sub("--", hookpoint)
    explained = [latent for latent in latents if latent.explanations]
    write_scores(folder, explained, name)
    target = folder / _EXPLANATIONS
    target.mkdir(parents=True, exist_ok=True)
    for latent in explained:
        text = json.dumps(latent.explanations[0].text)
        (target / f"{name}_latent{latent.index}.txt").write_text(text, encoding="ascii")
    return len(explained)


def read_delphi(folder: Path) -> list[ExchangeLatent]:
    """Read explanations and scores of one hookpoint; UsageError names an invalid file."""
    source = folder / _EXPLANATIONS if (folder / _EXPLANATIONS).is_dir() else folder
    found: dict[int, ExchangeLatent] = {}
    hookpoints: set[str] = set()
    for path in sorted(source.glob("*_latent*.txt")):
        match = _NAME.fullmatch(path.stem)
        if match is None:
            raise UsageError(f"{path}: the name must end in _latent and a number")
        hookpoints.add(match["hookpoint"])
        index = latent_index(path, match["index"])
        said = ExchangeExplanation(_text(path), AUTHOR)
        found[index] = ExchangeLatent(index, (said,))
    if not found:
        raise UsageError(f"{folder}: holds no explanations/HOOKPOINT_latentN.txt")
    if len(hookpoints) > 1:
        raise UsageError(
            f"{folder}: explanations of {len(hookpoints)} hookpoints; import one folder for each"
        )
    scores = read_scores(folder, hookpoints.pop(), found.keys())
    return [replace(found[index], scores=scores.get(index, ())) for index in sorted(found)]


def _text(path: Path) -> str:
    value = limits.parse_json(limits.read_text(path), path)
    if not isinstance(value, str):
        raise UsageError(f"{path}: is no JSON string")
    return value
