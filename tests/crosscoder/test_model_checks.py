"""Model folders that are damaged, absurd or lead elsewhere: one line each, no memory taken."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import LFS_POINTER, copy_of, with_json
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from crosscoder import limits
from crosscoder.errors import InputError
from crosscoder.model_checks import check_config
from crosscoder.models import SubjectSpec, inspect_subject, load_subject

Damage = Callable[[Path], object]


def cut(name: str, share: float) -> Damage:
    def apply(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return apply


def replaced(name: str, content: str | bytes) -> Damage:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(raw)


def config(**changes: Any) -> Damage:
    return lambda folder: with_json(folder / "config.json", **changes)


def raw_config(key: str, number: str) -> Damage:
    """A number as JSON text that Python's own writer would not write."""

    def apply(folder: Path) -> None:
        path = with_json(folder / "config.json", **{key: "HERE"})
        path.write_text(path.read_text().replace('"HERE"', number))

    return apply


def sharded(*missing: str, **places: str) -> Damage:
    """Split the weights into two files with an index, leave files out, change the index."""

    def apply(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = ("one.safetensors", "two.safetensors")
        index: dict[str, str] = {}
        for number, file in enumerate(names):
            part = dict(list(weights.items())[number::2])
            save_file(part, folder / file, metadata={"format": "pt"})
            index |= dict.fromkeys(part, file)
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {}, "weight_map": index | places}))
        for file in missing:
            (folder / file).unlink()

    return apply


def other_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] = torch.zeros(320, 16)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def distributed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "shard-00000-model-00001-of-00001.safetensors")


HEADER = struct.pack("<Q", 2**60) + b"{}"
NO_OFFSETS = json.dumps({"x": {"dtype": "F32", "shape": [2]}}).encode()
DAMAGES: dict[str, tuple[Damage, str]] = {
    "weights cut in half": (cut("model.safetensors", 0.5), r"model\.safetensors.*cut off at"),
    "weights cut in their header": (cut("model.safetensors", 0.001), r"no safetensors header"),
    "empty weights": (replaced("model.safetensors", b""), r"no safetensors header"),
    "a header of 2^60 bytes": (replaced("model.safetensors", HEADER), r"no safetensors header"),
    "a header that is no JSON": (
        replaced("model.safetensors", struct.pack("<Q", 4) + b"{{{{" + b"x" * 9),
        r"model\.safetensors: its header: no valid JSON",
    ),
    "a header without offsets": (
        replaced("model.safetensors", struct.pack("<Q", len(NO_OFFSETS)) + NO_OFFSETS),
        r"header is damaged",
    ),
    "a nested header": (
        replaced("model.safetensors", struct.pack("<Q", 20_000) + b"[" * 20_000),
        r"its header: JSON nested deeper",
    ),
    **{
        f"a pointer for {name}": (replaced(name, LFS_POINTER), rf"{name}.*git-lfs pointer.*pull")
        for name in (
            "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
            "chat_template.jinja", "generation_config.json",
        )
    },
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"holds no weights"),
    "a missing shard": (sharded("two.safetensors"), r"two\.safetensors is missing"),
    "a shard above the folder": (
        sharded(**{"lm_head.weight": "../../etc/passwd"}),
        r"'\.\./\.\./etc/passwd', which is no file of its folder",
    ),
    "a shard anywhere": (sharded(**{"lm_head.weight": "/etc/passwd"}), r"no file of its folder"),
    "an index without a map": (
        lambda f: (sharded()(f), with_json(f / "model.safetensors.index.json", weight_map=[])),
        r"holds no weight_map",
    ),
    "a damaged index": (
        lambda f: (sharded()(f), cut("model.safetensors.index.json", 0.5)(f)),
        r"index\.json: no valid JSON",
    ),
    "weights named elsewhere": (
        config(transformers_weights="../other.safetensors"),
        r"no file of its folder",
    ),
    "a distributed checkpoint": (distributed, r"distributed checkpoint; save the model"),
    "weights of another shape": (
        other_shape,
        r"embed_tokens\.weight is of size \[320, 16\] in its files and \[320, 32\] by its config",
    ),
    "twice the heads": (config(num_attention_heads=8), r"proj\.weight is of size .* by its config"),
    "no heads": (config(num_attention_heads=0), r"cannot be loaded"),
    "a config of another kind": (config(model_type="t5"), r"cannot be loaded"),
    "a config of wrong types": (config(rms_norm_eps="x", id2label=5), r"cannot be loaded"),
    "kernels of the Hub": (
        config(attn_implementation="owner/kernels"),
        r"attn_implementation = 'owner/kernels' is code of the Hub, which difflens does not run",
    ),
    "kernels of the Hub inside": (
        config(text_config={"_attn_implementation": {"text": "owner/kernels@main:f"}}),
        r"'owner/kernels@main:f' is code of the Hub",
    ),
    "a bomb among quantised names": (
        config(
            quantization_config={
                "quant_method": "fp8",
                "modules_to_not_convert": [r"((m|model|layers|self|attn|mlp|[._a-z0-9])+)+!"],
            }
        ),
        r"config\.json: its patterns take longer than 1 s",
    ),
    "a billion layers": (config(num_hidden_layers=10**9), r"num_hidden_layers = 1000000000 is"),
    "1e9 layers": (raw_config("num_hidden_layers", "1e9"), r"num_hidden_layers = 1000000000\.0 is"),
    "NaN layers": (raw_config("num_hidden_layers", "NaN"), r"num_hidden_layers = nan is more"),
    "more layers than weights": (config(num_hidden_layers=9), r"lacks the weights"),
    "layers in words": (config(num_hidden_layers="many"), r"cannot be loaded"),
    "an integer of 5,000 digits": (
        raw_config("num_hidden_layers", "9" * 5000),
        r"config\.json: no valid JSON \(an integer is too long\)",
    ),
    "an integer of 400 digits": (raw_config("hidden_size", "9" * 400), r"hidden_size = 9+ is more"),
    "a billion wide": (config(hidden_size=10**9), r"hidden_size = 1000000000 is more"),
    "a billion tokens": (config(vocab_size=10**9), r"vocab_size = 1000000000 is more"),
    "a billion heads": (config(num_attention_heads=10**9), r"num_attention_heads = 1000000000"),
    "wider than its files": (
        config(hidden_size=2**16),
        r"asks for [\d,]+ weights, and its files hold [\d,]+ bytes",
    ),
    "more tokens than its files": (config(vocab_size=10**8), r"asks for [\d,]+ weights"),
    "a billion layers inside": (
        config(text_config={"num_hidden_layers": 10**9}),
        r"num_hidden_layers = 1000000000 is more",
    ),
    "a nested config": (replaced("config.json", "[" * 100_000), r"JSON nested deeper than 64"),
    "a nested value": (config(rope_scaling=json.loads("[" * 90 + "]" * 90)), r"nested deeper than"),
    "a config of 17 MB": (
        replaced("config.json", " " * (limits.MAX_MODEL_CONFIG_BYTES + 1)),
        r"config\.json is larger than 16,777,216 bytes",
    ),
    "a list for a config": (replaced("config.json", "[]"), r"holds no JSON object"),
    "half a config": (cut("config.json", 0.5), r"config\.json: no valid JSON"),
    "no UTF-8": (replaced("config.json", b"\xff\xfe{}"), r"config\.json: is not UTF-8"),
    "an unknown architecture": (config(model_type="unheard-of"), r"cannot be loaded: .*unheard-of"),
    "no architecture": (replaced("config.json", "{}"), r"cannot be loaded"),
    "half a tokenizer": (cut("tokenizer.json", 0.5), r"cannot be loaded"),
    "a nested tokenizer": (replaced("tokenizer.json", "[" * 200_000), r"cannot be loaded"),
    "a tokenizer of nothing": (replaced("tokenizer.json", "{}"), r"cannot be loaded"),
    "a tokenizer config of a list": (replaced("tokenizer_config.json", "[]"), r"no JSON object"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_or_absurd_model_is_one_line_that_names_it(
    subject_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(limits, "MAX_PATTERN_SECONDS", 1.0)
    damage, expected = DAMAGES[name]
    folder = copy_of(subject_folder / "base", tmp_path / "model")
    damage(folder)
    started = time.monotonic()
    with pytest.raises(InputError, match=expected) as caught:
        load_subject(SubjectSpec("mine", str(folder)))
    line = str(caught.value)
    assert line.startswith("model 'mine': ")
    assert str(folder) in line
    assert "\n" not in line
    assert len(line) < 700
    assert time.monotonic() - started < 20


def test_a_sharded_model_loads_like_a_whole_one(subject_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(subject_folder / "base", tmp_path / "model")
    sharded()(folder)
    whole = load_subject(SubjectSpec("whole", str(subject_folder / "base"))).model.state_dict()
    parts = load_subject(SubjectSpec("parts", str(folder))).model.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_model_in_tensors_only_pickles_still_loads(subject_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(subject_folder / "base", tmp_path / "model", "model.safetensors")
    model = LlamaForCausalLM.from_pretrained(subject_folder / "base")
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    loaded = load_subject(SubjectSpec("pickled", str(folder))).model
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize(
    "values",
    [
        {"max_position_embeddings": 10_485_760, "vocab_size": 262_144, "rope_theta": 1e12},
        {"num_hidden_layers": 61, "n_routed_experts": 384, "hidden_size": 7168},
        {"time_step_limit": [0.0, float("inf")], "num_hidden_layers": 64},
        {"depths": [2, 2, 18, 2], "id2label": {str(n): "x" for n in range(21_843)}},
    ],
)
def test_what_published_models_ask_for_passes(values: dict[str, Any]) -> None:
    check_config("model 'any'", Path("config.json"), values)


def test_many_experts_in_many_layers_are_counted_together() -> None:
    values = {"num_hidden_layers": 1000, "num_experts": 4000}
    with pytest.raises(InputError, match="1000 layers of 4000 experts"):
        check_config("model 'any'", Path("config.json"), values)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.1, 0.5, 0.95, 0.9999])
def test_a_gguf_file_that_is_cut_off_is_named(
    subject_folder: Path, tmp_path: Path, share: float
) -> None:
    content = (subject_folder / "base.gguf").read_bytes()
    path = tmp_path / "part.gguf"
    path.write_bytes(content[: int(len(content) * share)])
    for read in (inspect_subject, load_subject):
        with pytest.raises(InputError, match=r"part\.gguf is damaged: .*cut off"):
            read(SubjectSpec("mine", str(path)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda raw: b"ggml" + raw[4:], "is damaged"),
        (lambda raw: LFS_POINTER.encode(), "git-lfs pointer"),
        (lambda raw: raw[:8] + struct.pack("<Q", 2**60) + raw[16:], "is damaged"),
        (lambda raw: raw[:16] + struct.pack("<Q", 2**60) + raw[24:], "is damaged"),
        (
            lambda raw: raw.replace(
                b"llama.block_count\x04\0\0\0\x03\0\0\0", b"llama.block_count\x04\0\0\0\0\0\0\x40"
            ),
            "block_count = 1073741824 is more than",
        ),
        (
            lambda raw: raw.replace(
                b"llama.embedding_length\x04\0\0\0\x20\0\0\0",
                b"llama.embedding_length\x04\0\0\0\0\0\0\x40",
            ),
            "embedding_length = 1073741824 is more than",
        ),
    ],
    ids=["magic", "pointer", "tensors", "values", "blocks", "width"],
)
def test_a_gguf_file_that_is_none_or_absurd_is_named(
    subject_folder: Path, tmp_path: Path, change: Callable[[bytes], bytes], expected: str
) -> None:
    raw = (subject_folder / "base.gguf").read_bytes()
    path = tmp_path / "model.gguf"
    path.write_bytes(change(raw))
    assert path.read_bytes() != raw
    with pytest.raises(InputError, match=rf"model 'mine': {path}.*{expected}"):
        load_subject(SubjectSpec("mine", str(path)))
