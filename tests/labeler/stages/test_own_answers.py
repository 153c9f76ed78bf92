"""`[corpus] answers = "both"`: the models answer the prompts of the study themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_study import TinyStudy, documents, write_study

from crosscoder import generation
from crosscoder.activations import ActivationStore
from crosscoder.progress import SilentProgress
from labeler.cli.main import run
from labeler.stages.base import StageContext
from labeler.stages.derived_studies import ReplicateStudy
from labeler.stages.pipeline import with_key
from labeler.store.engine import open_engine, read_session
from labeler.store.migrate import opened
from labeler.store.runs import latest_done_run
from labeler.study.study_file import StudyFile
from taxonomy.tree import seed_taxonomy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]
Capture = pytest.CaptureFixture[str]
BOTH = {"answers": "both", "answer_max_tokens": 12}
N_CHATS = sum("messages" in row for row in documents())
N_PLAIN = len(documents()) - N_CHATS


@pytest.fixture(scope="module")
def answered(
    tiny_model_folder: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyStudy:
    folder = tmp_path_factory.mktemp("answers") / "study"
    study = write_study(folder, tiny_model_folder, corpus=BOTH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFLENS_CACHE", str(tiny_cache))
        assert run(["run", str(study.path), "--until", "harvest"]) == 0
    return study


def store_of(study: TinyStudy) -> ActivationStore:
    folder = study.stage_folder("harvest")
    assert folder is not None
    return ActivationStore.open(folder)


def test_both_models_read_both_answers(answered: TinyStudy) -> None:
    store = store_of(answered)
    assert store.n_documents == 2 * N_CHATS + N_PLAIN
    assert max(store.document_units) + 1 == N_CHATS + N_PLAIN
    assert {"d0/base", "d0/tuned", "d4"} <= set(store.document_ids)
    files = list((answered.folder / "artifacts" / "answers").glob("*.jsonl"))
    assert [len(path.read_text().splitlines()) for path in files] == [N_CHATS, N_CHATS]


def test_the_run_and_the_status_say_what_was_read(answered: TinyStudy, capsys: Capture) -> None:
    engine = open_engine(answered.url)
    with read_session(engine) as session:
        harvest = latest_done_run(session, "harvest")
        assert harvest is not None
        facts = dict(harvest.result or {})
    engine.dispose()
    assert facts["answers"] == "both"
    assert facts["answers_of"]["base"]["n_answers"] == N_CHATS
    assert facts["n_documents"] == 2 * N_CHATS + N_PLAIN
    assert run(["status", str(answered.path)]) == 0
    assert f"answers of tuned: {N_CHATS} to {N_CHATS} prompts, " in capsys.readouterr().out


def test_answers_are_not_written_again(
    answered: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a model was asked again")

    monkeypatch.setattr(generation.AnswerWriter, "write", refuse)
    study = answered.copied_to(tmp_path / "study")
    for layer, last in ((0, "harvest"), (1, "train")):
        study = study.with_tables(harvest={"layer": layer, "cache": last == "harvest"})
        assert run(["run", str(study.path), "--until", last]) == 0
        assert f"answers of base: {N_CHATS} to" in capsys.readouterr().err


def test_null_runs_use_the_answers_of_the_study(answered: TinyStudy, tmp_path: Path) -> None:
    study = StudyFile.read(answered.copied_to(tmp_path / "study").path)
    replicate = ReplicateStudy(study, 1, seed_taxonomy())
    with opened(study.database_url) as engine:
        context = with_key(StageContext(study, engine, SilentProgress()), "harvest")
        harvest = context.folder("harvest")
        replicate.prepare()
        replicate.use_text_of(harvest, replace(context, study=replicate, keys={}))
    assert (replicate.artifacts / "answers").resolve() == (study.artifacts / "answers").resolve()
    (linked,) = (replicate.artifacts / "harvest").iterdir()
    assert linked.resolve() == harvest.resolve()


def test_what_changed_is_named(answered: TinyStudy, tmp_path: Path, capsys: Capture) -> None:
    study = answered.copied_to(tmp_path / "study")
    for changes, named in (
        ({"answer_batch_size": 3, "answer_seed": 4}, None),
        ({"answer_temperature": 0.5}, "corpus.answer_seed, corpus.answer_temperature"),
        ({"answer_temperature": 0, "answer_max_tokens": 11}, "corpus.answer_max_tokens"),
        ({"answer_tokens": 3}, "corpus.answer_max_tokens, corpus.answer_tokens"),
    ):
        study = study.with_tables(corpus=changes)
        assert run(["status", str(study.path)]) == 0
        line = next(
            line for line in capsys.readouterr().out.splitlines() if line.startswith("harvest")
        )
        if named is None:
            assert line.split() == ["harvest", "done"]
        else:
            assert line.endswith(f"changed since: {named}")


def test_prompts_alone_and_cut_answers_are_said(
    tiny_model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    study = write_study(tmp_path / "study", tiny_model_folder, corpus={"answer_tokens": 0})
    assert run(["harvest", str(study.path)]) == 0
    assert "the prompts alone: assistant messages were left empty" in capsys.readouterr().err
    study.with_tables(corpus={"answer_tokens": 8})
    assert run(["harvest", str(study.path)]) == 0
    said = "assistant messages are those of the corpus file, cut after 8 tokens"
    assert said in capsys.readouterr().err


def test_prompts_alone_leave_no_answers_to_write(
    tiny_model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    both = {"answers": "both", "answer_tokens": 0}
    study = write_study(tmp_path / "study", tiny_model_folder, corpus=both)
    assert run(["status", str(study.path)]) == 2
    assert "0 leaves no answers to read" in capsys.readouterr().err
