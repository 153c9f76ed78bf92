from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from evidence_seeding import begin
from hostile import hostile_texts, storable
from hypothesis import given
from hypothesis import strategies as st
from seeding import Seed, label, rows, seed
from sqlalchemy import Engine, select

from labeler.cli.main import run
from labeler.errors import UsageError
from labeler.exchange.delphi import read_delphi, write_delphi
from labeler.exchange.folders import ExchangeExport, export_latents, import_latents
from labeler.exchange.formats import (
    FORMATS,
    ExchangeExplanation,
    ExchangeLatent,
    ExchangeWindow,
    latent_index,
)
from labeler.exchange.neuronpedia import NeuronpediaSource, read_neuronpedia, write_neuronpedia
from labeler.exchange.saedashboard import read_saedashboard, write_saedashboard
from labeler.store.engine import open_engine, read_session, write_session
from labeler.store.latents import EvidenceRow, add_evidence, get_or_create_crosscoder
from labeler.store.schema import Evidence, EvidenceDocument, Explanation, Judge

CREATOR = "clkht01d40000jv08hvalcvly"
SOURCE = NeuronpediaSource(CREATOR, "My cc/1", ("Base", "Tuned"), layer=20, d_model=64)


def latents() -> list[ExchangeLatent]:
    """Two batches of Neuronpedia, one latent without texts, hostile words in another."""
    windows = (
        ExchangeWindow((" I", "'m", " sorry"), (0.0, 0.5, 4.25)),
        ExchangeWindow((" so", " sorry"), (0.0, 2.0), quantile=0),
        ExchangeWindow((" very", " sorry"), (0.25, 3.0), quantile=1),
    )
    hostile = tuple(
        ExchangeExplanation(each.text, "judge") for each in hostile_texts() if each.text
    )
    return [
        ExchangeLatent(7, (ExchangeExplanation("apologies", "human"),), windows, 0.01, 4.25),
        ExchangeLatent(9, hostile[:1]),
        ExchangeLatent(2050, hostile, (ExchangeWindow(("a\ud83d", "\x00"), (1.0, 0.0)),), 0.5, 1.0),
    ]


def test_neuronpedia_round_trip_keeps_everything(tmp_path: Path) -> None:
    assert write_neuronpedia(tmp_path, latents(), SOURCE) == 3
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.gz"))
    assert names == [
        f"{part}/batch-{n}.jsonl.gz"
        for part in ("activations", "explanations", "features")
        for n in (0, 2)
    ]
    plain = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jsonl"))
    assert plain == [
        "config/explanation_model_type.jsonl",
        "config/explanation_type.jsonl",
        "model.jsonl",
        "release.jsonl",
        "source.jsonl",
        "sourceset.jsonl",
    ]
    assert read_neuronpedia(tmp_path) == latents()


def test_neuronpedia_rows_have_the_published_keys(tmp_path: Path) -> None:
    write_neuronpedia(tmp_path, latents()[:1], SOURCE)
    content = gzip.decompress((tmp_path / "explanations/batch-0.jsonl.gz").read_bytes())
    row = json.loads(content)
    assert (row["modelId"], row["layer"], row["index"]) == (
        "base-tuned",
        "20-crosscoder-my-cc-1",
        "7",
    )
    assert (row["description"], row["typeName"]) == ("apologies", "human")
    assert len(row["id"]) == 25
    content = gzip.decompress((tmp_path / "activations/batch-0.jsonl.gz").read_bytes())
    row = json.loads(content.splitlines()[0])
    assert (row["maxValue"], row["maxValueTokenIndex"], row["binMin"]) == (4.25, 2, -1.0)


def test_neuronpedia_files_may_be_unpacked_and_numbers_plain(tmp_path: Path) -> None:
    (tmp_path / "explanations").mkdir()
    line = {"index": 3, "description": "dates", "typeName": "np_max-act"}
    (tmp_path / "explanations" / "batch-0.jsonl").write_text(json.dumps(line) + "\n")
    assert read_neuronpedia(tmp_path) == [
        ExchangeLatent(3, (ExchangeExplanation("dates", "np_max-act"),))
    ]


def test_delphi_round_trip_keeps_the_first_explanation(tmp_path: Path) -> None:
    assert write_delphi(tmp_path, latents(), "layers.20/mlp") == 3
    assert (tmp_path / "explanations" / "layers.20--mlp_latent7.txt").read_text() == '"apologies"'
    found = {latent.index: latent.explanations[0].text for latent in read_delphi(tmp_path)}
    assert found == {latent.index: latent.explanations[0].text for latent in latents()}


def test_saedashboard_round_trip_keeps_the_texts(tmp_path: Path) -> None:
    assert write_saedashboard(tmp_path, latents(), "m", "set") == 3
    found = read_saedashboard(tmp_path)
    assert [(each.index, each.windows, each.density) for each in found] == [
        (each.index, each.windows, each.density) for each in latents()
    ]


def test_saedashboard_bins_are_strengths_and_become_strata(tmp_path: Path) -> None:
    rows_of = [
        {"bin_min": low, "bin_max": high, "tokens": ["a"], "values": [high]}
        for low, high in ((-1, -1), (0.0, 1.5), (1.5, 3.0), (0.0, 1.5))
    ]
    content = {"features": [{"feature_index": 4, "activations": rows_of}]}
    (tmp_path / "batch-0.json").write_text(json.dumps(content))
    (latent,) = read_saedashboard(tmp_path)
    assert [window.quantile for window in latent.windows] == [None, 0, 1, 0]


@given(st.one_of(st.text(max_size=8), st.integers(), st.booleans(), st.none(), st.floats()))
def test_only_a_whole_number_is_a_latents_number(value: object) -> None:
    try:
        index = latent_index("here", value)
    except UsageError:
        return
    assert str(value).lstrip("0") in (str(index), "")
    assert not isinstance(value, bool)


@pytest.mark.parametrize(
    ("form", "name", "content", "problem"),
    [
        ("neuronpedia", "explanations/batch-0.jsonl", '{"index": "x"}', "description is missing"),
        ("neuronpedia", "explanations/batch-0.jsonl", "nothing", "line 1: no valid JSON"),
        ("neuronpedia", "explanations/batch-0.jsonl.gz", "plain", "is no whole gzip file"),
        (
            "neuronpedia", "activations/batch-0.jsonl",
            '{"index": "1", "tokens": ["a"], "values": [1, 2]}', "lists of one length",
        ),
        ("delphi", "explanations/x_latent1.txt", "no json", "no valid JSON"),
        ("delphi", "explanations/x_latentone.txt", '"a"', "must end in _latent and a number"),
        ("saedashboard", "batch-0.json", "{}", "features is missing"),
        ("saedashboard", "other.json", "{}", "holds no batch-N.json"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_what_is_wrong(
    sqlite_engine: Engine, tmp_path: Path, form: str, name: str, content: str, problem: str
) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(UsageError, match=problem):
        import_latents(sqlite_engine, tmp_path / "in", form, "cc")


def labelled(engine: Engine) -> Seed:
    with write_session(engine) as session:
        made = seed(session, 1, 1)
        label(session, made, made.target[0], "safety", explanation="apologies")
        label(session, made, made.reference[0], "none", explanation="=danger(\x1b[2J)")
        add_evidence(
            session,
            made.run_id,
            [
                EvidenceRow(
                    made.target[0], kind, "explain", f"d-{kind}", 0, (f" {kind}", " sorry"), (1, 2),
                    ("user", "user"), (0.0, 2.0),
                )
                for kind in ("top", "quantile", "negative")
            ],
        )  # fmt: skip
    return made


def exported(engine: Engine, folder: Path, form: str, name: str) -> ExchangeExport:
    creator = CREATOR if form == "neuronpedia" else None
    return export_latents(engine, folder, form, name, creator_id=creator)


@pytest.mark.parametrize("form", FORMATS.names())
def test_what_is_exported_can_be_imported_next_to_the_active_labels(
    engine: Engine, tmp_path: Path, form: str
) -> None:
    labelled(engine)
    assert exported(engine, tmp_path / "out", form, "cc").n_latents == 2
    planned = import_latents(
        engine, tmp_path / "out", form, "other", dry_run=True, new_crosscoder=True
    )
    done = import_latents(engine, tmp_path / "out", form, "other", new_crosscoder=True)
    assert (done.n_latents, done.n_explanations) == (2, 0 if form == "saedashboard" else 2)
    assert (planned.n_explanations, planned.n_windows) == (done.n_explanations, done.n_windows)
    assert done.n_windows == (0 if form == "delphi" else 2)
    again = import_latents(engine, tmp_path / "out", form, "other")
    assert (again.n_explanations, again.n_windows) == (0, 0)
    with read_session(engine) as session:
        judges = session.execute(
            select(Judge.endpoint_kind).join(Explanation).where(Judge.name.like(f"{form}%"))
        ).scalars()
        assert set(judges) <= {"import"}
        kinds = session.execute(
            select(Evidence.kind).where(Evidence.document_id.like(f"{form}%"))
        ).scalars()
        assert set(kinds) <= {"top", "quantile"}
    with write_session(engine) as session:
        shown = rows(session, "SELECT explanation, judge FROM v_effective_label")
        assert {judge for _, judge in shown} == {"evidence-tfidf"}


READERS = {
    "neuronpedia": read_neuronpedia,
    "delphi": read_delphi,
    "saedashboard": read_saedashboard,
}


@pytest.mark.parametrize("form", FORMATS.names())
def test_what_was_imported_comes_out_as_it_was(engine: Engine, tmp_path: Path, form: str) -> None:
    labelled(engine)
    exported(engine, tmp_path / "out", form, "cc")
    import_latents(engine, tmp_path / "out", form, "other", new_crosscoder=True)
    assert exported(engine, tmp_path / "back", form, "other").n_latents == 2
    assert READERS[form](tmp_path / "back") == READERS[form](tmp_path / "out")


def test_a_crosscoder_without_anything_to_say_writes_nothing(
    engine: Engine, tmp_path: Path
) -> None:
    with write_session(engine) as session:
        get_or_create_crosscoder(session, "cc", sha256="ab" * 32)
    with pytest.raises(UsageError, match="crosscoder cc: no latent of it is labelled"):
        exported(engine, tmp_path / "out", "neuronpedia", "cc")
    assert not (tmp_path / "out").exists()


def test_imported_evidence_lies_in_both_halves_and_no_text_in_two(
    engine: Engine, tmp_path: Path
) -> None:
    write_neuronpedia(tmp_path, latents(), SOURCE)
    import_latents(engine, tmp_path, "neuronpedia", "new", new_crosscoder=True)
    with read_session(engine) as session:
        halves = session.execute(
            select(EvidenceDocument.latent_id, EvidenceDocument.document_id, EvidenceDocument.split)
        ).all()
        said = session.execute(select(Explanation.text)).scalars().all()
    assert {half for _, _, half in halves} == {"explain", "score"}
    assert len({(latent, document) for latent, document, _ in halves}) == len(halves) == 4
    assert {storable(each.text) for each in hostile_texts() if each.text} <= set(said)


def test_a_trained_crosscoder_gets_no_new_latents(engine: Engine, tmp_path: Path) -> None:
    labelled(engine)
    write_delphi(tmp_path, latents(), "h")
    with pytest.raises(UsageError, match="crosscoder cc has no latent 7"):
        import_latents(engine, tmp_path, "delphi", "cc")
    with read_session(engine) as session:
        assert len(session.execute(select(Explanation)).scalars().all()) == 2


def test_the_command_line_exports_and_imports(
    tmp_path: Path, migrated_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "difflens.db").write_bytes(migrated_file.read_bytes())
    (tmp_path / "study.toml").write_text('[study]\nname = "s"\n')
    engine = open_engine(f"sqlite:///{tmp_path / 'difflens.db'}")
    labelled(engine)
    begin(engine)
    engine.dispose()
    study, out = str(tmp_path / "study.toml"), str(tmp_path / "np")
    export = ["labels", "export", study, out, "--format", "neuronpedia"]
    for creator in ([], ["--creator-id", " "]):
        assert run([*export, *creator]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("difflens: --creator-id: missing; every table of Neuronpedia names")
    assert not Path(out).exists()
    export += ["--creator-id", CREATOR]
    assert run(export) == 0
    assert "2 latents as neuronpedia" in capsys.readouterr().err
    assert run(export) == 2
    assert "is there already; choose another folder" in capsys.readouterr().err
    assert run([*export, "--force"]) == 0
    for other in (["--format", "delphi"], []):
        assert run(["labels", "export", study, out, *other, "--creator-id", CREATOR]) == 2
        assert "--creator-id: goes with --format neuronpedia" in capsys.readouterr().err
    capsys.readouterr()
    assert run(["labels", "import", study, out, "--format", "neuronpedia"]) == 2
    assert "--crosscoder" in capsys.readouterr().err
    arguments = ["labels", "import", study, out, "--format", "neuronpedia", "--crosscoder", "ccc"]
    assert run(arguments) == 2
    assert capsys.readouterr().err == (
        "difflens: --crosscoder: 'ccc' is not one of cc; did you mean 'cc'? "
        "--new-crosscoder makes one of that name, without weights\n"
    )
    arguments = [*arguments[:-1], "np", "--new-crosscoder"]
    assert run([*arguments, "--dry-run"]) == 0
    assert "would write 2 explanations" in capsys.readouterr().err
    assert run(arguments) == 0
    assert "wrote 2 explanations and 2 windows" in capsys.readouterr().err
