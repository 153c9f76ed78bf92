"""Repositories of the Hub as folders of this machine: its cache first, then the network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crosscoder.errors import InputError
from crosscoder.model_checks import has_tokenizer, weight_files

_SMALL = ("*.json", "*.jinja", "*.model", "*.txt")
"""A model's config and tokenizer."""
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class HubRepository:
    """A repository of the Hub at a revision; None is its main branch."""

    where: str
    """What it is to the user, as errors begin."""
    name: str
    revision: str | None = None


def is_hub_name(path: str) -> bool:
    """Whether a path that is not on this machine may be a Hub name, owner/name."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", path) is not None


def config_folder(repository: HubRepository, gguf_file: str | None = None) -> Path:
    """The snapshot with a model's config and tokenizer, or with its GGUF file.

    Its folder's name is the commit. InputError where it can be had neither from the cache of this
    machine nor from the Hub.
    """
    if gguf_file is not None:
        return cached(repository, gguf_file) or _fetched(repository, [gguf_file], gguf_file)
    folder = cached(repository, "config.json")
    if folder is not None and has_tokenizer(folder):
        return folder
    return _fetched(repository, _SMALL, "config.json")


def weights_folder(repository: HubRepository, gguf_file: str | None = None) -> Path:
    """The snapshot that holds a model's weights as well; InputError as for `config_folder`."""
    folder = config_folder(repository, gguf_file)
    if gguf_file is not None or _has_weights(repository, folder):
        return folder
    # One commit for all files: the branch may move between two requests.
    pinned = HubRepository(repository.where, repository.name, folder.name)
    for index, weights in (
        ("model.safetensors.index.json", "model.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin"),
    ):
        folder = _fetched(pinned, [index, weights], "config.json")
        if names := weight_files(repository.where, folder):
            return _fetched(pinned, names, "config.json")
    return folder


def adapter_folder(repository: HubRepository) -> Path:
    """The snapshot with an adapter's config and weights; InputError as for `config_folder`."""
    folder = cached(repository, _ADAPTER[0])
    if folder is not None and any((folder / name).is_file() for name in _ADAPTER[1:]):
        return folder
    return _fetched(repository, _ADAPTER, _ADAPTER[0])


def cached(repository: HubRepository, file: str) -> Path | None:
    """The snapshot in the cache of this machine, if it holds the file.

    None as well where the Hub's library is not installed: it alone knows where its cache lies.
    """
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ModuleNotFoundError:
        return None
    try:
        found = try_to_load_from_cache(repository.name, file, revision=repository.revision)
    except HFValidationError:
        return None
    # The cache lays files out as snapshots/<commit>/<file>.
    return Path(found).parent if isinstance(found, str) and Path(found).exists() else None


def _has_weights(repository: HubRepository, folder: Path) -> bool:
    names = weight_files(repository.where, folder)
    return bool(names) and all((folder / name).is_file() for name in names)


def _fetched(repository: HubRepository, files: Sequence[str], needed: str) -> Path:
    """The snapshot after some files of the repository's top folder were fetched."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repository.name,
            revision=repository.revision,
            allow_patterns=list(files),
            ignore_patterns=["*/*"],
        )
    # By place, not by type: the network fails under the names of several libraries.
    except Exception as error:
        raise _cannot_be_had(repository) from error
    if not (Path(folder) / needed).is_file():
        raise InputError(
            f"{repository.where}: {repository.name!r} on the Hub holds no {needed}; "
            "check the name and the revision"
        )
    return Path(folder)


def _cannot_be_had(repository: HubRepository) -> InputError:
    revision = f" at revision {repository.revision!r}" if repository.revision else ""
    return InputError(
        f"{repository.where}: {repository.name!r} is no local folder and could not be had from the "
        f"Hub{revision}; check the name and the network, or give a local folder"
    )
