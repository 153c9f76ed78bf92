from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from crosscoder.errors import InputError
from crosscoder.isolation import isolate_comparison, select_latents
from crosscoder.isolation_rules import isolation_rule
from crosscoder.scaling import PairScaling, ScalingFlag

NAN = float("nan")


def make_pair(
    nu_error: Any,
    nu_reconstruction: Any,
    *,
    half: float = 0.05,
    density: float | list[float] = 0.01,
    n_documents: float | list[float] = 20,
    delta_norm: float | list[float] = 0.9,
    shift: Any = NAN,
    shift_t: Any = NAN,
    shift_q: Any = 0.01,
    change: Any = 1.0,
    target: str = "simpo",
    reference: str = "it",
) -> PairScaling:
    error, reconstruction = np.array(nu_error, float), np.array(nu_reconstruction, float)
    n = len(error)
    shifts, ts, qs = (np.broadcast_to(np.array(a, float), (n,)) for a in (shift, shift_t, shift_q))
    return PairScaling(
        target=target,
        reference=reference,
        delta_norm=np.broadcast_to(np.array(delta_norm, float), (n,)),
        nu_error=error,
        nu_error_low=error - half,
        nu_error_high=error + half,
        nu_reconstruction=reconstruction,
        nu_reconstruction_low=reconstruction - half,
        nu_reconstruction_high=reconstruction + half,
        beta_error_target=np.ones(n),
        beta_error_reference=error,
        beta_reconstruction_target=np.ones(n),
        beta_reconstruction_reference=reconstruction,
        strength_shift=shifts,
        shift_low=shifts - half,
        shift_high=shifts + half,
        shift_t=ts,
        shift_q=qs,
        shift_left_out=np.tile(shifts, (20, 1)),
        shift_score=shifts,
        flags=np.where(error < -0.1, int(ScalingFlag.ERROR_NEGATIVE), 0).astype(np.uint8),
        density=np.broadcast_to(np.array(density, float), (n,)),
        n_documents=np.broadcast_to(np.array(n_documents, float), (n,)),
        decoder_change=np.broadcast_to(np.array(change, float), (n,)),
        decoder_cosine=np.full(n, 0.9),
    )


def chosen(pair: PairScaling, **rule: Any) -> list[int]:
    return select_latents(pair, isolation_rule(**rule)).latent_indices.tolist()


def test_strict_needs_both_nu_under_their_thresholds() -> None:
    pair = make_pair([0.1, 0.1, 0.3, 0.2], [0.1, 0.6, 0.1, 0.1])
    assert chosen(pair, kind="strict") == [0]


def test_strict_needs_enough_documents() -> None:
    pair = make_pair([0.1, 0.1], [0.1, 0.1], n_documents=[8, 7])
    assert chosen(pair, kind="strict") == [0]


def test_latents_of_the_shared_bin_or_of_the_reference_alone_are_no_candidates() -> None:
    pair = make_pair([0.1, 0.1, -22.0, 0.1], [0.1, 0.1, -9.0, 0.1], delta_norm=[0.61, 0.5, 0.01, 1])
    for kind in ("strict", "significant"):
        assert chosen(pair, kind=kind) == [0, 3]
    assert len(chosen(pair, kind="ranked")) == 4, "close fine-tunes have nothing outside the bin"


def test_undefined_nu_is_never_chosen() -> None:
    pair = make_pair([NAN, 0.1, 0.1], [0.1, NAN, 0.1])
    for kind in ("strict", "significant", "ranked"):
        assert chosen(pair, kind=kind) == [2]


def test_significant_needs_the_upper_bounds_under_the_thresholds() -> None:
    pair = make_pair([0.1, 0.16, 0.1], [0.1, 0.1, 0.46], half=0.05)
    assert chosen(pair, kind="strict") == [0, 1, 2]
    assert chosen(pair, kind="significant") == [0]


def test_ranked_takes_the_lowest_rank_sums_and_breaks_ties_by_index() -> None:
    # Rank sums: 2+4, 4+2, 1+1, 3+3.
    pair = make_pair([0.8, 1.0, 0.7, 0.9], [1.0, 0.8, 0.7, 0.9])
    selection = select_latents(pair, isolation_rule(kind="ranked", top=3))
    assert selection.latent_indices.tolist() == [2, 0, 1]
    assert selection.scores.tolist() == [2, 6, 6]


def test_ranked_leaves_out_dense_latents_and_strict_does_not() -> None:
    pair = make_pair([0.1, 0.15], [0.1, 0.15], density=[0.5, 0.01])
    assert chosen(pair, kind="ranked", max_density=0.2) == [1]
    assert chosen(pair, kind="strict", max_density=0.2) == [0, 1]


def test_strict_with_nothing_to_choose_stays_empty_and_says_what_it_saw() -> None:
    pair = make_pair([0.83, 0.95, 1.0], [0.91, 0.97, 1.1])
    selection = select_latents(pair, isolation_rule(kind="strict"))
    assert len(selection.latent_indices) == 0
    assert (selection.n_eligible, selection.n_strict) == (3, 0)
    limits = "nu_error < 0.2 and nu_reconstruction < 0.5 at delta_norm > 0.6"
    assert f"no latent passes {limits}" in selection.message
    assert "smallest nu_error 0.83" in selection.message
    assert "smallest nu_reconstruction 0.91" in selection.message
    assert "largest delta_norm 0.90" in selection.message
    assert "\n" not in selection.message


def test_ranked_counts_how_many_pass_the_thresholds() -> None:
    pair = make_pair([0.1, 0.9, 1.0], [0.1, 0.9, 1.0])
    selection = select_latents(pair, isolation_rule(kind="ranked", top=2))
    assert selection.n_strict == 1
    assert len(selection.latent_indices) == 2


def test_negative_numerators_among_the_chosen_are_counted() -> None:
    pair = make_pair([-0.3, 0.1], [0.1, 0.1])
    message = select_latents(pair, isolation_rule(kind="strict")).message
    assert "1 of the chosen have a numerator below -0.1" in message


def test_no_eligible_latent_is_said() -> None:
    selection = select_latents(make_pair([NAN], [NAN]), isolation_rule(kind="ranked"))
    assert selection.n_eligible == 0
    assert "none of 1 latents is eligible: 0 are active in too few" in selection.message


def test_latent_on_both_sides_is_dropped_from_both_where_nothing_is_left_to_take() -> None:
    target = make_pair([0.1, 0.2, 0.3, 0.9], [0.1, 0.2, 0.3, 0.9], target="simpo", reference="pt")
    reference = make_pair([0.9, 0.1, 0.3, 0.2], [0.9, 0.1, 0.3, 0.2], target="it", reference="pt")
    rule = isolation_rule(kind="ranked", top=2)
    both = isolate_comparison(target, reference, rule)
    assert both.target.latent_indices.tolist() == [0]
    assert both.target.scores.tolist() == [2]
    assert both.reference.latent_indices.tolist() == [3]
    assert both.n_overlap == 1
    assert "1 chosen on both sides and dropped from both" in both.message
    kept = isolate_comparison(target, reference, rule, overlap="keep")
    assert kept.target.latent_indices.tolist() == [0, 1]
    assert kept.reference.latent_indices.tolist() == [1, 3]
    assert (kept.n_overlap, "kept in both" in kept.message) == (1, True)


def test_ranked_takes_the_next_in_rank_for_latents_dropped_from_both_sides() -> None:
    nus = [0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 0.95, 0.99]
    target = make_pair(nus, nus, target="simpo", reference="it")
    other = [0.15, 0.9, 0.95, 0.99, 0.6, 0.1, 0.3, 0.2]
    reference = make_pair(other, other, target="it", reference="simpo")
    result = isolate_comparison(target, reference, isolation_rule(kind="ranked", top=3))
    assert result.target.latent_indices.tolist() == [1, 2, 3]
    assert result.reference.latent_indices.tolist() == [5, 7, 6]
    assert result.n_overlap == 1
    assert "the next in rank taken instead" in result.message
    assert "3 latents by ranked" in result.message


def test_indices_of_two_crosscoders_do_not_overlap() -> None:
    pair = make_pair([0.1, 0.2], [0.1, 0.2])
    rule = isolation_rule(kind="ranked", top=2)
    result = isolate_comparison(pair, pair, rule, shared_dictionary=False)
    assert result.n_overlap == 0
    assert result.target.latent_indices.tolist() == [0, 1]


@given(
    arrays(float, 12, elements=st.floats(-0.5, 2)),
    arrays(float, 12, elements=st.floats(-0.5, 2)),
    st.integers(1, 12),
)
@settings(max_examples=50, deadline=None)
def test_every_rule_keeps_its_word(error: Any, reconstruction: Any, top: int) -> None:
    pair = make_pair(error, reconstruction)
    strict = set(chosen(pair, kind="strict"))
    assert strict == set(np.flatnonzero((error < 0.2) & (reconstruction < 0.5)).tolist())
    assert set(chosen(pair, kind="significant")) <= strict
    ranked = select_latents(pair, isolation_rule(kind="ranked", top=top))
    assert len(ranked.latent_indices) == top
    assert (np.diff(ranked.scores) >= 0).all()


def test_unknown_key_of_a_rule_is_refused() -> None:
    with pytest.raises(ValidationError):
        isolation_rule(kind="strict", threshold=0.3)


def other_side(pair: PairScaling) -> PairScaling:
    """The pair of the reference side: shifts with the other sign."""
    return replace(
        pair,
        target=pair.reference,
        reference=pair.target,
        strength_shift=-pair.strength_shift,
        shift_score=-pair.shift_score,
        shift_t=-pair.shift_t,
    )


def test_shifted_takes_the_strengthened_and_the_weakened_by_score() -> None:
    pair = make_pair([1.0] * 5, [1.0] * 5, shift=[0.1, -0.4, 0.3, -0.2, NAN])
    sides = isolate_comparison(pair, other_side(pair), isolation_rule("shifted", top=2))
    assert sides.target.latent_indices.tolist() == [2, 0]
    assert sides.reference.latent_indices.tolist() == [1, 3]
    assert sides.n_overlap == 0
    assert "largest strength_shift 0.30" in sides.message


def test_shifted_by_t_prefers_the_certain_and_max_q_leaves_out_the_uncertain() -> None:
    pair = make_pair(
        [1.0] * 3, [1.0] * 3, shift=[0.3, 0.2, 0.1], shift_t=[1, 5, 3], shift_q=[0.4, 0.01, 0.03]
    )
    assert chosen(pair, kind="shifted", order="t") == [1, 2, 0]
    assert chosen(pair, kind="shifted", max_q=0.05) == [1, 2]


def test_changed_takes_the_largest_change_and_the_side_of_the_shift() -> None:
    pair = make_pair(
        [1.0] * 6,
        [1.0] * 6,
        shift=[0.1, -0.4, 0.3, -0.2, NAN, 0.9],
        change=[3.0, 1.0, 1.5, 2.0, 9.0, 8.0],
        density=[0.01] * 5 + [0.3],
    )
    sides = isolate_comparison(pair, other_side(pair), isolation_rule("changed", top=2))
    assert sides.target.latent_indices.tolist() == [0, 2]
    assert sides.reference.latent_indices.tolist() == [3, 1]
    assert sides.target.scores.tolist() == [-3.0, -1.5]
    assert "largest decoder_change 3, " in sides.message
    assert "smallest decoder_cosine 0.90" in sides.message


def test_changed_with_max_q_leaves_out_latents_whose_side_is_uncertain() -> None:
    pair = make_pair(
        [1.0] * 3, [1.0] * 3, shift=0.2, change=[3.0, 2.0, 1.0], shift_q=[0.2, 0.01, 0.01]
    )
    assert chosen(pair, kind="changed", max_q=0.05) == [1, 2]


def test_effect_takes_what_closes_most_and_the_side_of_the_shift() -> None:
    pair = make_pair([1.0] * 5, [1.0] * 5, shift=[0.1, -0.4, 0.3, 0.2, -0.1])
    pair = replace(pair, attribution=np.array([0.02, 0.001, -0.1, 0.05, 0.0]))
    sides = isolate_comparison(pair, other_side(pair), isolation_rule("effect", top=3))
    assert sides.target.latent_indices.tolist() == [3, 0], "what closes nothing is not taken"
    assert sides.reference.latent_indices.tolist() == [1]
    assert "largest attribution 0.05, " in sides.message


def test_effect_without_attribution_is_refused() -> None:
    pair = make_pair([1.0], [1.0], shift=0.2)
    with pytest.raises(InputError, match="no attribution"):
        select_latents(pair, isolation_rule("effect"))


def test_what_overlap_takes_is_said_to_be_replaced_only_where_there_were_others() -> None:
    pair = make_pair([1.0] * 4, [1.0] * 4, shift=[0.4, 0.3, 0.2, 0.1], shift_q=[0.01] * 3 + [0.4])
    other = make_pair([1.0] * 4, [1.0] * 4, shift=[0.4, -0.3, -0.2, 0.3], shift_q=[0.01] * 4)
    left = isolate_comparison(pair, other, isolation_rule("shifted", top=1))
    assert left.message.endswith("dropped from both, the next in rank taken instead")
    other = replace(other, shift_q=np.array([0.01, 0.01, 0.01, 0.4]))
    left = isolate_comparison(pair, other, isolation_rule("shifted", top=1, max_q=0.05))
    assert len(left.reference.latent_indices) == 0
    assert left.message.endswith("the next in rank taken instead as far as there were any")


def test_shifted_leaves_out_the_dense_and_the_rare_and_needs_no_nu() -> None:
    pair = make_pair(
        [NAN] * 3, [NAN] * 3, shift=0.3, density=[0.3, 0.01, 0.01], n_documents=[20, 7, 8]
    )
    assert chosen(pair, kind="shifted") == [2]


def test_auto_is_strict_with_enough_latents_on_both_sides_and_shifted_otherwise() -> None:
    pair = make_pair([0.1, 0.1, 1.0], [0.1, 0.1, 1.0], shift=[-0.1, 0.2, 0.3])
    enough = isolate_comparison(
        pair,
        replace(other_side(pair), nu_error=pair.nu_error),
        isolation_rule("auto", min_strict=2),
    )
    assert enough.target.rule.kind == "strict"
    assert enough.message.startswith("auto: 2 and 2 latents pass strict, so strict is used; ")
    few = isolate_comparison(pair, other_side(pair), isolation_rule("auto", min_strict=3))
    assert few.target.rule.kind == "shifted"
    assert few.target.latent_indices.tolist() == [2, 1]
    assert "fewer than 3 on a side, so shifted is used" in few.message
