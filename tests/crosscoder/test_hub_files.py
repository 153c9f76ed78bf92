"""Models and adapters of the Hub: known by their commits, had from the cache before the network."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import copy_of, in_hub_cache, use_hub_cache, with_json
from tiny_models import save_tiny_adapter

from crosscoder.errors import InputError
from crosscoder.model_files import FileHashes, fingerprint, parts, pinned
from crosscoder.models import SubjectSpec, inspect_subject, load_subject

FIRST, SECOND = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_hub_cache(monkeypatch, tmp_path / "hub")
    return tmp_path / "hub"


def of(spec: SubjectSpec) -> str:
    return fingerprint(spec, FileHashes(None))


def weight(spec: SubjectSpec) -> torch.Tensor:
    found: torch.Tensor = load_subject(spec).model.model.layers[1].self_attn.q_proj.weight
    return found


def test_an_adapter_is_known_by_its_commit(
    subject_folder: Path, tmp_path: Path, cache: Path
) -> None:
    base = str(subject_folder / "base")
    folders = [subject_folder / "adapter", save_tiny_adapter(tmp_path / "second", seed=7)]
    moving = SubjectSpec("tuned", base, adapter="owner/adapter")
    found, weights = [], []
    for commit, folder in zip((FIRST, SECOND), folders, strict=True):
        in_hub_cache(cache, "owner/adapter", commit, folder)
        assert pinned(moving).adapter_revision == commit
        assert parts(moving, FileHashes(None))["adapter"] == f"hub:owner/adapter@{commit}"
        found.append(of(moving))
        weights.append(weight(moving))
        assert torch.equal(weights[-1], weight(SubjectSpec("tuned", base, adapter=str(folder))))
    assert found[0] != found[1]
    assert not torch.equal(*weights)
    for revision, expected in ((FIRST, 0), (SECOND, 1), ("main", 1)):
        spec = SubjectSpec("tuned", base, adapter="owner/adapter", adapter_revision=revision)
        assert of(spec) == found[expected]
        assert torch.equal(weight(spec), weights[expected])


def test_revisions_of_a_model_and_of_its_adapter_are_two(
    subject_folder: Path, tmp_path: Path, cache: Path
) -> None:
    in_hub_cache(cache, "owner/model", FIRST, subject_folder / "base", branch="v1")
    in_hub_cache(cache, "owner/adapter", SECOND, subject_folder / "adapter", branch="v2")
    spec = SubjectSpec(
        "tuned", "owner/model", adapter="owner/adapter", revision="v1", adapter_revision="v2"
    )
    fixed = pinned(spec)
    assert (fixed.revision, fixed.adapter_revision) == (FIRST, SECOND)
    assert of(spec) == of(fixed)
    local = SubjectSpec("x", str(subject_folder / "base"), adapter=str(subject_folder / "adapter"))
    assert torch.equal(weight(spec), weight(local))
    assert pinned(local) == local


def test_a_hub_model_is_checked_like_a_local_one(
    subject_folder: Path, tmp_path: Path, cache: Path
) -> None:
    folder = copy_of(subject_folder / "base", tmp_path / "model")
    with_json(folder / "config.json", num_hidden_layers=10**9)
    in_hub_cache(cache, "owner/model", FIRST, folder)
    with pytest.raises(InputError, match="num_hidden_layers = 1000000000 is more than"):
        inspect_subject(SubjectSpec("mine", "owner/model"))


def test_an_adapter_left_in_a_hub_model_is_not_put_on(
    subject_folder: Path, tmp_path: Path, cache: Path
) -> None:
    folder = copy_of(subject_folder / "base", tmp_path / "model")
    shutil.copytree(subject_folder / "adapter", folder, dirs_exist_ok=True)
    in_hub_cache(cache, "owner/model", FIRST, folder)
    plain = weight(SubjectSpec("base", str(subject_folder / "base")))
    assert torch.equal(weight(SubjectSpec("mine", "owner/model")), plain)


@pytest.mark.parametrize("adapter", ["owner/nothing", "owner/model"])
def test_an_adapter_that_cannot_be_had_is_one_line(
    subject_folder: Path, cache: Path, adapter: str
) -> None:
    in_hub_cache(cache, "owner/model", FIRST, subject_folder / "base")
    spec = SubjectSpec("tuned", str(subject_folder / "base"), adapter=adapter)
    for read in (of, load_subject):
        with pytest.raises(
            InputError, match=f"adapter: '{adapter}' (is no local|on the Hub holds)"
        ):
            read(spec)


class Hub:
    """A Hub whose repositories are folders, in place of the library's download."""

    def __init__(self, cache: Path, repositories: dict[str, tuple[str, Path]]) -> None:
        self.cache = cache
        self.repositories = repositories
        self.asked: list[tuple[str, str | None, tuple[str, ...]]] = []

    def snapshot_download(
        self,
        name: str,
        revision: str | None,
        allow_patterns: Sequence[str],
        ignore_patterns: Sequence[str],
        **options: Any,
    ) -> str:
        assert ignore_patterns == ["*/*"]
        self.asked.append((name, revision, tuple(allow_patterns)))
        commit, source = self.repositories[name]
        assert revision in (None, commit)
        target = self.cache / f"models--{name.replace('/', '--')}"
        snapshot = target / "snapshots" / commit
        snapshot.mkdir(parents=True, exist_ok=True)
        (target / "refs").mkdir(exist_ok=True)
        (target / "refs" / "main").write_text(commit)
        for pattern in allow_patterns:
            for path in source.glob(pattern):
                shutil.copy(path, snapshot)
        return str(snapshot)


@pytest.fixture
def hub(subject_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(
        cache,
        {
            "owner/model": (FIRST, subject_folder / "base"),
            "owner/adapter": (SECOND, subject_folder / "adapter"),
        },
    )
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    return hub


def test_what_is_not_in_the_cache_is_fetched_once_and_weights_when_they_are_read(
    subject_folder: Path, hub: Hub
) -> None:
    spec = SubjectSpec("tuned", "owner/model", adapter="owner/adapter")
    inspect_subject(spec)
    of(spec)
    snapshot = hub.cache / "models--owner--model" / "snapshots" / FIRST
    assert not (snapshot / "model.safetensors").exists()
    local = SubjectSpec("x", str(subject_folder / "base"), adapter=str(subject_folder / "adapter"))
    assert torch.equal(weight(spec), weight(local))
    assert (snapshot / "model.safetensors").exists()
    # One commit for all of a model's files.
    assert {revision for name, revision, _ in hub.asked if name == "owner/model"} == {None, FIRST}
    before = len(hub.asked)
    assert torch.equal(weight(spec), weight(local))
    assert len(hub.asked) == before


def test_a_model_is_read_at_the_commit_it_was_looked_at(
    subject_folder: Path, tmp_path: Path, cache: Path
) -> None:
    in_hub_cache(cache, "owner/model", FIRST, subject_folder / "base")
    spec = pinned(SubjectSpec("mine", "owner/model"))
    before = weight(spec)
    in_hub_cache(cache, "owner/model", SECOND, subject_folder / "tuned")
    assert torch.equal(weight(spec), before)
    assert not torch.equal(weight(SubjectSpec("mine", "owner/model")), before)
