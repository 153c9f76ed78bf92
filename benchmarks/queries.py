"""How long the documented views take on a large study, on SQLite and on PostgreSQL.

    python benchmarks/queries.py                                    SQLite alone
    python benchmarks/queries.py --postgresql postgresql://HOST/NAME   an empty database: copied to

The study is `big_study.py`'s. Every view is read whole, as a client would, in turn, several times;
the medians are printed. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import big_study

from labeler.store.copy import copy_database
from labeler.store.database_url import parse_url
from labeler.store.query.query import run_query
from labeler.store.views import VIEWS

QUESTIONS = {
    "v_category_change": "select * from v_category_change",
    "v_coverage": "select * from v_coverage",
    "v_judge_vs_human": "select * from v_judge_vs_human",
    "v_run": "select * from v_run",
    "one latent": "select * from v_effective_label where latent_id = {latent}",
    "a category's latents": "select * from v_effective_label where category = 'safety' limit 200",
    "first of the queue": "select * from v_review_queue order by priority desc limit 50",
    "labels of one latent": "select * from v_judge_label where latent_id = {latent}",
}


def seconds(url: str, question: str) -> float:
    """Wall time of one question, connection included."""
    started = time.perf_counter()
    run_query(url, question, max_rows=100_000, timeout=120)
    return time.perf_counter() - started


def measure(url: str, latents: int, repeats: int) -> dict[str, float]:
    """Median seconds of each question; the questions take turns."""
    taken: dict[str, list[float]] = {name: [] for name in QUESTIONS}
    for turn in range(repeats):
        for name, question in QUESTIONS.items():
            latent = 1 + (turn * 7919) % latents
            taken[name].append(seconds(url, question.format(latent=latent)))
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    """Build or open the study, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="10,000 latents")
    parser.add_argument("--database", help="a study that big_study.py built")
    parser.add_argument("--postgresql", help="an empty PostgreSQL database, copied into")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    size = big_study.QUICK if options.quick else big_study.Size()
    with tempfile.TemporaryDirectory() as folder:
        url = options.database or f"sqlite:///{Path(folder) / 'big.db'}"
        if not options.database:
            big_study.build(url, size)
        databases = {"sqlite": url}
        if options.postgresql:
            started = time.perf_counter()
            copied = copy_database(url, options.postgresql)
            print(f"copied {copied.rows:,} rows in {time.perf_counter() - started:.0f} s")
            databases[parse_url(options.postgresql).get_backend_name()] = options.postgresql
        figures: dict[str, object] = {"latents": size.latents, "views": len(VIEWS)}
        for name, database in databases.items():
            found = measure(database, size.latents, options.repeats)
            for question, median in found.items():
                print(f"{name:<12} {question:<24} {median * 1000:>9.1f} ms")
            figures[name] = {question: round(median, 4) for question, median in found.items()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
