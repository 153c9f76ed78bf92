"""Effects of latents: planted weight edits, the formulas in dense float64, controls, the file."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_edits import (
    LAYER,
    N_LAYERS,
    STRENGTHS,
    EditTrial,
    MemoryDocuments,
    make_trial,
    planted,
)

from crosscoder.attribution import Direction, attribute, choice_half, chosen_shares
from crosscoder.attribution_file import load_attributions, save_attributions
from crosscoder.config import EffectSettings
from crosscoder.effect_result import EffectResult, equivalence_of, load_effects, save_effects
from crosscoder.effect_text import SCOPES, EffectText, encode_patched
from crosscoder.effects import (
    ALL,
    CONSTANT,
    PatchPlan,
    directions_of,
    effect_cost,
    measure_effects,
)
from crosscoder.errors import InputError
from crosscoder.files import DamagedFileError
from crosscoder.matched_sets import TOLERANCE, are_alike, matched_sets
from crosscoder.output_divergence import Outcome, OutputDivergence
from crosscoder.patching import LatentGroup, ablation_divergence, patch
from crosscoder.progress import SilentProgress
from crosscoder.reading import decoder_blocks

ARCHITECTURES = ("llama", "gemma2")
SETTINGS = EffectSettings(controls=60, patched_controls=20, points=4, top=8, precision="float32")
EVERY_EDIT = np.arange(2 * len(STRENGTHS))


@cache
def trial(architecture: str, edited: bool = True, layer: int = LAYER) -> EditTrial:
    strengths = STRENGTHS if edited else (0.0,) * len(STRENGTHS)
    return make_trial(architecture, 3, layer, strengths, n_documents=8)


def measured(
    made: EditTrial, *sets: LatentGroup, plans: tuple[PatchPlan, PatchPlan] = (PatchPlan(),) * 2
) -> EffectResult:
    pool = np.ones(made.crosscoder.config.n_latents, dtype=bool)
    pair = ("tuned", "base")
    return measure_effects(
        made.crosscoder, made.text, made.uppers, pair, sets, plans, pool, SETTINGS, 0
    )


@cache
def found(architecture: str) -> EffectResult:
    """The result with all edits, one of them, and a set of decoys."""
    n = len(EVERY_EDIT)
    return measured(
        trial(architecture),
        LatentGroup("all edits", EVERY_EDIT),
        LatentGroup("largest", planted(3)),
        LatentGroup("decoys", np.arange(n, n + 2)),
        plans=(PatchPlan(controlled=frozenset({"largest"})),) * 2,
    )


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_planted_latents_restore_and_carry_the_gap_and_the_others_do_not(
    architecture: str,
) -> None:
    for direction in found(architecture).directions:
        scope = direction.scope
        assert scope == "assistant"
        edits, largest, decoys = direction.sets[:3]
        assert edits.restored[scope].value > 0.8
        assert edits.carried[scope].value > 0.8
        assert 0.1 < largest.restored[scope].value < edits.restored[scope].value
        assert decoys.restored[scope].value < 0.05
        assert direction.line.value == pytest.approx(1, abs=0.02)
        assert edits.first_order.value == pytest.approx(edits.restored[scope].value, abs=0.1)


@pytest.mark.slow
def test_a_planted_set_beats_its_controls_and_a_decoy_does_not() -> None:
    for direction in found("llama").directions:
        _, largest, decoys = direction.sets[:3]
        for band in (largest.first_order_control, largest.restored_control):
            assert band is not None
            assert band.p == 1 / (1 + band.n_sets)
            assert band.n_sets >= 20
        assert decoys.first_order_control is not None
        assert decoys.first_order_control.p > 0.05
        assert decoys.restored_control is None
        assert direction.set_named(ALL).first_order_control is None


def test_an_identity_pair_has_no_gap_and_no_share() -> None:
    result = measured(trial("gemma2", edited=False), LatentGroup("some", planted(0)))
    for direction in result.directions:
        assert {scope: gap.value for scope, gap in direction.gap.items()} == dict.fromkeys(
            SCOPES, 0.0
        )
        assert not direction.is_defined
        assert direction.line.value is None
        assert direction.pearson is None
        for each in direction.sets:
            estimates = [each.first_order, *each.restored.values(), *each.carried.values()]
            assert {estimate.value for estimate in estimates} == {None}
            assert each.first_order_control is None


def test_a_set_that_is_left_out_has_attribution_and_controls_alone() -> None:
    plans = (PatchPlan(left_out=frozenset({"largest"})), PatchPlan())
    result = measured(trial("llama"), LatentGroup("largest", planted(3)), plans=plans)
    first, second = (direction.set_named("largest") for direction in result.directions)
    assert first.restored["assistant"].value is None
    assert first.first_order_control is not None
    assert second.restored["assistant"].value > 0.1
    assert first.first_order.value == pytest.approx(second.first_order.value, abs=0.1)
    assert result.directions[0].n_patched == result.directions[1].n_patched - 1


def test_an_edit_above_the_hook_leaves_no_gap_at_the_hook() -> None:
    result = measured(trial("llama", layer=LAYER + 1), LatentGroup("edits", EVERY_EDIT))
    assert [direction.gap["content"].value for direction in result.directions] == [0.0, 0.0]


class Dense:
    """The formulas written out: the whole model in float64, patched by a hook, dense codes."""

    def __init__(self, made: EditTrial) -> None:
        self.crosscoder = copy.deepcopy(made.crosscoder).double()
        self.documents = made.documents
        self.models = {name: copy.deepcopy(each).double() for name, each in made.models.items()}
        x = made.documents.activations.double()
        z = self.crosscoder.normalise(x.flatten(0, 1))
        codes = self.crosscoder.encode_thresholded(z).dense(
            len(z), self.crosscoder.config.n_latents
        )
        self.codes = codes.view(*x.shape[:2], -1) * made.documents.mask[..., None]
        self.x = x

    def log_p(self, name: str, activations: torch.Tensor) -> torch.Tensor:
        block = decoder_blocks(self.models[name], N_LAYERS, name)[LAYER]

        def replace(module: Any, inputs: Any, output: Any) -> Any:
            return (activations, *output[1:]) if isinstance(output, tuple) else activations

        handle = block.register_forward_hook(replace)
        logits = self.models[name](input_ids=self.documents.input_ids, use_cache=False).logits
        handle.remove()
        return logits.log_softmax(dim=-1)

    def kl(self, name: str, patched: torch.Tensor) -> torch.Tensor:
        """KL (D, T) of target `name` with `patched` activations at the tokens of the mask."""
        target = self.x[:, :, self.crosscoder.config.model_index(name)]
        changed = torch.where(self.documents.mask[..., None], patched, target)
        log_p, log_q = self.log_p(name, target), self.log_p(name, changed)
        return (log_p.exp() * (log_p - log_q)).sum(dim=-1)

    def difference(self, target: int, reference: int) -> torch.Tensor:
        raw = self.crosscoder.W_dec * self.crosscoder.act_scale[:, None]
        return (raw[:, target] - raw[:, reference]).detach()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def made(request: pytest.FixtureRequest) -> EditTrial:
    """A trial whose crosscoder has scales, means and biases of its own."""
    made = copy.deepcopy(trial(request.param))
    generator = torch.Generator().manual_seed(5)
    crosscoder = made.crosscoder
    with torch.no_grad():
        crosscoder.act_scale.copy_(torch.tensor([0.7, 1.3]))
        crosscoder.act_mean.copy_(0.2 * torch.randn(2, 32, generator=generator))
        crosscoder.b_dec.copy_(0.2 * torch.randn(2, 32, generator=generator))
    return made


def test_patching_is_that_of_a_dense_float64_reference(made: EditTrial) -> None:
    dense = Dense(made)
    sets = (LatentGroup("few", np.arange(30)), LatentGroup("constant", np.arange(3), True))
    direction = Direction(1, 0, made.uppers["tuned"])
    (sums,) = patch(made.crosscoder, made.text, [(direction, sets)])
    raw = dense.crosscoder.denormalise(dense.crosscoder.b_dec).detach()
    is_answer = dense.documents.roles[0] == 4
    for place, each in enumerate(sets):
        members = torch.from_numpy(each.latents)
        change = dense.codes[:, :, members] @ dense.difference(1, 0)[members]
        change = change + each.with_constant * (raw[1] - raw[0])
        for found, patched in (
            (sums.restoring, dense.x[:, :, 0] + change),
            (sums.carrying, dense.x[:, :, 1] - change),
        ):
            kl = dense.kl("tuned", patched).detach()
            expected = {
                "assistant": kl[:, is_answer].sum(dim=1),
                "answer_start": kl[:, is_answer][:, :10].sum(dim=1),
                "content": kl[:, dense.documents.mask[0]].sum(dim=1),
            }
            for i, scope in enumerate(SCOPES):
                np.testing.assert_allclose(
                    found[place, :, i], expected[scope].numpy(), rtol=2e-3, atol=1e-5
                )


def test_attribution_is_that_of_a_dense_float64_reference(made: EditTrial) -> None:
    dense = Dense(made)
    n_points = 3
    (found,) = attribute(
        made.crosscoder, made.text, [Direction(0, 1, made.uppers["base"])], n_points
    )
    target, reference = dense.x[:, :, 0], dense.x[:, :, 1]
    is_answer = dense.documents.roles[0] == 4
    gradient = torch.zeros_like(target)
    for point in range(n_points):
        h = (reference + (point + 0.5) / n_points * (target - reference)).requires_grad_()
        kl = dense.kl("base", h)[:, is_answer].sum()
        gradient += torch.autograd.grad(kl, h)[0] / n_points
    difference = dense.difference(0, 1)
    closed = -(dense.codes * (gradient @ difference.T)).sum(dim=1)
    magnitude = (dense.codes.square() * difference.square().sum(dim=1)).sum(dim=1)
    for column, expected in ((found.closed, closed), (found.magnitude, magnitude)):
        dense_column = found.by_group(column).toarray()
        scale = float(expected.abs().max())
        np.testing.assert_allclose(dense_column, expected.detach().numpy(), atol=2e-3 * scale)
    raw = dense.crosscoder.denormalise(dense.crosscoder.b_dec).detach()
    masked = dense.documents.mask[..., None] * gradient
    line = -(masked * (target - reference)).sum(dim=(1, 2))
    constant = -(masked * (raw[0] - raw[1])).sum(dim=(1, 2))
    np.testing.assert_allclose(found.line, line.detach().numpy(), rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(found.constant, constant.numpy(), rtol=1e-2, atol=1e-5)
    gap = dense.kl("base", reference).detach()[:, is_answer].sum(dim=1)
    np.testing.assert_allclose(found.gap.kl[:, 0], gap.numpy(), rtol=1e-3)


def test_ablation_takes_a_latent_from_one_model(made: EditTrial) -> None:
    dense = Dense(made)
    models = [Direction(1, 1, made.uppers["tuned"]), Direction(0, 0, made.uppers["base"])]
    found = ablation_divergence(made.crosscoder, made.text, models, [0, 40])
    raw = (dense.crosscoder.W_dec * dense.crosscoder.act_scale[:, None]).detach()
    for place, (name, index) in enumerate((("tuned", 1), ("base", 0))):
        for column, latent in enumerate((0, 40)):
            taken = dense.codes[:, :, latent, None] * raw[latent, index]
            kl = dense.kl(name, dense.x[:, :, index] - taken).detach()
            expected = kl[:, dense.documents.roles[0] == 4].sum(dim=1).numpy()
            np.testing.assert_allclose(found[place, column], expected, rtol=5e-3, atol=1e-5)


def test_only_tokens_of_the_training_mask_are_patched(made: EditTrial) -> None:
    for batch in made.text.batches():
        assert not batch.patched[:, :3].any()
        assert batch.scopes.any(dim=0).equal(batch.patched)
        codes = encode_patched(made.crosscoder, batch)
        assert int(codes.token.max()) < int(batch.patched.sum())


def test_a_set_that_does_not_fire_leaves_all_of_the_gap() -> None:
    made = trial("llama")
    silent = copy.deepcopy(made.crosscoder)
    with torch.no_grad():
        silent.b_enc[5] = -1e6
    direction = Direction(1, 0, made.uppers["tuned"])
    (sums,) = patch(silent, made.text, [(direction, [LatentGroup("silent", np.array([5]))])])
    (attribution,) = attribute(silent, made.text, [direction], 1)
    np.testing.assert_array_equal(sums.restoring[0], attribution.gap.kl)
    assert not sums.carrying.any()


def test_divergence_does_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(7, 50, generator=generator)
    hidden, other = torch.randn(2, 20, 7, generator=generator)
    rows = torch.tensor([0, 3, 4, 11, 19])
    outcome = Outcome(rows, other[rows])

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        divergence = OutputDivergence(lambda h: h @ head, 50, hidden)
        kl, gradient = divergence.with_gradient(outcome)
        assert kl.double().equal(divergence.of([outcome])[0])
        return kl.double(), gradient

    whole, gradient = both()
    monkeypatch.setattr("crosscoder.output_divergence.LOGIT_BYTES", 4 * 50 * 3)
    torch.testing.assert_close(both()[0], whole)
    torch.testing.assert_close(both()[1], gradient)
    log_p, log_q = ((h @ head).double().log_softmax(-1) for h in (hidden[rows], other[rows]))
    torch.testing.assert_close(whole, (log_p.exp() * (log_p - log_q)).sum(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_members", [1, 5, 40])
def test_controls_match_number_and_magnitude_and_share_no_latent(n_members: int) -> None:
    generator = np.random.default_rng(0)
    magnitude = np.exp(generator.normal(size=3000))
    magnitude[::7] = 0
    pool = generator.random(3000) < 0.9
    members = generator.choice(np.flatnonzero(magnitude), n_members, replace=False)
    sets = matched_sets(members, magnitude, pool, 200, generator)
    wanted = magnitude[members].sum()
    assert len({tuple(each) for each in sets}) == len(sets) >= (200 if n_members > 1 else 20)
    for each in sets:
        assert len(np.unique(each)) == n_members
        assert pool[each].all()
        assert not np.isin(each, members).any()
        assert abs(magnitude[each].sum() - wanted) <= TOLERANCE * wanted


def test_where_nothing_is_as_large_the_nearest_sets_are_the_controls() -> None:
    magnitude = np.arange(1.0, 101.0) ** 12
    pool = np.ones(100, dtype=bool)
    members = np.arange(60, 100)
    sets = matched_sets(members, magnitude, pool, 50, np.random.default_rng(0))
    assert len({tuple(each) for each in sets}) == len(sets) == 50
    totals = np.array([magnitude[each].sum() for each in sets])
    assert not are_alike(totals, float(magnitude[members].sum()))
    for each in sets:
        assert len(np.unique(each)) == 40
        assert each.min() >= 10, "from the 50 largest that are left"
        assert each.max() < 60
    assert matched_sets(np.arange(45, 100), magnitude, pool, 50, np.random.default_rng(0)) == []


def test_of_the_smallest_latents_the_nearest_controls_are_the_smallest_left() -> None:
    magnitude = np.arange(1.0, 101.0) ** 12
    sets = matched_sets(np.arange(4), magnitude, magnitude > 0, 30, np.random.default_rng(0))
    assert len(sets) == 30
    assert max(int(each.max()) for each in sets) < 4 + 9


@pytest.mark.slow
def test_nearest_controls_have_their_magnitude_and_no_p() -> None:
    made = trial("llama")
    (attribution,) = attribute(
        made.crosscoder, made.text, [Direction(1, 0, made.uppers["tuned"])], 1
    )
    largest = np.argsort(-attribution.totals(attribution.magnitude))[:40]
    for direction in measured(made, LatentGroup("largest", np.sort(largest))).directions:
        band = direction.set_named("largest").first_order_control
        assert band is not None
        assert band.p is None
        assert 0.1 < band.magnitude < 0.9
        assert direction.set_named(ALL).first_order_control is None


def test_sets_chosen_by_attribution_are_tested_on_the_other_half() -> None:
    made = trial("llama")
    directions = directions_of(made.crosscoder, made.uppers, ("tuned", "base"))
    known = attribute(made.crosscoder, made.text, directions, 1)
    shares = chosen_shares(known)
    half = choice_half(known[0].n_groups)
    closed = sum(each.by_group(each.closed).toarray()[half].sum(axis=0) for each in known)
    gap = sum(each.gap.kl[half, 0].sum() for each in known)
    np.testing.assert_allclose(shares, closed / gap, rtol=1e-5, atol=1e-9)
    assert set(np.argsort(-shares)[:2].tolist()) <= set(EVERY_EDIT.tolist())
    result = measure_effects(
        made.crosscoder, made.text, made.uppers, ("tuned", "base"),
        [LatentGroup("chosen", np.argsort(-shares)[:2])], (PatchPlan(),) * 2,
        np.ones(made.crosscoder.config.n_latents, dtype=bool),
        SETTINGS.model_copy(update={"ablated": 0}), 0, attributions=known, on_half=True,
    )  # fmt: skip
    first = result.directions[0].set_named("chosen")
    assert first.on_half
    own = known[0].by_group(known[0].closed).toarray()[~half][:, np.argsort(-shares)[:2]].sum()
    assert first.first_order.value == pytest.approx(own / known[0].gap.kl[~half, 0].sum())
    assert not result.directions[0].set_named(ALL).on_half
    assert result.equivalence == {}


def test_a_latent_is_equivalent_where_it_does_the_same_in_both_models() -> None:
    made = make_trial("llama", 5, strengths=(0.0,) * len(STRENGTHS), n_documents=12)
    crosscoder = copy.deepcopy(made.crosscoder)
    n = len(EVERY_EDIT)
    with torch.no_grad():
        same, aside, one_sided = n, n + 1, n + 2
        crosscoder.W_dec[same, 1] = crosscoder.W_dec[same, 0]
        crosscoder.W_dec[aside, 1] = crosscoder.W_dec[aside, 0].roll(7)
        crosscoder.W_dec[one_sided, 1] = 0
    result = measure_effects(
        crosscoder, made.text, made.uppers, ("tuned", "base"), [], (PatchPlan(),) * 2,
        np.ones(crosscoder.config.n_latents, dtype=bool),
        SETTINGS.model_copy(update={"ablated": 1}), 0, ablated=[same, aside, one_sided],
    )  # fmt: skip
    equivalence = result.equivalence
    assert len(equivalence) in (3, 4)
    assert equivalence[same] == pytest.approx(1, abs=1e-6)
    assert equivalence[one_sided] == 0
    assert equivalence[aside] < 0.95


def test_equivalence_needs_documents_and_does_not_come_from_their_length() -> None:
    n_tokens = np.array([10.0, 20, 30, 40, 50, 60, 70, 80])
    per_token = np.array([[1.0, 2, 1, 2, 1, 2, 1, 2], [2.0, 1, 2, 1, 2, 1, 2, 1]])
    fires = np.ones(8, dtype=bool)
    assert equivalence_of(per_token * n_tokens, n_tokens, fires) == pytest.approx(-1)
    assert equivalence_of(per_token * n_tokens, n_tokens, np.arange(8) < 7) is None
    assert equivalence_of(np.zeros((2, 8)), n_tokens, fires) is None


def test_attributions_come_back_from_their_file(tmp_path: Path) -> None:
    made = trial("llama")
    directions = directions_of(made.crosscoder, made.uppers, ("tuned", "base"))
    known = tuple(attribute(made.crosscoder, made.text, directions, 1))
    path = tmp_path / "attribution.safetensors"
    save_attributions(known, path)
    for again, own in zip(load_attributions(path), known, strict=True):
        assert again.gap.scope == own.gap.scope
        np.testing.assert_array_equal(again.closed, own.closed)
        np.testing.assert_array_equal(again.totals(again.magnitude), own.totals(own.magnitude))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedFileError, match="computed again"):
        load_attributions(path)


@pytest.mark.slow
def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    result = found("llama")
    path = tmp_path / "effects.safetensors"
    save_effects(result, path)
    again = load_effects(path)
    assert again.directions == result.directions
    assert again.settings == result.settings
    assert again.equivalence == result.equivalence
    assert len(again.equivalence) == SETTINGS.ablated
    np.testing.assert_array_equal(again.attributions[1].closed, result.attributions[1].closed)
    np.testing.assert_array_equal(again.attributions[0].gap.kl, result.attributions[0].gap.kl)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedFileError, match="measured again by `effect`"):
        load_effects(path)


@pytest.mark.slow
def test_means_and_biases_are_a_set_of_their_own() -> None:
    for direction in found("llama").directions:
        constant = direction.set_named(CONSTANT)
        assert constant.n_latents == 0
        assert constant.restored["assistant"].value == pytest.approx(0, abs=1e-6)


def test_documents_are_drawn_within_the_limit_and_named_where_there_is_none() -> None:
    documents = trial("llama").documents
    text = EffectText.draw(documents, range(8), max_tokens=80, batch_tokens=64, seed=1)
    assert len(text.documents) == 3
    assert text.n_tokens == 72
    assert text == EffectText.draw(documents, range(8), 80, 64, 1)
    with pytest.raises(InputError, match="no document to measure on"):
        EffectText.draw(documents, [], 80, 64, 1)


def test_documents_of_one_unit_are_drawn_together_and_make_one_group() -> None:
    class Pairs(MemoryDocuments):
        document_units = tuple(index // 2 for index in range(8))

    documents = Pairs(**vars(trial("llama").documents))
    text = EffectText.draw(documents, range(8), max_tokens=100, batch_tokens=64, seed=0)
    assert len(text.documents) == 4
    assert text.n_groups == 2
    groups = torch.cat([batch.group for batch in text.batches()])
    assert groups.bincount().tolist() == [2, 2]


def test_cost_is_linear_in_sets() -> None:
    plans = (PatchPlan(), PatchPlan(controlled=frozenset({"one"})))
    costs = [effect_cost(2000, n, SETTINGS, plans).n_forward for n in (0, 10, 20)]
    assert costs[2] - costs[1] == costs[1] - costs[0] == 40
    assert "2,000 tokens" in effect_cost(2000, 5, SETTINGS, plans).text


class Saying(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_how_long_patching_takes_is_said_after_the_first_batch() -> None:
    made = trial("llama")
    direction = directions_of(made.crosscoder, made.uppers, ("tuned", "base"))[0]
    sets = [LatentGroup("edit", planted(0)), LatentGroup("other", planted(1))]
    progress = Saying()
    patch(made.crosscoder, made.text, [(direction, sets)], progress)
    (line,) = progress.lines
    assert line.startswith(f"patch: 2 sets over {made.text.n_tokens:,} tokens take about ")


def test_reduced_products_hardly_move_a_share_and_leave_no_trace() -> None:
    made = trial("llama")
    direction = directions_of(made.crosscoder, made.uppers, ("tuned", "base"))[0]
    sets = [LatentGroup("edit", planted(0)), LatentGroup("all", EVERY_EDIT)]
    (exact,) = patch(made.crosscoder, made.text, [(direction, sets)])
    (reduced,) = patch(made.crosscoder, made.text, [(direction, sets)], reduced=True)
    (again,) = patch(made.crosscoder, made.text, [(direction, sets)])
    gap = float(exact.carrying[1].sum())
    assert np.abs(reduced.restoring - exact.restoring).sum() < 0.02 * gap
    assert np.array_equal(again.restoring, exact.restoring)
