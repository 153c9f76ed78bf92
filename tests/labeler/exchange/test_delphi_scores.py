from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_latents import WORDS, add_halves, reader, seeded, windows_of
from seeding import Seed, label, rows
from sqlalchemy import Engine, func, select
from statsmodels.stats.proportion import proportion_confint

from crosscoder.errors import InputError
from labeler.cli.main import run
from labeler.errors import UsageError
from labeler.exchange.delphi import read_delphi, write_delphi
from labeler.exchange.folders import export_latents, import_latents
from labeler.exchange.formats import (
    ExchangeExample,
    ExchangeExplanation,
    ExchangeLatent,
    ExchangeScore,
    ExchangeWindow,
)
from labeler.judge.base import JudgeReply, JudgeRequest
from labeler.judge.scripted import ScriptedJudge
from labeler.labeling.explain import label_latents
from labeler.labeling.score import ScoreConfig, score_explanations
from labeler.labeling.trials import ExampleAnswer
from labeler.store.engine import open_engine, read_session, write_session
from labeler.store.runs import begin_run
from labeler.store.schema import Explanation, ExplanationScore, Judge, Run

GOLDEN = Path(__file__).parents[2] / "data" / "delphi"
COUNTS = (
    "latent_index, method, n_asked, n_parsed, n_positive, n_negative, n_true_positive,"
    " n_true_negative, balanced_accuracy, ci_low, ci_high"
)
CONFIG = {"scores": {"examples": 8, "per_call": 3}, "study": {"seed": 5}}
DRAW = ScoreConfig(examples=8, per_call=3, seed=5)


def shown(engine: Engine, crosscoder: str, columns: str = COUNTS) -> list[tuple[Any, ...]]:
    """The newest scores of a crosscoder's own explanations."""
    with write_session(engine) as session:
        return rows(
            session,
            f"SELECT {columns} FROM v_explanation_score WHERE NOT is_shuffled"
            f" AND crosscoder = '{crosscoder}' ORDER BY latent_index, method",
        )


def scored(engine: Engine, script: Any = reader, config: dict[str, Any] = CONFIG) -> Seed:
    """Four latents, labelled, explained and scored by a scripted judge, in a run as the CLI's."""
    made = seeded(engine)
    latents = [*made.target, *made.reference]
    with write_session(engine) as session:
        for word, latent_id in zip(WORDS, latents, strict=True):
            label(session, made, latent_id, "safety", explanation=word)
        run_id = begin_run(session, "label", config)
    label_latents(engine, ScriptedJudge(script), run_id, latents)
    score_explanations(engine, ScriptedJudge(script), run_id, latents, DRAW)
    return made


def mumbling(request: JudgeRequest) -> dict[str, object] | JudgeReply:
    """Leaves an example of every call unanswered and is wrong about another."""
    answer = reader(request)
    if request.stage == "explain" or not isinstance(answer, dict):
        return answer
    answers = dict(answer["answers"])  # type: ignore[call-overload]
    first, *others = request.example_ids
    del answers[first]
    return {"answers": answers | {other: not answers[other] for other in others[:1]}}


def test_a_golden_folder_is_counted_by_the_products_own_formulas(engine: Engine) -> None:
    done = import_latents(engine, GOLDEN, "delphi", "new", new_crosscoder=True)
    assert (done.n_latents, done.n_explanations, done.n_scores) == (2, 2, 4)
    assert "wrote 2 explanations, 4 scores and 0 windows" in done.summary
    found = {(row[0], row[1]): row[2:] for row in shown(engine, "new")}
    assert {key: row[:6] for key, row in found.items()} == {
        (7, "detection"): (9, 8, 4, 4, 3, 3),
        (7, "fuzzing"): (4, 4, 2, 2, 2, 2),
        (12, "detection"): (3, 2, 2, 0, 1, 0),
        (12, "fuzzing"): (2, 0, 0, 0, 0, 0),
    }
    low, high = proportion_confint(3, 4, method="wilson")
    spread = math.sqrt(2) / 2
    wanted = (0.75, 0.75 - spread * (0.75 - low), 0.75 + spread * (high - 0.75))
    assert found[7, "detection"][6:] == pytest.approx(wanted)
    assert found[7, "fuzzing"][6] == 1.0
    assert found[12, "detection"][6:] == found[12, "fuzzing"][6:] == (None, None, None)
    reasons = shown(engine, "new", "latent_index, method, reason, judge")
    assert [row[2] for row in reasons if row[0] == 12] == [
        "no negative example in the imported file",
        "none of the 1 positive examples was answered",
    ]
    assert {row[3] for row in reasons} == {"delphi: delphi"}
    with read_session(engine) as session:
        kinds = session.execute(
            select(Judge.endpoint_kind).join(
                ExplanationScore, ExplanationScore.judge_id == Judge.id
            )
        ).scalars()
        assert set(kinds) == {"import"}


def test_importing_twice_changes_nothing_and_a_changed_file_is_a_new_score(
    engine: Engine, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    shutil.copytree(GOLDEN, folder)
    import_latents(engine, folder, "delphi", "new", new_crosscoder=True)
    before = shown(engine, "new")
    again = import_latents(engine, folder, "delphi", "new")
    assert (again.n_explanations, again.n_scores) == (0, 0)
    with read_session(engine) as session:
        assert session.execute(select(func.count(ExplanationScore.id))).scalar_one() == 4
    assert shown(engine, "new") == before
    path = folder / "scores" / "fuzz" / "layers.20.mlp_latent7.txt"
    path.write_text(json.dumps(json.loads(path.read_text())[1:]))
    assert import_latents(engine, folder, "delphi", "new", dry_run=True).n_scores == 1
    assert shown(engine, "new") == before
    assert import_latents(engine, folder, "delphi", "new").n_scores == 1
    assert [row[2] for row in shown(engine, "new") if row[:2] == (7, "fuzzing")] == [3]


def record(**changes: Any) -> dict[str, Any]:
    return {"activating": True, "prediction": 1, "correct": True} | changes


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in record().items() if name != key}


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ({"no": "list"}, "latent7.txt: must be a JSON list of examples"),
        ([record(), 3], "record 2: must be an object"),
        ([without("activating")], "record 1: activating is missing"),
        ([record(), without("prediction")], "record 2: prediction is missing; null says"),
        ([record(activating=None)], "record 1: activating must be true, false, 1, 0, not null"),
        ([record(prediction=0.4)], "prediction must be true, false, 1, 0 or null, not 0.4"),
        ([record(prediction="yes")], 'prediction must be .* not "yes"'),
        ([record(prediction=[1] * 99)], r"not \[1, 1.*\.\.\."),
        ([record(prediction=float("nan"))], "NaN is no JSON number"),
        ([record(correct=False)], "record 1: correct contradicts prediction and activating"),
        ([record(ground_truth=False)], "activating and ground_truth contradict each other"),
    ],
)
def test_a_malformed_record_is_named_and_nothing_is_imported(
    sqlite_engine: Engine, tmp_path: Path, records: object, problem: str
) -> None:
    folder = tmp_path / "in"
    shutil.copytree(GOLDEN, folder)
    path = folder / "scores" / "detection" / "layers.20.mlp_latent7.txt"
    path.write_text(json.dumps(records))
    with pytest.raises(UsageError, match=problem) as raised:
        import_latents(sqlite_engine, folder, "delphi", "new", new_crosscoder=True)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)
    with read_session(sqlite_engine) as session:
        for table in (Explanation, ExplanationScore, Run):
            assert session.execute(select(func.count()).select_from(table)).scalar_one() == 0


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("layers.20.mlp_latent7.txt", "[{", "no valid JSON"),
        ("layers.20.mlp_latent8.txt", "[]", "latent 8 has no explanation in explanations/"),
        ("layers.21.mlp_latent7.txt", "[]", "is of another hookpoint than the explanations"),
        ("layers.20.mlp_latentx.txt", "[]", "the name must end in _latent and a number"),
    ],
)
def test_a_score_that_belongs_to_no_explanation_is_refused(
    tmp_path: Path, name: str, content: str, problem: str
) -> None:
    folder = tmp_path / "in"
    shutil.copytree(GOLDEN, folder)
    (folder / "scores" / "fuzz" / name).write_text(content)
    with pytest.raises((UsageError, InputError), match=problem):
        read_delphi(folder)


def test_older_names_and_an_unused_verdict_on_nothing_are_read(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "explanations", tmp_path / "explanations")
    path = tmp_path / "scores" / "detection" / "layers.20.mlp_latent7.txt"
    path.parent.mkdir(parents=True)
    records = [
        {"text": "so sorry", "ground_truth": True, "prediction": True},
        {"text": "a river", "ground_truth": False, "prediction": None, "correct": False},
    ]
    path.write_text(json.dumps(records))
    (tmp_path / "scores" / "intruder").mkdir()
    (tmp_path / "scores" / "intruder" / path.name).write_text("of another scorer")
    scores = {latent.index: latent.scores for latent in read_delphi(tmp_path)}
    assert scores[12] == ()
    assert [score.answers for score in scores[7]] == [
        (ExampleAnswer(True, True), ExampleAnswer(False, None))
    ]


answers = st.builds(ExampleAnswer, st.booleans(), st.sampled_from([True, False, None]))
windows = st.lists(
    st.tuples(st.text(st.characters(), max_size=4), st.floats(0, 1e6)), max_size=4
).flatmap(
    lambda pairs: st.builds(
        ExchangeWindow,
        st.just(tuple(token for token, _ in pairs)),
        st.just(tuple(value for _, value in pairs)),
        st.none() | st.integers(0, 9),
    )
)
examples = st.builds(ExchangeExample, answers, windows)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(["detection", "fuzzing"]), st.lists(examples, max_size=6)))
def test_whatever_is_written_is_read_as_the_same_answers(
    found: dict[Any, list[ExchangeExample]],
) -> None:
    scores = tuple(ExchangeScore(method, tuple(each)) for method, each in found.items())
    latent = ExchangeLatent(3, (ExchangeExplanation("words", "judge"),), scores=scores)
    with TemporaryDirectory() as folder:
        assert write_delphi(Path(folder), [latent], "a/b") == 1
        (read,) = read_delphi(Path(folder))
        for path in Path(folder, "scores").rglob("*.txt"):
            str(json.loads(path.read_bytes())).encode("utf-8")
    assert {score.method: score.answers for score in read.scores} == {
        score.method: score.answers for score in scores
    }


@pytest.mark.parametrize("script", [reader, mumbling])
def test_scores_come_back_from_a_folder_with_the_same_counts(
    engine: Engine, tmp_path: Path, script: Any
) -> None:
    scored(engine, script)
    done = export_latents(engine, tmp_path / "out", "delphi", "cc")
    assert (done.n_latents, done.n_scores, done.n_scores_left_out, done.left_out) == (4, 8, 0, None)
    back = import_latents(engine, tmp_path / "out", "delphi", "other", new_crosscoder=True)
    assert back.n_scores == 8
    assert shown(engine, "other") == shown(engine, "cc")
    assert (script is reader) == all(row[2] == row[3] for row in shown(engine, "cc"))


def test_a_written_example_shows_what_was_asked_and_answered(
    engine: Engine, tmp_path: Path
) -> None:
    scored(engine)
    export_latents(engine, tmp_path / "out", "delphi", "cc")
    files = sorted((tmp_path / "out" / "scores").rglob("*.txt"))
    assert len(files) == 8
    for path in files:
        for each in json.loads(path.read_text()):
            assert list(each) == [
                "str_tokens", "activations", "distance", "activating", "prediction",
                "probability", "correct",
            ]  # fmt: skip
            assert len(each["str_tokens"]) == len(each["activations"]) > 0
            assert each["prediction"] is each["activating"]
            assert each["correct"] is True
            fires = max(each["activations"]) > 0
            assert each["distance"] == (None if fires else -1)
            if path.parent.name == "detection":
                assert fires == each["activating"]


def change_evidence(engine: Engine, made: Seed) -> None:
    """A later collection finds other texts for the first latent."""
    with write_session(engine) as session:
        run_id = begin_run(session, "collect", {})
        windows = windows_of("sorry", ("butter",))[:-1]
        add_halves(session, run_id, made.target[0], windows)


def test_a_latent_with_other_evidence_is_left_out_and_counted(
    engine: Engine, tmp_path: Path
) -> None:
    made = scored(engine)
    change_evidence(engine, made)
    done = export_latents(engine, tmp_path / "out", "delphi", "cc")
    assert (done.n_latents, done.n_scores, done.n_scores_left_out) == (4, 6, 2)
    assert str(done.left_out).startswith("6 scores written, 2 left out")
    assert len(list((tmp_path / "out" / "explanations").iterdir())) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"scores": {"examples": 8, "per_call": 3}, "study": {"seed": 6}},
        {"scores": {"examples": 8, "per_call": 4}, "study": {"seed": 5}},
        {"scores": {"examples": 4, "per_call": 3}, "study": {"seed": 5}},
    ],
)
def test_examples_that_another_draw_would_give_are_not_written(
    sqlite_engine: Engine, tmp_path: Path, config: dict[str, Any]
) -> None:
    scored(sqlite_engine, config=config)
    done = export_latents(sqlite_engine, tmp_path / "out", "delphi", "cc")
    assert (done.n_scores, done.n_scores_left_out) == (0, 8)
    assert not (tmp_path / "out" / "scores").exists()


def test_an_imported_score_is_left_out_and_hides_none_of_the_studys_own(
    engine: Engine, tmp_path: Path
) -> None:
    made = scored(engine)
    export_latents(engine, tmp_path / "out", "delphi", "cc")
    import_latents(engine, tmp_path / "out", "delphi", "cc")
    assert export_latents(engine, tmp_path / "again", "delphi", "cc").n_scores == 8
    change_evidence(engine, made)
    done = export_latents(engine, tmp_path / "other", "delphi", "cc")
    assert (done.n_scores, done.n_scores_left_out) == (6, 2)


def test_a_score_that_fits_no_longer_is_not_left_next_to_a_new_explanation(
    engine: Engine, tmp_path: Path
) -> None:
    made = scored(engine)
    folder = tmp_path / "out"
    export_latents(engine, folder, "delphi", "cc")
    with write_session(engine) as session:
        label(session, made, made.target[0], "safety", explanation="other words")
    before = contents(folder)
    with pytest.raises(UsageError, match="belongs to another export; name an empty folder"):
        export_latents(engine, folder, "delphi", "cc", overwrite=True)
    assert contents(folder) == before


def contents(folder: Path) -> Sequence[tuple[str, bytes]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [(path.as_posix(), path.read_bytes()) for path in files]


def test_the_command_line_says_what_was_left_out_and_refuses_in_one_line(
    tmp_path: Path, migrated_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "difflens.db").write_bytes(migrated_file.read_bytes())
    (tmp_path / "study.toml").write_text('[study]\nname = "s"\n')
    engine = open_engine(f"sqlite:///{tmp_path / 'difflens.db'}")
    change_evidence(engine, scored(engine))
    engine.dispose()
    study, out = str(tmp_path / "study.toml"), tmp_path / "out"
    assert run(["labels", "export", study, str(out), "--format", "delphi"]) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"{out}: 4 latents as delphi"
    assert second.startswith("6 scores written, 2 left out: ")
    arguments = ["labels", "import", study, str(out), "--format", "delphi", "--crosscoder", "cc"]
    assert run([*arguments, "--dry-run"]) == 0
    assert "would write 4 explanations, 6 scores and" in capsys.readouterr().err
    path = next((out / "scores" / "fuzz").iterdir())
    path.write_text('[{"activating": true, "prediction": "1"}]')
    assert run(arguments) == 2
    assert capsys.readouterr().err == (
        f'difflens: {path}: record 1: prediction must be true, false, 1, 0 or null, not "1"\n'
    )
