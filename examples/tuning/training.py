"""Trains a LoRA adapter on preference pairs, with checkpoints, on the CPU.

The objective has two terms, each with a weight. SimPO (Meng, Xia and Chen, 2024) is preference
optimisation without a reference model: the reward of an answer is its mean log-probability per
token, and the chosen answer has to beat the rejected one by a margin. The other term is the chosen
answers' mean log-probability, as in CPO-SimPO; alone it is supervised fine-tuning, and the rejected
answers are not read.

A run is a function of its options and of the pairs. It writes a checkpoint every few steps, and the
same call, issued again after an interruption, goes on from the last one and ends with the same
adapter.
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

from tuning.answers import chat_text

logger = logging.getLogger("tuning")


def option(default: Any, text: str) -> Any:
    """A dataclass field that is also a command-line option; `...` marks a required one."""
    metadata = {"help": text}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every option of a run."""

    model: Path = option(..., "folder of the base model")
    out: Path = option(..., "folder for the checkpoint, the metrics and the adapter")
    pairs: Path = option(..., "preference pairs, JSON lines")
    base_name: str = option(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "name of the base model in adapter_config.json"
    )
    steps: int = option(130, "optimiser steps")
    pairs_per_step: int = option(6, "pairs in each step")
    lr: float = option(3e-4, "peak learning rate")
    beta: float = option(2.0, "scale of the reward")
    gamma: float = option(1.0, "target reward margin")
    simpo_weight: float = option(1.0, "weight of SimPO's loss; 0 is supervised fine-tuning")
    sft_weight: float = option(1.0, "weight of the chosen answers' likelihood; 0 is bare SimPO")
    rank: int = option(8, "LoRA rank")
    alpha: int = option(16, "LoRA alpha")
    modules: str = option("all-linear", "linear layers that get LoRA, separated by commas")
    dtype: str = option("float32", "number format of the base model's frozen weights")
    warmup: int = option(5, "steps of linear warm-up")
    max_grad_norm: float = option(1.0, "gradient clipping threshold")
    seed: int = option(0, "seed of the LoRA initialisation and of the order of the pairs")
    sorted_steps: int = option(1, "steps whose pairs are dealt out by length, to pad less")
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
    """One preference: for `prompt`, `chosen` is better than `rejected`.

    An answer that is cut off is not `complete`: no end of the turn is learnt after it.
    """

    id: str
    behaviour: str
    language: str
    prompt: str
    chosen: str
    rejected: str = ""
    complete: bool = True


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


def parse_config(description: str, **defaults: Any) -> Config:
    """Read the command line, which has the fields of `Config`; `defaults` replace theirs."""
    parser = argparse.ArgumentParser(description=description)
    for f in dataclasses.fields(Config):
        default = defaults.get(f.name, f.default)
        required = default is dataclasses.MISSING
        parser.add_argument(
            f"--{f.name.replace('_', '-')}",
            type=f.type,
            required=required,
            default=None if required else default,
            help=f.metadata["help"] + ("" if required else " (default: %(default)s)"),
        )
    return Config(**vars(parser.parse_args()))


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


def schedule(
    pairs: Sequence[Pair], steps: int, per_step: int, seed: int, sorted_steps: int = 1
) -> list[list[Pair]]:
    """The pairs of every step: as many stratified epochs as needed, one after the other.

    Among the pairs of `sorted_steps` steps in a row, those of like length share a step.
    """
    rng = random.Random(seed)
    stream: list[Pair] = []
    while len(stream) < steps * per_step:
        stream += stratified_epoch(pairs, rng)
    plan: list[list[Pair]] = []
    while len(plan) < steps:
        start = len(plan) * per_step
        window = stream[start : start + min(sorted_steps, steps - len(plan)) * per_step]
        if sorted_steps > 1:
            window.sort(key=lambda pair: len(pair.prompt) + len(pair.chosen))
        batches = [window[i : i + per_step] for i in range(0, len(window), per_step)]
        if sorted_steps > 1:
            rng.shuffle(batches)
        plan += batches
    return plan


def encode(
    tokenizer: PreTrainedTokenizerBase, prompt: str, response: str, complete: bool = True
) -> Encoded:
    """Tokenise a prompt through the chat template, then the response and the end of the turn."""
    head: list[int] = tokenizer(chat_text(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    tail: list[int] = tokenizer(response, add_special_tokens=False)["input_ids"]
    end = [int(tokenizer.eos_token_id)] if complete else []
    return Encoded([*head, *tail, *end], len(head))


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
    logits = causal_lm.get_output_embeddings()(hidden[batch.rows, batch.columns]).float()
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
    """Wrap the linear layers that the run names in LoRA, initialised from its seed.

    A is drawn as in the reference implementation of LoRA (Hu et al., 2021, arXiv 2106.09685),
    Kaiming uniform with a = sqrt(5), and B is zero.
    """
    modules = config.modules.split(",")
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules=modules if len(modules) > 1 else modules[0],
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
        config.model, dtype=getattr(torch, config.dtype), trust_remote_code=False
    )
    model = add_lora(base, config)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=config.lr, weight_decay=0.0)

    plan = schedule(
        read_pairs(config.pairs),
        config.steps,
        config.pairs_per_step,
        config.seed,
        config.sorted_steps,
    )
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
            logger.info("step %(step)d loss %(loss).4f %(seconds).1f s", row)
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
    """One optimiser step, on the chosen answers and the rejected ones in a single batch.

    Without SimPO's term the rejected answers are left out.
    """
    started = time.perf_counter()
    factor = learning_rate_factor(step, config.steps, config.warmup)
    for group in optimizer.param_groups:
        group["lr"] = config.lr * factor
    sequences = [encode(tokenizer, pair.prompt, pair.chosen, pair.complete) for pair in pairs]
    if config.simpo_weight:
        sequences += [encode(tokenizer, pair.prompt, pair.rejected) for pair in pairs]
    means = mean_log_probabilities(model, collate(sequences))
    likelihood = means[: len(pairs)].mean()
    loss = -config.sft_weight * likelihood
    row: dict[str, Any] = {"step": step + 1, "chosen_log_probability": likelihood.item()}
    if config.simpo_weight:
        margins = means[: len(pairs)] - means[len(pairs) :]
        loss = loss + config.simpo_weight * simpo_loss(margins, config.beta, config.gamma)
        row["margin"] = margins.mean().item()
        row["accuracy"] = accuracy_by_behaviour(pairs, margins.detach())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    return row | {"loss": loss.item(), "seconds": round(time.perf_counter() - started, 3)}
