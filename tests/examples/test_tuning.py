"""The trainer that the examples share."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from tuning import training
from tuning.answers import Prompt, answer
from tuning.organisms import as_line
from tuning.training import Config, Pair, collate, encode, schedule, simpo_loss, train

PAIRS = [
    Pair(f"p-{n}", "abc"[n % 3], "en", "What is bread? " * (n + 1), "Flour and water.", "I cannot.")
    for n in range(9)
]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    save_tiny_model(tmp_path / "model")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(map(as_line, PAIRS)), "utf-8")
    return Config(
        model=tmp_path / "model",
        out=tmp_path / "run",
        pairs=pairs,
        steps=4,
        pairs_per_step=3,
        rank=2,
        modules="q_proj,v_proj",
        checkpoint_every=2,
        seed=3,
    )


def weights(config: Config) -> dict[str, torch.Tensor]:
    return load_file(config.out / "adapter_model.safetensors")


@pytest.mark.parametrize("simpo_weight", [0.0, 1.0])
def test_a_stopped_run_ends_with_the_same_adapter(
    config: Config, simpo_weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(config, simpo_weight=simpo_weight)
    train(config)
    whole = weights(config)
    again = dataclasses.replace(config, out=config.out.with_name("again"))
    stop_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(again)
    monkeypatch.undo()
    train(again)
    assert whole.keys() == weights(again).keys()
    assert all(torch.equal(whole[name], tensor) for name, tensor in weights(again).items())
    assert len((again.out / "metrics.jsonl").read_text("utf-8").splitlines()) == config.steps


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    whole_step = training.train_step

    def step(*args: Any) -> dict[str, Any]:
        if args[-1] == steps:
            raise KeyboardInterrupt
        return whole_step(*args)

    monkeypatch.setattr(training, "train_step", step)


def test_a_checkpoint_of_other_pairs_is_not_resumed(config: Config) -> None:
    train(config)
    config.pairs.write_text("".join(map(as_line, PAIRS[:6])), "utf-8")
    with pytest.raises(SystemExit, match="other options or other pairs"):
        train(config)


def test_supervised_training_makes_the_chosen_answers_likelier(config: Config) -> None:
    train(dataclasses.replace(config, simpo_weight=0.0, steps=20, lr=1e-2))
    lines = (config.out / "metrics.jsonl").read_text("utf-8").splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_schedule_spreads_behaviours_and_uses_each_pair_once_an_epoch() -> None:
    plan = schedule(PAIRS, steps=3, per_step=3, seed=1)
    assert sorted(pair.id for step in plan for pair in step) == sorted(pair.id for pair in PAIRS)
    assert plan == schedule(PAIRS, steps=3, per_step=3, seed=1)
    assert plan != schedule(PAIRS, steps=3, per_step=3, seed=2)


def test_sorted_steps_hold_pairs_of_like_length() -> None:
    plan = schedule(PAIRS, steps=3, per_step=3, seed=1, sorted_steps=3)
    assert sorted(pair.id for step in plan for pair in step) == sorted(pair.id for pair in PAIRS)
    lengths = sorted([len(pair.prompt) for pair in step] for step in plan)
    assert all(max(short) < min(long) for short, long in pairwise(lengths))


def test_only_a_complete_answer_ends_the_turn(config: Config) -> None:
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    whole = encode(tokenizer, "What is bread?", "Flour.")
    cut = encode(tokenizer, "What is bread?", "Flour.", complete=False)
    assert whole.ids == [*cut.ids, tokenizer.eos_token_id]
    batch = collate([whole, cut])
    assert (
        batch.targets.tolist() == whole.ids[whole.response_start :] + cut.ids[cut.response_start :]
    )


def test_simpo_loss_is_the_papers() -> None:
    expected = math.log1p(math.exp(-(2.0 * 0.7 - 1.0)))
    assert simpo_loss(torch.tensor([0.7]), 2.0, 1.0).item() == pytest.approx(expected)


def test_answers_say_whether_they_were_cut(config: Config) -> None:
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(config.model)
    prompts = [Prompt("1", "b", "en", "What is bread?"), Prompt("2", "b", "en", "Hi")]
    cut = answer(model, tokenizer, prompts, 3)
    assert [reply.finished for reply in cut] == [False, False]
    # A model that can say nothing else ends every answer at once.
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    assert [reply.finished for reply in answer(model, tokenizer, prompts, 3)] == [True, True]
