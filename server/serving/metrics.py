"""What Prometheus reads: requests, uploads and followers of all processes together, runs and the pool.

Each process writes what it counts into files of its own in ``PROMETHEUS_MULTIPROC_DIR``, where that is set
before this module is imported; those of processes that have ended still count.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_STATES = ("prepared", "idle", "running", "held", "completed", "failed", "cancelled")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_KEEP_SECONDS = 15.0  # how long the numbers of runs are kept
_WAIT_SECONDS = 2.0  # that Prometheus waits for the first ones

_ours = CollectorRegistry()
_requests = Counter(
    "mlaas_condor_requests", "Requests answered.", ["method", "route", "status"], registry=_ours
)
_seconds = Histogram(
    "mlaas_condor_request_seconds", "Time to the last byte of a reply, without those that follow a run.",
    ["method", "route"], buckets=_SECONDS, registry=_ours,
)  # fmt: skip
_uploaded = Counter("mlaas_condor_uploaded_bytes", "Bytes of uploads that were taken.", registry=_ours)
_submissions = Counter("mlaas_condor_submissions", "Runs submitted.", registry=_ours)
_followers = Gauge(
    "mlaas_condor_followers", "Replies that follow a run now.", registry=_ours, multiprocess_mode="livesum"
)


def count_request(method: str, route: str, status: int, seconds: float | None) -> None:
    """Count a request; without the time that it took if that says nothing."""
    method = method if method in _METHODS else "other"
    _requests.labels(method, route, str(status)).inc()
    if seconds is not None:
        _seconds.labels(method, route).observe(seconds)


def count_upload(size: int) -> None:
    """Count an upload that was taken."""
    _uploaded.inc(size)


def count_submission() -> None:
    """Count a run that was submitted."""
    _submissions.inc()


def count_follower(number: int) -> None:
    """Count one more reply that follows a run, or one fewer."""
    _followers.inc(number)


class Runs:
    """Counts runs by their state, behind the back of whoever asks: it takes longer than that should.

    Parameters
    ----------
    count
        Does it: a number of runs by state.
    """

    def __init__(self, count: Callable[[], Mapping[str, int]]) -> None:
        self._count = count
        self._numbers: Mapping[str, int] = {}
        self._at = 0.0
        self._turn = threading.Lock()

    def numbers(self) -> Mapping[str, int]:
        """Return them as they were a quarter of a minute ago at most, or longer where they are many."""
        due = time.monotonic() - self._at > _KEEP_SECONDS
        if due and self._turn.acquire(blocking=False):
            looking = threading.Thread(target=self._look, name="runs by state", daemon=True)
            looking.start()
            if not self._at:
                looking.join(_WAIT_SECONDS)
        return self._numbers

    def _look(self) -> None:
        try:
            self._numbers = self._count()
        finally:
            self._at = time.monotonic()
            self._turn.release()


class _Now(Collector):
    """What is so at the moment, whichever process is asked."""

    def __init__(self, runs: Mapping[str, int], pool_up: bool) -> None:
        self._runs, self._pool_up = runs, pool_up

    def collect(self) -> Iterable[Metric]:
        runs = GaugeMetricFamily("mlaas_condor_runs", "Runs of all users, by state.", labels=["state"])
        for state in _STATES:
            runs.add_metric([state], self._runs.get(state, 0))
        yield runs
        yield GaugeMetricFamily("mlaas_condor_pool_up", "Whether HTCondor answers.", int(self._pool_up))
        info = GaugeMetricFamily("mlaas_condor_info", "What runs here.", labels=["version"])
        info.add_metric([version("mlaas-condor")], 1)
        yield info


def render(runs: Mapping[str, int], pool_up: bool) -> bytes:
    """Return everything in Prometheus' format.

    Parameters
    ----------
    runs
        A number of runs by state.
    pool_up
        Whether HTCondor answers.
    """
    registry = CollectorRegistry()
    registry.register(_Now(runs, pool_up))
    folder = os.environ.get(FOLDER)
    if not folder:
        return generate_latest(_ours) + generate_latest(registry)
    _forget_the_dead(Path(folder))
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def _forget_the_dead(folder: Path) -> None:
    """Take away what processes that have ended can no longer say, and what they did not come to write."""
    for path, number in _files(folder):
        if not _lives(number) and (path.name.startswith("gauge_live") or not path.stat().st_size):
            path.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    for path in folder.glob("*.db"):
        with contextlib.suppress(ValueError):
            yield path, int(path.stem.rpartition("_")[2])


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def count_states(states: Iterable[str]) -> Mapping[str, int]:
    """Return how many there are of each."""
    return Count(states)
