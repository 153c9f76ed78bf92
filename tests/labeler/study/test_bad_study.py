"""A wrong study file, model or corpus gets one clear line and exit status 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from complaints import Capture, assert_names, complaint, sides
from tiny_models import save_tiny_adapter, save_tiny_model
from tiny_study import TinyStudy, toml

from labeler.cli.main import run

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"harvest": {"layers": 3}}, ("harvest.layers", "unknown key", "correct its spelling")),
        ({"harvst": {"layer": 1}}, ("harvst", "unknown key")),
        ({"harvest": {"layer": None}}, ("harvest.layer", "missing")),
        ({"harvest": {"layer": "one"}}, ("harvest.layer", "integer")),
        ({"harvest": {"layer": -1}}, ("harvest.layer", "greater than or equal to 0")),
        ({"isolate": {"rule": "lenient"}}, ("isolate.rule", "'strict'", "'ranked'")),
        ({"judge": {"kind": "oracle"}}, ("judge.kind", "'evidence'", "'openai'")),
        ({"scores": {"methods": "fuzzing"}}, ("scores.methods", "must be a list")),
        (
            {"crosscoders": [{"name": "one", "models": ["base"]}]},
            ("crosscoders.0.models", "needs 2 entries or more, and has 1"),
        ),
        ({"models": [{"name": "base"}]}, ("models.0.path", "missing")),
        ({"models": [{"name": "a/b", "path": "x"}]}, ("models.0.name",)),
        (
            {"models": [{"name": "one", "path": "x"}, {"name": "one", "path": "y"}]},
            ("two models are named 'one'", "rename"),
        ),
        (
            {"comparison": [{"name": "c", "target": "tunde", "reference": "base"}]},
            ("comparison c.target", "'tunde'", "base, tuned"),
        ),
        (
            {"comparison": [{"name": "c", "target": "base", "reference": "base"}]},
            ("comparison c", "same model"),
        ),
    ],
)
def test_a_wrong_key_is_named(
    untouched: TinyStudy, changes: dict[str, Any], words: tuple[str, ...], capsys: Capture
) -> None:
    line = complaint(capsys, "run", untouched.with_tables(**changes).path)
    assert_names(line, untouched.path, *words)
    assert not untouched.database.exists()
    assert not (untouched.folder / "artifacts").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corpus": None}, ("corpus", "missing", "harvest")),
        ({"models": None}, ("models", "missing", "two subject models")),
        ({"harvest": None}, ("harvest.layer", "missing")),
        ({"corpus": {"path": "no-such.jsonl"}}, ("corpus.path", "no-such.jsonl")),
        ({"corpus": {"path": "."}}, ("corpus.path",)),
        ({"models": [{"name": "only", "path": "x"}], "comparison": None}, ("model 'only'", "x")),
        ({"harvest": {"layer": 3}}, ("harvest.layer", "3 is out of range", "0 to 2")),
        ({"harvest": {"template_model": "who"}}, ("harvest.template_model", "'who'", "base")),
        ({"database": {"url": "${NO_SUCH_URL}"}}, ("database.url", "NO_SUCH_URL", "export")),
        ({"database": {"url": "difflens.db"}}, ("database.url", "sqlite:///")),
        ({"database": {"url": "mysql://host/name"}}, ("database.url", "mysql")),
    ],
)
def test_what_a_stage_lacks_is_named(
    untouched: TinyStudy, changes: dict[str, Any], words: tuple[str, ...], capsys: Capture
) -> None:
    line = complaint(capsys, "harvest", untouched.with_tables(**changes).path)
    assert_names(line, *words)


def test_a_late_stage_complains_before_the_models_are_read(
    untouched: TinyStudy, capsys: Capture
) -> None:
    line = complaint(capsys, "run", untouched.with_tables(comparison=None).path)
    assert_names(line, "comparison", "missing", "isolate")
    line = complaint(
        capsys, "run", untouched.with_tables(comparison=[], judge={"kind": "openai"}).path
    )
    assert_names(line, "comparison")
    assert not (untouched.folder / "artifacts" / "harvest").exists()


@pytest.mark.parametrize("name", ["study.toml", "folder", "binary.toml", "broken.toml"])
def test_a_study_file_that_is_none(tmp_path: Path, name: str, capsys: Capture) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "broken.toml").write_text("[study\n", encoding="utf-8")
    for command in ("run", "status", "report"):
        assert_names(complaint(capsys, command, tmp_path / name), tmp_path / name)


def test_a_study_file_under_a_file(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert_names(complaint(capsys, "run", tmp_path / "file" / "study.toml"), "study.toml")


def test_a_model_without_a_tokenizer(
    untouched: TinyStudy, tiny_model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((tiny_model_folder / "tuned" / name).read_bytes())
    line = complaint(capsys, "run", with_second_model(untouched, bare).path)
    assert_names(line, "'tuned'", bare, "tokenizer.json")


def test_models_of_two_tokenizers_or_widths(
    untouched: TinyStudy, tmp_path: Path, capsys: Capture
) -> None:
    other = save_tiny_model(tmp_path / "other", text=("Ganz andere Wörter stehen hier.",))
    line = complaint(capsys, "run", with_second_model(untouched, other).path)
    assert_names(line, "'base'", "'tuned'", "different tokenizers")
    wide = save_tiny_model(tmp_path / "wide", d_model=48)
    line = complaint(capsys, "run", with_second_model(untouched, wide).path)
    assert_names(line, "'base'", "'tuned'", "widths", "32", "48")


def test_folders_that_are_no_models(untouched: TinyStudy, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    line = complaint(capsys, "run", with_second_model(untouched, tmp_path / "empty").path)
    assert_names(line, "'tuned'", tmp_path / "empty")
    line = complaint(capsys, "run", with_second_model(untouched, tmp_path / "nowhere").path)
    assert_names(line, "'tuned'", tmp_path / "nowhere", "does not exist")
    adapter = save_tiny_adapter(tmp_path / "adapter")
    line = complaint(capsys, "run", with_second_model(untouched, adapter).path)
    assert_names(line, "'tuned'", adapter, "adapter")


def test_an_adapter_for_another_width(
    untouched: TinyStudy, tiny_model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    adapter = save_tiny_adapter(tmp_path / "adapter", d_model=48)
    base = str(tiny_model_folder / "base")
    models = [
        {"name": "base", "path": base},
        {"name": "tuned", "path": base, "adapter": str(adapter)},
    ]
    line = complaint(capsys, "run", untouched.with_tables(models=models).path)
    assert_names(line, "'tuned'", adapter, "does not fit")


def with_second_model(study: TinyStudy, folder: Path) -> TinyStudy:
    first = study.tables["models"][0]
    return study.with_tables(models=[first, {"name": "tuned", "path": str(folder)}])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("corpus.jsonl", "empty")),
        ('\n{"id": "a", "text": "x"}\n{"id": \n', ("corpus.jsonl:3", "no valid JSON")),
        ('{"id": "a", "text": "x"}\n["b"]\n', ("corpus.jsonl:2", "not a JSON object")),
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', ("corpus.jsonl:2", "line 1")),
        ('{"id": "a", "messages": [{"role": "boss", "content": "x"}]}', (":1", "'boss'", "user")),
        ('{"id": "a"}', ("corpus.jsonl:1", "keys found: 'id'")),
        ('{"id": "a", "text": "  "}', ("corpus.jsonl:1", "no text")),
    ],
)
def test_a_corpus_that_cannot_be_read(
    untouched: TinyStudy, text: str, words: tuple[str, ...], capsys: Capture
) -> None:
    (untouched.folder / "corpus.jsonl").write_text(text, encoding="utf-8")
    line = complaint(capsys, "run", untouched.path)
    assert_names(line, *words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "words"),
    [(1, ("corpus", "harvest.skip_first")), (2, ("corpus", "two documents", "more text"))],
)
def test_a_corpus_with_too_little_text(
    untouched: TinyStudy, count: int, words: tuple[str, ...], capsys: Capture
) -> None:
    lines = ['{"id": "a", "text": "x"}', '{"id": "b", "text": "a much longer text than the first"}']
    (untouched.folder / "corpus.jsonl").write_text("\n".join(lines[:count]), encoding="utf-8")
    assert run(["run", str(untouched.path)]) == 2
    assert_names(capsys.readouterr().err.splitlines()[-1], "difflens: ", *words)


def test_a_corpus_in_another_encoding(untouched: TinyStudy, capsys: Capture) -> None:
    corpus = untouched.folder / "corpus.jsonl"
    corpus.write_bytes('{"id": "a", "text": "x"}\n{"text": "é"}\n'.encode("latin-1"))
    assert_names(complaint(capsys, "run", untouched.path), "corpus.jsonl:2", "UTF-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"judge": {"kind": "openai"}}, ("judge.model", "missing")),
        ({"judge": {"kind": "scripted"}}, ("judge.script", "missing")),
        ({"judge": {"kind": "scripted", "script": "no.jsonl"}}, ("judge.script", "no.jsonl")),
        ({"embedding": {"kind": "minilm", "path": "no-folder"}}, ("embedding.path", "no-folder")),
        ({"embedding": {"kind": "openai"}}, ("embedding.base_url", "missing")),
        (
            {"judge": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m",
                       "api_key_env": "NO_SUCH_KEY"}},
            ("judge.api_key_env", "NO_SUCH_KEY"),
        ),
        ({"taxonomy": {"file": "no.yaml"}}, ("taxonomy.file", "no.yaml")),
        ({"report": {"planted": {"saftey": "up"}}}, ("report.planted", "saftey", "safety")),
    ],
)  # fmt: skip
def test_a_wrong_key_of_a_late_stage(
    finished_study: TinyStudy,
    tmp_path: Path,
    changes: dict[str, Any],
    words: tuple[str, ...],
    capsys: Capture,
) -> None:
    study = finished_study.copied_to(tmp_path / "study")
    path = with_inline_tables(study, changes)
    assert run(["run", str(path)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert_names(line, "difflens: ", *words)
    assert sides(study.database) == sides(finished_study.database)


def with_inline_tables(study: TinyStudy, changes: dict[str, Any]) -> Path:
    """A study.toml in which a key may itself hold a table."""
    planted = changes.get("report", {}).get("planted")
    if planted is None:
        return study.with_tables(**changes).path
    text = toml(study.tables) + f"[report.planted]\n{toml_keys(planted)}"
    study.path.write_text(text, encoding="utf-8")
    return study.path


def toml_keys(table: dict[str, str]) -> str:
    return "".join(f"{key} = {json.dumps(word)}\n" for key, word in table.items())
