"""Finding, fingerprinting, comparing and loading subject models."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import CHAT_TEMPLATE, save_tiny_model
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel

from crosscoder import model_files as fingerprints
from crosscoder import models as gguf_files
from crosscoder.errors import InputError
from crosscoder.model_files import FileHashes, fingerprint
from crosscoder.models import (
    ModelInfo,
    SubjectSpec,
    inspect_subject,
    load_subject,
    require_compatible,
    template_subject,
    with_converted_weights,
)


def spec_of(path: Path, name: str = "base", adapter: Path | None = None) -> SubjectSpec:
    return SubjectSpec(name, str(path), adapter=str(adapter) if adapter else None)


def copy_of(folder: Path, target: Path, *left_out: str) -> Path:
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(*left_out))
    return target


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(torch.arange(5, 15)[None]).logits
    return result


def test_a_local_folder_loads_for_reading_only(subject_folder: Path) -> None:
    subject = load_subject(spec_of(subject_folder / "base"))
    assert (subject.name, subject.n_layers, subject.d_model) == ("base", 3, 32)
    assert not subject.model.training
    assert not any(parameter.requires_grad for parameter in subject.model.parameters())
    assert subject.tokenizer.chat_template == CHAT_TEMPLATE


def test_the_dtype_of_the_spec_is_that_of_the_weights(subject_folder: Path) -> None:
    subject = load_subject(replace(spec_of(subject_folder / "base"), dtype="bfloat16"))
    assert {parameter.dtype for parameter in subject.model.parameters()} == {torch.bfloat16}


def test_an_unknown_dtype_is_refused(subject_folder: Path) -> None:
    with pytest.raises(InputError, match="dtype 'int4'; use float32"):
        load_subject(replace(spec_of(subject_folder / "base"), dtype="int4"))


def test_a_merged_adapter_gives_the_weights_plus_its_product(subject_folder: Path) -> None:
    from safetensors.torch import load_file

    base = load_subject(spec_of(subject_folder / "base"))
    adapted = load_subject(spec_of(subject_folder / "base", adapter=subject_folder / "adapter"))
    lora = load_file(subject_folder / "adapter" / "adapter_model.safetensors")
    place = "base_model.model.model.layers.1.self_attn.q_proj"
    product = lora[f"{place}.lora_B.weight"] @ lora[f"{place}.lora_A.weight"]
    before = base.model.model.layers[1].self_attn.q_proj.weight
    after = adapted.model.model.layers[1].self_attn.q_proj.weight
    # lora_alpha / r = 2
    torch.testing.assert_close(after, before + 2 * product)
    assert not (logits(base.model) - logits(adapted.model)).abs().max() < 1e-2


def test_an_adapter_whose_weights_do_not_fit_is_refused(
    subject_folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    adapter = copy_of(subject_folder / "adapter", tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name.replace("layers.1.", "layers.9."): w for name, w in weights.items()}, path)
    with pytest.raises(InputError, match=r"does not fit .*missing adapter keys"):
        load_subject(spec_of(subject_folder / "base", adapter=adapter))


def test_a_folder_that_is_no_adapter_is_refused(subject_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no adapter_config\.json"):
        load_subject(spec_of(subject_folder / "base", adapter=tmp_path))


def test_an_adapter_given_as_the_model_is_explained(subject_folder: Path) -> None:
    with pytest.raises(InputError, match="is an adapter; give it as `adapter`"):
        inspect_subject(spec_of(subject_folder / "adapter"))


def test_a_gguf_file_gives_the_weights_and_the_tokenizer_it_was_made_from(
    subject_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = FileHashes(tmp_path / "hashes.json")
    spec = spec_of(subject_folder / "base.gguf")
    converted = with_converted_weights(spec, tmp_path / "cache", hashes)
    config = json.loads((Path(converted.path) / "config.json").read_text())
    assert "quantization_config" not in config
    base = load_subject(spec_of(subject_folder / "base"))
    subject = load_subject(converted)
    for name, weight in base.model.state_dict().items():
        assert torch.equal(subject.model.state_dict()[name], weight), name
    require_compatible(
        [inspect_subject(spec_of(subject_folder / "base")), inspect_subject(converted)], 0
    )

    def never(spec: SubjectSpec) -> None:
        raise AssertionError("converted twice")

    monkeypatch.setattr(gguf_files, "load_subject", never)
    assert with_converted_weights(spec, tmp_path / "cache", hashes) == converted


def test_a_folder_that_holds_one_gguf_file_is_that_file(
    subject_folder: Path, tmp_path: Path
) -> None:
    shutil.copy(subject_folder / "base.gguf", tmp_path / "weights.gguf")
    hashes = FileHashes(None)
    assert fingerprint(spec_of(tmp_path), hashes) == fingerprint(
        spec_of(subject_folder / "base.gguf"), hashes
    )
    shutil.copy(subject_folder / "base.gguf", tmp_path / "other.gguf")
    with pytest.raises(InputError, match=r"several GGUF files \(other.gguf, weights.gguf\)"):
        fingerprint(spec_of(tmp_path), hashes)


@pytest.mark.parametrize("path", ["/no/such/model", "./model", "~/no-such-model", "model"])
def test_a_path_that_is_not_there_is_named(path: str) -> None:
    with pytest.raises(InputError, match="does not exist; fix its path"):
        inspect_subject(SubjectSpec("base", path))


def test_a_hub_name_without_network_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="'owner/name' is no local folder") as caught:
        inspect_subject(SubjectSpec("base", "owner/name"))
    assert "\n" not in str(caught.value)


def test_a_hub_model_in_the_cache_loads_without_network_and_is_known_by_its_commit(
    subject_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--name"
    prints = []
    for commit in ("a" * 40, "b" * 40):
        copy_of(subject_folder / "base", repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        prints.append(fingerprint(SubjectSpec("base", "owner/name"), FileHashes(None)))
    assert prints[0] != prints[1]
    pinned = SubjectSpec("base", "owner/name", revision="a" * 40)
    assert fingerprint(pinned, FileHashes(None)) == prints[0]
    local = load_subject(spec_of(subject_folder / "base"))
    assert torch.equal(logits(load_subject(pinned).model), logits(local.model))


def test_a_folder_without_tokenizer_is_named_with_the_fix(
    subject_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(subject_folder / "base", tmp_path / "bare", "tokenizer*")
    with pytest.raises(InputError, match=rf"{folder} holds no tokenizer; copy"):
        inspect_subject(spec_of(folder))


def test_a_folder_without_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config\.json"):
        inspect_subject(spec_of(tmp_path))


def test_a_model_that_lacks_weights_is_refused(subject_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy_of(subject_folder / "base", tmp_path / "part")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks the weights .*layers\.1\.mlp\.up_proj"):
        load_subject(spec_of(folder))


def test_a_soft_capped_model_reads_with_eager_attention(
    subject_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(subject_folder / "base", tmp_path / "gemma", "*.safetensors", "config.json")
    config = Gemma2Config(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    Gemma2ForCausalLM(config).save_pretrained(folder)
    assert load_subject(spec_of(folder)).model.config._attn_implementation == "eager"


def facts_of(folder: Path, name: str) -> ModelInfo:
    return inspect_subject(spec_of(folder, name))


def test_a_fine_tune_is_compatible_with_its_base(subject_folder: Path) -> None:
    facts = [facts_of(subject_folder / name, name) for name in ("base", "tuned")]
    require_compatible(facts, layer=2)
    assert template_subject(facts).name == "base"


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_out_of_range_is_refused(subject_folder: Path, layer: int) -> None:
    facts = [facts_of(subject_folder / name, name) for name in ("base", "tuned")]
    with pytest.raises(InputError, match=f"layer: {layer} is out of range.* 0 to 2"):
        require_compatible(facts, layer)


def test_one_model_is_no_comparison(subject_folder: Path) -> None:
    with pytest.raises(InputError, match="at least two subject models"):
        require_compatible([facts_of(subject_folder / "base", "base")], 0)


def test_different_tokenizers_are_named(subject_folder: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", text=["quite another text to learn from"])
    facts = [facts_of(subject_folder / "base", "base"), facts_of(other, "other")]
    with pytest.raises(InputError, match="'base' and 'other' have different tokenizers"):
        require_compatible(facts, 0)


def test_different_widths_are_named_with_both(subject_folder: Path, tmp_path: Path) -> None:
    wide = save_tiny_model(tmp_path / "wide", d_model=64)
    facts = [facts_of(subject_folder / "base", "base"), facts_of(wide, "wide")]
    with pytest.raises(InputError, match=r"different widths \(32 and 64\)"):
        require_compatible(facts, 0)


def test_a_base_model_without_template_reads_with_that_of_the_other(
    subject_folder: Path, tmp_path: Path
) -> None:
    plain = save_tiny_model(tmp_path / "plain", chat_template=None)
    facts = [facts_of(plain, "plain"), facts_of(subject_folder / "base", "base")]
    require_compatible(facts, 0)
    assert template_subject(facts).name == "base"


def test_different_templates_need_a_choice(subject_folder: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", chat_template="{{ messages[0]['content'] }}")
    facts = [facts_of(subject_folder / "base", "base"), facts_of(other, "other")]
    with pytest.raises(InputError, match=r"different chat templates.*harvest\.template_model"):
        require_compatible(facts, 0)
    assert template_subject(facts, "other").name == "other"
    with pytest.raises(InputError, match="no model is named 'third'"):
        require_compatible(facts, 0, "third")


def test_a_fingerprint_covers_weights_template_and_adapter(
    subject_folder: Path, tmp_path: Path
) -> None:
    hashes = FileHashes(None)
    other_template = copy_of(subject_folder / "base", tmp_path / "other")
    (other_template / "chat_template.jinja").write_text("{{ 1 }}")
    found = {
        fingerprint(spec, hashes)
        for spec in (
            spec_of(subject_folder / "base"),
            spec_of(subject_folder / "tuned"),
            spec_of(subject_folder / "base", adapter=subject_folder / "adapter"),
            spec_of(other_template),
        )
    }
    assert len(found) == 4


def test_a_fingerprint_does_not_depend_on_where_the_model_lies(
    subject_folder: Path, tmp_path: Path
) -> None:
    moved = copy_of(subject_folder / "base", tmp_path / "moved")
    (moved / "README.md").write_text("notes")
    hashes = FileHashes(None)
    assert fingerprint(spec_of(moved), hashes) == fingerprint(
        spec_of(subject_folder / "base"), hashes
    )


def test_known_files_are_hashed_once(
    subject_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(subject_folder / "base", tmp_path / "model")
    cache = tmp_path / "cache" / "hashes.json"
    first = fingerprint(spec_of(folder), FileHashes(cache))
    hashed: list[str] = []
    monkeypatch.setattr(
        fingerprints, "sha256_file", lambda path: hashed.append(path.name) or "0" * 64
    )
    assert fingerprint(spec_of(folder), FileHashes(cache)) == first
    assert hashed == []
    changed = folder / "model.safetensors"
    os.utime(changed, ns=(1, 1))
    assert fingerprint(spec_of(folder), FileHashes(cache)) != first
    assert hashed == ["model.safetensors"]


def test_a_damaged_hash_cache_is_made_again(subject_folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "hashes.json"
    cache.write_text("{half a fi")
    expected = fingerprint(spec_of(subject_folder / "base"), FileHashes(None))
    assert fingerprint(spec_of(subject_folder / "base"), FileHashes(cache)) == expected
    assert json.loads(cache.read_text())
