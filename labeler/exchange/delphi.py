"""delphi's folder of results: explanations, one JSON string in a file for each latent, and scores.

<folder>/explanations/<hookpoint>_latent<index>.txt  scores/... (see delphi_scores)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from crosscoder import limits
from labeler.errors import UsageError
from labeler.exchange.delphi_scores import read_scores, write_scores
from labeler.exchange.records import (
    ExchangeExplanation,
    ExchangeLatent,
    latent_index,
)

FOLDER = "explanations"
AUTHOR = "delphi"
_NAME = re.compile(r"(?P<hookpoint>.*)_latent(?P<index>\d+)", re.DOTALL)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def write_delphi(folder: Path, latents: Iterable[ExchangeLatent], hookpoint: str) -> int:
    """Write the first explanation of each latent and its scores; returns how many latents.

    The format has room for one explanation. UsageError where scores that fit no longer are there.
    """
    name = _UNSAFE.sub("--", hookpoint)
    explained = [latent for latent in latents if latent.explanations]
    write_scores(folder, explained, name)
    target = folder / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    for latent in explained:
        text = json.dumps(latent.explanations[0].text)
        (target / f"{name}_latent{latent.index}.txt").write_text(text, encoding="ascii")
    return len(explained)


def read_delphi(folder: Path) -> list[ExchangeLatent]:
    """Read explanations and scores of one hookpoint; UsageError names a file that is none."""
    source = folder / FOLDER if (folder / FOLDER).is_dir() else folder
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
