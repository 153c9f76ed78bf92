"""A user's mistake gets one clear line and exit status 2, and loses nothing."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from published_table import write_table
from tiny_models import save_tiny_adapter, save_tiny_model
from tiny_study import TinyStudy, toml, write_study

from labeler.cli.main import run
from labeler.store import migrate

pytestmark = pytest.mark.usefixtures("own_cache")
Capture = pytest.CaptureFixture[str]


def complaint(capsys: Capture, *arguments: str | Path, status: int = 2) -> str:
    """The one line in which a call ends; nothing else may be printed."""
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("difflens: ")
    return line


def assert_names(line: str, *words: str | Path) -> None:
    for word in words:
        assert str(word) in line, line


@pytest.fixture
def study(tiny_model_folder: Path, tmp_path: Path) -> TinyStudy:
    """A study that nothing was done in."""
    return write_study(tmp_path / "study", tiny_model_folder)


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """A study without models, with the published table in its database."""
    path = tmp_path / "study.toml"
    assert run(["init", str(path)]) == 0
    table = write_table(tmp_path / "latents.csv", "mathematics")
    assert run(["import", str(path), str(table)]) == 0
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"harvest": {"layers": 3}}, ("harvest.layers", "unknown key", "mend its spelling")),
        ({"harvst": {"layer": 1}}, ("harvst", "unknown key")),
        ({"harvest": {"layer": None}}, ("harvest.layer", "missing")),
        ({"harvest": {"layer": "one"}}, ("harvest.layer", "integer")),
        ({"harvest": {"layer": -1}}, ("harvest.layer", "greater than or equal to 0")),
        ({"isolate": {"rule": "lenient"}}, ("isolate.rule", "'strict'", "'ranked'")),
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
    study: TinyStudy, changes: dict[str, Any], words: tuple[str, ...], capsys: Capture
) -> None:
    line = complaint(capsys, "run", study.with_tables(**changes).path)
    assert_names(line, study.path, *words)
    assert not study.database.exists()
    assert not (study.folder / "artifacts").exists()


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
    study: TinyStudy, changes: dict[str, Any], words: tuple[str, ...], capsys: Capture
) -> None:
    line = complaint(capsys, "harvest", study.with_tables(**changes).path)
    assert_names(line, *words)


def test_a_late_stage_complains_before_the_models_are_read(
    study: TinyStudy, capsys: Capture
) -> None:
    line = complaint(capsys, "run", study.with_tables(comparison=None).path)
    assert_names(line, "comparison", "missing", "isolate")
    line = complaint(capsys, "run", study.with_tables(comparison=[], judge={"kind": "openai"}).path)
    assert_names(line, "comparison")
    assert not (study.folder / "artifacts" / "harvest").exists()


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
    study: TinyStudy, tiny_model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((tiny_model_folder / "tuned" / name).read_bytes())
    line = complaint(capsys, "run", with_second_model(study, bare).path)
    assert_names(line, "'tuned'", bare, "tokenizer.json")


def test_models_of_two_tokenizers_or_widths(
    study: TinyStudy, tmp_path: Path, capsys: Capture
) -> None:
    other = save_tiny_model(tmp_path / "other", text=("Ganz andere Wörter stehen hier.",))
    line = complaint(capsys, "run", with_second_model(study, other).path)
    assert_names(line, "'base'", "'tuned'", "different tokenizers")
    wide = save_tiny_model(tmp_path / "wide", d_model=48)
    line = complaint(capsys, "run", with_second_model(study, wide).path)
    assert_names(line, "'base'", "'tuned'", "widths", "32", "48")


def test_folders_that_are_no_models(study: TinyStudy, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    line = complaint(capsys, "run", with_second_model(study, tmp_path / "empty").path)
    assert_names(line, "'tuned'", tmp_path / "empty")
    line = complaint(capsys, "run", with_second_model(study, tmp_path / "nowhere").path)
    assert_names(line, "'tuned'", tmp_path / "nowhere", "does not exist")
    adapter = save_tiny_adapter(tmp_path / "adapter")
    line = complaint(capsys, "run", with_second_model(study, adapter).path)
    assert_names(line, "'tuned'", adapter, "adapter")


def test_an_adapter_for_another_width(
    study: TinyStudy, tiny_model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    adapter = save_tiny_adapter(tmp_path / "adapter", d_model=48)
    base = str(tiny_model_folder / "base")
    models = [
        {"name": "base", "path": base},
        {"name": "tuned", "path": base, "adapter": str(adapter)},
    ]
    line = complaint(capsys, "run", study.with_tables(models=models).path)
    assert_names(line, "'tuned'", adapter, "does not fit")


def with_second_model(study: TinyStudy, folder: Path) -> TinyStudy:
    first = study.tables["models"][0]
    return study.with_tables(models=[first, {"name": "tuned", "path": str(folder)}])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("corpus.jsonl", "empty")),
        ('\n{"id": "a", "text": "x"}\n{"id": \n', ("corpus.jsonl:3", "no valid JSON")),
        ('{"id": "a", "text": "x"}\n["b"]\n', ("corpus.jsonl:2", "not a JSON object")),
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', ("corpus.jsonl:2", "line 1")),
        ('{"id": "a", "messages": [{"role": "boss", "content": "x"}]}', (":1", "'boss'", "user")),
        ('{"id": "a"}', ("corpus.jsonl:1", "either text or messages")),
        ('{"id": "a", "text": "  "}', ("corpus.jsonl:1", "no text")),
    ],
)
def test_a_corpus_that_cannot_be_read(
    study: TinyStudy, text: str, words: tuple[str, ...], capsys: Capture
) -> None:
    (study.folder / "corpus.jsonl").write_text(text, encoding="utf-8")
    line = complaint(capsys, "run", study.path)
    assert_names(line, *words)


@pytest.mark.parametrize(
    ("count", "words"),
    [(1, ("corpus", "harvest.skip_first")), (2, ("corpus", "two documents", "more text"))],
)
def test_a_corpus_with_too_little_text(
    study: TinyStudy, count: int, words: tuple[str, ...], capsys: Capture
) -> None:
    lines = ['{"id": "a", "text": "x"}', '{"id": "b", "text": "a much longer text than the first"}']
    (study.folder / "corpus.jsonl").write_text("\n".join(lines[:count]), encoding="utf-8")
    assert run(["run", str(study.path)]) == 2
    assert_names(capsys.readouterr().err.splitlines()[-1], "difflens: ", *words)


def test_a_corpus_in_another_encoding(study: TinyStudy, capsys: Capture) -> None:
    corpus = study.folder / "corpus.jsonl"
    corpus.write_bytes('{"id": "a", "text": "x"}\n{"text": "é"}\n'.encode("latin-1"))
    assert_names(complaint(capsys, "run", study.path), "corpus.jsonl:2", "UTF-8")


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


def sides(database: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT side, latent_id, category FROM v_effective_label ORDER BY 1, 2, 3"
        return connection.execute(query).fetchall()


def test_a_taxonomy_that_is_none(imported: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "own.yaml").write_text("categories: [", encoding="utf-8")
    add_table(imported, '[taxonomy]\nfile = "own.yaml"\n')
    assert_names(complaint(capsys, "taxonomy", "show", imported), "own.yaml")


def add_table(path: Path, text: str) -> None:
    """Put a table in the place of the template's own."""
    title = text.splitlines()[0] + "\n"
    path.write_text(path.read_text(encoding="utf-8").replace(title, text), encoding="utf-8")


def test_a_database_of_a_newer_revision(imported: Path, tmp_path: Path, capsys: Capture) -> None:
    with closing(sqlite3.connect(tmp_path / "difflens.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    before = (tmp_path / "difflens.db").read_bytes()
    table = tmp_path / "latents.csv"
    for arguments in (("status", imported), ("report", imported), ("import", imported, table)):
        line = complaint(capsys, *arguments)
        assert_names(line, "database.url", "9999", "upgrade difflens")
    assert (tmp_path / "difflens.db").read_bytes() == before


def test_a_database_of_an_older_revision(imported: Path, tmp_path: Path, capsys: Capture) -> None:
    url = f"sqlite:///{tmp_path / 'difflens.db'}"
    migrate.downgrade(url, "base", backup=False)
    line = complaint(capsys, "status", imported)
    assert_names(line, "database.url", f"difflens db upgrade {url}")
    assert run(["import", str(imported), str(tmp_path / "latents.csv")]) == 0
    assert run(["status", str(imported)]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("sql", "{study}", "select 1"),
        ("status", "{study}"),
        ("inspect", "{study}", "1"),
        ("history", "{study}", "1"),
        ("labels", "export", "{study}", "out.csv"),
        ("labels", "import", "{study}", "in.csv"),
        ("db", "current", "{url}"),
        ("db", "check", "{url}"),
        ("db", "downgrade", "{url}", "base"),
    ],
)
def test_a_missing_database_is_not_made_by_looking(
    tmp_path: Path,
    arguments: tuple[str, ...],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "study.toml"
    assert run(["init", str(path)]) == 0
    url = f"sqlite:///{tmp_path / 'difflens.db'}"
    filled = [word.format(study=path, url=url) for word in arguments]
    assert_names(complaint(capsys, *filled), "difflens.db", "db upgrade")
    assert [file.name for file in tmp_path.iterdir()] == ["study.toml"]


def test_a_database_that_is_none(imported: Path, tmp_path: Path, capsys: Capture) -> None:
    database = tmp_path / "difflens.db"
    for name in ("difflens.db-wal", "difflens.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    database.write_text("this is a letter, not a database\n" * 100, encoding="utf-8")
    before = database.read_bytes()
    table = tmp_path / "latents.csv"
    calls: list[tuple[str | Path, ...]] = [
        ("sql", imported, "select 1 from run"),
        ("status", imported),
        ("report", imported),
        ("import", imported, table),
        ("db", "upgrade", f"sqlite:///{database}"),
    ]
    for arguments in calls:
        assert_names(complaint(capsys, *arguments), "database")
    assert database.read_bytes() == before


def test_a_folder_in_the_place_of_the_database(
    imported: Path, tmp_path: Path, capsys: Capture
) -> None:
    add_table(imported, '[database]\nurl = "sqlite:///folder"\n')
    (tmp_path / "folder").mkdir()
    for arguments in (("status", imported), ("import", imported, tmp_path / "latents.csv")):
        assert_names(complaint(capsys, *arguments), tmp_path / "folder")


def test_a_database_of_something_else(imported: Path, tmp_path: Path, capsys: Capture) -> None:
    add_table(imported, '[database]\nurl = "sqlite:///other.db"\n')
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE music (title TEXT)")
    line = complaint(capsys, "import", imported, tmp_path / "latents.csv")
    assert_names(line, "other.db", "something else")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "{study}", "--from", "harvets"), ("--from", "'harvets'", "harvest, train")),
        (("run", "{study}", "--until", "end"), ("--until", "'end'", "report")),
        (
            ("run", "{study}", "--from", "label", "--until", "train"),
            ("--from label", "--until train"),
        ),
        (("inspect", "{study}", "nobody"), ("latent", "'nobody'", "latent_index")),
        (("inspect", "{study}", "tiny:99999"), ("latent", "'tiny:99999'")),
        (("history", "{study}", "99999999"), ("latent", "'99999999'")),
        (("inspect", "{study}", "9" * 40), ("latent", "9" * 40)),
        (("sql", "{study}", ""), ("sql", "empty")),
        (("sql", "{study}", "selec 1"), ("sql", "syntax error")),
        (("sql", "{study}", "select * from nowhere"), ("sql", "nowhere")),
        (("sql", "{study}", "delete from run"), ("sql", "only reading")),
        (("sql", "{study}", "select 1", "--format", "xml"), ("--format", "xml", "csv")),
        (("import", "{study}", "no-such.csv"), ("no-such.csv",)),
        (("import", "{study}", "{folder}"), ("{folder}",)),
        (("labels", "import", "{study}", "no-such.csv"), ("no-such.csv",)),
        (("labels", "import", "{study}", "{folder}"), ("{folder}",)),
        (("labels", "export", "{study}", "{folder}"), ("{folder}",)),
        (("labels", "export", "{study}", "{folder}/no/where.csv"), ("no/where.csv",)),
        (("init", "{study}"), ("{study}", "is there already")),
        (("init", "{folder}/no/where.toml"), ("no", "no such folder")),
        (("nonsense",), ("nonsense",)),
        (("run",), ("study.toml",)),
        (("run", "{study}", "--nonsense"), ("--nonsense",)),
        (("db", "upgrade", "nonsense"), ("database.url",)),
        (("db", "downgrade", "sqlite:///{folder}/difflens.db", "7777"), ("7777",)),
    ],
)
def test_a_wrong_call(
    imported: Path, arguments: tuple[str, ...], words: tuple[str, ...], capsys: Capture
) -> None:
    def fill(word: str) -> str:
        return word.replace("{study}", str(imported)).replace("{folder}", str(imported.parent))

    before = sides(imported.parent / "difflens.db")
    line = complaint(capsys, *map(fill, arguments))
    assert_names(line, *map(fill, words))
    assert sides(imported.parent / "difflens.db") == before


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("c,left,1,x,safety", ("row 2", "side", "'left'")),
        ("c,target,one,x,safety", ("row 2", "latent_index", "'one'")),
        ("c,target,1,x,saftey", ("row 2", "saftey", "safety")),
        ("c,target,1,x", ("row 2",)),
        ("c,target,1,x,safety\nc,target,1,y,none", ("row", "2", "3")),
        ("c,target,1,x,safety\nc,reference,1,y,none,", ("row 3",)),
    ],
)
def test_a_wrong_row_is_named(
    tmp_path: Path, row: str, words: tuple[str, ...], capsys: Capture
) -> None:
    study = tmp_path / "study.toml"
    assert run(["init", str(study)]) == 0
    table = tmp_path / "latents.csv"
    table.write_text(f"comparison,side,latent_index,explanation,category\n{row}\n", "utf-8")
    assert_names(complaint(capsys, "import", study, table), table, *words)


def test_the_console_script_ends_in_one_line(tmp_path: Path) -> None:
    for arguments in (["run", "nowhere.toml"], ["run"], ["sql", "nowhere.toml", "select 1"]):
        ended = subprocess.run(
            [sys.executable, "-c", "from labeler.cli.main import main; main()", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, ended.stdout) == (2, "")
        assert len(ended.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_whole_shards(
    study: TinyStudy, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    written: list[str] = []

    def full_after_three(tensors: Any, path: Path, metadata: Any = None) -> None:
        if len(written) == 3:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(str(path))
        save_file(tensors, path, metadata=metadata)

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", full_after_three)
        assert run(["run", str(study.path)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert_names(line, "difflens: ", "shard-00003.safetensors", "disk is full")
    folder = study.stage_folder("harvest")
    assert folder is not None
    shards = sorted(folder.glob("*.safetensors"))
    assert [shard.name for shard in shards] == [f"shard-0000{n}.safetensors" for n in range(3)]
    times = [shard.stat().st_mtime_ns for shard in shards]
    assert run(["harvest", str(study.path)]) == 0
    assert [shard.stat().st_mtime_ns for shard in shards] == times
    assert len(list(folder.glob("shard-*.safetensors"))) > 3


def test_a_full_disk_while_training_keeps_the_checkpoints(
    study: TinyStudy, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crosscoder.resume import MetricsLog

    write = MetricsLog.write
    steps: list[int] = []

    def full_after_twelve(log: MetricsLog, metrics: Any, seconds: float) -> None:
        if len(steps) == 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        steps.append(1)
        write(log, metrics, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", full_after_twelve)
        assert run(["run", str(study.path), "--until", "train"]) == 1
    assert_names(capsys.readouterr().err.splitlines()[-1], "difflens: ", "No space left")
    assert run_states(study, "train") == ["failed"]
    folder = study.stage_folder("train")
    assert folder is not None
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == ["step-000000005.safetensors", "step-000000010.safetensors"]
    assert run(["train", str(study.path)]) == 0
    assert run_states(study, "train") == ["done"]
    metrics = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in metrics] == list(range(1, len(metrics) + 1))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_output_that_nobody_can_keep(imported: Path, capsys: Capture) -> None:
    line = complaint(capsys, "labels", "export", imported, "/dev/full", status=1)
    assert_names(line, "No space left")
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-c", "from labeler.cli.main import main; main()", "sql",
             str(imported), "select 1"],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == ["difflens: No space left on device"]


def test_a_full_disk_while_the_database_is_written(
    imported: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labeler.store import engine

    prepare = engine._prepare_sqlite

    def without_room(connection: Any, record: object) -> None:
        prepare(connection, record)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    more = tmp_path / "more.csv"
    lines = [f"big,target,{n},{'word ' * 50},safety\n" for n in range(2000)]
    header = "comparison,side,latent_index,explanation,category\n"
    more.write_text(header + "".join(lines), encoding="utf-8")
    before = sides(tmp_path / "difflens.db")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_prepare_sqlite", without_room)
        line = complaint(capsys, "import", imported, more, status=1)
    assert_names(line, "difflens.db", "full")
    assert sides(tmp_path / "difflens.db") == before


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stage", "target"),
    [
        ("train", "crosscoder.trainer.Trainer.step"),
        ("isolate", "crosscoder.scaling.latent_scaling"),
        ("label", "labeler.labeling.label_latents"),
        ("report", "labeler.report.build.build_report"),
    ],
)
def test_ctrl_c_ends_with_130_and_the_next_run_goes_on(
    finished_study: TinyStudy,
    tmp_path: Path,
    stage: str,
    target: str,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = finished_study.copied_to(tmp_path / "study")
    with monkeypatch.context() as patch:
        patch.setattr(target, interrupt)
        assert run(["run", str(study.path), "--from", stage]) == 130
    lines = capsys.readouterr().err.splitlines()
    assert "difflens: interrupted; the same command goes on from here" in lines
    assert run_states(study, stage)[-1] == "interrupted"
    assert run(["run", str(study.path), "--from", stage, "--until", stage]) == 0
    assert run_states(study, stage) == ["done", "done"]


def run_states(study: TinyStudy, stage: str) -> list[str]:
    with closing(sqlite3.connect(study.database)) as connection:
        query = "SELECT status FROM run WHERE kind = ? ORDER BY id"
        return [status for (status,) in connection.execute(query, (stage,))]


def test_two_runs_at_once(study: TinyStudy, capsys: Capture) -> None:
    from labeler.study import StudyFile
    from labeler.study_lock import study_lock

    with study_lock(StudyFile.read(study.path)):
        line = complaint(capsys, "run", study.path, status=1)
    assert_names(line, study.path, str(os.getpid()), "wait for it")
