"""What works without the extras: everything but models, crosscoders and PostgreSQL."""

from __future__ import annotations

import pkgutil
import shutil
from pathlib import Path

import pytest
from markdown import ROOT
from plain_install import PlainInstall
from tiny_models import save_tiny_model, write_jsonl

import labeler
import taxonomy

PLAIN_CROSSCODER = (
    "adapters", "config", "corpus", "corpus_check", "corpus_files", "corpus_formats", "corpus_hub",
    "corpus_messages", "corpus_settings", "corpus_sources", "errors", "files", "gguf_header",
    "limits", "manifest", "model_checks", "model_files", "progress", "token_roles",
)  # fmt: skip
"""Modules of crosscoder that plain commands import: they read configs and hash files."""
IMPORT_ALL = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
LOADED = "import sys\nimport labeler.api\nprint(*sys.modules)\n"
HEAVY = frozenset(
    {
        "aiohttp", "alembic", "gguf", "huggingface_hub", "jinja2", "labeler.embedding",
        "labeler.exchange", "labeler.judge", "labeler.labeling", "labeler.report",
        "labeler.review", "labeler.stages", "labeler.taxonomies", "mako", "matplotlib", "numpy",
        "openai", "pandas", "peft", "psycopg", "safetensors", "scipy", "sklearn",
        "sqlalchemy.orm", "starlette", "statsmodels", "torch", "transformers",
    }
)  # fmt: skip
"""What an open study does not need: libraries, and the rooms that work on it."""
IMPORTED = "imported:simpo-vs-it:target"
DATABASE = "sqlite:///difflens.db"
MODELS_COMMAND = 'which is not installed; pip install "difflens[models]"'


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> PlainInstall:
    """Python without the libraries of the extras."""
    return PlainInstall.in_folder(tmp_path_factory.mktemp("plain"))


def modules_of(package: object) -> list[str]:
    """All modules of a package but programs."""
    paths, prefix = package.__path__, f"{package.__name__}."  # type: ignore[attr-defined]
    names = (found.name for found in pkgutil.walk_packages(paths, prefix))
    return [name for name in names if not name.endswith("__main__")]


@pytest.mark.slow
def test_modules_are_imported_without_the_extras(plain: PlainInstall) -> None:
    crosscoder = [f"crosscoder.{name}" for name in PLAIN_CROSSCODER]
    plain.python(IMPORT_ALL, *modules_of(labeler), *modules_of(taxonomy), *crosscoder)


def test_the_api_loads_nothing_heavy(plain: PlainInstall) -> None:
    assert set(plain.python(LOADED).split()) & HEAVY == set()


@pytest.mark.slow
def test_imported_labels_need_no_extra(plain: PlainInstall, tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples/paper/latents.csv", tmp_path)
    commands = (
        ["--help"],
        ["init", "study.toml"],
        ["import", "study.toml", "latents.csv"],
        ["report", "study.toml"],
        ["sql", "study.toml", "select * from v_coverage"],
        ["status", "study.toml"],
        ["doctor"],
        ["inspect", "study.toml", f"{IMPORTED}:27"],
        ["history", "study.toml", f"{IMPORTED}:27"],
        ["taxonomy", "show", "study.toml"],
        ["labels", "export", "study.toml", "labels.csv"],
        ["labels", "import", "study.toml", "labels.csv", "--reviewer", "ann"],
        *(
            command
            for form in ("neuronpedia", "delphi", "saedashboard")
            for command in exchanged(form)
        ),
        ["db", "upgrade", DATABASE],
        ["db", "current", DATABASE],
        ["db", "check", DATABASE],
        ["db", "copy", DATABASE, "sqlite:///copy.db"],
    )
    for words, ended in zip(commands, plain.commands(tmp_path, *commands), strict=True):
        assert ended.status == 0, (words, ended.stderr)
    assert "+32.8%" in (tmp_path / "report/index.html").read_text("utf-8")


def exchanged(form: str) -> list[list[str]]:
    """Latents written in the format of another tool, and read back."""
    names = ["--format", form, "--crosscoder", IMPORTED]
    owner = ["--creator-id", "ann"] if form == "neuronpedia" else []
    return [
        ["labels", "export", "study.toml", form, *names, *owner],
        ["labels", "import", "study.toml", form, *names],
    ]


@pytest.mark.slow
def test_stages_that_read_models_name_their_extra(plain: PlainInstall, tmp_path: Path) -> None:
    models = ""
    for number, name in enumerate(("instruct", "tuned")):
        save_tiny_model(tmp_path / name, seed=number)
        models += f'[[models]]\nname = "{name}"\npath = "{name}"\n'
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": "a", "text": "Some words."}])
    study = (
        f'{models}[corpus]\npath = "corpus.jsonl"\n[harvest]\nlayer = 1\n[[comparison]]\n'
        'name = "a"\ntarget = "tuned"\nreference = "instruct"\n[embedding]\nkind = "tfidf"\n'
    )
    (tmp_path / "study.toml").write_text(study, "utf-8")
    (tmp_path / "hub.toml").write_text(study.replace('path = "tuned"', 'path = "a/b"'), "utf-8")
    calls = (
        ["run", "study.toml"],
        ["harvest", "study.toml"],
        ["status", "study.toml"],
        ["harvest", "hub.toml"],
        ["status", "hub.toml"],
        ["demo"],
    )
    run, harvest, status, hub, hub_status, demo = plain.commands(tmp_path, *calls)
    for ended, who in ((run, "harvest"), (harvest, "harvest"), (demo, "demo")):
        assert (ended.status, ended.stdout) == (2, "")
        assert ended.stderr == f"difflens: {who}: needs torch, {MODELS_COMMAND}\n"
    assert status.status == hub_status.status == 0
    assert hub.stderr == f"difflens: harvest: needs huggingface_hub, {MODELS_COMMAND}\n"
    assert f"needs huggingface_hub, {MODELS_COMMAND}" in hub_status.stdout


@pytest.mark.slow
def test_other_commands_name_the_extra_that_they_lack(plain: PlainInstall, tmp_path: Path) -> None:
    model = tmp_path / "sentences"
    model.mkdir()
    (model / "config.json").write_text("{}", "utf-8")
    study = '[embedding]\npath = "sentences"\n'
    (tmp_path / "study.toml").write_text(study, "utf-8")
    shutil.copy(ROOT / "examples/paper/latents.csv", tmp_path)
    calls = (
        ["import", "study.toml", "latents.csv"],
        ["categorize", "study.toml"],
        ["db", "upgrade", "postgresql://ann@127.0.0.1:1/study"],
    )
    _, categorize, database = plain.commands(tmp_path, *calls)
    assert categorize.status == database.status == 2
    said = f'embedding.kind = "minilm": needs torch, {MODELS_COMMAND}'
    assert categorize.stderr.splitlines()[-1] == f"difflens: {said}"
    said = 'database.url: needs psycopg, which is not installed; pip install "difflens[postgres]"'
    assert database.stderr == f"difflens: {said}\n"
