"""A judge, a format and a report section that this file alone adds, each used by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from crosscoder.progress import SilentProgress
from labeler.cli.main import run
from labeler.embedding.base import Embedder
from labeler.errors import UsageError
from labeler.exchange.formats import (
    FORMATS,
    ExchangeExplanation,
    ExchangeLatent,
    ExportedCrosscoder,
    FolderFormat,
)
from labeler.judge.base import (
    JudgeIdentity,
    JudgeKind,
    JudgeReply,
    JudgeRequest,
    OnAttempt,
    ignore_attempt,
)
from labeler.report.html import PageComparison
from labeler.report.sections import REPORT_SECTIONS, Chapter, ReportSection
from labeler.stages.base import StageContext
from labeler.stages.pipeline import is_done, with_key
from labeler.store.migrate import opened
from labeler.study.config import JUDGE_KINDS
from labeler.study.judge_config import JudgeSection
from labeler.study.study_file import StudyFile

Capture = pytest.CaptureFixture[str]
NAME = "imported:a-vs-b:target"


class EchoJudge:
    """Fits every latent into no category."""

    identity = JudgeIdentity("echo", "echo", "echo")
    concurrency = 1

    async def ask(
        self, request: JudgeRequest, on_attempt: OnAttempt = ignore_attempt
    ) -> JudgeReply:
        reply = JudgeReply("ok", raw="{}", parsed={"outcome": "none", "categories": []})
        await on_attempt(reply)
        return reply

    async def aclose(self) -> None:
        pass


class EchoKind(JudgeKind):
    note = "An echo of the latent."
    names_categories = False

    def make(
        self, section: JudgeSection, folder: Path | None, embedder: Embedder | None
    ) -> EchoJudge:
        if section.model is None:
            raise UsageError("judge.model: missing; kind = echo needs it")
        return EchoJudge()


class Lines(FolderFormat):
    """One file with a line of JSON for each latent, signed by its author."""

    name = "lines"
    options: ClassVar[Mapping[str, str]] = {"creator_id": "lines are signed"}

    def read(self, folder: Path) -> list[ExchangeLatent]:
        lines = (folder / "latents.jsonl").read_text().splitlines()
        return [
            ExchangeLatent(index, (ExchangeExplanation(text, "lines"),))
            for index, text, _ in map(json.loads, lines)
        ]

    def write(
        self,
        folder: Path,
        latents: Sequence[ExchangeLatent],
        crosscoder: ExportedCrosscoder,
        options: Mapping[str, str],
    ) -> int:
        explained = [one for one in latents if one.explanations]
        rows = [(one.index, one.explanations[0].text, options["creator_id"]) for one in explained]
        (folder / "latents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return len(rows)


class LargestSection(ReportSection):
    chapter = Chapter("largest", "Largest", "The largest category", 35)
    order = 10
    template = "<p>{{ model|one_line }} has the most latents of {{ comparison.key }}.</p>"

    def model(self, comparison: PageComparison) -> str:
        return max(comparison.data.table.rows, key=lambda row: row.target_count).category


@pytest.fixture
def extended() -> Iterator[None]:
    """The three are registered, as an installed package would have them."""
    JUDGE_KINDS.register("echo")(EchoKind)
    FORMATS.register("lines")(Lines)
    REPORT_SECTIONS.register("largest")(LargestSection)
    yield
    JUDGE_KINDS.unregister("echo")
    FORMATS.unregister("lines")
    REPORT_SECTIONS.unregister("largest")


def write_judge(study: Path, **keys: str) -> None:
    content = study.read_text(encoding="utf-8").partition("[judge]")[0]
    rows = [f'{key} = "{value}"' for key, value in keys.items()]
    study.write_text("\n".join([content, "[judge]", *rows, ""]), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("extended")
def test_a_judge(categorised: Path, capsys: Capture) -> None:
    write_judge(categorised, kind="echo")
    assert run(["categorize", str(categorised)]) == 2
    assert "judge.model: missing; kind = echo needs it" in capsys.readouterr().err
    assert run(["judge", "check", "--connection", str(categorised)]) == 2
    assert "judge.kind: echo has no server to check; openai has" in capsys.readouterr().err
    write_judge(categorised, kind="echo", model="any")
    assert run(["categorize", str(categorised)]) == 0
    question = "select distinct judge, outcome from v_judge_label where judge = 'echo'"
    capsys.readouterr()
    assert run(["sql", str(categorised), question, "--format", "csv"]) == 0
    assert "echo,none" in capsys.readouterr().out
    assert run(["report", str(categorised)]) == 0
    assert EchoKind.note in (categorised.parent / "report/index.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("extended")
def test_a_format(categorised: Path, capsys: Capture) -> None:
    study, folder = str(categorised), str(categorised.parent / "lines")
    assert run(["labels", "export", "--help"]) == 0
    assert "|lines>" in capsys.readouterr().out
    export = ["labels", "export", study, folder, "--format", "lines", "--crosscoder", NAME]
    assert run(export) == 2
    assert "--creator-id: missing; lines are signed" in capsys.readouterr().err
    assert run([*export, "--creator-id", "ann"]) == 0
    assert "latents as lines" in capsys.readouterr().err
    again = ["labels", "import", study, folder, "--format", "lines", "--crosscoder", "other"]
    assert run([*again, "--new-crosscoder"]) == 0
    assert "explanations" in capsys.readouterr().err
    assert run(["labels", "import", study, folder, "--format", "line", "--crosscoder", "o"]) == 2
    assert "'line' is not one of 'neuronpedia', 'delphi'" in capsys.readouterr().err


@pytest.mark.usefixtures("extended")
def test_a_report_section(imported: Path) -> None:
    assert run(["report", str(imported)]) == 0
    page = (imported.parent / "report/index.html").read_text(encoding="utf-8")
    assert '<a href="#c1-largest">Largest</a>' in page
    assert "<h2>The largest category</h2>" in page
    assert " has the most latents of c1.</p>" in page
    assert page.index("c1-isolation") < page.index("c1-largest") < page.index("c1-judge")


def test_a_report_section_that_comes_or_goes_makes_the_report_stale(
    imported: Path, request: pytest.FixtureRequest
) -> None:
    assert run(["report", str(imported)]) == 0
    study = StudyFile.read(imported)
    with opened(study.database_url) as engine:
        context = StageContext(study, engine, SilentProgress())
        assert is_done(with_key(context, "report"), "report")
        request.getfixturevalue("extended")
        assert not is_done(with_key(context, "report"), "report")


@pytest.mark.parametrize(
    ("table", "known"), [("judge", "'evidence', 'openai', 'scripted'"), ("scores", "'scripted'")]
)
def test_a_kind_that_nobody_registered(
    imported: Path, capsys: Capture, table: str, known: str
) -> None:
    key = 'kind = "echo"' if table == "judge" else 'judges = ["echo"]'
    imported.write_text(f"[{table}]\n{key}\n", encoding="utf-8")
    assert run(["status", str(imported)]) == 2
    said = capsys.readouterr().err
    assert "no kind of judge is called 'echo'" in said
    assert known in said
