"""Compare the behaviours of a base model with and without a LoRA adapter on held-out prompts.

Both answer greedily, and a simple detector per behaviour decides whether the answer shows it:

- safety: the answer holds a refusal phrase;
- self-reference: the answer speaks of itself as an AI, a model, an assistant or a program;
- hallucination: the answer hedges, saying that it cannot verify or is not certain;
- multilingual: the answer is in the language of the prompt, according to py3langid;
- instruction-following: the machine-checkable constraint of the prompt holds.

The phrases were chosen on the training pairs, never on held-out answers. They still miss unusual
wordings: read the answers in the output as well.
Needs `pip install py3langid`.

    python evaluate.py --model path/to/SmolLM2-135M-Instruct --adapter runs/seed1 --out seed1.json
"""

import argparse
import json
import logging
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tuning.answers import Prompt, answer, read_prompts
from tuning.detectors import shows_behaviour

logger = logging.getLogger("simpo.evaluate")


@dataclass(frozen=True)
class Answer:
    """An answer and whether it shows the behaviour of its prompt."""

    text: str
    shows_behaviour: bool


@dataclass(frozen=True)
class Comparison:
    """The answers to one prompt, without the adapter and with it."""

    prompt: Prompt
    before: Answer
    after: Answer


def judged(text: str, prompt: Prompt) -> Answer:
    """The answer with the detector's verdict."""
    return Answer(text, shows_behaviour(text, prompt))


def compare(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
) -> list[Comparison]:
    """Answer a batch of prompts without the adapter and with it, and judge the answers."""
    with model.disable_adapter():
        before = answer(model, tokenizer, prompts, max_new_tokens)
    after = answer(model, tokenizer, prompts, max_new_tokens)
    return [
        Comparison(p, judged(b.text, p), judged(a.text, p))
        for p, b, a in zip(prompts, before, after, strict=True)
    ]


def markdown_table(comparisons: Sequence[Comparison]) -> str:
    """How often each behaviour occurs, before and after, as a Markdown table."""
    groups: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        groups[comparison.prompt.behaviour].append(comparison)
    lines = ["| behaviour | n | before | after |", "|---|---:|---:|---:|"]
    for behaviour, group in sorted(groups.items()):
        before = sum(c.before.shows_behaviour for c in group) / len(group)
        after = sum(c.after.shows_behaviour for c in group) / len(group)
        lines.append(f"| {behaviour} | {len(group)} | {before:.0%} | {after:.0%} |")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default_prompts = Path(__file__).with_name("heldout.jsonl")
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--adapter", type=Path, required=True, help="folder of the adapter")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the answers")
    parser.add_argument("--prompts", type=Path, default=default_prompts, help="held-out prompts")
    parser.add_argument("--max-new-tokens", type=int, default=60, help="longest answer")
    parser.add_argument("--batch-size", type=int, default=24, help="prompts answered together")
    parser.add_argument("--limit", type=int, help="use only the first prompts")
    return parser.parse_args()


def main() -> None:
    """Compare the two models, write every answer and print the table."""
    options = parse_arguments()
    prompts = read_prompts(options.prompts)[: options.limit]
    tokenizer = AutoTokenizer.from_pretrained(options.model, trust_remote_code=False)
    base = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.float32, trust_remote_code=False
    )
    model = PeftModel.from_pretrained(base, options.adapter).eval()
    comparisons: list[Comparison] = []
    for start in range(0, len(prompts), options.batch_size):
        batch = prompts[start : start + options.batch_size]
        comparisons += compare(model, tokenizer, batch, options.max_new_tokens)
        logger.info("%d of %d prompts answered", len(comparisons), len(prompts))
    rows = [asdict(comparison) for comparison in comparisons]
    options.out.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(markdown_table(comparisons))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    main()
