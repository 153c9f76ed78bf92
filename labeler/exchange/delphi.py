"""delphi's folder of explanations: one JSON string in one file for each latent.

<folder>/explanations/<hookpoint>_latent<index>.txt
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from labeler.errors import UsageError
from labeler.exchange.records import (
    ExchangeExplanation,
    ExchangeLatent,
    decoded,
    latent_index,
    read_bytes,
)

FOLDER = "explanations"
AUTHOR = "delphi"
_NAME = re.compile(r"(?P<hookpoint>.*)_latent(?P<index>\d+)", re.DOTALL)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def write_delphi(folder: Path, latents: Iterable[ExchangeLatent], hookpoint: str) -> int:
    """Write the first explanation of each latent; returns how many there were.

    The format has room for one explanation; scores are delphi's own and are not written.
    """
    target = folder / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    name = _UNSAFE.sub("--", hookpoint)
    n_written = 0
    for latent in latents:
        if latent.explanations:
            text = json.dumps(latent.explanations[0].text)
            (target / f"{name}_latent{latent.index}.txt").write_text(text, encoding="ascii")
            n_written += 1
    return n_written


def read_delphi(folder: Path) -> list[ExchangeLatent]:
    """Read the explanations of one hookpoint; UsageError names a file that is none."""
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
    return [found[index] for index in sorted(found)]


def _text(path: Path) -> str:
    try:
        value = json.loads(decoded(path, read_bytes(path)))
    except (json.JSONDecodeError, RecursionError):
        raise UsageError(f"{path}: is no JSON string") from None
    if not isinstance(value, str):
        raise UsageError(f"{path}: is no JSON string")
    return value
