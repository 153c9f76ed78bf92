"""What hashing the shards costs, as a share of the first training epoch that reads them.

    python benchmarks/verify.py [--quick] [--latents F] [--width d] [--tokens N] [--rounds R]

A store of random bf16 activations is trained on for one epoch, in turn with files that were hashed
already and with files that are hashed as they are first read, as in every process. Measured is the
processor time of the whole process, all threads together, which other people's work on the machine
does not change, and the elapsed time; the hashing alone is measured too. Printed are the medians of
the shares, and as the last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from crosscoder.activations import ActivationStore, write_store
from crosscoder.config import TrainConfig
from crosscoder.files import VerifiedFiles, sha256_file
from crosscoder.model import Crosscoder, CrosscoderConfig
from crosscoder.trainer import Trainer

BATCH, K = 2048, 64
MODELS = ("a", "b")


@dataclass(frozen=True)
class Cost:
    """Seconds of one piece of work."""

    processor: float
    elapsed: float


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="difflens-verify-") as scratch:
        folder = Path(scratch)
        store = _random_store(folder, arguments.tokens, arguments.width)
        trainer = _trainer(arguments.latents, arguments.width)
        known = VerifiedFiles()
        rounds = []
        _epoch(ActivationStore.open(folder, known), trainer)
        for _ in range(arguments.rounds):
            plain = measured(lambda: _epoch(ActivationStore.open(folder, known), trainer))
            hashed = measured(lambda: _epoch(ActivationStore.open(folder), trainer))
            alone = measured(lambda: _hash_all(store))
            rounds.append((plain, hashed, alone))
            print(f"epoch {plain.elapsed:.2f} s, hashing {alone.elapsed:.3f} s", flush=True)
    n_bytes = sum(record.n_bytes for record in store.manifest.shards)
    share = statistics.median(alone.processor / plain.processor for plain, _, alone in rounds)
    figures = {
        "hash_over_epoch": share,
        "epoch_over_epoch_processor": _ratio(rounds, "processor"),
        "epoch_over_epoch_elapsed": _ratio(rounds, "elapsed"),
        "hash_gigabytes_per_s": n_bytes / 1e9 / min(alone.processor for _, _, alone in rounds),
        "store_megabytes": n_bytes / 1e6,
        **vars(arguments),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    print(f"hashing is {100 * share:.2f}% of the processor time of an epoch")
    print(json.dumps(figures))


def measured(work: Callable[[], object]) -> Cost:
    """Processor and elapsed seconds of some work."""
    processor, started = time.process_time(), time.perf_counter()
    work()
    return Cost(time.process_time() - processor, time.perf_counter() - started)


def _ratio(rounds: Sequence[tuple[Cost, Cost, Cost]], name: str) -> float:
    return statistics.median(
        getattr(hashed, name) / getattr(plain, name) for plain, hashed, _ in rounds
    )


def _random_store(folder: Path, n_tokens: int, width: int) -> ActivationStore:
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn((n_tokens, len(MODELS), width), generator=generator)
    return write_store(
        folder, activations, model_names=MODELS, storage_dtype="bfloat16", shard_tokens=4096
    )


def _trainer(n_latents: int, width: int) -> Trainer:
    config = CrosscoderConfig(
        n_models=2, d_model=width, n_latents=n_latents, k=K, model_names=MODELS
    )
    crosscoder = Crosscoder(config, torch.Generator().manual_seed(1))
    return Trainer(crosscoder, TrainConfig(batch_size=BATCH, learning_rate=1e-4), 10**6, 10**12)


def _epoch(store: ActivationStore, trainer: Trainer) -> None:
    generator = torch.Generator().manual_seed(2)
    for batch in store.batches(BATCH, generator, drop_last=True):
        trainer.step(batch)


def _hash_all(store: ActivationStore) -> None:
    for index in range(store.n_shards):
        sha256_file(store.files.path(index))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--latents", type=int)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.latents = arguments.latents or (2048 if arguments.quick else 16384)
    arguments.tokens = arguments.tokens or (8192 if arguments.quick else 16384)
    return arguments


if __name__ == "__main__":
    main()
