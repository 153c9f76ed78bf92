from __future__ import annotations

import pytest
from seeding import rows, seed
from sqlalchemy import Engine

from labeler.errors import UsageError
from labeler.store.engine import write_session
from labeler.store.reviews import active_draws, audit_places, draw_audit

MEMBERS = "SELECT latent_id FROM audit_member WHERE audit_draw_id = {} ORDER BY position"


def test_a_draw_is_stored_with_its_probability_and_a_larger_one_contains_it(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session, n_target=40, n_reference=10)
        small = draw_audit(session, data.comparison_id, "target", 10, 7, "ann")
        large = draw_audit(session, data.comparison_id, "target", 25, 7, "bob")
        first = rows(session, MEMBERS.format(small.id))
        assert rows(session, MEMBERS.format(large.id))[:10] == first
        assert active_draws(session, data.comparison_id) == {"target": large}
        places = audit_places(session, data.comparison_id)
        assert set(places) < set(data.target)
        assert {place.inclusion_prob for place in places.values()} == {25 / 40}
        assert sorted(place.position for place in places.values()) == list(range(1, 26))


@pytest.mark.slow
def test_every_latent_is_drawn_as_often_as_the_probability_says(sqlite_engine: Engine) -> None:
    with write_session(sqlite_engine) as session:
        data = seed(session, n_target=8, n_reference=2)
        hits = dict.fromkeys(data.target, 0)
        for number in range(400):
            draw = draw_audit(session, data.comparison_id, "target", 2, number, "ann")
            for (latent_id,) in rows(session, MEMBERS.format(draw.id)):
                hits[latent_id] += 1
    # 400 draws at 1/4: mean 100, standard deviation 8.7; five of them on either side.
    assert all(56 < n < 144 for n in hits.values())


def test_a_draw_larger_than_its_side_takes_all_of_it(sqlite_engine: Engine) -> None:
    with write_session(sqlite_engine) as session:
        data = seed(session)
        draw = draw_audit(session, data.comparison_id, "reference", 99, 0, "ann")
        assert (draw.n_drawn, draw.n_population) == (2, 2)


@pytest.mark.parametrize(
    ("side", "size", "number", "message"),
    [("target", 0, 0, "below 1"), ("left", 1, 0, "neither target"), ("target", 1, -1, "seed")],
)
def test_a_draw_that_makes_no_sense_is_refused(
    sqlite_engine: Engine, side: str, size: int, number: int, message: str
) -> None:
    with write_session(sqlite_engine) as session:
        data = seed(session)
        with pytest.raises(UsageError, match=message):
            draw_audit(session, data.comparison_id, side, size, number, "ann")
