from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from report_page import Page, read_page
from report_studies import Window, build_planted, report_run
from sqlalchemy import Engine, select, update

from labeler.errors import WorkError
from labeler.report.build import ReportFiles, ReportOptions, build_report
from labeler.report.html import CONTENT_SECURITY_POLICY
from labeler.store.engine import write_session
from labeler.store.schema import Evidence, Judge, JudgeCheck, Latent, LatentSet, Run

HOSTILE_TOKENS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "{{ 7 * 7 }}{% for x in y %}",
    "\x1b[31;1mred\x1b[0m\x07",
    "\u202eright to left",
    "lone \ud800 surrogate",
    "</blockquote></details></body>",
    "&lt;b&gt; <!-- comment",
    "$\\frac{1}{0}$ 'quote' \"quote\" \x00",
    "x" * 50_000,
)


def hostile_window() -> Window:
    return Window(
        HOSTILE_TOKENS,
        ["user"] * 5 + ["<i>role</i>"] + ["assistant"] * 4,
        [float(n % 3) for n in range(len(HOSTILE_TOKENS))],
    )


def test_the_page_asks_for_nothing_and_runs_nothing(
    planted_report: ReportFiles, planted_page: Page
) -> None:
    html = planted_report.html.read_text(encoding="utf-8")
    assert "script" not in planted_page.tags
    assert not {"link", "img", "iframe", "object", "form", "base"} & set(planted_page.tags)
    assert not [name for name, _ in planted_page.attributes if name.startswith("on")]
    assert all(link.startswith("#") for link in planted_page.links)
    assert not re.search(r"https?://|url\((?!#)|@import", html)
    assert ("content", CONTENT_SECURITY_POLICY) in planted_page.attributes


def test_every_id_is_unique_and_every_link_arrives(planted_page: Page) -> None:
    assert len(planted_page.ids) == len(set(planted_page.ids))
    assert {link.removeprefix("#") for link in planted_page.links} <= set(planted_page.ids)
    used = [value for name, value in planted_page.attributes if name == "href"]
    assert {link.removeprefix("#") for link in used} <= set(planted_page.ids)


def test_the_answer_stands_at_the_top_with_its_uncertainty(planted_page: Page) -> None:
    sentence = "None of the 16 changes is distinguishable from zero: the strongest, "
    assert 0 <= planted_page.text.index(sentence) < planted_page.text.index("95% interval")
    assert "has q = " in planted_page.text
    assert "38 of 40 simpo latents and 38 of 40 it latents are labelled" in planted_page.text


def test_planted_directions_say_how_many_point_estimates_have_the_sign(planted_page: Page) -> None:
    assert "3 of 3 point estimates have the planted sign" in planted_page.text


def test_every_latent_of_both_sides_is_there_with_explanation_and_evidence(
    planted_page: Page,
) -> None:
    anchors = [name for name in planted_page.ids if name.startswith("c1-latent-")]
    assert len([name for name in anchors if "-target-" in name]) == 40
    assert len([name for name in anchors if "-reference-" in name]) == 40
    assert planted_page.text.count("Refusals: fires on the words") == 11
    assert " can't" in {text for text, _ in planted_page.marks}


def test_the_strongest_token_has_full_opacity_and_silent_ones_are_not_marked(
    planted_page: Page,
) -> None:
    strengths = [float(style.removeprefix("--a:")) for _, style in planted_page.marks]
    assert max(strengths) == 1.0
    assert min(strengths) >= 0.05
    assert "neighbour's" not in {text.strip() for text, _ in planted_page.marks}


def test_how_the_latents_were_isolated_is_told_with_rule_message_and_figures(
    planted_report: ReportFiles, planted_page: Page
) -> None:
    assert "no latent passes nu_error < 0.2 and nu_reconstruction < 0.5" in planted_page.text
    assert "ranked" in planted_page.text
    assert "81.2% of the variance of it explained" in planted_page.text
    assert sorted(path.name for path in planted_report.figures) == [
        "c1-change-narrow.svg",
        "c1-change.svg",
        "c1-delta-norm-reference.svg",
        "c1-delta-norm-target.svg",
        "c1-nu-reference.svg",
        "c1-nu-target.svg",
        "c1-sweep-narrow.svg",
        "c1-sweep.svg",
    ]
    assert all(path.is_file() for path in planted_report.figures)


def test_the_judge_is_named_for_what_it_is(planted_page: Page) -> None:
    assert "evidence-minilm" in planted_page.text
    assert "no language model" in planted_page.text
    assert "vectors of minilm" in planted_page.text
    assert "TF-IDF" not in planted_page.text


def test_provenance_names_runs_hashes_and_the_sql(planted_page: Page) -> None:
    assert "v_category_change where comparison = 'simpo-vs-it'" in planted_page.text
    for sha256 in ("5a" * 32, "1f" * 32, "c0" * 32, "ee" * 32):
        assert sha256 in planted_page.text
    for stage in ("harvest", "train", "isolate", "collect", "label", "categorize", "report"):
        assert stage in planted_page.text
    read = "The models read 700 documents, 91,000 tokens; assistant messages are those of the"
    assert read in " ".join(planted_page.text.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recorded", "said", "unsaid"),
    [
        (
            {"inactive_share": 0.25},
            "25.0% of the latents inactive on held-out tokens.",
            "were dead",
        ),
        (
            {"inactive_share": 0.25, "dead_share": 0.5},
            "25.0% of the latents inactive on held-out tokens. When training ended, 50.0% of the "
            "latents were dead.",
            "50.0% of the latents inactive",
        ),
        ({"dead_share": 0.5}, "When training ended, 50.0% of the latents were dead.", "inactive"),
    ],
)
def test_shares_of_inactive_and_of_dead_latents_are_told_apart(
    sqlite_engine: Engine, tmp_path: Path, recorded: dict[str, float], said: str, unsaid: str
) -> None:
    build_planted(sqlite_engine)
    with write_session(sqlite_engine) as session:
        run = session.query(Run).filter(Run.kind == "train").one()
        run.result = {"fve": {"it": 0.8}, "l0": 31.0} | recorded
    run_id = report_run(sqlite_engine)
    files = build_report(sqlite_engine, ReportOptions(), tmp_path / "report", run_id)
    text = " ".join(read_page(files.html.read_text(encoding="utf-8")).text.split())
    facts = text[text.index("On held-out text:") :].split("Who judged")[0]
    assert said in facts
    assert unsaid not in facts


def test_imported_latents_need_no_models(paper_report: ReportFiles) -> None:
    page = read_page(paper_report.html.read_text(encoding="utf-8"))
    assert "The latents were imported" in page.text
    assert "imported from a file" in page.text
    assert len([name for name in page.ids if name.startswith("c1-latent-")]) == 92 + 113


@pytest.mark.slow
def test_a_tfidf_judge_gets_a_banner_and_a_checked_one_what_it_is_worth(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    build_planted(sqlite_engine, judge_name="evidence-tfidf")
    with write_session(sqlite_engine) as session:
        judge_id = session.scalars(select(Judge.id).where(Judge.name == "evidence-tfidf")).one()
        counts = ("latents", "answered", "right", "top_answer", "content_free", "reordered")
        values = {f"n_{name}": 0 for name in (*counts, "content_free_assigned", "same_answer")}
        checked = JudgeCheck(
            judge_id=judge_id, prompts_sha256="0" * 64, verdict="weak", words="weak: <b>1</b> of 9",
            **values,
        )  # fmt: skip
        session.add(checked)
    run_id = report_run(sqlite_engine)
    files = build_report(sqlite_engine, ReportOptions(), tmp_path / "report", run_id)
    html = files.html.read_text(encoding="utf-8")
    assert "Read the categories with care" in html
    assert "on latents that people labelled: weak: &lt;b&gt;1&lt;/b&gt; of 9." in html


@pytest.mark.slow
def test_a_latent_says_in_how_many_other_seeds_it_comes_again(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    build_planted(sqlite_engine)
    with write_session(sqlite_engine) as session:
        session.execute(update(Latent).values(n_seeds=2, p_reappear=0.5))
    run_id = report_run(sqlite_engine)
    files = build_report(sqlite_engine, ReportOptions(), tmp_path / "report", run_id)
    assert "<dt>comes again in</dt><dd>50% of 2 other seeds</dd>" in files.html.read_text()


@pytest.mark.slow
def test_hostile_text_is_shown_as_text(sqlite_engine: Engine, tmp_path: Path) -> None:
    build_planted(
        sqlite_engine,
        hostile=hostile_window(),
        hostile_explanation="<script>alert(3)</script> {{ 1 + 1 }} \x1b[2J\u202e",
    )
    options = ReportOptions("<i>study</i>", "{{ title }} <script>alert(4)</script>\x1b[1m")
    run_id = report_run(sqlite_engine)
    files = build_report(sqlite_engine, options, tmp_path / "report", run_id)
    html = files.html.read_text(encoding="utf-8")
    page = read_page(html)
    assert not {"script", "img", "i"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text
    assert "<script>alert(3)</script> {{ 1 + 1 }} \u241b[2J\u27e8U+202E\u27e9" in page.text
    assert "{{ 7 * 7 }}{% for x in y %}" in page.text
    assert "49,800 characters" in page.text
    assert not set(html) & {"\x1b", "\x00", "\x07", "\u202e"}
    assert html.rstrip().endswith("</html>")
    assert page.tags.count("details") == html.count("</details>")


@pytest.mark.slow
def test_a_late_collection_replaces_the_evidence_of_an_earlier_one(
    planted_report: ReportFiles, tmp_path: Path
) -> None:
    from sqlalchemy import select

    from labeler.store.engine import open_engine, write_session
    from labeler.store.latents import EvidenceRow, add_evidence
    from labeler.store.runs import begin_run

    shutil.copy(planted_report.folder.parent / "difflens.db", tmp_path / "difflens.db")
    engine = open_engine(f"sqlite:///{tmp_path / 'difflens.db'}")
    with write_session(engine) as session:
        run_id = begin_run(session, "collect", config={"later": True}, code_version="0.1.0")
        for latent_id in session.scalars(select(Evidence.latent_id).distinct()).all():
            row = EvidenceRow(
                latent_id, "top", "explain", "fresh", 0, ["fresh"], [1], ["plain"], [2.0]
            )
            add_evidence(session, run_id, [row])
    files = build_report(engine, ReportOptions(), tmp_path / "report", report_run(engine))
    page = read_page(files.html.read_text(encoding="utf-8"))
    assert {text for text, _ in page.marks} == {"fresh"}


@pytest.mark.slow
def test_a_rule_without_message_is_shown_without_one(sqlite_engine: Engine, tmp_path: Path) -> None:
    from labeler.store.engine import write_session

    build_planted(sqlite_engine)
    with write_session(sqlite_engine) as session:
        for latent_set in session.query(LatentSet):
            latent_set.message = None
            latent_set.rule_params = {}
    run_id = report_run(sqlite_engine)
    files = build_report(sqlite_engine, ReportOptions(), tmp_path / "report", run_id)
    assert "None" not in read_page(files.html.read_text(encoding="utf-8")).text.replace(
        "None of the", ""
    )


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_one_clear_line(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    build_planted(sqlite_engine)
    (tmp_path / "report").write_text("a file, not a folder")
    with pytest.raises(WorkError, match="cannot be written"):
        build_report(sqlite_engine, ReportOptions(), tmp_path / "report", report_run(sqlite_engine))


def test_no_partial_file_is_left(planted_report: ReportFiles) -> None:
    assert not list(planted_report.folder.rglob("*.partial"))


@pytest.mark.slow
def test_a_page_lists_no_more_latents_than_it_can_hold_and_says_so(
    planted_report: ReportFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labeler.report import latents
    from labeler.store.engine import open_engine

    monkeypatch.setattr(latents, "MOST_LISTED", 15)
    monkeypatch.setattr(latents, "MANY_LATENTS", 10)
    monkeypatch.setattr(latents, "FEW_LATENTS", 5)
    shutil.copy(planted_report.folder.parent / "difflens.db", tmp_path / "difflens.db")
    engine = open_engine(f"sqlite:///{tmp_path / 'difflens.db'}")
    files = build_report(engine, ReportOptions(), tmp_path / "report", report_run(engine))
    page = read_page(files.html.read_text(encoding="utf-8"))
    assert "Listed are the 30 most specific of 80 latents" in " ".join(page.text.split())
    assert len([name for name in page.ids if name.startswith("c1-latent-")]) == 30
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert not page.marks
