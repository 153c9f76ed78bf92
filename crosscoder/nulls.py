"""Null models: as different from the reference as the true fine-tune is, without its meaning.

A method that finds something in such a pair finds it in anything. Each null is written as an
adapter or a model of its own, which every stage then reads like any other.

Scrambled fine-tune: every weight difference D becomes P D Q with random signed permutations P and
Q. Norms, singular values and the sparsity of D stay, its directions are random. One factor on all
of them makes the residual stream move as much as in the true pair.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from crosscoder.activations import ActivationStore
from crosscoder.adapters import adapter_files, check_adapter
from crosscoder.corpus import Document
from crosscoder.errors import InputError
from crosscoder.harvest import HarvestConfig, harvest
from crosscoder.model import Crosscoder
from crosscoder.model_files import SubjectSpec, located_adapter
from crosscoder.models import load_subject, load_tokenizer
from crosscoder.tensor_files import write_tensors

FIT_TOLERANCE = 0.02
"""Relative difference of the two changes at which the factor fits."""
FIT_TRIALS = 8
"""Most models that are tried for a factor."""
_LORA_IN, _LORA_OUT = ".lora_A.weight", ".lora_B.weight"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class FittedNull:
    """A scrambled fine-tune, and how well its size fits."""

    spec: SubjectSpec
    factor: float
    """On every weight difference."""
    change: float
    """Median relative change of the residual stream, see `relative_change`."""
    true_change: float
    """That of the true pair."""


def fitted_scramble(
    target: SubjectSpec,
    reference: SubjectSpec,
    documents: Sequence[Document],
    config: HarvestConfig,
    out: Path,
    seed: int,
    tolerance: float = FIT_TOLERANCE,
) -> FittedNull:
    """Write a scrambled fine-tune that moves the residual stream as much as `target` does.

    The factor is corrected by the ratio of the two changes over `documents` until they fit within
    `tolerance`; what remains after FIT_TRIALS models shows in the result. InputError where the two
    models are equal, so that there is nothing to scramble.
    """
    true_change = relative_change(reference, target, documents, config)
    if true_change == 0:
        raise InputError(f"model {target.name!r}: equals {reference.name!r}; nothing to scramble")
    factor = 1.0
    for _ in range(FIT_TRIALS):
        spec = write_scrambled(target, reference, out, seed, factor)
        change = relative_change(reference, spec, documents, config)
        fitted = FittedNull(spec, factor, change, true_change)
        if change == 0 or abs(change / true_change - 1) <= tolerance:
            break
        # A small change of the weights moves the residual stream in proportion.
        factor *= true_change / change
    return fitted


def relative_change(
    reference: SubjectSpec,
    model: SubjectSpec,
    documents: Sequence[Document],
    config: HarvestConfig,
) -> float:
    """Median over the mask's tokens of ||x_model - x_reference|| / ||x_reference||."""
    with tempfile.TemporaryDirectory() as folder:
        pair = [replace(reference, name="reference"), replace(model, name="model")]
        plain = config.model_copy(update={"template_model": None})
        harvest(pair, documents, plain, Path(folder))
        shards = ActivationStore.open(Path(folder)).shards()
        x = torch.cat([shard.activations[shard.mask].float() for shard in shards])
    return median_change(x[:, 1], x[:, 0])


def median_change(model: torch.Tensor, reference: torch.Tensor) -> float:
    """Median over tokens of ||x_model - x_reference|| / ||x_reference||, of (n, d) each."""
    return float(((model - reference).norm(dim=-1) / reference.norm(dim=-1)).median())


def spread_over(documents: Sequence[Document], n: int) -> Sequence[Document]:
    """At most `n` documents, evenly spread over all of them."""
    return documents[:: max(1, len(documents) // n)][:n]


def write_scrambled(
    target: SubjectSpec, reference: SubjectSpec, out: Path, seed: int, factor: float = 1.0
) -> SubjectSpec:
    """Write the scrambled fine-tune into `out`: an adapter where the target is one, else a model.

    The permutations depend on `seed` and the name of the weight alone.
    """

    def scrambled(name: str, difference: torch.Tensor) -> torch.Tensor:
        return factor * _permuted(difference, f"{seed} {name}")

    folder = _lora_folder(target, reference)
    if folder is None:
        return _write_changed_model(target, reference, out, scrambled)
    tensors = {}
    for name, tensor in load_file(adapter_files(folder)[1]).items():
        is_in = name.endswith(_LORA_IN)
        axis = tensor.ndim - 1 if is_in else 0
        mixed = _permuted_along(tensor, axis, _generator(f"{seed} {name}"))
        tensors[name] = mixed if is_in else factor * mixed
    return _written_adapter(target, folder, out, tensors)


def write_scaled(
    target: SubjectSpec, reference: SubjectSpec, out: Path, dose: float
) -> SubjectSpec:
    """Write the fine-tune with every weight difference times `dose`: 0 is the reference."""
    folder = _lora_folder(target, reference)
    if folder is None:
        return _write_changed_model(target, reference, out, lambda _, each: dose * each)
    tensors = {
        name: dose * tensor if name.endswith(_LORA_OUT) else tensor
        for name, tensor in load_file(adapter_files(folder)[1]).items()
    }
    return _written_adapter(target, folder, out, tensors)


@torch.no_grad()
def write_rounded(model: SubjectSpec, out: Path) -> SubjectSpec:
    """Write the model with every matrix rounded to int8, one scale for each row, and back."""
    subject = load_subject(model)
    for _, parameter in subject.model.named_parameters():
        if parameter.ndim >= 2:
            scale = parameter.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
            parameter.copy_((parameter / scale).round() * scale)
    return _saved(subject.model, model, out)


@torch.no_grad()
def random_dictionary(crosscoder: Crosscoder, seed: int) -> Crosscoder:
    """A crosscoder of the same size whose decoder rows are random, and the encoder their transpose.

    Every model has the same row: the dictionary knows nothing of either. Normaliser as in
    `crosscoder`; theta is not calibrated.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = Crosscoder(crosscoder.config, generator)
    drawn.act_mean.copy_(crosscoder.act_mean)
    drawn.act_scale.copy_(crosscoder.act_scale)
    return drawn


def _lora_folder(target: SubjectSpec, reference: SubjectSpec) -> Path | None:
    """The target's adapter where it is a plain LoRA on the reference, so that it stays one."""
    folder = located_adapter(target)
    if folder is None or reference.adapter is not None or target.path != reference.path:
        return None
    check_adapter(f"model {target.name!r}", folder)
    weights = adapter_files(folder)[1]
    if weights.name != ADAPTER_WEIGHTS:
        return None
    names = load_file(weights)
    is_plain = all(name.endswith((_LORA_IN, _LORA_OUT)) for name in names)
    return folder if is_plain else None


def _written_adapter(
    target: SubjectSpec, folder: Path, out: Path, tensors: dict[str, torch.Tensor]
) -> SubjectSpec:
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(adapter_files(folder)[0], out / adapter_files(folder)[0].name)
    write_tensors(out / ADAPTER_WEIGHTS, tensors, {"format": "pt"})
    return replace(target, adapter=str(out), adapter_revision=None)


@torch.no_grad()
def _write_changed_model(
    target: SubjectSpec,
    reference: SubjectSpec,
    out: Path,
    change: Callable[[str, torch.Tensor], torch.Tensor],
) -> SubjectSpec:
    """Write the reference plus `change(name, difference)` of every weight."""
    tuned, base = load_subject(target).model, load_subject(reference).model
    for name, ours, theirs in _same_weights(target, reference, tuned, base):
        difference = theirs.float() - ours.float()
        ours.copy_(ours.float() + change(name, difference))
    # The template that a fine-tune brings stays: it decides how the text is read.
    return _saved(base, target, out)


def _same_weights(
    target: SubjectSpec, reference: SubjectSpec, tuned: torch.nn.Module, base: torch.nn.Module
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    theirs = dict(tuned.named_parameters())
    for name, parameter in base.named_parameters():
        if name not in theirs or theirs[name].shape != parameter.shape:
            raise InputError(
                f"model {target.name!r}: {name} is not as in {reference.name!r}; a fine-tune of "
                "another shape cannot be scrambled"
            )
        yield name, parameter, theirs[name]


def _saved(model: torch.nn.Module, spec: SubjectSpec, out: Path) -> SubjectSpec:
    model.save_pretrained(out)  # type: ignore[operator]
    load_tokenizer(spec).save_pretrained(out)
    return SubjectSpec(name=spec.name, path=str(out), dtype=spec.dtype)


def _permuted(difference: torch.Tensor, key: str) -> torch.Tensor:
    """P D Q over the last two axes; over the only one of a vector."""
    generator = _generator(key)
    for axis in range(max(0, difference.ndim - 2), difference.ndim):
        difference = _permuted_along(difference, axis, generator)
    return difference


def _permuted_along(tensor: torch.Tensor, axis: int, generator: torch.Generator) -> torch.Tensor:
    size = tensor.shape[axis]
    order = torch.randperm(size, generator=generator)
    sign = torch.randint(0, 2, (size,), generator=generator).to(tensor.dtype) * 2 - 1
    shape = [size if i == axis else 1 for i in range(tensor.ndim)]
    return tensor.index_select(axis, order) * sign.view(shape)


def _generator(key: str) -> torch.Generator:
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
