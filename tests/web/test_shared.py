"""What several threads want at a time is found out once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlaas_condor.server.watching.shared import Shared, Soon


def test_one_finds_out_for_all():
    shared, asked, begin = Shared(60.0), [], threading.Barrier(8)

    def ask(_):
        begin.wait()
        return shared.get("key", lambda: asked.append(1) or "found")

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(8))) == {"found"}
    assert asked == [1]


def test_an_answer_holds_for_its_time_and_its_key():
    shared, numbers = Shared(60.0), iter(range(9))
    assert [shared.get(key, lambda: next(numbers)) for key in "aabba"] == [0, 0, 1, 1, 0]
    short = Shared(0.0)
    assert [short.get("a", lambda: next(numbers)) for _ in range(3)] == [2, 3, 4]


def test_an_error_is_of_who_asked_only():
    shared = Shared(60.0)
    with pytest.raises(ZeroDivisionError):
        shared.get("a", lambda: 1 // 0)
    assert shared.get("a", lambda: 5) == 5


def test_old_answers_are_dropped():
    shared = Shared(0.0)
    for key in range(100):
        shared.get(key, lambda: b"x")
    assert len(shared._entries) < 5


def test_who_has_waited_gets_what_was_found_before():
    soon, go = Soon(0.0, patience=0.05), threading.Event()
    assert soon.latest("a", lambda: "first") == "first"
    assert soon.latest("a", lambda: go.wait(60) and "second") == "first"
    # It is being found out: nobody else begins.
    assert soon.latest("a", lambda: "third") == "first"
    go.set()
    late = Soon(60.0, patience=60.0)
    assert late.latest("a", lambda: "in time") == "in time"
    assert late.latest("a", lambda: "not asked") == "in time"


def test_before_there_is_an_answer_there_is_none():
    soon, go = Soon(60.0, patience=0.01), threading.Event()
    assert soon.latest("a", lambda: go.wait(60)) is None
    go.set()
