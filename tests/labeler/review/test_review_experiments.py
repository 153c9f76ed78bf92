"""The page of a latent shows what experiments made of its explanation, hostile text escaped."""

from __future__ import annotations

from evidence_seeding import begin
from review_studies import Study

from labeler.judge.experiments import MeasuredText
from labeler.store.engine import read_session, write_session
from labeler.store.experiments import add_test, latent_tests
from labeler.store.judging import CallRow, newest_explanations, record_calls

HOSTILE = "<script>alert(1)</script> \u202ebackwards"


def add_experiment(study: Study, latent_id: int) -> None:
    """One failed round, and one that holds."""
    run_id = begin(study.engine)
    with write_session(study.engine) as session:
        judge_id = study.seed.judge_id
        explanation = newest_explanations(session, [latent_id], judge_id)[latent_id]
        call = CallRow(judge_id, "f" * 64, "experiment", run_id, "ok", "{}", parsed={})
        (call_id,) = record_calls(session, [call])
        for number, verdict in enumerate(("revised", "holds")):
            add_test(
                session,
                {
                    "run_id": run_id, "explanation_id": explanation.id, "judge_id": judge_id,
                    "judge_call_id": call_id, "round": number, "text": f"{HOSTILE} {number}",
                    "is_chosen": number == 1, "verdict": verdict, "threshold": 0.5, "n_meant": 2,
                    "n_meant_active": number, "n_others": 1, "n_others_active": 0,
                    "responsiveness": number / 2, "purity": 1.0 if number else None,
                },
                [
                    MeasuredText(True, "user", "", HOSTILE, 2.25),
                    MeasuredText(False, "assistant", HOSTILE, "calm", None),
                ],
            )  # fmt: skip


def test_the_page_of_a_latent_shows_its_experiment_escaped(study: Study) -> None:
    latent_id = study.seed.target[0]
    add_experiment(study, latent_id)
    page = study.browser().get(f"/latents/{latent_id}").text
    assert "experiment: holds after 1 revision: responsiveness 0.50 (1 of 2 texts), " in page
    assert "purity 1.00 (1 of 1)" in page
    assert "2.25" in page
    assert "not read" in page
    assert "<script>alert(1)" not in page
    assert "\u202e" not in page
    other = study.browser().get(f"/latents/{study.seed.target[1]}").text
    assert "experiment:" not in other


def test_rounds_and_texts_come_back_in_order(study: Study) -> None:
    latent_id = study.seed.target[0]
    add_experiment(study, latent_id)
    with read_session(study.engine) as session:
        (tested,) = latent_tests(session, latent_id)
    assert [each.round for each in tested.rounds] == [0, 1]
    assert tested.chosen.round == 1
    assert [text.activation for text in tested.chosen.texts] == [2.25, None]
    assert tested.rounds[0].counts == (
        "responsiveness 0.00 (0 of 2 texts), purity undefined (0 of 0)"
    )
