"""What is remembered of run directories and of their logs is what a new look would tell."""

from __future__ import annotations

import os
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mlaas_condor.batch import events, status, unchanged
from mlaas_condor.run import RunFolder
from mlaas_condor.state import RunState

RECORDED = Path(__file__).parents[1] / "runs"


@pytest.fixture
def folder(tmp_path):
    """A copy of a recorded run that ended a while ago."""
    path = tmp_path / "completed_1"
    shutil.copytree(RECORDED / "completed_1", path)
    age(path)
    return RunFolder(path)


def age(path):
    """Make everything in a folder a minute old."""
    for each in [*path.rglob("*"), path]:
        os.utime(each, (time.time() - 60,) * 2)


class Teller:
    """Tells the state of a run, and counts how often it was asked."""

    def __init__(self, tell=status._told_by_files):
        self.asked = 0
        self._tell = tell

    def __call__(self, folder):
        self.asked += 1
        return self._tell(folder)


def test_a_run_that_is_over_is_looked_at_once(folder):
    tell = Teller()
    first = unchanged.state(folder, tell)
    assert unchanged.state(folder, tell) is first and tell.asked == 1
    assert first.state == "completed" and first == status._told_by_files(folder)


@pytest.mark.parametrize("what", ["report/completed_1.tar.gz", "preprocess/00003.ok", "run.dag.dagman.log"])
def test_what_is_taken_away_is_noticed(folder, what):
    tell = Teller()
    before = unchanged.state(folder, tell)
    (folder.path / what).unlink()
    assert unchanged.state(folder, tell) == status._told_by_files(folder) != before


def test_what_a_resume_writes_is_noticed(folder):
    tell = Teller()
    unchanged.state(folder, tell)
    submitted = folder.dagman_log.read_text().partition("...\n")[0]
    with folder.dagman_log.open("a") as log:
        log.write(f"{submitted}...\n")
    assert unchanged.state(folder, tell).state == "idle"


def test_a_run_that_is_not_over_is_looked_at_each_time(folder):
    tell = Teller(lambda folder: RunState(folder.name, "running", "pool", ()))
    for _ in range(3):
        unchanged.state(folder, tell)
    assert tell.asked == 3


def test_a_run_that_changed_just_now_is_not_remembered(folder):
    (folder.path / "report/new").touch()
    tell = Teller()
    for _ in range(2):
        unchanged.state(folder, tell)
    assert tell.asked == 2


def test_another_run_of_the_same_name_is_another_run(folder, tmp_path):
    other = RunFolder(tmp_path / "other" / folder.name)
    shutil.copytree(RECORDED / "failed_1", other.path)
    age(other.path)
    assert [each.state for each in status.of_runs([folder, other])] == ["completed", "failed"]


def test_stages_that_are_whole_stay_so_until_something_is_taken_away(folder, monkeypatch):
    assert unchanged.done(folder) == folder.done()
    monkeypatch.setattr(RunFolder, "units_done", lambda folder, stage: set())
    assert unchanged.done(folder)["preprocess"]
    (folder.path / "preprocess/00000.ok").unlink()
    assert not unchanged.done(folder)["preprocess"]


def test_stages_that_are_not_whole_are_looked_at_each_time(folder):
    chunk = folder.path / "preprocess/chunk-00004.zip"
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-1])
    age(folder.path)
    assert unchanged.done(folder)["preprocess"] != set(folder.task_units("preprocess"))
    chunk.write_bytes(content)
    age(folder.path)
    assert unchanged.done(folder) == folder.done()


LOG = (RECORDED / "completed_1/events.log").read_text()
BLOCKS = [f"{block}...\n" for block in LOG.split("...\n") if block]


def afresh(path):
    """Read a log as if for the first time."""
    events._progress.clear()
    return events.read(path)


@pytest.mark.parametrize("seed", range(5))
def test_a_log_that_grows_is_read_on(tmp_path, seed):
    path, written = tmp_path / "log", 0
    pick = random.Random(seed)
    while written < len(BLOCKS):
        more = pick.randint(1, 12)
        with path.open("a") as log:
            log.write("".join(BLOCKS[written : written + more]))
        written += more
        events.read(path)
    kept = events.read(path)
    assert events._progress[path].offset == len(LOG.encode())
    assert kept == afresh(path) and len(kept) > 5


def test_only_what_is_new_is_read(tmp_path, monkeypatch):
    path = tmp_path / "log"
    path.write_text("".join(BLOCKS[:30]))
    events.read(path)
    noted, note = [], events._note
    monkeypatch.setattr(events, "_note", lambda jobs, event: (noted.append(event), note(jobs, event)))
    with path.open("a") as log:
        log.write("".join(BLOCKS[30:40]))
    events.read(path)
    events.read(path)
    assert len(noted) == 10


def test_what_was_told_before_does_not_change_under_its_reader(tmp_path):
    path = tmp_path / "log"
    path.write_text("".join(BLOCKS[:10]))
    told = events.read(path)
    before = [replace(job) for job in told]
    with path.open("a") as log:
        log.write("".join(BLOCKS[10:]))
    assert events.read(path) != before == told


@pytest.mark.parametrize("cut", [len(LOG) // 2, LOG.index("040 (") + 6, LOG.rindex("005 (") + 9])
def test_half_an_event_does_not_lead_astray(tmp_path, cut):
    path = tmp_path / "log"
    path.write_text(LOG[:cut])
    events.read(path)
    with path.open("a") as log:
        log.write(LOG[cut:])
    assert events.read(path) == afresh(path)


def test_a_log_that_was_replaced_is_read_anew(tmp_path):
    path = tmp_path / "log"
    path.write_text(LOG)
    assert events.read(path)
    path.write_text("".join(BLOCKS[:3]))
    assert events.read(path) == afresh(path)
    path.write_text(LOG.replace("return value 0", "return value 1") + LOG[:100])
    assert events.read(path) == afresh(path)
    path.unlink()
    assert events.read(path) == []
    path.touch()
    assert events.read(path) == []


def test_few_logs_are_remembered(tmp_path, monkeypatch):
    events._progress.clear()
    path = tmp_path / "0"
    path.write_text(LOG)
    jobs = len(events.read(path))
    monkeypatch.setattr(events, "_MOST_JOBS", 2 * jobs)
    for number in range(1, 5):
        path = tmp_path / str(number)
        path.write_text(LOG)
        assert len(events.read(path)) == jobs
    assert list(events._progress) == [tmp_path / "3", tmp_path / "4"]
