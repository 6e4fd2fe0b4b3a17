"""Replies that go on: what comes, in which order, and that whoever comes back misses nothing."""

from __future__ import annotations

import getpass
import shutil

import pytest
from web_tools import RECORDED, events_of, make_alive, record

from mlaas_condor.run import RunFolder
from mlaas_condor.server.watching import following, states


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Look often: nothing here waits for a second to pass."""
    monkeypatch.setattr(following, "TICK", 0.02)
    monkeypatch.setattr(states, "FRESH", 0.0)


@pytest.fixture
def folder(app):
    """A run of the one user that seems to be running, its training with nothing said yet."""
    folder = record(app, "completed_1", getpass.getuser())
    make_alive(folder)
    for path in folder.logs.iterdir():
        path.unlink()
    return folder


def end(folder):
    """Let it be over."""
    recorded = RunFolder(RECORDED / folder.name)
    for name in ("train", "report"):
        shutil.copytree(recorded.output(name), folder.output(name))
    shutil.copyfile(recorded.events_log, folder.events_log)
    shutil.copyfile(recorded.dagman_log, folder.dagman_log)


def follow(client, path, last=None):
    """Follow something; give its events as they come."""
    headers = {"Last-Event-ID": last} if last is not None else {}
    response = client.get(f"/api/v1/runs/completed_1/{path}", headers=headers, buffered=False)
    assert response.status_code == 200, response.text
    assert response.mimetype == "text/event-stream"
    return events_of(response.iter_encoded())


def test_a_state_comes_when_it_changes_and_then_the_end(client, folder):
    events = follow(client, "status?follow=true")
    kind, state, number = next(events)
    assert (kind, state["state"], state["name"]) == ("state", "running", "completed_1")
    assert number
    end(folder)
    kind, state, _ = next(events)
    assert (kind, state["state"], state["bundle"]) == ("state", "completed", "completed_1.tar.gz")
    assert [each[0] for each in events] == ["end"]


def test_who_comes_back_gets_no_state_twice(client, folder):
    _, _, number = next(follow(client, "status?follow=true"))
    end(folder)
    assert [kind for kind, _, _ in follow(client, "status?follow=true", number)] == ["state", "end"]
    *_, (kind, _, last) = follow(client, "status?follow=true")
    assert (kind, last) == ("end", "end")
    again = client.get("/api/v1/runs/completed_1/status?follow=true", headers={"Last-Event-ID": last})
    assert again.status_code == 204


def test_a_log_comes_as_it_grows(client, folder):
    said = folder.stdout("train", 0)
    events = follow(client, "logs?follow=true&stage=train")
    assert next(events)[:2] == ("task", {"stage": "train", "task": 0})
    said.write_text("one\n")
    assert next(events)[:2] == ("log", {"stream": "stdout", "text": "one\n"})
    with said.open("a") as file:
        file.write("two\r three")
    assert next(events)[1]["text"] == "two\r three"
    end(folder)
    assert [each[0] for each in events] == ["end"]


def test_who_comes_back_goes_on_where_they_were(client, folder):
    said = folder.stdout("train", 0)
    said.write_text("épées and more, ")
    events = follow(client, "logs?follow=true&stage=train&stream=both")
    next(events)
    _, _, number = next(events)
    with said.open("a") as file:
        file.write("and yet more")
    folder.stderr("train", 0).write_text("a warning\n")
    end(folder)
    assert [each[:2] for each in follow(client, "logs?follow=true&stage=train&stream=both", number)] == [
        ("log", {"stream": "stdout", "text": "and yet more"}),
        ("log", {"stream": "stderr", "text": "a warning\n"}),
        ("end", {"name": "completed_1"}),
    ]


def test_a_log_that_begins_anew_is_said_to(client, folder):
    said = folder.stdout("train", 0)
    said.write_text("of a first attempt\n")
    events = follow(client, "logs?follow=true&stage=train")
    next(events)
    _, _, number = next(events)
    said.write_text("of a second attempt, which says more\n")
    end(folder)
    assert [each[:2] for each in follow(client, "logs?follow=true&stage=train", number)] == [
        ("restart", {"stream": "stdout"}),
        ("log", {"stream": "stdout", "text": "of a second attempt, which says more\n"}),
        ("end", {"name": "completed_1"}),
    ]


def test_without_a_stage_it_goes_from_one_to_the_next(client, folder):
    folder.stdout("preprocess", 0).write_text("chunks\n")
    events = follow(client, "logs?follow=true")
    first = [next(events)[:2] for _ in range(2)]
    assert first == [
        ("task", {"stage": "preprocess", "task": 0}),
        ("log", {"stream": "stdout", "text": "chunks\n"}),
    ]
    folder.stdout("report", 0).write_text("a page\n")
    end(folder)
    assert [each[:2] for each in events] == [
        ("task", {"stage": "report", "task": 0}),
        ("log", {"stream": "stdout", "text": "a page\n"}),
        ("end", {"name": "completed_1"}),
    ]


@pytest.mark.parametrize("last", ["", "nonsense", "train.0:stdout.9999999.1", "nostage.0:stdout.0.0", "é"])
def test_an_id_that_is_none_of_ours_harms_nothing(client, folder, last):
    folder.stdout("train", 0).write_text("all of it\n")
    end(folder)
    texts = [
        content["text"]
        for kind, content, _ in follow(client, "logs?follow=true&stage=train", last)
        if kind == "log"
    ]
    assert texts == ["all of it\n"]


def test_a_large_log_comes_in_parts(client, folder):
    content = "é" * 100_000
    folder.stdout("train", 0).write_text(content)
    end(folder)
    texts = [
        each["text"] for kind, each, _ in follow(client, "logs?follow=true&stage=train") if kind == "log"
    ]
    assert len(texts) > 1
    assert "".join(texts) == content


def test_somebody_who_leaves_is_not_told_more(client, folder):
    response = client.get("/api/v1/runs/completed_1/status?follow=true", buffered=False)
    pieces = response.iter_encoded()
    next(pieces)
    response.close()
    assert list(pieces) == []


def test_a_reply_ends_after_some_minutes_and_is_taken_up_again(client, folder, monkeypatch):
    monkeypatch.setattr(following, "_LONGEST", 0.0)
    kinds = [kind for kind, _, _ in follow(client, "status?follow=true")]
    assert kinds == ["state"]  # and no end


def test_something_is_sent_where_nothing_happens(client, folder, monkeypatch):
    monkeypatch.setattr(following, "_HEARTBEAT", 0.0)
    pieces = client.get("/api/v1/runs/completed_1/status?follow=true", buffered=False).iter_encoded()
    found = [next(pieces) for _ in range(4)]
    assert found[0].startswith(b"retry: ")
    assert b": \n\n" in found


def test_too_many_are_told_to_come_again(client, folder, monkeypatch):
    monkeypatch.setattr(following, "step_aside", lambda environ: False)
    response = client.get("/api/v1/runs/completed_1/status?follow=true")
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert response.json["code"] == "unavailable"


def test_a_run_that_is_deleted_ends_it(client, folder):
    events = follow(client, "status?follow=true")
    next(events)
    shutil.rmtree(folder.path)
    assert [each[0] for each in events][-1] == "end"
