"""How often the 95% interval of nu covers its true value.

    python benchmarks/interval_coverage.py [--quick]

Trains one crosscoder on planted activations, then draws fresh text of the same dictionary many
times, scales all latents on each, and counts how often the interval holds the value of a corpus
eighty times as large. Prints a Markdown table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from crosscoder.checkpoints import load_crosscoder
from crosscoder.interval_coverage import interval_coverage
from crosscoder.planted_trial import TrialConfig, run_trial


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="30 corpora instead of 300")
    quick = parser.parse_args().quick
    started = time.perf_counter()
    config = TrialConfig()
    with tempfile.TemporaryDirectory() as folder:
        run_trial(config, Path(folder))
        crosscoder = load_crosscoder(Path(folder))
    rows = interval_coverage(
        crosscoder,
        config.planted,
        n_corpora=30 if quick else 300,
        n_documents=150,
        population_documents=12000,
    )
    print("| ratio | documents | intervals | coverage | true value below | above |")
    print("|---" * 6 + "|")
    for row in rows:
        documents = f"{row.min_documents} to {row.max_documents - 1}"
        if row.max_documents > 1 << 20:
            documents = f"{row.min_documents} and more"
        print(
            f"| {row.ratio} | {documents} | {row.n_intervals} | {row.coverage:.3f} | "
            f"{row.missed_low:.3f} | {row.missed_high:.3f} |"
        )
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"seconds": seconds, "quick": quick, "rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
