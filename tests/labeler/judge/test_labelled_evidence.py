"""Labelled evidence: the form of the rows, and what the package ships."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from labeler.errors import UsageError
from labeler.judge.labelled_evidence import NONE, fitting_set, labelled_latents
from taxonomy.tree import seed_taxonomy


def row(**changes: object) -> str:
    windows = [{"role": "user", "text": "why is the <<sky>> blue"}]
    return json.dumps({"id": "a", "category": "science", "windows": windows} | changes)


def test_the_marked_span_is_active_and_nothing_else() -> None:
    (latent,) = labelled_latents(row(), "data")
    (window,) = latent.subject.windows
    assert "".join(window.tokens) == "why is the sky blue"
    active = [
        token for token, value in zip(window.tokens, window.activations, strict=True) if value
    ]
    assert active == ["sky"]


def test_a_window_of_a_real_latent_keeps_its_tokens_and_activations() -> None:
    real = {"tokens": ["a", " b"], "roles": ["template", "user"], "activations": [0, 2.5]}
    (latent,) = labelled_latents(row(windows=[real], second="none", also=["health"]), "data")
    assert latent.subject.windows[0].activations == (0.0, 2.5)
    assert (latent.second, latent.also) == ("none", ("health",))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (row(windows=[{"role": "user", "text": "no mark"}]), "data, line 2: each window needs"),
        (
            row(windows=[{"role": "system", "text": "<<x>>"}]),
            "data, line 2: a window has no role of",
        ),
        (row(windows=[]), "data, line 2: each window needs"),
        ('{"id": 1}', "data, line 2: not a labelled latent"),
        ("[]", "data, line 2: not a labelled latent"),
        ("{", "data, line 2: no valid JSON"),
    ],
)
def test_a_wrong_row_is_named(line: str, message: str) -> None:
    with pytest.raises((UsageError, ValueError), match=message):
        labelled_latents(f"{row()}\n{line}", "data")


def test_every_leaf_and_none_has_labelled_latents_for_fitting() -> None:
    counts = Counter(latent.category for latent in fitting_set())
    wanted = {leaf.slug for leaf in seed_taxonomy().leaves()} | {NONE}
    assert set(counts) == wanted
    assert min(counts.values()) >= 8
    assert len({latent.name for latent in fitting_set()}) == len(fitting_set())
    assert min(len(latent.subject.windows) for latent in fitting_set()) >= 6
