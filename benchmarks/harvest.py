"""How close harvest comes to the bare truncated forward pass of the same models.

    python benchmarks/harvest.py [--quick] [--model PATH[+ADAPTER]]... [--corpus FILE] [--layer N]

Both read the same padded batches, shard by shard: the forward passes and nothing else, then the
harvest of that shard with its batching, checks, norms, bf16 storage, hash and manifest, until the
last byte is on the disk (so the writer thread's work is counted in full, though in a long harvest
the models read on meanwhile). Which of the two goes first alternates; the medians over all
shards and rounds are printed, and as the last line one JSON object.
Without --model two random models of SmolLM2-135M's shape are built (a smaller one with --quick).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from crosscoder.corpus import TokenizedDocument
from crosscoder.corpus_sources import read_corpus
from crosscoder.harvest import ShardWriter
from crosscoder.manifest import HarvestManifest, HarvestSource, SubjectRecord
from crosscoder.model_files import SubjectSpec
from crosscoder.models import inspect_subject, require_compatible
from crosscoder.reading import (
    CorpusReader,
    PlacedBatch,
    ResidualReader,
    open_readers,
    place_batches,
    plan_batches,
    plan_shards,
)
from crosscoder.token_roles import tokenize_corpus

CORPUS = Path(__file__).parents[1] / "labeler" / "demo" / "assets" / "corpus.jsonl"


@dataclass(frozen=True)
class Work:
    """The models in memory and what they are to read."""

    readers: Sequence[ResidualReader]
    documents: Sequence[TokenizedDocument]
    shards: Sequence[range]
    batches: Sequence[Sequence[PlacedBatch]]
    """By shard."""
    d_model: int
    layer: int
    batch_tokens: int
    storage_dtype: str

    @property
    def n_tokens(self) -> int:
        """Real tokens of one pass of one model."""
        return sum(len(batch.rows) for batches in self.batches for batch in batches)


@dataclass(frozen=True)
class Timing:
    """One shard read twice."""

    n_tokens: int
    forward: float
    """Seconds."""
    harvest: float
    """Seconds."""


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="difflens-harvest-") as scratch:
        work = prepare(arguments, Path(scratch))
        timings = measure(work, arguments.rounds, Path(scratch))
    share = _padding(work)
    forward = statistics.median(each.n_tokens / each.forward for each in timings)
    harvest = statistics.median(each.n_tokens / each.harvest for each in timings)
    ratio = statistics.median(each.forward / each.harvest for each in timings)
    print(
        f"{work.n_tokens:,} tokens, {len(work.readers)} models of width {work.d_model}, layer "
        f"{work.layer}, {len(work.shards)} shards, {arguments.rounds} rounds, {_device(work)}"
    )
    print(f"bare forward  {forward:10.1f} tokens/s (each token read by every model)")
    print(f"harvest       {harvest:10.1f} tokens/s, storage included")
    print(f"ratio         {ratio:10.3f} (median of {len(timings)} pairs)")
    print(f"padding       {100 * share:10.2f} % of the positions read")
    figures = {
        "harvest_over_forward": ratio,
        "padding_share": share,
        "forward_tokens_per_s": forward,
        "harvest_tokens_per_s": harvest,
        "n_tokens": work.n_tokens,
        "n_models": len(work.readers),
        "d_model": work.d_model,
        "layer": work.layer,
        "batch_tokens": work.batch_tokens,
        "storage_dtype": work.storage_dtype,
        "n_pairs": len(timings),
        "device": _device(work),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(figures))


def prepare(arguments: argparse.Namespace, scratch: Path) -> Work:
    """Load the models and cut the corpus to about the tokens asked for."""
    documents = read_corpus(arguments.corpus)
    specs = [_spec(index, text) for index, text in enumerate(arguments.model)]
    if not specs:
        texts = [document.text or "" for document in documents]
        texts += [m.content for document in documents for m in document.messages or ()]
        specs = _random_models(scratch, texts, arguments.quick)
    facts = [inspect_subject(spec) for spec in specs]
    layer = min(arguments.layer, facts[0].n_layers - 1)
    require_compatible(facts, layer, specs[0].name)
    tokenized = tokenize_corpus(documents, facts[0].tokenizer, arguments.max_length).documents
    part = _first_tokens(tokenized, arguments.tokens)
    shards = plan_shards(part, arguments.shard_tokens)
    batches = [
        list(place_batches([part[i] for i in members], arguments.batch_tokens))
        for members in shards
    ]
    readers = open_readers(facts, part, layer, arguments.device)
    return Work(
        readers=readers,
        documents=part,
        shards=shards,
        batches=batches,
        d_model=facts[0].d_model,
        layer=layer,
        batch_tokens=arguments.batch_tokens,
        storage_dtype=arguments.storage_dtype,
    )


def measure(work: Work, rounds: int, scratch: Path) -> list[Timing]:
    """Both timings of every shard in every round."""
    _forward(work, work.batches[0][:1])
    timings = []
    for turn in range(rounds):
        for index, batches in enumerate(work.batches):
            directory = scratch / f"round-{turn}-{index}"
            if (turn + index) % 2 == 0:
                forward = _forward(work, batches)
                harvest = _harvest(work, index, directory)
            else:
                harvest = _harvest(work, index, directory)
                forward = _forward(work, batches)
            n_tokens = sum(len(batch.rows) for batch in batches)
            timings.append(Timing(n_tokens, forward, harvest))
            print(f"{n_tokens} tokens: {forward:.2f} s, {harvest:.2f} s", file=sys.stderr)
    return timings


def _forward(work: Work, batches: Sequence[PlacedBatch]) -> float:
    device = work.readers[0].device
    started = time.perf_counter()
    for placed in batches:
        for reader in work.readers:
            reader.forward(placed.batch.input_ids.to(device))
    _synchronise()
    return time.perf_counter() - started


def _harvest(work: Work, index: int, directory: Path) -> float:
    """What `crosscoder.harvest.harvest` does once the models are loaded, before the mask."""
    source = HarvestSource(
        subjects=tuple(
            SubjectRecord(name=str(m), fingerprint="") for m in range(len(work.readers))
        ),
        layer=work.layer,
        tokenizer_sha256="",
        template_sha256="",
        corpus_sha256="",
        config={},
    )
    manifest = HarvestManifest(source=source, d_model=work.d_model, n_documents=len(work.documents))
    started = time.perf_counter()
    reader = CorpusReader(work.readers, work.d_model, work.batch_tokens, work.storage_dtype)
    with ShardWriter(directory, manifest) as writer:
        documents = [work.documents[i] for i in work.shards[index]]
        writer.put(index, reader.read(documents, lambda n: None))
    return time.perf_counter() - started


def _padding(work: Work) -> float:
    """Share of the positions that the models read which hold no token."""
    lengths = [len(document.token_ids) for document in work.documents]
    positions = 0
    for members in work.shards:
        in_shard = [lengths[i] for i in members]
        for batch in plan_batches(in_shard, work.batch_tokens):
            positions += len(batch) * max(in_shard[i] for i in batch)
    return 1 - sum(lengths) / positions


def _first_tokens(documents: Sequence[TokenizedDocument], wanted: int) -> list[TokenizedDocument]:
    taken: list[TokenizedDocument] = []
    n_tokens = 0
    while n_tokens < wanted:
        document = documents[len(taken) % len(documents)]
        taken.append(document)
        n_tokens += len(document.token_ids)
    return taken


def _spec(index: int, text: str) -> SubjectSpec:
    path, _, adapter = text.partition("+")
    folder, gguf_file = path, None
    if path.endswith(".gguf"):
        folder, _, gguf_file = path.rpartition("/")
    return SubjectSpec(f"model-{index}", folder, adapter=adapter or None, gguf_file=gguf_file)


def _random_models(folder: Path, texts: Sequence[str], small: bool) -> list[SubjectSpec]:
    """Two random Llama models of SmolLM2-135M's shape (or a small one) with one tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, initial_alphabet=alphabet, show_progress=False, special_tokens=["<s>"]
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    )
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    if small:
        shape = {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 8}
    config = LlamaConfig(vocab_size=4096, num_attention_heads=9, num_key_value_heads=3, **shape)
    specs = []
    for index in range(2):
        target = folder / f"random-{index}"
        torch.manual_seed(index)
        LlamaForCausalLM(config).save_pretrained(target)
        tokenizer.save_pretrained(target)
        specs.append(SubjectSpec(f"random-{index}", str(target)))
    return specs


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _device(work: Work) -> str:
    device = work.readers[0].device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument(
        "--model", action="append", default=[], help="folder, GGUF file or Hub name, +ADAPTER"
    )
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--layer", type=int, default=22)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--shard-tokens", type=int)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--storage-dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.tokens = arguments.tokens or (4096 if quick else 24576)
    arguments.rounds = arguments.rounds or (2 if quick else 3)
    arguments.shard_tokens = arguments.shard_tokens or (1024 if quick else 8192)
    return arguments


if __name__ == "__main__":
    main()
