from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeler.report.html import largest_activation, opacity, runs_of
from labeler.report.model import EvidenceView
from labeler.text import visible

ROLES = ("template", "bos", "system", "user", "assistant", "plain")
TOKENS = st.lists(
    st.tuples(
        st.text(max_size=12), st.sampled_from(ROLES), st.floats(0, 50, allow_subnormal=False)
    ),
    max_size=20,
)


def window(tokens: list[tuple[str, str, float]]) -> EvidenceView:
    return EvidenceView(
        kind="top",
        split="explain",
        quantile=None,
        document_id="d",
        start=0,
        tokens=tuple(token for token, _, _ in tokens),
        roles=tuple(role for _, role, _ in tokens),
        activations=tuple(value for _, _, value in tokens),
    )


@given(TOKENS)
def test_runs_keep_the_whole_text_in_order(tokens: list[tuple[str, str, float]]) -> None:
    runs = runs_of(window(tokens), 50.0)
    shown = "".join("\n".join(run.lines) for run in runs)
    assert shown == "".join(visible(token) for token, _, _ in tokens)


@given(TOKENS)
def test_every_firing_token_is_a_run_of_its_own(tokens: list[tuple[str, str, float]]) -> None:
    runs = runs_of(window(tokens), 50.0)
    firing = [value for _, _, value in tokens if opacity(value, 50.0) > 0]
    assert [run.activation for run in runs if run.opacity > 0] == firing


@given(st.floats(1e-4, 100), st.floats(1e-4, 100), st.floats(1e-4, 100))
def test_opacity_rises_with_activation_and_stays_in_its_range(
    a: float, b: float, largest: float
) -> None:
    low, high = sorted((a, b))
    assert 0.05 <= opacity(low, largest) <= opacity(high, largest) <= 1.0 + 1e-12


def test_opacity_follows_its_formula() -> None:
    assert opacity(5.0, 10.0) == pytest.approx(0.05 + 0.95 * 0.7403626894942439)
    assert opacity(10.0, 10.0) == pytest.approx(1.0)
    assert opacity(0.0, 10.0) == 0.0
    assert opacity(3.0, 0.0) == 0.0


def test_a_speaker_is_named_where_the_turn_begins_and_template_tokens_are_dim() -> None:
    runs = runs_of(
        window(
            [
                ("<|im_start|>", "template", 0.0),
                ("Hi", "user", 0.0),
                (" you", "user", 2.0),
                ("<|im_end|>", "template", 0.0),
                ("Hello", "assistant", 1.0),
            ]
        ),
        2.0,
    )
    assert [(run.lines, run.speaker, run.is_dim) for run in runs] == [
        (("<|im_start|>",), None, True),
        (("Hi",), "user", False),
        ((" you",), None, False),
        (("<|im_end|>",), None, True),
        (("Hello",), "assistant", False),
    ]


def test_a_huge_token_is_cut() -> None:
    runs = runs_of(window([("x" * 100_000, "plain", 1.0)]), 1.0)
    assert len(runs[0].lines[0]) < 300
    assert "99,800 characters" in runs[0].lines[0]


def test_without_windows_nothing_is_strongest() -> None:
    assert largest_activation(()) == 0.0
