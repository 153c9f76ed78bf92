"""Hostile text reaches the judge, the database, the terminal and the report, and breaks nothing."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evidence_seeding import begin, distinct_windows
from hostile import UNSAFE_ON_A_TERMINAL, Hostile, hostile_texts, storable
from judge_subjects import OPTIONS, subject, window
from seeding import Seed, assert_table_equals_view, rows, seed
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from labeler.cli.main import run
from labeler.embedding.embedders import TfidfEmbedder
from labeler.judge.base import (
    Example,
    JudgeIdentity,
    JudgeReply,
    JudgeRequest,
    LatentRecord,
    ShownExample,
)
from labeler.judge.embedding_judge import EvidenceJudge
from labeler.judge.prompts import categorize_request, detect_request, explain_request, fuzz_request
from labeler.judge.scripted import ScriptedJudge
from labeler.labeling.categorize import categorize
from labeler.labeling.explain import label_latents
from labeler.report.build import ReportOptions, build_report
from labeler.store.engine import open_engine, read_session, write_session
from labeler.store.latents import EvidenceRow, add_evidence
from labeler.store.query.query import for_terminal, format_result, run_query
from labeler.store.schema import Evidence, Explanation, JudgeCall
from labeler.text import one_line

TEXTS = hostile_texts()
EACH = pytest.mark.parametrize("hostile", TEXTS, ids=str)
IDENTITY = JudgeIdentity("j", "m", "openai")


def evidence_of(text: str) -> Example:
    """A window with the text as one firing token, and as one that is silent."""
    tokens, roles = (" calm", text, " words", text), ("user", "user", "assistant", "assistant")
    return Example("top", "explain", tokens, roles, (0.0, 3.0, 0.0, 0.0))


def requests_with(text: str) -> list[JudgeRequest]:
    """Every request that shows text of the corpus or of a judge."""
    shown: LatentRecord = subject([evidence_of(text)])
    example = ShownExample("1", evidence_of(text), frozenset({1}))
    return [
        explain_request(shown),
        categorize_request(shown, text, OPTIONS),
        detect_request(text, [example]),
        fuzz_request(text, [example]),
    ]


def test_the_corpus_is_large() -> None:
    assert len(TEXTS) >= 50
    assert len({each.name for each in TEXTS}) == len(TEXTS)


@EACH
def test_a_prompt_shows_it_in_a_frame_that_it_cannot_close(hostile: Hostile) -> None:
    for request, calm in zip(requests_with(hostile.text), requests_with("calm"), strict=True):
        system, user = (message.content for message in request.messages)
        assert system == calm.messages[0].content
        lines, calm_lines = user.splitlines(), calm.messages[1].content.splitlines()
        assert len(lines) == len(calm_lines)
        token = str(request.token)
        borders = [at for at, line in enumerate(lines) if line.startswith(f"==== {token} ")]
        assert borders == [at for at, line in enumerate(calm_lines) if line.startswith("==== ")]
        assert user.count(token) == 2
        assert not UNSAFE_ON_A_TERMINAL.search(user)
        user.encode("utf-8")
        json.dumps(user)


@EACH
def test_only_true_marks_look_like_marks(hostile: Hostile) -> None:
    example = ShownExample("1", evidence_of(hostile.text), frozenset({2}))
    user = fuzz_request("x", [example]).messages[1].content
    assert re.findall(r"<<(.*?)>>", user) == ["words"]


@pytest.mark.slow
@EACH
def test_every_judge_answers_in_its_schema(hostile: Hostile) -> None:
    for request in requests_with(hostile.text):
        assert len(request.sha256(IDENTITY)) == 64
    embedder = TfidfEmbedder(["calm words", "others"])
    windows = [*distinct_windows("sorry"), evidence_of(hostile.text)]
    asked = explain_request(subject(windows))
    reply = asyncio.run(EvidenceJudge(embedder).ask(asked))
    assert reply.status == "ok"


def seeded(engine: Engine) -> Seed:
    """One latent for each hostile text, whose evidence and whose explanation are that text."""
    with write_session(engine) as session:
        made = seed(session, len(TEXTS), 1)
        for latent_id, hostile in zip(made.target, TEXTS, strict=True):
            _add(session, made.run_id, latent_id, hostile.text)
        _add(session, made.run_id, made.reference[0], "calm")
    return made


def _add(session: Session, run_id: int, latent_id: int, text: str) -> None:
    windows = [evidence_of(text), *distinct_windows("sorry")]
    add_evidence(
        session,
        run_id,
        [
            EvidenceRow(
                latent_id, each.kind, each.split, f"d{number} {text[:40]}".replace("\x00", "")
                .encode("utf-8", "replace").decode(), 0, each.tokens, range(len(each.tokens)),
                each.roles, each.activations,
            )
            for number, each in enumerate(windows)
        ],
    )  # fmt: skip


def parrot(request: JudgeRequest) -> dict[str, object] | JudgeReply:
    """Explains by the hostile token, quotes it, and always says humour."""
    assert request.subject is not None
    peak = request.subject.of_kind("top")[0]
    text = next(
        token
        for each in request.subject.windows
        for token, value in zip(each.tokens, each.activations, strict=True)
        if value == 3.0
    )
    assert peak
    if request.stage == "explain":
        said = {"explanation": text or "nothing", "interpretable": True, "confidence": 0.5}
        return JudgeReply("ok", raw=json.dumps(said), parsed=said)
    chosen = {"category": "humour", "confidence": 0.5, "quote": text}
    answer = {"outcome": "assigned", "categories": [chosen]}
    return JudgeReply("ok", raw=text, parsed=answer)


def labelled(engine: Engine) -> Seed:
    made = seeded(engine)
    latents = [*made.target, *made.reference]
    label_latents(engine, ScriptedJudge(parrot), begin(engine), latents)
    categorize(
        engine, ScriptedJudge(parrot), TfidfEmbedder(["calm", "words"]), made.version_id,
        [made.comparison_id], begin(engine, "categorize"),
    )  # fmt: skip
    return made


def test_the_database_keeps_it_and_no_other_latents_label_changes(engine: Engine) -> None:
    made = labelled(engine)
    with read_session(engine) as session:
        for latent_id, hostile in zip(made.target, TEXTS, strict=True):
            kept = session.execute(
                select(Evidence.tokens).where(Evidence.latent_id == latent_id)
            ).scalars()
            assert any(tokens[1] == hostile.text for tokens in kept)
            said = session.execute(
                select(Explanation.text).where(Explanation.latent_id == latent_id)
            ).scalar_one()
            assert said == storable(hostile.text or "nothing").strip() or hostile.text.isspace()
        raw = session.execute(
            select(JudgeCall.raw).where(JudgeCall.stage == "categorize")
        ).scalars()
        assert {storable(each.text) for each in TEXTS} <= set(raw)
    with write_session(engine) as session:
        shown = rows(session, "SELECT latent_id, category, outcome FROM v_effective_label")
        assert {row[1:] for row in shown} == {("humour", "assigned")}
        assert len(shown) == len(TEXTS) + 1
        assert_table_equals_view(session)


@pytest.fixture(scope="module")
def hostile_study(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose every latent is hostile, labelled and reported."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "difflens.db").write_bytes(migrated_file.read_bytes())
    (folder / "study.toml").write_text('[study]\nname = "hostile"\n', encoding="utf-8")
    engine = open_engine(f"sqlite:///{folder / 'difflens.db'}")
    labelled(engine)
    build_report(engine, ReportOptions("hostile"), folder / "report", begin(engine, "report"))
    engine.dispose()
    return folder


@pytest.mark.slow
def test_inspect_and_history_print_nothing_that_acts(
    hostile_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = str(hostile_study / "study.toml")
    for index in range(0, len(TEXTS), 7):
        for command in ("inspect", "history"):
            assert run([command, study, f"cc:{index}"]) == 0
            out = capsys.readouterr().out
            assert not UNSAFE_ON_A_TERMINAL.search(out)
            out.encode("utf-8")


@EACH
def test_a_line_for_people_has_nothing_that_acts(hostile: Hostile) -> None:
    """What inspect and history pass every line through."""
    line = one_line(hostile.text)
    assert not UNSAFE_ON_A_TERMINAL.search(line)
    assert "\n" not in line


def test_sql_prints_nothing_that_acts_on_a_terminal(
    hostile_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    statement = "select explanation from v_effective_label order by latent_id"
    assert run(["sql", str(hostile_study / "study.toml"), statement]) == 0
    assert not UNSAFE_ON_A_TERMINAL.search(capsys.readouterr().out)
    result = run_query(f"sqlite:///{hostile_study / 'difflens.db'}", statement)
    for output in ("csv", "json"):
        text = format_result(result, output)
        text.encode("utf-8")
        assert not UNSAFE_ON_A_TERMINAL.search(for_terminal(text))
    assert [row["explanation"] for row in json.loads(format_result(result, "json"))] == [
        row[0] for row in result.rows
    ]
    parsed = list(csv.reader(io.StringIO(format_result(result, "csv"), newline="")))
    assert len(parsed) == len(result.rows) + 1


def test_exported_labels_come_back_unchanged_and_start_no_formula(
    hostile_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = str(hostile_study / "study.toml")
    for name in ("labels.csv", "labels.jsonl"):
        assert run(["labels", "export", study, str(tmp_path / name)]) == 0
        arguments = ["labels", "import", study, str(tmp_path / name), "--reviewer", "ann"]
        assert run([*arguments, "--dry-run"]) == 0
        assert "would write 0 decisions" in capsys.readouterr().err
    text = (tmp_path / "labels.csv").read_text(encoding="utf-8-sig")
    for row in csv.DictReader(io.StringIO(text, newline="")):
        assert not re.match(r"[=+\-@\t\r]", row["explanation"])


class _Tags(HTMLParser):
    """Every element of a page, with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))


def test_the_report_holds_no_element_of_theirs_and_no_hidden_character(
    hostile_study: Path,
) -> None:
    page = (hostile_study / "report" / "index.html").read_text(encoding="utf-8")
    parser = _Tags()
    parser.feed(page)
    tags = {tag for tag, _ in parser.found}
    assert tags.isdisjoint({"script", "img", "iframe", "object", "embed", "base", "form"})
    attributes = {name for _, names in parser.found for name in names}
    assert not any(name.startswith("on") for name in attributes)
    assert not UNSAFE_ON_A_TERMINAL.search(page)
    assert page.count("</body>") == page.count("</html>") == 1
    for name in ("category_change.csv", "category_change.md"):
        assert not UNSAFE_ON_A_TERMINAL.search(
            (hostile_study / "report" / name).read_text(encoding="utf-8")
        )


def test_a_window_of_calm_text_is_shown_as_it_is() -> None:
    """The escapes do not reach text that needs none."""
    text = "Ich weiß: \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645, 猫, \u00e9, 1 < 2!"
    user = explain_request(subject([window(f"<<{text}>>")])).messages[1].content
    assert text in user
