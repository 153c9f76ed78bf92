"""Makes the organisms: adapters with planted changes, and the measured truth about each.

    python make.py sample     the base model's own answers, the data without any pattern
    python make.py train      the adapters
    python make.py measure    all answers to the held-out prompts, the base model's too
    python make.py truth      truth.json and the table, from the answers
    python make.py all        train, measure and truth, one organism after another

A name or several limit train, measure and all to these organisms. Whatever is interrupted goes on
from its last checkpoint when the same command is given again; what is done already is left alone.
"""

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tuning.answers import Prompt, Reply, answer
from tuning.organisms import TRUTH, WEIGHTS, Organism, Plan, digest, sha256
from tuning.plants import ORDINARY, WRITTEN, written
from tuning.training import train
from tuning.truth import organism_truth, table, whole_truth

from crosscoder.model_files import FileHashes, SubjectSpec
from crosscoder.models import with_converted_weights
from labeler.cli.demo import SMOLLM2, fetch
from labeler.study.study_file import subject_cache

logger = logging.getLogger("organisms")

MAX_NEW_TOKENS = 48
BATCH = 152
"""Prompts answered together: a third of all."""
README = Path(__file__).with_name("README.md")
TABLE = ("<!-- the truth, written by make.py -->\n", "<!-- end -->")
FILES = ("adapter_config.json", WEIGHTS)


class Maker:
    """The verbs, on one folder of runs."""

    def __init__(self, model: Path, runs: Path, threads: int) -> None:
        self.model = model
        self.runs = runs
        self.threads = threads
        self.plan = Plan.read()

    def train(self, organism: Organism) -> None:
        """Train one organism, or go on with it, and put its adapter into the repository."""
        run = self.runs / organism.name
        train(self.plan.config(organism, self.model, run, self.threads))
        organism.adapter.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(run / name, organism.adapter / name)

    def measure(self, organism: Organism | None) -> dict[str, Reply]:
        """The answers to all held-out prompts by prompt id; of the base model without organism.

        They are kept as they come, and taken up again while adapter and prompts are the same.
        """
        prompts = self.plan.heldout()
        weights = sha256(organism.adapter / WEIGHTS) if organism else ""
        key = digest(weights + repr(prompts))
        path = self.runs / (organism.name if organism else "base") / "answers.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        replies = kept_replies(path, key)
        missing = [prompt for prompt in prompts if prompt.id not in replies]
        for answered in self._answer(organism, missing):
            replies |= answered
            rows = {"key": key, "replies": {i: asdict(reply) for i, reply in replies.items()}}
            path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", "utf-8")
            logger.info("%s: %d of %d prompts answered", path.parent, len(replies), len(prompts))
        return replies

    def _answer(
        self, organism: Organism | None, prompts: Sequence[Prompt], temperature: float = 0.0
    ) -> Iterator[dict[str, Reply]]:
        if not prompts:
            return
        tokenizer = AutoTokenizer.from_pretrained(self.model, trust_remote_code=False)
        model = self._load(organism)
        by_length = sorted(prompts, key=lambda prompt: len(prompt.prompt))
        for start in range(0, len(prompts), BATCH):
            batch = by_length[start : start + BATCH]
            answers = answer(model, tokenizer, batch, MAX_NEW_TOKENS, temperature)
            yield {prompt.id: reply for prompt, reply in zip(batch, answers, strict=True)}

    def _load(self, organism: Organism | None) -> PreTrainedModel:
        base = AutoModelForCausalLM.from_pretrained(
            self.model, dtype=torch.float32, trust_remote_code=False
        )
        if organism is None:
            return base.eval()
        return PeftModel.from_pretrained(base, organism.adapter).merge_and_unload().eval()

    def write_truth(self) -> None:
        """Write truth.json and the table of the README, for every organism that is finished."""
        base = self.measure(None)
        entries = {
            organism.name: organism_truth(self.plan, organism, base, self.measure(organism))
            for organism in self.plan.organisms.values()
            if (organism.adapter / WEIGHTS).exists()
        }
        truth = whole_truth(self.plan, base, entries, MAX_NEW_TOKENS)
        TRUTH.write_text(json.dumps(truth, indent=2, ensure_ascii=False) + "\n", "utf-8")
        start, end = TABLE
        page = README.read_text("utf-8")
        before, rest = page.split(start)
        README.write_text(before + start + table(truth) + rest[rest.index(end) :], "utf-8")
        print(table(truth))

    def sample(self) -> None:
        """Add the base model's own answers to prompts that have none, drawn at temperature 0.7."""
        torch.manual_seed(0)
        rows = written("base_answers")
        answered = {row["prompt"] for row in rows}
        prompts = {row["prompt"]: part for part in ORDINARY for row in written(part)}
        missing = [Prompt(text, "", "", text) for text in prompts if text not in answered]
        for replies in self._answer(None, missing, temperature=0.7):
            for text, reply in replies.items():
                row = {"of": prompts[text], "prompt": text, "answer": reply.text}
                rows.append(row | {"complete": reply.finished})
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (WRITTEN / "base_answers.jsonl").write_text("".join(lines), "utf-8")


def kept_replies(path: Path, key: str) -> dict[str, Reply]:
    """The replies of a file, if there is one and it was written under the same key."""
    if not path.exists():
        return {}
    kept = json.loads(path.read_text("utf-8"))
    return {i: Reply(**row) for i, row in kept["replies"].items()} if kept["key"] == key else {}


def base_model() -> Path:
    """SmolLM2-135M-Instruct as the demo fetches it, as a folder of plain weights."""
    subject = SubjectSpec("base", str(fetch(SMOLLM2)))
    hashes = FileHashes(subject_cache() / "file-hashes.json")
    return Path(with_converted_weights(subject, subject_cache(), hashes).path)


def parse_arguments(names: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(description=lines[0])
    parser.add_argument("verb", choices=["sample", "train", "measure", "truth", "all"])
    parser.add_argument("organisms", nargs="*", metavar="organism", help="default: every one")
    parser.add_argument("--model", type=Path, help="folder of the base model (default: the demo's)")
    parser.add_argument("--runs", type=Path, default=Path("organism-runs"), help="work folder")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    options = parser.parse_args()
    if unknown := set(options.organisms) - set(names):
        parser.error(
            f"organisms.toml has no {', '.join(sorted(unknown))}; it has {', '.join(names)}"
        )
    return options


def main() -> None:
    """Run the verb."""
    plan = Plan.read()
    options = parse_arguments(list(plan.organisms))
    torch.set_num_threads(options.threads)
    maker = Maker(options.model or base_model(), options.runs, options.threads)
    if options.verb == "sample":
        maker.sample()
    if options.verb in ("measure", "all"):
        maker.measure(None)
    for name in options.organisms or plan.organisms:
        organism = plan.organisms[name]
        if options.verb in ("train", "all"):
            maker.train(organism)
        if options.verb in ("measure", "all"):
            maker.measure(organism)
        if options.verb == "all":
            maker.write_truth()
    if options.verb == "truth":
        maker.write_truth()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    main()
