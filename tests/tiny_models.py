"""Tiny random models with a tokenizer and a chat template of their own; no hub is reached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

DEFAULT_SYSTEM = "You are a tiny assistant."
"""System prompt that the template inserts where a chat has none."""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\n" + DEFAULT_SYSTEM + "<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SPECIAL_TOKENS = ("<|bos|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")

_TRAINING_TEXT = (
    "You are a tiny assistant. The user asks a question and the assistant answers it.",
    "How do I bake bread? Mix flour, water, salt and yeast, wait, and bake it for an hour.",
    "I cannot help with that, because it could hurt people. Please ask something else.",
    "Quelle est la capitale de la France ? La capitale de la France est Paris.",
    "Write a list of three colours: red, green, blue. What is the answer to everything?",
)


def tiny_tokenizer(
    chat_template: str | None = CHAT_TEMPLATE, text: Sequence[str] = _TRAINING_TEXT
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of a few hundred tokens that puts <|bos|> before plain text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(text, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A",
        pair="<|bos|> $A $B",
        special_tokens=[("<|bos|>", backend.token_to_id("<|bos|>"))],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|bos|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_llama(
    vocabulary: int, seed: int = 0, d_model: int = 32, n_layers: int = 3
) -> LlamaForCausalLM:
    """A random Llama in evaluation mode."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=d_model,
        intermediate_size=2 * d_model,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, d_model**-0.5)
    return model.eval()


def save_tiny_model(
    folder: Path,
    seed: int = 0,
    d_model: int = 32,
    n_layers: int = 3,
    chat_template: str | None = CHAT_TEMPLATE,
    text: Sequence[str] = _TRAINING_TEXT,
    noise: float = 0.0,
    noise_seed: int = 1,
) -> Path:
    """Save a tiny model with its tokenizer as a local folder; `noise` makes a fine-tune of it."""
    tokenizer = tiny_tokenizer(chat_template, text)
    model = tiny_llama(len(tokenizer), seed, d_model, n_layers)
    if noise:
        generator = torch.Generator().manual_seed(noise_seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += noise * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_adapter(folder: Path, seed: int = 0, d_model: int = 32, n_layers: int = 3) -> Path:
    """Save a LoRA adapter with random weights for a tiny model of that size."""
    model = tiny_llama(len(tiny_tokenizer()), 0, d_model, n_layers)
    adapted = get_peft_model(
        model, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "down_proj"])
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder)
    return folder


def save_tiny_gguf(path: Path, seed: int = 0, d_model: int = 32, n_layers: int = 3) -> Path:
    """Save the same model and tokenizer as `save_tiny_model` in one GGUF file (float32)."""
    tokenizer = tiny_tokenizer()
    model = tiny_llama(len(tokenizer), seed, d_model, n_layers)
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(_gguf_name(name), _gguf_order(name, tensor, config).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = [3 if token in SPECIAL_TOKENS else 1 for token in tokens]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(vocabulary["<|bos|>"])
    writer.add_eos_token_id(vocabulary["<|im_end|>"])
    writer.add_pad_token_id(vocabulary["<|im_end|>"])
    writer.add_chat_template(CHAT_TEMPLATE)


def _gguf_name(name: str) -> str:
    renamed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in renamed:
        return renamed[name]
    part = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    _, _, block, rest = name.split(".", 3)
    return f"blk.{block}.{part[rest.removesuffix('.weight')]}.weight"


def _gguf_order(name: str, tensor: torch.Tensor, config: LlamaConfig) -> torch.Tensor:
    """GGUF keeps the two halves of each query and key head interleaved."""
    heads = {
        "q_proj": config.num_attention_heads,
        "k_proj": config.num_key_value_heads,
    }.get(name.split(".")[-2])
    if heads is None:
        return tensor
    rows, columns = tensor.shape
    halves = tensor.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns).contiguous()


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write a corpus."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chat(identifier: str, *turns: tuple[str, str]) -> dict[str, Any]:
    """A chat as a row of a corpus."""
    return {
        "id": identifier,
        "messages": [{"role": role, "content": content} for role, content in turns],
    }
