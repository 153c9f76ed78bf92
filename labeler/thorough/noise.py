"""A model against a noisy copy of itself: the rules must isolate nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labeler.errors import UsageError
from labeler.stages.base import StageContext
from labeler.stages.train import configs, opened_store
from labeler.store.null_results import NullRun

if TYPE_CHECKING:
    from pathlib import Path

RULES = ("strict", "significant")
NAMES = ("model", "noisy-copy")


def noise_null(context: StageContext, model: str, folder: Path) -> NullRun:
    """Train on one model and its noisy copy by the study's own recipe, and isolate by both rules.

    The copies start from weights of their own, so that nothing is equal by construction.
    """
    from crosscoder.activations import ActivationStore
    from crosscoder.checkpoints import load_crosscoder
    from crosscoder.isolation import eligible_latents, select_latents
    from crosscoder.nulls import noisy_copy_store
    from crosscoder.scaling import latent_scaling
    from crosscoder.training import train
    from labeler.stages.isolate import isolation_rule

    section = context.study.config.thorough
    seed = context.study.config.study.seed
    whole = opened_store(context)
    if not isinstance(whole, ActivationStore):
        raise UsageError(
            "thorough.noise: the activations of this study are streamed and not stored; set it to 0"
        )
    store = noisy_copy_store(whole, model, section.noise, seed, NAMES, section.noise_tokens)
    crosscoder_config, train_config = configs(context, store)
    changes = {"same_init": False, "layer": None, "tokenizer_sha256": None}
    train(
        store,
        crosscoder_config.model_copy(update=changes),
        train_config,
        folder,
        context.progress,
    )
    n_blocks = context.study.config.isolate.n_blocks
    scaling = latent_scaling(load_crosscoder(folder), store, n_blocks, context.progress)
    rules = [isolation_rule(context).model_copy(update={"kind": kind}) for kind in RULES]
    counts = [
        (len(select_latents(pair, rule).latent_indices), int(eligible_latents(pair, rule).sum()))
        for pair in scaling.pairs.values()
        for rule in rules
    ]
    return NullRun(
        kind="noise",
        title=(
            f"{model} against a copy of itself with noise of {section.noise:g} of its spread: "
            f"latents isolated by {' or '.join(RULES)}"
        ),
        n_draws=1,
        n_called=sum(called for called, _ in counts),
        n_tested=sum(eligible for _, eligible in counts),
    )
