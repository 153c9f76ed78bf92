"""`difflens label` on a machine that has study.toml and the database, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from stub_server import Step, serving
from tiny_study import TinyStudy

from labeler.cli.main import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]
GOOD = Step(json.dumps({"explanation": "apologies", "interpretable": True, "confidence": 0.8}))


@pytest.fixture
def elsewhere(
    finished_study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TinyStudy:
    """The study's config and database alone; its models' paths lead nowhere, nothing is fetched."""
    import socket

    study = finished_study.copied_to(tmp_path / "study")
    shutil.rmtree(study.folder / "artifacts")
    (study.folder / "corpus.jsonl").unlink()
    resolve = Path.exists
    models = tuple(row["path"] for row in study.tables["models"])
    monkeypatch.setattr(
        Path, "exists", lambda path, **how: str(path) not in models and resolve(path, **how)
    )
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
    return study


def served(tiny: TinyStudy, url: str, **tables: Any) -> TinyStudy:
    judge = {"kind": "openai", "base_url": url, "model": "m"}
    return tiny.with_tables(
        judge=judge,
        scores={"methods": []},
        embedding={"kind": "minilm", "path": "no-such-model"},
        **tables,
    )


def test_label_asks_by_the_database_alone_and_says_what_it_took_for_granted(
    elsewhere: TinyStudy, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(GOOD) as server:
        study = served(elsewhere, server.url)
        assert run(["label", str(study.path)]) == 0, capsys.readouterr().err
        n_asked = len(server.received)
        assert n_asked > 0
        assert run(["label", str(study.path)]) == 0
        assert len(server.received) == n_asked
    notes = [record.getMessage() for record in caplog.records]
    assert notes[0].startswith(
        "study.toml: not on this machine: model base, model tuned, corpus.path; taken to be what "
        "`harvest` read in run "
    )
    assert len(notes) == 2


@pytest.mark.parametrize("call", [("--plan",), ("--show-prompt", "id:1")])
def test_a_plan_and_a_prompt_need_nothing_else(
    elsewhere: TinyStudy, capsys: pytest.CaptureFixture[str], call: tuple[str, ...]
) -> None:
    study = served(elsewhere, "http://127.0.0.1:1/v1")
    assert run(["label", str(study.path), *call]) == 0
    printed = capsys.readouterr()
    assert printed.out
    assert "stale" not in printed.err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"harvest": {"layer": 0}}, "harvest: not on this machine: model base, model tuned"),
        ({"study": {"seed": 2}}, "holds no finished `harvest` with the present settings"),
        ({"models": [{"name": "base", "path": "org/other"}, {"name": "tuned", "path": "no/t"}]},
         "holds no finished `harvest`"),
        ({"collect": {"top": 5}}, "label: stage `collect` is not done with the present config"),
        ({"train": {"k": 4}}, "label: stage `train` is not done with the present config"),
    ],
)  # fmt: skip
def test_settings_that_changed_are_stale_there_too(
    elsewhere: TinyStudy, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    study = served(elsewhere, "http://127.0.0.1:1/v1", **changes)
    assert run(["label", str(study.path)]) == 2
    assert words in capsys.readouterr().err
    assert run(["label", str(study.path), "--plan"]) == 0
    assert "stale" in capsys.readouterr().err


def test_weights_that_changed_are_stale_where_they_are_at_hand(
    finished_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = finished_study.copied_to(tmp_path / "study")
    models = [
        dict(row, path=shutil.copytree(row["path"], tmp_path / row["name"]).as_posix())
        for row in study.tables["models"]
    ]
    study = study.with_tables(models=models)
    assert run(["label", str(study.path)]) == 0
    config = tmp_path / "base" / "config.json"
    config.write_text(config.read_text("utf-8") + " ", encoding="utf-8")
    assert run(["label", str(study.path)]) == 2
    assert "label: stage `harvest` is not done" in capsys.readouterr().err
