"""How fast SmolLM2 answers the demo's prompts, by batch size and number of threads.

    python benchmarks/generation.py [--prompts N] [--batch N ...] [--threads N ...] [--tokens N]
                                    [--dtype TYPE]

Answers N prompts, spread evenly over the demo's corpus, greedily with the base model. Seconds of
the wall clock hold for an idle machine only; those of the processor, over all threads, hold for one
thread on a busy machine too. Loading the model is left out. Prints a Markdown table and, as its
last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch

from crosscoder.answers import prompt_of
from crosscoder.config import GenerationSettings
from crosscoder.corpus import Message, read_corpus
from crosscoder.generation import AnswerWriter, TokenizedPrompts, tokenize_prompts
from crosscoder.model_files import DTYPES, FileHashes, SubjectSpec
from crosscoder.models import inspect_subject, load_subject, with_converted_weights
from crosscoder.token_roles import TEMPLATE_DATE
from labeler.cli.demo import SMOLLM2, fetch
from labeler.cli.demo import __file__ as demo_file
from labeler.study.study_file import subject_cache

CORPUS = Path(demo_file).with_name("demo_assets") / "corpus.jsonl"


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    cache = subject_cache()
    hashes = FileHashes(cache / "file-hashes.json")
    facts = inspect_subject(
        with_converted_weights(
            SubjectSpec("base", str(fetch(SMOLLM2)), dtype=arguments.dtype), cache, hashes
        )
    )
    prompts = tokenize_prompts(_prompts(arguments.prompts), facts, TEMPLATE_DATE)
    rows = []
    print("| threads | batch | prompts | answer tokens | wall s | processor s |", flush=True)
    print("|---|---|---|---|---|---|", flush=True)
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for batch in arguments.batch:
            settings = GenerationSettings(max_new_tokens=arguments.tokens, batch_size=batch)
            writer = AnswerWriter(load_subject(facts.spec), prompts, settings)
            row = {"threads": threads, "batch": batch, **_timed(writer, prompts)}
            print(f"| {' | '.join(f'{value:,}' for value in row.values())} |", flush=True)
            rows.append(row)
    print(
        json.dumps(
            {
                "rows": rows,
                "tokens": arguments.tokens,
                "dtype": arguments.dtype,
                "load": os.getloadavg(),
            }
        )
    )


def _timed(writer: AnswerWriter, prompts: TokenizedPrompts) -> dict[str, float]:
    places = [(prompt, 0) for prompt in range(len(prompts.token_ids))]
    wall, processor = time.perf_counter(), time.process_time()
    answers = [answer for batch in writer.write(places) for answer in batch.values()]
    return {
        "prompts": len(answers),
        "answer_tokens": sum(answer.n_tokens for answer in answers),
        "wall_s": round(time.perf_counter() - wall, 1),
        "processor_s": round(time.process_time() - processor, 1),
    }


def _prompts(n_prompts: int) -> list[tuple[Message, ...]]:
    """So many of the prompts of the demo's corpus, at equal distances."""
    prompts = [prompt for document in read_corpus(CORPUS) if (prompt := prompt_of(document))]
    return prompts[:: max(1, len(prompts) // n_prompts)][:n_prompts]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--batch", type=int, nargs="*", default=[8, 32, 96])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    main()
