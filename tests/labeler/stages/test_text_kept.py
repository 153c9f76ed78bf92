"""Studies of models whose chat templates rewrite, drop or refuse text: counted, never silent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from tiny_models import save_tiny_model
from tiny_study import TinyStudy, write_study

from crosscoder import harvest as shard_writer
from crosscoder.activations import ActivationStore
from crosscoder.corpus import TokenRole
from crosscoder.files import SEAL, json_sha256, write_sealed_json
from labeler.cli.main import run
from labeler.store.schema import Run

CASES = json.loads(
    (Path(__file__).parents[2] / "data" / "chat_templates.json").read_text(encoding="utf-8")
)
TEMPLATES: dict[str, str] = CASES["templates"]
THINKING = "<think>\nThe user asks about bread.\n</think>\n\nMix flour and water, then bake it."
SPACES = "Mix flour and water.\n\nThen bake it for an hour."
ANSWERS = {"thinking": THINKING, "spaces": SPACES}
SURVIVES = {
    "thinking": "Mix flour and water, then bake it.",
    "spaces": "Mix flour and water. Then bake it for an hour.",
}


def chats(answer: str, count: int = 12, system: int = 0) -> list[dict[str, Any]]:
    """Chats with one answer, the first few of them with a system message."""
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How do I bake bread?"},
        {"role": "assistant", "content": answer},
    ]
    return [{"id": f"chat-{n}", "messages": turns[0 if n < system else 1 :]} for n in range(count)]


def study_of(
    folder: Path, template: str, rows: Sequence[dict[str, Any]], **changes: Any
) -> TinyStudy:
    """A study of two tiny models with that chat template, over those documents."""
    models = folder / "models"
    for seed, name in enumerate(("base", "tuned")):
        save_tiny_model(
            models / name, chat_template=template, noise=0.08 if seed else 0.0, d_model=16
        )
    study = write_study(folder / "study", models, **changes)
    study = study.with_tables(corpus={"max_length": 200})
    lines = [json.dumps(row) + "\n" for row in rows]
    (study.folder / "corpus.jsonl").write_text("".join(lines), encoding="utf-8")
    return study


def text_taking_part(study: TinyStudy, role: TokenRole) -> set[str]:
    """The text of the tokens of a role, by document."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(study.folder.parent / "models" / "base")
    folder = study.stage_folder("harvest")
    assert folder is not None
    store = ActivationStore.open(folder)
    found = store.document_tokens(range(store.n_documents))
    return {tokenizer.decode(row.token_ids[row.roles == role]) for row in found.values()}


def last_line(captured: str) -> str:
    return captured.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "system_refused"])
def test_the_answer_takes_part_whatever_the_template_does(
    name: str,
    answer: str,
    tmp_path: Path,
    own_cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    is_dropped = name == "think_removed" and answer == "thinking"
    limit = {"max_lost": 0.6} if is_dropped else {}
    study = study_of(tmp_path, TEMPLATES[name], chats(ANSWERS[answer]), corpus=limit)
    assert run(["harvest", str(study.path)]) == 0
    said = capsys.readouterr().err
    (found,) = text_taking_part(study, TokenRole.ASSISTANT)
    wanted = SURVIVES[answer] if is_dropped else ANSWERS[answer]
    assert "".join(found.split()) == "".join(wanted.split())
    whole = "0 found whole, 12 in part" if is_dropped else "12 found whole, 0 in part"
    assert f"assistant: 12 messages, {whole}, 0 not at all" in said
    assert "user: 12 messages, 12 found whole" in said
    assert run(["status", str(study.path)]) == 0
    assert f"assistant: 12 messages, {whole}" in capsys.readouterr().out


def test_dropped_thinking_above_the_limit_is_refused_by_name(
    tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = study_of(tmp_path, TEMPLATES["think_removed"], chats(THINKING))
    assert run(["harvest", str(study.path)]) == 2
    line = last_line(capsys.readouterr().err)
    assert (
        "the chat template of model 'base' drops text between <think> and </think> of assistant "
        "messages: of 12 assistant messages 12 are found in part and 0 not at all, 56.9% of their "
        "characters are lost (first: document 'chat-0'"
    ) in line
    assert "corpus.jsonl:1" in line
    assert "set corpus.max_lost = 0.57 to go on" in line
    assert study.stage_folder("harvest") is None or not list(
        (study.folder / "artifacts").rglob("shard*")
    )


@pytest.mark.slow
@pytest.mark.parametrize(("n_refused", "status"), [(12, 2), (1, 0)])
def test_documents_that_the_template_refuses_count_as_lost(
    n_refused: int,
    status: int,
    tmp_path: Path,
    own_cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = chats(SPACES, 12, n_refused)
    study = study_of(tmp_path, TEMPLATES["system_refused"], rows)
    changed = study.with_tables(corpus={"max_lost": 1.0 if status == 0 else 0.05})
    assert run(["harvest", str(changed.path)]) == status
    said = capsys.readouterr().err
    assert "refuses documents (System role not supported)" in said
    assert "document 'chat-0', " in said
    assert "corpus.jsonl:1" in said
    if status == 0:
        assert "1 document left out, refused by the chat template" in said
        assert "assistant: 12 messages, 11 found whole, 0 in part, 1 not at all" in said


def days_shown(study: TinyStudy) -> set[str]:
    """What the template's clock showed, over all documents of the newest harvest."""
    folders = (study.folder / "artifacts" / "harvest").iterdir()
    newest = max(folders, key=lambda folder: folder.stat().st_mtime)
    manifest = json.loads((newest / "manifest.json").read_text(encoding="utf-8"))
    return {manifest["plan"]["date"]}


def set_made_on(study: TinyStudy, day: datetime) -> None:
    """Give the study an earlier first run, as if today were a later day."""
    engine = create_engine(study.url)
    with Session(engine) as session, session.begin():
        session.add(
            Run(
                kind="import",
                status="done",
                config={},
                config_sha256=json_sha256({}),
                code_version="0",
                started_at=day,
            )
        )
    engine.dispose()


@pytest.mark.slow
def test_a_harvest_that_crosses_midnight_stores_every_document_once(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A long day changes where documents are cut into shards, if it is asked for again.
    template = TEMPLATES["dated"].replace("%d %B %Y", "%d %B %Y" * 8)
    study = study_of(tmp_path, template, chats(SPACES, 40))
    real = shard_writer.write_shard
    written: list[int] = []

    def stop_after_one(*arguments: Any) -> Any:
        if written:
            raise KeyboardInterrupt
        written.append(1)
        return real(*arguments)

    monkeypatch.setattr(shard_writer, "write_shard", stop_after_one)
    assert run(["harvest", str(study.path)]) == 130
    monkeypatch.setattr(shard_writer, "write_shard", real)
    begun = days_shown(study)
    set_made_on(study, datetime(2025, 6, 1, 23, 59, tzinfo=UTC))
    assert run(["harvest", str(study.path)]) == 0
    assert days_shown(study) == begun
    folder = study.stage_folder("harvest")
    assert folder is not None
    store = ActivationStore.open(folder)
    store.verify()
    seen = [int(each) for shard in store.shards() for each in shard.document.unique()]
    assert seen == list(range(40))
    assert len({tuple(row.token_ids[:40]) for row in store.document_tokens(seen).values()}) == 1


@pytest.mark.slow
def test_the_clock_shows_the_day_of_the_first_run_or_the_one_that_is_named(
    tmp_path: Path, own_cache: Path
) -> None:
    study = study_of(tmp_path, TEMPLATES["dated"], chats(SPACES))
    assert run(["harvest", str(study.path)]) == 0
    set_made_on(study, datetime(2025, 6, 1, 12, tzinfo=UTC))
    later = study.with_tables(harvest={"skip_first": 3})
    assert run(["harvest", str(later.path)]) == 0
    assert days_shown(later) == {"2025-06-01"}
    named = later.with_tables(corpus={"date": "2024-02-29"})
    assert run(["harvest", str(named.path)]) == 0
    assert days_shown(named) == {"2024-02-29"}


@pytest.mark.slow
def test_a_stream_keeps_its_day_in_every_pass(tmp_path: Path, own_cache: Path) -> None:
    study = study_of(tmp_path, TEMPLATES["dated"], chats(SPACES, 40), harvest={"cache": False})
    assert run(["harvest", str(study.path)]) == 0
    set_made_on(study, datetime(2025, 6, 1, 12, tzinfo=UTC))
    assert run(["run", str(study.path), "--until", "train"]) == 0


def test_a_stream_of_other_tokens_is_refused_in_one_line(
    tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = study_of(tmp_path, TEMPLATES["dated"], chats(SPACES, 40), harvest={"cache": False})
    assert run(["harvest", str(study.path)]) == 0
    folder = study.stage_folder("harvest")
    assert folder is not None
    stored = json.loads((folder / "stream.json").read_text(encoding="utf-8"))
    stored["plan"]["date"] = "2024-02-29"
    del stored[SEAL]
    write_sealed_json(folder / "stream.json", stored)
    assert run(["train", str(study.path)]) == 2
    line = last_line(capsys.readouterr().err)
    assert "the corpus has other tokens than when the sample was looked at" in line
    assert f"remove {folder}" in line
