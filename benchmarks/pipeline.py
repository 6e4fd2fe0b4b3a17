"""What HTCondor adds: wall time of a run on the pool, against the same stages run one after another here.

    python benchmarks/pipeline.py [--runs 3] [--request examples/tth]

Needs a running pool (`mlaas-condor pool up`). Specs and chunks are made anew every time: each run has a
home of its own, so that the store is empty. Prints each pair, the medians, the overhead and its ratio.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from mlaas_condor import local, settings, workflow
from mlaas_condor.batch import events, pool, queue
from mlaas_condor.prepare import Prepared
from mlaas_condor.state import bundle_path


def prepare(request: str, keep: settings.Settings, home: Path) -> tuple[Prepared, settings.Settings]:
    """Plan a request with an empty store; the pool stays the user's."""
    fresh = settings.load(home=str(home), cache=str(keep.cache), pool=keep.pool)
    return workflow.plan(request, fresh), fresh


def on_the_pool(request: str, keep: settings.Settings, home: Path) -> float:
    """Return seconds from submission to the end of DAGMan, as the event logs have it."""
    prepared, fresh = prepare(request, keep, home)
    pool.use(keep)
    folder = workflow.create(prepared, fresh)
    started = time.monotonic()
    queue.submit(folder)
    # DAGMan's log alone is looked at: asking the daemons all the time would be measured too.
    while not (jobs := events.read(folder.dagman_log)) or jobs[-1].state not in ("ended", "removed"):
        time.sleep(0.2)
    seconds = time.monotonic() - started
    assert bundle_path(folder), f"{folder.path}: the run has no model"
    return seconds


def here(request: str, keep: settings.Settings, home: Path) -> float:
    """Return seconds that the same stages take here, one job after another."""
    prepared, fresh = prepare(request, keep, home)
    folder = workflow.create(prepared, fresh)
    started = time.monotonic()
    local.run(folder, jobs=1)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--request", default=str(Path(__file__).parents[1] / "examples" / "tth"))
    options = parser.parse_args()
    keep = settings.load()
    pool.use(keep)
    pairs = []
    for number in range(options.runs + 1):
        homes = [Path(tempfile.mkdtemp(prefix="mlaas-bench-")) for _ in range(2)]
        pair = (here(options.request, keep, homes[0]), on_the_pool(options.request, keep, homes[1]))
        for home in homes:
            shutil.rmtree(home)
        word = "warm-up, not counted" if number == 0 else f"pair {number}"
        print(
            f"{word}: here {pair[0]:.1f} s, pool {pair[1]:.1f} s, overhead {pair[1] - pair[0]:.1f} s",
            flush=True,
        )
        pairs += [pair] if number else []
    overheads = sorted(b - a for a, b in pairs)
    print(f"here, median           {statistics.median(a for a, _ in pairs):6.1f} s")
    print(f"pool, median           {statistics.median(b for _, b in pairs):6.1f} s")
    spread = f"({overheads[0]:.1f} to {overheads[-1]:.1f})"
    print(f"overhead, median       {statistics.median(overheads):6.1f} s  {spread}")
    print(f"ratio pool / here      {statistics.median(b / a for a, b in pairs):6.2f}")


if __name__ == "__main__":
    main()
