from __future__ import annotations

import math

import pytest
from seeding import label, record_call, rows, seed
from sqlalchemy import Engine

from labeler.errors import UsageError
from labeler.store.engine import write_session
from labeler.store.judging import (
    CallRow,
    LabelRow,
    add_judge_label,
    find_ended_calls,
    get_or_create_judge,
)
from labeler.store.latents import (
    add_latents,
    add_scaling,
    find_latent,
    get_or_create_crosscoder,
    get_or_create_subject_model,
    latent_title,
)
from labeler.store.runs import begin_run, finish_run, latest_done_run
from labeler.store.schema import Run
from labeler.store.taxonomies import ensure_taxonomy_version, load_version
from taxonomy.tree import seed_taxonomy


def test_an_unfinished_run_of_the_same_key_goes_on_and_a_done_one_does_not(engine: Engine) -> None:
    with write_session(engine) as session:
        first = begin_run(session, "label", {"a": 1}, stage_key="k" * 64)
        finish_run(session, first, "interrupted", {"error": "Ctrl-C"})
        assert begin_run(session, "label", {"a": 1}, stage_key="k" * 64) == first
        assert session.get_one(Run, first).status == "running"
        assert latest_done_run(session, "label", "k" * 64) is None
        finish_run(session, first, "done", {"message": "80 latents"})
        assert begin_run(session, "label", {"a": 1}, stage_key="k" * 64) != first
        done = latest_done_run(session, "label", "k" * 64)
        assert done is not None
        assert (done.id, done.result) == (first, {"message": "80 latents"})
        assert done.finished_at is not None
        assert done.finished_at >= done.started_at
        assert done.started_at.tzinfo is not None


def test_every_call_is_a_row_and_only_an_answered_one_is_found(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        request = "ab" * 32

        def call(status: str, raw: str | None) -> int:
            row = CallRow(data.judge_id, request, "explain", data.run_id, status, raw)
            return record_call(session, row).attempt

        assert call("transport_error", None) == 0
        assert find_ended_calls(session, data.judge_id, [request]) == {}
        assert call("ok", '{"explanation": "x\x00y"}') == 1
        found = find_ended_calls(session, data.judge_id, [request])[request]
        assert found.attempt == 1
        session.expire_all()
        assert found.raw == '{"explanation": "x\ufffdy"}'
        assert find_ended_calls(session, data.other_judge_id, [request]) == {}


def test_a_judge_is_its_identity(engine: Engine) -> None:
    with write_session(engine) as session:
        a = get_or_create_judge(session, "gpt", "m", "openai", {"temperature": 0})
        b = get_or_create_judge(session, "gpt", "m", "openai", {"temperature": 0})
        c = get_or_create_judge(session, "gpt", "m", "openai", {"temperature": 1})
        assert a.id == b.id != c.id


def test_crosscoders_of_one_name_and_other_weights_are_told_apart(engine: Engine) -> None:
    with write_session(engine) as session:
        models = [get_or_create_subject_model(session, name, name * 8) for name in ("a", "b")]
        first = get_or_create_crosscoder(session, "cc", "11" * 32, models)
        again = get_or_create_crosscoder(session, "cc", "11" * 32, models)
        other = get_or_create_crosscoder(session, "cc", "22" * 32, models)
        same_other = get_or_create_crosscoder(session, "cc", "22" * 32, models)
        assert first.id == again.id
        assert other.id == same_other.id
        assert (first.name, other.name) == ("cc", "cc@22222222")


def test_latents_and_scaling_are_added_once_and_nan_is_null(engine: Engine) -> None:
    with write_session(engine) as session:
        target = get_or_create_subject_model(session, "a", "f" * 64)
        reference = get_or_create_subject_model(session, "b", "e" * 64)
        crosscoder = get_or_create_crosscoder(session, "cc", "11" * 32, [target, reference])
        ids = add_latents(
            session, crosscoder.id, [{"latent_index": i, "density": 0.1} for i in range(1200)]
        )
        assert add_latents(session, crosscoder.id, [{"latent_index": 3}]) == {3: ids[3]}
        row = {
            "latent_id": ids[0],
            "delta_norm": 0.9,
            "nu_error": math.nan,
            "nu_error_high": math.inf,
            "n_active": 7,
        }
        assert add_scaling(session, target.id, reference.id, [row]) == 1
        assert add_scaling(session, target.id, reference.id, [row]) == 0
        assert rows(
            session, "SELECT delta_norm, nu_error, nu_error_high, n_active FROM latent_scaling"
        ) == [(0.9, None, None, 7)]


def test_a_latent_is_found_by_name_and_by_id(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        colons = get_or_create_crosscoder(session, "imported:c:target")
        latent_id = add_latents(session, colons.id, [{"latent_index": 5}])[5]
        assert find_latent(session, "imported:c:target:5").id == latent_id
        assert find_latent(session, "cc:0").id == data.target[0]
        assert find_latent(session, f"id:{data.target[1]}").id == data.target[1]
        for wrong in ("cc:99", "999999", "elsewhere:0"):
            with pytest.raises(UsageError, match="not in the database"):
                find_latent(session, wrong)
        with pytest.raises(UsageError, match="write crosscoder:latent_index"):
            find_latent(session, "cc:first")


def test_a_bare_number_is_taken_only_where_it_means_one_latent(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        ids = [*data.target, *data.reference]
        assert find_latent(session, str(max(ids))).id == max(ids)
        assert latent_title(session, find_latent(session, "0")) == f"cc:0 (latent_id {ids[0]})"
        words = (
            rf"is the latent_index of cc:1 \(latent_id {ids[1]}\), and the latent_id of cc:0"
            rf" \(latent_id {ids[0]}\); write crosscoder:latent_index, or id:latent_id"
        )
        with pytest.raises(UsageError, match=words):
            find_latent(session, "1")
        other = get_or_create_crosscoder(session, "other")
        add_latents(session, other.id, [{"latent_index": 0}])
        with pytest.raises(UsageError, match=r"of cc:0 .* and of other:0 .*; write"):
            find_latent(session, "0")


def test_a_taxonomy_comes_back_as_it_was_stored(engine: Engine) -> None:
    with write_session(engine) as session:
        version = ensure_taxonomy_version(session, seed_taxonomy())
        assert load_version(session, version.id) == seed_taxonomy()
        assert ensure_taxonomy_version(session, seed_taxonomy()).id == version.id
        assert not version.frozen


def test_a_label_freezes_its_taxonomy_version_and_needs_matching_categories(
    engine: Engine,
) -> None:
    with write_session(engine) as session:
        data = seed(session)
        version = ensure_taxonomy_version(session, seed_taxonomy())
        add_judge_label(
            session, LabelRow(data.run_id, data.target[0], data.judge_id, version.id, "none")
        )
        assert version.frozen
        with pytest.raises(ValueError, match="only and always 'assigned' has categories"):
            add_judge_label(
                session,
                LabelRow(data.run_id, data.target[0], data.judge_id, data.version_id, "assigned"),
            )
        assert label(session, data, data.target[0], "safety").outcome == "assigned"
