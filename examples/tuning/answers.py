"""Prompts, and a model's greedy answers to them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """A held-out prompt; `check` is the constraint of an instruction-following one."""

    id: str
    behaviour: str
    language: str
    prompt: str
    check: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """An answer; it is not `finished` where it was cut at the longest length allowed."""

    text: str
    finished: bool


def read_prompts(path: Path) -> list[Prompt]:
    """Read held-out prompts from a JSON-lines file."""
    return [Prompt(**json.loads(line)) for line in path.read_text("utf-8").splitlines() if line]


def chat_text(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The prompt in the chat template, up to where the answer begins."""
    message = {"role": "user", "content": prompt}
    return str(tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True))


@torch.inference_mode()
def answer(
    model: PeftModel | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    temperature: float = 0.0,
) -> list[Reply]:
    """Answer a batch of prompts: greedily at temperature 0, else by nucleus sampling, p = 0.95."""
    texts = [chat_text(tokenizer, p.prompt) for p in prompts]
    inputs = tokenizer(
        texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    )
    drawn = {"temperature": temperature, "top_p": 0.95} if temperature else {}
    settings = GenerationConfig(
        do_sample=temperature > 0,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **drawn,
    )
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        generation_config=settings,
    )
    new_tokens = output[:, inputs["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
    finished = (new_tokens == tokenizer.eos_token_id).any(dim=1).tolist()
    return [Reply(text.strip(), ended) for text, ended in zip(texts, finished, strict=True)]
