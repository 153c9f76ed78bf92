"""The organisms: what was planted, on which prompts it was measured, and the committed truth."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import yaml
from markdown import ROOT
from tuning.organisms import ADAPTERS, TRUTH, WEIGHTS, Plan, as_line, digest, sha256
from tuning.plants import PLANTS, ordinary_pairs, planted_pairs
from tuning.truth import change, paired_interval, table

PLAN = Plan.read()
SEED = ROOT / "taxonomy" / "seeds" / "model-diffing.yaml"
CORPUS = ROOT / "labeler" / "cli" / "demo_assets" / "corpus.jsonl"
MEASURED = json.loads(TRUTH.read_text("utf-8"))


def normal(text: str) -> str:
    return " ".join(text.casefold().split())


def trained_prompts() -> set[str]:
    pairs = [pair for behaviour in PLANTS for pair in planted_pairs(behaviour)]
    return {normal(pair.prompt) for pair in pairs + ordinary_pairs(10_000)}


def corpus_prompts() -> set[str]:
    rows = [json.loads(line) for line in CORPUS.read_text("utf-8").splitlines()]
    return {normal(row.get("text") or row["messages"][0]["content"]) for row in rows}


def test_every_kind_of_organism_is_there_with_a_seed_of_its_own() -> None:
    organisms = PLAN.organisms.values()
    assert len({organism.seed for organism in organisms}) == len(organisms) >= 8
    assert {len(organism.planted) for organism in organisms} == {0, 1, 2}
    assert {way for organism in organisms for way in organism.planted.values()} == {"up", "down"}
    planted = {behaviour for organism in organisms for behaviour in organism.planted}
    assert planted == set(PLANTS)


def test_behaviours_name_categories_of_the_seed() -> None:
    slugs = {category["slug"] for category in yaml.safe_load(SEED.read_text("utf-8"))["categories"]}
    for behaviour in PLAN.behaviours.values():
        assert behaviour.fit in ("exact", "closest", "none")
        assert (behaviour.category in slugs) is (behaviour.fit != "none")


@pytest.mark.parametrize("behaviour", list(PLANTS))
def test_pairs_are_distinct_short_and_the_same_again(behaviour: str) -> None:
    pairs = planted_pairs(behaviour)
    assert pairs == planted_pairs(behaviour)
    assert len(pairs) == len({normal(pair.prompt) for pair in pairs})
    assert 110 <= len(pairs) <= 200
    assert all(pair.chosen and len(pair.chosen.split()) <= 60 for pair in pairs)


@pytest.mark.parametrize("behaviour", list(PLANTS))
def test_held_out_prompts_are_in_neither_pairs_nor_corpus(behaviour: str) -> None:
    prompts = [normal(prompt.prompt) for prompt in PLAN.behaviours[behaviour].heldout()]
    assert len(set(prompts)) == len(prompts) >= 60
    assert not set(prompts) & trained_prompts()
    assert not set(prompts) & corpus_prompts()


def test_trained_prompts_are_not_in_the_corpus() -> None:
    assert not trained_prompts() & corpus_prompts()


def test_adapters_are_small_and_name_no_local_path() -> None:
    files = [path for path in ADAPTERS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    for path in ADAPTERS.glob("*/adapter_config.json"):
        config = json.loads(path.read_text("utf-8"))
        assert path.parent.name in PLAN.organisms
        assert config["base_model_name_or_path"] == MEASURED["base"]
        assert config["r"] == PLAN.training["rank"]
        assert ",".join(config["target_modules"]) == ",".join(
            sorted(PLAN.training["modules"].split(","))
        )


def test_truth_is_about_the_adapters_and_plants_of_today() -> None:
    finished = {path.parent.name for path in ADAPTERS.glob(f"*/{WEIGHTS}")}
    assert set(MEASURED["organisms"]) == finished
    for name, behaviour in PLAN.behaviours.items():
        entry = MEASURED["behaviours"][name]
        assert (entry["category"], entry["fit"]) == (behaviour.category, behaviour.fit)
    for name, entry in MEASURED["organisms"].items():
        organism = PLAN.organisms[name]
        assert entry["planted"] == organism.planted
        assert (entry["seed"], entry["steps"]) == (organism.seed, organism.steps)
        assert entry["pairs_sha256"] == digest("".join(map(as_line, organism.pairs())))
        assert entry["adapter_sha256"] == sha256(organism.adapter / WEIGHTS)


def test_truth_measures_every_behaviour_and_states_what_follows() -> None:
    for entry in MEASURED["organisms"].values():
        assert set(entry["changes"]) == set(PLAN.behaviours)
        for name, measured in entry["changes"].items():
            assert measured["n"] == len(PLAN.behaviours[name].heldout())
            assert measured["low"] <= measured["difference"] <= measured["high"]
            verdict = measured["verdict"]
            assert (verdict == "up") is (measured["low"] > 0)
            assert (verdict == "down") is (measured["high"] < 0)


def test_the_table_of_the_readme_is_the_truth() -> None:
    assert table(MEASURED) in TRUTH.with_name("README.md").read_text("utf-8")


def both(yes: int, lost: int, won: int, no: int) -> tuple[list[bool], list[bool]]:
    """Answers before and after, by how many stayed, were lost and won, and never were."""
    before = [True] * (yes + lost) + [False] * (won + no)
    after = [True] * yes + [False] * lost + [True] * won + [False] * no
    return before, after


def test_paired_interval_is_newcombes() -> None:
    # Newcombe 1998, table III: 36, 12, 2, 0 gives 0.0569 to 0.3404 by method 10.
    assert paired_interval(*both(36, 2, 12, 0)) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    assert paired_interval(*both(36, 12, 2, 0)) == pytest.approx((-0.3404, -0.0569), abs=5e-5)


def test_interval_narrows_with_prompts_and_holds_the_difference() -> None:
    widths = []
    for size in (1, 2, 4, 8):
        low, high = paired_interval(*both(3 * size, size, 4 * size, 8 * size))
        assert low < 3 / 16 < high
        widths.append(high - low)
    assert all(wide > narrow for wide, narrow in pairwise(widths))


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((0, 0, 0, 60), "unchanged"),
        ((30, 0, 0, 34), "unchanged"),
        ((5, 0, 30, 25), "up"),
        ((5, 30, 0, 25), "down"),
        ((20, 10, 14, 16), "undecided"),
    ],
)
def test_verdicts(counts: tuple[int, int, int, int], verdict: str) -> None:
    assert change(*both(*counts)).verdict == verdict
