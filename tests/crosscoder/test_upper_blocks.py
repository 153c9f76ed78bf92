"""The blocks above the hook on their own give what the whole model gives, in every architecture."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t

from crosscoder.errors import InputError
from crosscoder.models import SubjectModel
from crosscoder.reading import decoder_blocks
from crosscoder.upper_blocks import UpperBlocks

COMMON: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LAYER = 1


def gpt2() -> Any:
    return t.GPT2LMHeadModel(
        t.GPT2Config(vocab_size=61, n_embd=16, n_layer=4, n_head=4, n_positions=64)
    )


def neox() -> Any:
    settings = {name: COMMON[name] for name in COMMON if name != "num_key_value_heads"}
    return t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**settings))


ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**COMMON)),
    "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**COMMON)),
    "gemma2, soft caps and local attention": lambda: t.Gemma2ForCausalLM(
        t.Gemma2Config(**COMMON, head_dim=4, sliding_window=4, attn_implementation="eager")
    ),
    "cohere, scaled logits": lambda: t.CohereForCausalLM(t.CohereConfig(**COMMON)),
    "mixtral, experts": lambda: t.MixtralForCausalLM(
        t.MixtralConfig(**COMMON, num_local_experts=2, num_experts_per_tok=1)
    ),
    "gpt2": gpt2,
    "gpt-neox": neox,
}


def subject_of(model: Any) -> SubjectModel:
    return SubjectModel("tiny", model, None, 4, 16)  # type: ignore[arg-type]


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ARCHITECTURES[request.param]()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter += 0.3 * torch.randn(parameter.shape)
    return made.eval().requires_grad_(False)


def test_upper_blocks_give_the_logits_of_the_whole_model(model: Any) -> None:
    input_ids = torch.randint(3, 61, (3, 9), generator=torch.Generator().manual_seed(1))
    seen: list[Any] = []
    handle = decoder_blocks(model, 4, "tiny")[LAYER].register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    with torch.no_grad():
        whole = model(input_ids=input_ids, use_cache=False).logits
    handle.remove()
    activations = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    upper = UpperBlocks(subject_of(copy.deepcopy(model)), LAYER, np.arange(3, 12, dtype=np.int32))
    with torch.no_grad():
        hidden = upper.hidden(input_ids, activations)
        logits = upper.logits(hidden.flatten(0, 1)).view_as(whole)
        other = upper.logits(upper.hidden(input_ids, activations.flip(-1))[0])
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-4)
    assert upper.vocabulary == 61
    assert (other - whole[0]).abs().max() > 1e-3


def test_blocks_up_to_the_hook_are_dropped(model: Any) -> None:
    subject = subject_of(copy.deepcopy(model))
    n_before = sum(parameter.numel() for parameter in subject.model.parameters())
    blocks = decoder_blocks(subject.model, 4, "tiny")
    n_dropped = sum(p.numel() for block in list(blocks)[: LAYER + 1] for p in block.parameters())
    upper = UpperBlocks(subject, LAYER, np.arange(3, 12, dtype=np.int32))
    modules = (upper._trunk, upper._lm)
    kept = {id(p): p.numel() for module in modules for p in module.parameters()}
    assert sum(kept.values()) == n_before - n_dropped


def test_a_model_whose_upper_blocks_look_at_the_lower_ones_is_refused() -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES["llama"]().eval()
    first, last = model.model.layers[0], model.model.layers[3]
    kept: list[torch.Tensor] = []
    first.register_forward_hook(lambda module, inputs, output: kept.append(output.detach()))
    last.register_forward_hook(lambda module, inputs, output: output + 3 * kept.pop())
    with pytest.raises(InputError, match=r"cannot be run on their own .* effect\.enabled = false"):
        UpperBlocks(subject_of(model), LAYER, np.arange(3, 12, dtype=np.int32))
