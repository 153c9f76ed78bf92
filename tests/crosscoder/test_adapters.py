"""Adapters: exactly the one that is named, once; broken, foreign and hostile ones in one line."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from foreign_models import LFS_POINTER, copy_of, with_json
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_adapter
from transformers import AutoModelForCausalLM, PreTrainedModel

from crosscoder import limits
from crosscoder.errors import InputError
from crosscoder.model_files import FileHashes, fingerprint
from crosscoder.models import SubjectSpec, inspect_subject, load_subject
from crosscoder.reading import ResidualReader, pad

WEIGHTS = "adapter_model.safetensors"


def residuals(spec: SubjectSpec) -> torch.Tensor:
    """The residual stream after block 1."""
    ids = torch.arange(5, 25, dtype=torch.int32).numpy()
    return ResidualReader(load_subject(spec), layer=1).read(pad([ids]))


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(torch.arange(5, 15)[None]).logits
    return result


@pytest.fixture
def places(subject_folder: Path, tmp_path: Path) -> dict[str, Path]:
    """Folders of models and adapters that lie in each other's way."""
    adapter = subject_folder / "adapter"
    leftover = copy_of(subject_folder / "base", tmp_path / "leftover")
    shutil.copytree(save_tiny_adapter(tmp_path / "second", seed=5), leftover, dirs_exist_ok=True)
    both = copy_of(adapter, tmp_path / "both")
    shutil.copytree(subject_folder / "tuned", both, dirs_exist_ok=True)
    nested = copy_of(subject_folder / "base", tmp_path / "nested")
    shutil.copytree(adapter, nested / "adapter")
    shutil.copytree(tmp_path / "second", nested, dirs_exist_ok=True)
    pickled = copy_of(subject_folder / "base", tmp_path / "pickled", "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(subject_folder / "base")
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    shutil.copytree(adapter, pickled, dirs_exist_ok=True)
    return {
        "base": subject_folder / "base",
        "tuned": subject_folder / "tuned",
        "adapter": adapter,
        "second": tmp_path / "second",
        "leftover": leftover,
        "both": both,
        "nested": nested,
        "nested adapter": nested / "adapter",
        "pickled": pickled,
    }


@pytest.mark.parametrize(
    ("path", "adapter", "alike"),
    [
        ("leftover", None, ("base", None)),
        ("leftover", "adapter", ("base", "adapter")),
        ("leftover", "leftover", ("base", "second")),
        ("both", None, ("tuned", None)),
        ("both", "both", ("tuned", "adapter")),
        ("base", "both", ("base", "adapter")),
        ("nested", None, ("base", None)),
        ("nested", "nested adapter", ("base", "adapter")),
        ("pickled", None, ("base", None)),
        ("pickled", "pickled", ("base", "adapter")),
    ],
)
def test_a_model_reads_with_the_named_adapter_once_and_no_other(
    places: dict[str, Path], path: str, adapter: str | None, alike: tuple[str, str | None]
) -> None:
    def spec(path: str, adapter: str | None) -> SubjectSpec:
        return SubjectSpec("mine", str(places[path]), str(places[adapter]) if adapter else None)

    found, expected = residuals(spec(path, adapter)), residuals(spec(*alike))
    assert torch.equal(found, expected)
    plain = residuals(spec("base", None))
    assert torch.equal(found, plain) == (alike == ("base", None))


def test_an_adapter_left_in_a_folder_is_said_to_be_left_aside(
    places: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    load_subject(SubjectSpec("mine", str(places["leftover"])))
    assert "adapter_config.json is left aside; name its folder as `adapter`" in caplog.text
    caplog.clear()
    for adapter in ("leftover", "adapter"):
        load_subject(SubjectSpec("mine", str(places["base"]), str(places[adapter])))
    assert caplog.text == ""


def test_a_fingerprint_is_of_what_is_read_and_of_nothing_else(places: dict[str, Path]) -> None:
    hashes = FileHashes(None)

    def of(path: str, adapter: str | None = None) -> str:
        chosen = str(places[adapter]) if adapter else None
        return fingerprint(SubjectSpec("mine", str(places[path]), chosen), hashes)

    assert of("leftover") == of("base")
    assert of("leftover", "adapter") == of("base", "adapter")
    before = of("pickled"), of("base", "both")
    (places["pickled"] / "pytorch_model.bin").write_bytes(b"other weights")
    assert of("pickled") != before[0]
    (places["both"] / WEIGHTS).write_bytes(b"other weights")
    assert of("base", "both") != before[1]


@pytest.mark.parametrize("with_config", [False, True])
def test_an_adapter_given_as_the_model_is_explained_with_its_base(
    subject_folder: Path, tmp_path: Path, with_config: bool
) -> None:
    folder = copy_of(subject_folder / "adapter", tmp_path / "adapter")
    with_json(folder / "adapter_config.json", base_model_name_or_path="owner/name")
    if with_config:
        shutil.copy(subject_folder / "base" / "config.json", folder)
    with pytest.raises(InputError, match=r"give it as `adapter` and its base model \(owner/name\)"):
        inspect_subject(SubjectSpec("mine", str(folder)))


CAUSAL = {"task_type": "CAUSAL_LM"}
MERGED: list[tuple[str, dict[str, Any]]] = [
    ("LoraConfig", {"r": 2, "target_modules": ["q_proj"]}),
    ("LoraConfig", {"r": 2, "target_modules": ["q_proj"], "use_dora": True}),
    ("LoraConfig", {"r": 2, "target_modules": r".*\.(q|v)_proj", "rank_pattern": {r"1\..*": 4}}),
    ("LoraConfig", {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    (
        "LoraConfig",
        {
            "r": 2,
            "target_modules": ["q_proj"],
            "layers_to_transform": [1],
            "layers_pattern": "layers",
        },
    ),
    ("LoHaConfig", {"r": 2, "target_modules": ["q_proj"]}),
    ("LoKrConfig", {"r": 2, "target_modules": ["q_proj"]}),
    ("IA3Config", {"target_modules": ["k_proj"], "feedforward_modules": []}),
    ("VeraConfig", {"r": 2, "target_modules": ["q_proj"]}),
    ("LNTuningConfig", {"target_modules": ["input_layernorm"]}),
]


@pytest.mark.parametrize(("kind", "settings"), MERGED)
def test_adapters_that_change_weights_are_merged(
    subject_folder: Path, tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    base = AutoModelForCausalLM.from_pretrained(subject_folder / "base")
    before = logits(base)
    adapted: PeftModel = get_peft_model(base, getattr(peft, kind)(**CAUSAL, **settings))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    adapted.eval().save_pretrained(tmp_path)
    expected = logits(adapted)
    assert not torch.allclose(expected, before, atol=1e-3)
    found = load_subject(SubjectSpec("mine", str(subject_folder / "base"), str(tmp_path))).model
    torch.testing.assert_close(logits(found), expected, atol=1e-4, rtol=1e-4)


TOKENS = {"num_virtual_tokens": 3}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("PromptTuningConfig", TOKENS),
        ("PrefixTuningConfig", TOKENS),
        ("PromptEncoderConfig", TOKENS),
        ("AdaptionPromptConfig", {"adapter_layers": 2, "adapter_len": 3}),
    ],
)
def test_adapters_that_change_no_weights_are_refused_by_type(
    subject_folder: Path, tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    base = AutoModelForCausalLM.from_pretrained(subject_folder / "base")
    get_peft_model(base, getattr(peft, kind)(**CAUSAL, **settings)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"is of type [A-Z_]+, which is not merged") as caught:
        load_subject(SubjectSpec("mine", str(subject_folder / "base"), str(tmp_path)))
    assert "\n" not in str(caught.value)


Damage = Callable[[Path], object]


def config(**changes: Any) -> Damage:
    return lambda folder: with_json(folder / "adapter_config.json", **changes)


def weights(change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]) -> Damage:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        save_file(dict(change(*row) for row in tensors.items()), folder / WEIGHTS)

    return apply


def added(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    deeper = {name.replace("layers.1.", "layers.7."): w.clone() for name, w in tensors.items()}
    save_file(tensors | deeper, folder / WEIGHTS)


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


BOMB = r"((a|m|model|base|layers|self|attn|mlp|[._a-z0-9])+)+!"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "cut off": (cut, r"adapter_model\.safetensors is damaged: it is cut off"),
    "a pointer": (lambda f: (f / WEIGHTS).write_text(LFS_POINTER), "git-lfs pointer"),
    "a pointer for the config": (
        lambda f: (f / "adapter_config.json").write_text(LFS_POINTER),
        r"adapter_config\.json is a git-lfs pointer",
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), r"holds no adapter_model\.safetensors"),
    "half a config": (
        lambda f: (f / "adapter_config.json").write_text('{"peft_type": '),
        r"adapter_config\.json: no valid JSON",
    ),
    "a nested config": (
        lambda f: (f / "adapter_config.json").write_text("[" * 100_000),
        "nested deeper than 64",
    ),
    "no type": (lambda f: (f / "adapter_config.json").write_text("{}"), "peft_type 'None'"),
    "an unknown type": (config(peft_type="MAGIC"), "peft_type 'MAGIC' is not known"),
    "a type of no text": (config(peft_type=["LORA"]), "is not known"),
    "layers of a deeper model alone": (
        weights(lambda name, w: (name.replace("layers.1.", "layers.9."), w)),
        r"does not fit .*missing adapter keys",
    ),
    "layers of a deeper model": (added, r"does not fit .*has no place for .*layers\.7"),
    "integers": (weights(lambda name, w: (name, w.to(torch.int64))), "is of type I64"),
    "another width": (
        weights(lambda name, w: (name, torch.zeros(w.shape[0] + 3, w.shape[1]))),
        r"does not fit .*size mismatch",
    ),
    "a rank of 10,000": (config(r=10_000), r"does not fit .*size mismatch"),
    "a billion ranks": (config(r=10**9), "r is more than 16,384"),
    "a billion ranks somewhere": (config(rank_pattern={"q_proj": 10**9}), "rank_pattern is more"),
    "patterns of no text": (config(rank_pattern=5, target_modules=7), "does not fit"),
    "a rank in words": (config(r="many"), "does not fit"),
    "a million layers": (config(layer_replication=[[0, 3]] * 10_000), "layer_replication makes"),
    "code to import": (
        config(megatron_config={"a": 1}, megatron_core="own_module"),
        "names a module to import",
    ),
    "no pattern": (config(target_modules="(("), "holds no valid pattern: .*missing"),
    "no such modules": (config(target_modules=["nothing"]), "does not fit"),
    **{
        f"a bomb in {key}": (config(**{key: value}), r"its patterns take longer than 1 s")
        for key, value in {
            "target_modules": BOMB,
            "exclude_modules": BOMB,
            "modules_to_save": [BOMB],
            "layers_pattern": [BOMB],
            "rank_pattern": {BOMB: 2},
            "alpha_pattern": {BOMB: 2},
        }.items()
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_or_foreign_adapter_is_one_line_that_names_it(
    subject_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(limits, "MAX_PATTERN_SECONDS", 1.0)
    damage, expected = DAMAGES[name]
    folder = copy_of(subject_folder / "adapter", tmp_path / "adapter")
    damage(folder)
    started = time.monotonic()
    with pytest.raises(InputError, match=expected) as caught:
        load_subject(SubjectSpec("mine", str(subject_folder / "base"), adapter=str(folder)))
    line = str(caught.value)
    assert line.startswith("model 'mine': ")
    assert str(folder) in line
    assert "\n" not in line
    assert time.monotonic() - started < 20


def test_an_adapter_that_is_not_there_is_named(subject_folder: Path) -> None:
    spec = SubjectSpec("mine", str(subject_folder / "base"), adapter="./no/such/adapter")
    with pytest.raises(InputError, match="adapter no/such/adapter does not exist; fix its path"):
        load_subject(spec)


def test_the_config_of_an_adapter_is_json_of_bounded_size(
    subject_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(subject_folder / "adapter", tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "x": " " * limits.MAX_MODEL_CONFIG_BYTES}))
    with pytest.raises(InputError, match=r"adapter_config\.json is larger than 16,777,216 bytes"):
        load_subject(SubjectSpec("mine", str(subject_folder / "base"), adapter=str(folder)))
