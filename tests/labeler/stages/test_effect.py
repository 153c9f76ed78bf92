"""The stage `effect`: after a finished tiny study, without a cache, and where it is left out."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny_study import TinyStudy, write_study

from labeler.api import Study
from labeler.cli.main import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]
EFFECT = {
    "enabled": True,
    "max_tokens": 300,
    "controls": 30,
    "patched_controls": 20,
    "patched_categories": 1,
    "top": 5,
}


def rows(study: TinyStudy, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(study.database)) as connection:
        return connection.execute(statement).fetchall()


@pytest.fixture(scope="module")
def measured_folder(
    finished_study: TinyStudy, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyStudy:
    """A finished study with its effects; not to be changed."""
    folder = tmp_path_factory.mktemp("measured") / "study"
    study = finished_study.copied_to(folder).with_tables(effect=EFFECT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFLENS_CACHE", str(tiny_cache))
        assert run(["run", str(study.path)]) == 0
    return study


def test_both_directions_have_sides_categories_and_all_latents(measured_folder: TinyStudy) -> None:
    found = rows(
        measured_folder,
        "SELECT target, kind, name, n_latents, gap, restored, carried, first_order"
        " FROM v_category_effect WHERE is_main ORDER BY target, kind, name",
    )
    for target in ("base", "tuned"):
        own = [row[1:] for row in found if row[0] == target]
        names = {(kind, name) for kind, name, *_ in own}
        assert {("side", "target"), ("side", "reference"), ("all", "all latents")} <= names
        assert {("all", "means and biases"), ("top", "top by magnitude")} <= names
        categories = {name for kind, name in names if kind == "category"}
        labelled = rows(
            measured_folder,
            "SELECT DISTINCT category FROM v_effective_label"
            " WHERE rank = 1 AND outcome = 'assigned'",
        )
        assert categories == {slug for (slug,) in labelled}
        for kind, _, _, gap, restored, carried, first_order in own:
            assert gap > 0
            assert first_order is not None
            # Towards the target alone are categories patched.
            is_patched = target == "tuned" or kind != "category"
            assert [restored is None, carried is None] == [not is_patched] * 2


def test_random_latents_of_the_largest_categories_are_patched_too(
    measured_folder: TinyStudy,
) -> None:
    found = rows(
        measured_folder,
        "SELECT n_latents, n_patched_controls FROM v_category_effect"
        " WHERE target = 'tuned' AND kind = 'category' AND is_main AND n_controls > 0"
        " ORDER BY n_latents DESC",
    )
    largest = rows(
        measured_folder,
        "SELECT n_latents FROM v_category_effect"
        " WHERE target = 'tuned' AND kind = 'category' AND is_main ORDER BY n_latents DESC LIMIT 1",
    )[0][0]
    assert any(n_patched == 20 for n_latents, n_patched in found if n_latents == largest)
    assert sum(n_patched > 0 for _, n_patched in found) <= 1


def test_every_scope_has_a_row_and_controls_belong_to_one(measured_folder: TinyStudy) -> None:
    found = rows(
        measured_folder,
        "SELECT scope, is_main, first_order IS NULL, count(*) FROM v_category_effect"
        " WHERE target = 'tuned' GROUP BY 1, 2, 3 ORDER BY 1",
    )
    assert [(scope, is_main, bare) for scope, is_main, bare, _ in found] == [
        ("answer_start", 0, 1), ("assistant", 1, 0), ("content", 0, 1),
    ]  # fmt: skip
    assert len({count for *_, count in found}) == 1


def test_latents_have_a_share_of_the_gap_and_a_place(measured_folder: TinyStudy) -> None:
    found = rows(
        measured_folder,
        "SELECT attribution, magnitude, rank FROM v_latent_effect WHERE target = 'tuned'"
        " ORDER BY rank",
    )
    assert [rank for *_, rank in found] == list(range(1, len(found) + 1))
    assert [share for share, *_ in found] == sorted((share for share, *_ in found), reverse=True)
    assert sum(magnitude for _, magnitude, _ in found) == pytest.approx(1)
    ((whole,),) = rows(
        measured_folder,
        "SELECT first_order FROM v_category_effect"
        " WHERE target = 'tuned' AND name = 'all latents' AND is_main",
    )
    assert sum(share for share, *_ in found) == pytest.approx(whole, abs=1e-5)


def test_report_inspect_and_api_show_it(
    measured_folder: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (measured_folder.folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "What the latents do to the output" in page
    assert 'class="effect-bar"' in page
    assert "Of the output gap of" in page
    study = Study.open(measured_folder.path)
    assert len(study.category_effects()) == 2 * 3 * study.category_effects().name.nunique()
    latent = int(study.latent_effects().latent_id.iloc[0])
    capsys.readouterr()
    assert run(["inspect", str(measured_folder.path), f"id:{latent}"]) == 0
    said = capsys.readouterr().out
    assert "of the output gap by first order, place" in said
    assert "of a latent of its magnitude (" in said
    assert "It says that the latent matters to the output" in said
    ((member,),) = rows(
        measured_folder,
        "SELECT min(latent_id) FROM v_effective_label WHERE side = 'target' AND rank = 1"
        " AND latent_id IN (SELECT latent_id FROM v_latent_effect)",
    )
    assert run(["inspect", str(measured_folder.path), f"id:{member}"]) == 0
    said = capsys.readouterr().out
    assert "of the target side together restore " in said
    assert "of the gap, patched; random latents alike restore " in said


def test_it_is_not_done_again_and_its_message_has_the_gap(
    measured_folder: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", str(measured_folder.path), "--until", "effect"]) == 0
    assert "effect: already done" in capsys.readouterr().err
    ((message,),) = rows(
        measured_folder, "SELECT json_extract(result, '$.message') FROM run WHERE kind = 'effect'"
    )
    assert message.startswith("tuned-vs-base: output gap ")
    assert "nats per token (assistant); restored by target side" in message


def test_the_rule_effect_chooses_by_one_half_and_tests_on_the_other(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(
        tmp_path / "study",
        tiny_model_folder,
        isolate={"rule": "effect", "top": 6, "min_documents": 2},
        effect=EFFECT | {"max_tokens": 900, "ablated": 2},
    )
    assert run(["run", str(study.path), "--until", "isolate"]) == 0
    assert list(study.folder.glob("artifacts/isolate/*/attribution-tuned-vs-base.safetensors"))

    def measured_twice(*_: object) -> None:
        raise AssertionError("attribution is read from the folder of isolate")

    monkeypatch.setattr("crosscoder.attribution.attribute", measured_twice)
    monkeypatch.setattr("crosscoder.effects.attribute", measured_twice)
    assert run(["run", str(study.path), "--until", "effect"]) == 0
    found = rows(
        study,
        "SELECT kind, name, on_half, n_controls, control_magnitude, p_value FROM v_category_effect"
        " WHERE target = 'tuned' AND is_main",
    )
    halves = {name: on_half for _, name, on_half, *_ in found}
    assert halves["target"] == halves["reference"] == 1
    assert halves["all latents"] == 0
    for _, _, _, n_controls, magnitude, p_value in found:
        assert (magnitude is None) == (n_controls == 0)
        assert p_value is None or 0.9 <= magnitude <= 1.1
    equivalent = rows(study, "SELECT count(*) FROM v_latent_effect WHERE equivalence IS NOT NULL")
    assert equivalent[0][0] % 2 == 0, "the same in both directions"
    ((message,),) = rows(
        study, "SELECT json_extract(result, '$.message') FROM run WHERE kind = 'effect'"
    )
    assert "of the tested half" in message


def test_without_a_cache_the_models_read_the_documents_again(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    study = write_study(
        tmp_path / "study", tiny_model_folder, harvest={"cache": False}, effect=EFFECT
    )
    assert run(["run", str(study.path), "--until", "effect"]) == 0
    ((gap, tokens),) = rows(
        study,
        "SELECT gap, n_tokens FROM v_category_effect"
        " WHERE target = 'tuned' AND name = 'all latents' AND is_main",
    )
    assert gap > 0
    assert tokens > 0


def test_a_study_that_leaves_it_out_says_why(
    finished_study: TinyStudy, imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["effect", str(finished_study.path)]) == 2
    assert "effect.enabled is false" in capsys.readouterr().err
    assert run(["effect", str(imported)]) == 2
    assert "imported latents have no models to measure it with" in capsys.readouterr().err
