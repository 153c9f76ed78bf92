"""Train a LoRA adapter on preference pairs with SimPO (Meng, Xia and Chen, 2024).

SimPO is preference optimisation without a reference model: the reward of an answer is its mean
log-probability per token, and the chosen answer has to beat the rejected one by a margin.
A margin can also grow by making both answers unlikely, and a model this small then loses its
language; so the chosen answers' mean log-probability is added to the objective, as CPO-SimPO does.

A run is a function of its options and of the pairs file. It writes a checkpoint every few steps,
and the same command, issued again after an interruption, goes on from the last one and ends with
the same adapter.

    python train.py --model path/to/SmolLM2-135M-Instruct --out runs/seed1 --seed 1
"""

import argparse
import dataclasses
import hashlib
import json
import logging
import math
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

logger = logging.getLogger("simpo.train")


def option(default: Any, text: str) -> Any:
    """A dataclass field that is also a command-line option; `...` marks a required one."""
    metadata = {"help": text}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every option of a run."""

    model: Path = option(..., "folder of the base model")
    out: Path = option(..., "folder for the checkpoint, the metrics and the adapter")
    pairs: Path = option(Path(__file__).with_name("pairs.jsonl"), "preference pairs, JSON lines")
    base_name: str = option(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "name of the base model in adapter_config.json"
    )
    steps: int = option(130, "optimiser steps")
    pairs_per_step: int = option(6, "pairs in each step")
    lr: float = option(3e-4, "peak learning rate")
    beta: float = option(2.0, "scale of the reward")
    gamma: float = option(1.0, "target reward margin")
    sft_weight: float = option(1.0, "weight of the chosen answers' likelihood; 0 is bare SimPO")
    rank: int = option(8, "LoRA rank")
    alpha: int = option(16, "LoRA alpha")
    warmup: int = option(5, "steps of linear warm-up")
    max_grad_norm: float = option(1.0, "gradient clipping threshold")
    seed: int = option(0, "seed of the LoRA initialisation and of the order of the pairs")
    checkpoint_every: int = option(10, "steps between checkpoints")
    threads: int = option(0, "CPU threads; 0 leaves PyTorch's default")

    def identity(self) -> dict[str, Any]:
        """What decides the result of the run: a checkpoint is resumed only under the same values.

        Paths are replaced by the digest of the pairs; the remaining fields do not move the result.
        """
        ignored = {"model", "out", "pairs", "checkpoint_every", "threads"}
        values = {k: v for k, v in dataclasses.asdict(self).items() if k not in ignored}
        return values | {"pairs_sha256": hashlib.sha256(self.pairs.read_bytes()).hexdigest()}


@dataclass(frozen=True)
class Pair:
    """One preference: for `prompt`, `chosen` is better than `rejected`."""

    id: str
    behaviour: str
    language: str
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Encoded:
    """Token ids of a templated prompt followed by a response."""

    ids: list[int]
    response_start: int


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences, with the response positions to score.

    `rows`, `columns` and `targets` have one entry per response token: the token `targets[k]` of
    sequence `rows[k]` is predicted from position `columns[k]`.
    """

    ids: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor


def parse_config(arguments: Sequence[str] | None = None) -> Config:
    """Build the command line from the fields of `Config`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for f in dataclasses.fields(Config):
        required = f.default is dataclasses.MISSING
        parser.add_argument(
            f"--{f.name.replace('_', '-')}",
            type=f.type,
            required=required,
            default=None if required else f.default,
            help=f.metadata["help"] + ("" if required else " (default: %(default)s)"),
        )
    return Config(**vars(parser.parse_args(arguments)))


def read_pairs(path: Path) -> list[Pair]:
    """Read preference pairs from a JSON-lines file."""
    return [Pair(**json.loads(line)) for line in path.read_text("utf-8").splitlines() if line]


def stratified_epoch(pairs: Sequence[Pair], rng: random.Random) -> list[Pair]:
    """Shuffle the pairs while spreading each behaviour evenly over the epoch.

    The k-th of the n shuffled pairs of a behaviour falls at a uniform place in [k/n, (k+1)/n), so
    that every stretch of the epoch holds the behaviours in their overall proportions.
    """
    strata: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        strata[pair.behaviour].append(pair)
    placed: list[tuple[float, Pair]] = []
    for _, stratum in sorted(strata.items()):
        rng.shuffle(stratum)
        placed += [((k + rng.random()) / len(stratum), pair) for k, pair in enumerate(stratum)]
    return [pair for _, pair in sorted(placed, key=lambda entry: entry[0])]


def schedule(pairs: Sequence[Pair], steps: int, per_step: int, seed: int) -> list[list[Pair]]:
    """The pairs of every step: as many stratified epochs as needed, one after the other."""
    rng = random.Random(seed)
    stream: list[Pair] = []
    while len(stream) < steps * per_step:
        stream += stratified_epoch(pairs, rng)
    return [stream[i * per_step : (i + 1) * per_step] for i in range(steps)]


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> Encoded:
    """Tokenise a prompt through the chat template, then the response and the end of the turn."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    head: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    tail: list[int] = tokenizer(response, add_special_tokens=False)["input_ids"]
    return Encoded([*head, *tail, int(tokenizer.eos_token_id)], len(head))


def collate(sequences: Sequence[Encoded]) -> Batch:
    """Pad on the right and list the response positions.

    Under causal attention no real token sees the padding after it, so no attention mask is needed
    and the value of the padding does not matter.
    """
    spans = [torch.arange(s.response_start, len(s.ids)) for s in sequences]
    return Batch(
        ids=pad_sequence([torch.tensor(s.ids) for s in sequences], batch_first=True),
        rows=torch.cat([torch.full_like(span, row) for row, span in enumerate(spans)]),
        columns=torch.cat(spans) - 1,
        targets=torch.cat([torch.tensor(s.ids[s.response_start :]) for s in sequences]),
    )


def mean_log_probabilities(model: PeftModel, batch: Batch) -> Tensor:
    """Mean log-probability per response token, log pi(y|x) / |y|, for each sequence.

    The vocabulary projection runs at the response positions only.
    """
    causal_lm = model.get_base_model()
    hidden = causal_lm.get_decoder()(input_ids=batch.ids, use_cache=False).last_hidden_state
    logits = causal_lm.get_output_embeddings()(hidden[batch.rows, batch.columns])
    token_log_probabilities = -F.cross_entropy(logits, batch.targets, reduction="none")
    sums = torch.zeros(len(batch.ids)).index_add(0, batch.rows, token_log_probabilities)
    return sums / torch.bincount(batch.rows, minlength=len(batch.ids))


def simpo_loss(margins: Tensor, beta: float, gamma: float) -> Tensor:
    """SimPO's loss (arXiv 2405.14734, equation 6), averaged over the pairs.

    -log sigmoid(beta / |y_w| log pi(y_w|x) - beta / |y_l| log pi(y_l|x) - gamma), where `margins`
    holds log pi(y_w|x) / |y_w| - log pi(y_l|x) / |y_l|.
    """
    return -F.logsigmoid(beta * margins - gamma).mean()


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up to one, then a half cosine down to zero after the last step."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def add_lora(base: torch.nn.Module, config: Config) -> PeftModel:
    """Wrap every linear layer in LoRA, initialised from the run's seed.

    A is drawn as in the reference implementation of LoRA (Hu et al., 2021, arXiv 2106.09685),
    Kaiming uniform with a = sqrt(5), and B is zero.
    """
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, lora)
    generator = torch.Generator().manual_seed(config.seed)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            torch.nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=generator)
    return model


def adapter_state(model: PeftModel) -> dict[str, Tensor]:
    """The adapter's weights under the names of PEFT's file format."""
    return dict(get_peft_model_state_dict(model, save_embedding_layers=False))


def save_checkpoint(
    config: Config, model: PeftModel, optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Write the checkpoint under a temporary name, then rename it: it is never half-written."""
    path = config.out / "checkpoint.pt"
    temporary = path.with_suffix(".tmp")
    state = {
        "identity": config.identity(),
        "step": step,
        "adapter": adapter_state(model),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(config: Config, model: PeftModel, optimizer: torch.optim.Optimizer) -> int:
    """Restore the last checkpoint, if there is one, and return the number of steps done."""
    path = config.out / "checkpoint.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["identity"] != config.identity():
        raise SystemExit(f"{path} belongs to a run with other options or other pairs")
    set_peft_model_state_dict(model, state["adapter"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    return int(state["step"])


def keep_metrics(path: Path, steps: int) -> None:
    """Drop the metrics of the steps after the checkpoint, which are about to run again."""
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    path.write_text("".join(lines[:steps]), "utf-8")


def accuracy_by_behaviour(pairs: Iterable[Pair], margins: Tensor) -> dict[str, float]:
    """Share of the pairs of each behaviour whose chosen answer is the likelier one."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for pair, margin in zip(pairs, margins.tolist(), strict=True):
        hits[pair.behaviour].append(margin > 0)
    return {behaviour: sum(h) / len(h) for behaviour, h in sorted(hits.items())}


def save_adapter(model: PeftModel, config: Config) -> None:
    """Write the adapter in PEFT's format: bfloat16 weights and a configuration free of paths."""
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in adapter_state(model).items()}
    save_file(weights, config.out / "adapter_model.safetensors", metadata={"format": "pt"})
    lora = model.peft_config["default"]
    lora.base_model_name_or_path = config.base_name
    lora.inference_mode = True
    values = {k: sorted(v) if isinstance(v, set) else v for k, v in lora.to_dict().items()}
    text = json.dumps(values, indent=2, sort_keys=True)
    (config.out / "adapter_config.json").write_text(text + "\n", "utf-8")


def train(config: Config) -> None:
    """Run, or resume, the training and save the adapter."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(config.model, trust_remote_code=False)
    base = AutoModelForCausalLM.from_pretrained(
        config.model, dtype=torch.float32, trust_remote_code=False
    )
    model = add_lora(base, config)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=config.lr, weight_decay=0.0)

    plan = schedule(read_pairs(config.pairs), config.steps, config.pairs_per_step, config.seed)
    done = load_checkpoint(config, model, optimizer)
    metrics_path = config.out / "metrics.jsonl"
    keep_metrics(metrics_path, done)
    logger.info("%d trainable parameters, step %d", sum(p.numel() for p in trainable), done)

    model.train()
    with metrics_path.open("a", encoding="utf-8") as metrics:
        for step in range(done, config.steps):
            row = train_step(config, model, optimizer, tokenizer, plan[step], step)
            metrics.write(json.dumps(row) + "\n")
            metrics.flush()
            logger.info("step %(step)d loss %(loss).4f margin %(margin).3f %(seconds).1f s", row)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                save_checkpoint(config, model, optimizer, step + 1)
    save_adapter(model, config)
    logger.info("adapter saved in %s", config.out)


def train_step(
    config: Config,
    model: PeftModel,
    optimizer: torch.optim.Optimizer,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    step: int,
) -> dict[str, Any]:
    """One optimiser step, on the chosen answers and the rejected ones in a single batch."""
    started = time.perf_counter()
    factor = learning_rate_factor(step, config.steps, config.warmup)
    for group in optimizer.param_groups:
        group["lr"] = config.lr * factor
    chosen = [encode(tokenizer, pair.prompt, pair.chosen) for pair in pairs]
    rejected = [encode(tokenizer, pair.prompt, pair.rejected) for pair in pairs]
    means = mean_log_probabilities(model, collate(chosen + rejected))
    margins = means[: len(pairs)] - means[len(pairs) :]
    likelihood = means[: len(pairs)].mean()
    loss = simpo_loss(margins, config.beta, config.gamma) - config.sft_weight * likelihood
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    return {
        "step": step + 1,
        "loss": loss.item(),
        "margin": margins.mean().item(),
        "chosen_log_probability": likelihood.item(),
        "accuracy": accuracy_by_behaviour(pairs, margins.detach()),
        "seconds": round(time.perf_counter() - started, 3),
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    train(parse_config())
