"""Subject models: checked, loaded for reading only, GGUF files dequantised once into a folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crosscoder.adapters import CONFIG_NAME, merge_adapter
from crosscoder.errors import InputError, WorkError
from crosscoder.files import json_sha256
from crosscoder.model_checks import (
    check_size,
    check_weights,
    has_tokenizer,
    load_pretrained,
    reading,
    without_bars,
)
from crosscoder.model_files import (
    FileHashes,
    SubjectSpec,
    check_location,
    gguf_name,
    gguf_path,
    located,
    located_adapter,
)
from crosscoder.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


_NO_ADAPTER = {"subfolder": os.devnull}
"""A place where the library looks for an adapter of its own accord and can never find one."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a subject model before its weights are read."""

    spec: SubjectSpec
    tokenizer: PreTrainedTokenizerFast
    n_layers: int
    d_model: int
    vocabulary_sha256: str
    """SHA-256 over the tokens with their ids and the merges."""
    template_sha256: str
    """SHA-256 of the chat template; empty where there is none."""
    n_positions: int | None = None
    """Tokens that the model reads at most, where its config says so."""

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.spec.name


@dataclass(frozen=True)
class SubjectModel:
    """A subject model in memory: evaluation mode, no gradients."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    n_layers: int
    """Decoder blocks."""
    d_model: int
    """Width of the residual stream."""


def load_tokenizer(spec: SubjectSpec) -> PreTrainedTokenizerFast:
    """The tokenizer of a subject model; InputError where there is none or it cannot be read."""
    from transformers import AutoTokenizer

    folder = located(spec, weights=False)
    if gguf_name(spec) is None and not has_tokenizer(folder):
        raise InputError(
            f"model {spec.name!r}: {folder} holds no tokenizer; "
            "copy the base model's tokenizer.json and tokenizer_config.json into it"
        )
    return _load(AutoTokenizer, spec, folder)


def inspect_subject(spec: SubjectSpec) -> ModelInfo:
    """Read a subject model's config and tokenizer, not its weights."""
    whole = load_config(spec)
    tokenizer = load_tokenizer(spec)
    # Configs and tokenizers of other kinds of model lack what is asked of them here.
    with reading(f"model {spec.name!r}: {spec.path}"):
        config = _text_config(whole)
        template = tokenizer.chat_template or ""
        return ModelInfo(
            spec=spec,
            tokenizer=tokenizer,
            n_layers=int(config.num_hidden_layers),
            d_model=int(config.hidden_size),
            vocabulary_sha256=vocabulary_sha256(tokenizer),
            template_sha256=json_sha256(template) if template else "",
            n_positions=getattr(config, "max_position_embeddings", None),
        )


def load_config(spec: SubjectSpec) -> Any:
    """A subject model's config; InputError where it cannot be read."""
    from transformers import AutoConfig

    return _load(AutoConfig, spec, located(spec, weights=False))


def load_subject(
    spec: SubjectSpec, device: str = "cpu", tokenizer: PreTrainedTokenizerFast | None = None
) -> SubjectModel:
    """Load a subject model for reading: adapter merged, evaluation mode, no gradients.

    Its own tokenizer is read as well, unless the caller has it at hand. The adapter is the one
    that `spec` names and no other: one that lies in the model's folder is left aside.
    InputError where the folder, the Hub name or the adapter cannot be loaded, WorkError where the
    model does not fit into memory.
    """
    tokenizer = tokenizer if tokenizer is not None else load_tokenizer(spec)
    where = f"model {spec.name!r}"
    folder = located(spec)
    adapter = located_adapter(spec)
    config = load_config(spec)
    model = _load_model(spec, folder, config)
    if adapter is not None:
        model = merge_adapter(model, where, adapter, spec.path)
    with reading(f"{where}: {folder}"):
        model = model.to(device=device, dtype=torch_dtype(spec)).eval().requires_grad_(False)
    text_config = _text_config(model.config)
    return SubjectModel(
        name=spec.name,
        model=model,
        tokenizer=tokenizer,
        n_layers=int(text_config.num_hidden_layers),
        d_model=int(text_config.hidden_size),
    )


def _load_model(spec: SubjectSpec, folder: Path, config: Any) -> PreTrainedModel:
    """The model of a folder, with its own weights alone."""
    from transformers import AutoModelForCausalLM

    where = f"model {spec.name!r}"
    gguf = gguf_name(spec)
    n_bytes = (folder / gguf).stat().st_size if gguf else check_weights(where, folder)
    check_size(where, folder, AutoModelForCausalLM, config, n_bytes)
    if (folder / CONFIG_NAME).is_file() and str(folder) != spec.adapter:
        _log.warning(
            "%s: %s is left aside; name its folder as `adapter` to have it put on top",
            where,
            folder / CONFIG_NAME,
        )
    options: dict[str, Any] = {"adapter_kwargs": dict(_NO_ADAPTER), "weights_only": True}
    if getattr(_text_config(config), "attn_logit_softcapping", None) is not None:
        # Fused attention kernels leave the soft cap out and give other activations.
        options["attn_implementation"] = "eager"
    # A small adapter drowns in the rounding of 16-bit weights, so it is merged in float32.
    dtype = torch.float32 if spec.adapter else torch_dtype(spec)
    model: PreTrainedModel
    model, info = _load(
        AutoModelForCausalLM,
        spec,
        folder,
        config=config,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    if info["mismatched_keys"]:
        # The library's own refusal names neither the weights nor the sizes.
        name, held, wanted = min(info["mismatched_keys"])
        raise InputError(
            f"{where}: {spec.path}: {name} is of size {list(held)} in its files and "
            f"{list(wanted)} by its config.json; fetch the whole model"
        )
    if info["missing_keys"]:
        # The library would fill them with random numbers and go on.
        raise InputError(
            f"{where}: {spec.path} lacks the weights "
            f"{', '.join(sorted(info['missing_keys'])[:3])}; fetch the whole model"
        )
    return model


def _load(factory: Any, spec: SubjectSpec, folder: Path, **options: Any) -> Any:
    """Have the library read a subject model's folder, or its GGUF file there."""
    gguf = gguf_name(spec)
    if gguf is not None:
        options["gguf_file"] = gguf
    return load_pretrained(factory, f"model {spec.name!r}", folder, **options)


def torch_dtype(spec: SubjectSpec) -> torch.dtype:
    """The type of the weights while the model reads."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return dtype


def require_compatible(
    subjects: Sequence[ModelInfo], layer: int, template_model: str | None = None
) -> None:
    """Check that one crosscoder can read all models at one layer.

    A model without a chat template (a base model) reads the text of the others' template.
    InputError names the two models that differ in vocabulary, width or template, a layer that
    a model does not have, or an unknown `template_model`.
    """
    if len(subjects) < 2:
        raise InputError("models: a comparison needs at least two subject models; name another")
    first = subjects[0]
    for other in subjects[1:]:
        if other.vocabulary_sha256 != first.vocabulary_sha256:
            raise InputError(
                f"models {first.name!r} and {other.name!r} have different tokenizers "
                f"({len(first.tokenizer)} and {len(other.tokenizer)} tokens); "
                "compare models of one family"
            )
        if other.d_model != first.d_model:
            raise InputError(
                f"models {first.name!r} and {other.name!r} have different widths "
                f"({first.d_model} and {other.d_model}); compare models of one size"
            )
    for subject in subjects:
        if not 0 <= layer < subject.n_layers:
            raise InputError(
                f"harvest.layer: {layer} is out of range, model {subject.name!r} has the layers "
                f"0 to {subject.n_layers - 1}"
            )
    template_subject(subjects, template_model)


def template_subject(subjects: Sequence[ModelInfo], template_model: str | None = None) -> ModelInfo:
    """The model whose tokenizer renders and tokenises the corpus for all.

    InputError where chat templates differ and `template_model` does not settle it.
    """
    if template_model is not None:
        named = [subject for subject in subjects if subject.name == template_model]
        if not named:
            raise InputError(
                f"harvest.template_model: no model is named {template_model!r} "
                f"(models: {', '.join(subject.name for subject in subjects)})"
            )
        return named[0]
    with_template = [subject for subject in subjects if subject.template_sha256]
    for other in with_template[1:]:
        if other.template_sha256 != with_template[0].template_sha256:
            raise InputError(
                f"models {with_template[0].name!r} and {other.name!r} have different chat "
                "templates; name the model whose template is used in harvest.template_model"
            )
    return with_template[0] if with_template else subjects[0]


def vocabulary_sha256(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 over the tokens with their ids and, where the tokenizer has them, the merges."""
    merges: list[Any] = []
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rows = json.loads(backend.to_str())["model"].get("merges") or []
        # Older files write a merge as "a b", newer ones as ["a", "b"].
        merges = [row if isinstance(row, str) else " ".join(row) for row in rows]
    return json_sha256([tokenizer.get_vocab(), merges])


def _text_config(config: Any) -> Any:
    """The part of a config that describes the language model."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def with_converted_weights(
    spec: SubjectSpec, cache_dir: Path, hashes: FileHashes, progress: Progress | None = None
) -> SubjectSpec:
    """The same model as a folder of safetensors; a model that is no GGUF file is returned as is.

    Dequantising takes a while, so the folder is kept in `cache_dir` under the file's hash.
    InputError where the file cannot be read, WorkError where the disk is full.
    """
    check_location(spec)
    path = gguf_path(spec)
    if path is None:
        return spec
    folder = cache_dir / f"gguf-{hashes.sha256(path)[:16]}-{spec.dtype}"
    if not (folder / "config.json").is_file():
        label = f"dequantise {path.name}"
        with (progress or SilentProgress()).task(label, 1, "models") as advance:
            _convert(spec, folder)
            advance(1)
    return replace(spec, path=str(folder), gguf_file=None)


def _convert(spec: SubjectSpec, folder: Path) -> None:
    subject = load_subject(replace(spec, adapter=None))
    model = subject.model
    # A saved quantisation entry would have the plain weights read as packed ones.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        with without_bars():
            model.save_pretrained(temporary)
        subject.tokenizer.save_pretrained(temporary)
        temporary.replace(folder)
    except InputError:
        raise
    except Exception as error:
        # Disk errors reach here under several libraries' names; the message keeps the cause.
        raise WorkError(f"{folder}: cannot keep the dequantised model: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
