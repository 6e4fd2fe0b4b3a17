"""What an eviction costs a training: wall time of a training on the pool, left alone and evicted.

    python benchmarks/eviction.py [--evictions 3] [--epochs 40] [--request examples/tth]

Needs a running pool (`mlaas-condor pool up`). The same request is trained twice on the same chunks; the
second training is evicted again and again, each time in the middle of an epoch. Prints the time from the
start of its job to its end for both, the time lost for each eviction, and how many epochs were repeated.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from mlaas_condor import Request, settings, workflow
from mlaas_condor.batch import pool, queue
from mlaas_condor.runs import Run

_EPOCH = re.compile(r" epoch (\d+)/\d+  ")


def epochs_of(run: Run) -> list[int]:
    """Return the epochs that the training's log tells of."""
    return [int(number) for number in _EPOCH.findall(run.logs("train", 0))]


def evict(run: Run, after: int) -> None:
    """Evict the training once so many epochs are over."""
    while not (jobs := [job for job in queue.query([run.name]) if job.stage == "train"]) or not (
        jobs[0].state == "running" and max(epochs_of(run), default=0) >= after
    ):
        time.sleep(0.3)
    time.sleep(0.3)
    number = f"{jobs[0].cluster}.{jobs[0].proc}"
    subprocess.run(["condor_vacate_job", number], check=True, capture_output=True)
    time.sleep(1)


def train(request: Request, fresh: settings.Settings, keep: settings.Settings, stops: list[int]) -> Run:
    """Submit, evict after each of some epochs, wait for the end."""
    prepared = workflow.plan(request, fresh)
    pool.use(keep)
    run = workflow.submit_prepared(prepared, keep)
    for stop in stops:
        evict(run, stop)
    run.wait()
    return run


def seconds_of(run: Run) -> float:
    """Return how long the train stage took, from its first start to its end."""
    stage = next(each for each in run.status().stages if each.stage == "train")
    return (stage.ended or 0.0) - (stage.started or 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--evictions", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--request", default=str(Path(__file__).parents[1] / "examples" / "tth"))
    options = parser.parse_args()
    keep = settings.load()
    home = Path(tempfile.mkdtemp(prefix="mlaas-bench-"))
    fresh = settings.load(home=str(home), cache=str(keep.cache), pool=keep.pool)
    request = Request.read(options.request)
    request.params = request.params.model_copy(update={"epochs": options.epochs})
    stops = [options.epochs * (i + 1) // (options.evictions + 1) for i in range(options.evictions)]
    plain, evicted = (train(request, fresh, keep, each) for each in ([], stops))
    times = seconds_of(plain), seconds_of(evicted)
    said = epochs_of(evicted)
    print(f"left alone             {times[0]:6.1f} s")
    print(f"evicted {len(stops)} times        {times[1]:6.1f} s, {times[1] / times[0]:.2f} of that")
    print(f"lost for an eviction   {(times[1] - times[0]) / len(stops):6.1f} s")
    print(f"epochs trained twice   {len(said) - len(set(said)):6d}")
    print(f"the same metrics       {plain.metrics() == evicted.metrics()}")
    for run in (plain, evicted):
        run.delete()
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
