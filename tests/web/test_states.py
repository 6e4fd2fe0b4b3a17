"""How runs do: looked at once for all who ask, without anybody waiting for a pool that does not answer."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlaas_condor import settings as settings_module
from mlaas_condor.batch import events
from mlaas_condor.errors import PoolLost
from mlaas_condor.run import RunFolder
from mlaas_condor.server.watching.looking import Looking
from mlaas_condor.server.watching.states import States
from mlaas_condor.server.watching.tails import Tails

RECORDED = Path(__file__).parents[1] / "runs"


@pytest.fixture
def settings(tmp_path):
    return settings_module.load(home=str(tmp_path / "home"), pool="personal")


@pytest.fixture
def states(settings):
    made = States(settings)
    yield made
    made.close()


@pytest.fixture
def record(settings):
    """Copy a recorded run, under another name and for another owner if wanted."""

    def copy(name, as_name=None):
        target = settings.runs / (as_name or name)
        shutil.copytree(RECORDED / name, target)
        return RunFolder(target)

    return copy


@pytest.fixture
def alive(record):
    """A recorded run whose DAGMan has not ended yet: only the pool knows more."""
    folder = record("completed_1", "alive_1")
    text = folder.dagman_log.read_text()
    folder.dagman_log.write_text(text[: text.index("005 (")])
    shutil.rmtree(folder.output("report"))
    return folder


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a program before all others of its name."""

    def put(name, text):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return put


@pytest.fixture
def pool_config(settings, monkeypatch):
    """A personal pool that was started once: its configuration is there."""
    path = settings.home / "pool" / "condor_config"
    path.parent.mkdir(parents=True)
    path.write_text("MLAAS_CONDOR_PERSONAL_POOL = True\n")
    monkeypatch.setenv("CONDOR_CONFIG", str(path))
    return path


def counted(states, monkeypatch):
    """Note how many runs the process is asked for, and whether it is told that there is no pool."""
    asked, ask = [], states.looking.states

    def count(folders, problem=""):
        asked.append((len(folders), bool(problem)))
        return ask(folders, problem)

    monkeypatch.setattr(states.looking, "states", count)
    return asked


def test_recorded_runs_are_told_as_the_command_line_tells_them(states, record):
    names = ["completed_1", "failed_1", "cancelled_1"]
    found = states.of([record(name) for name in names])
    assert [(each.name, each.state) for each in found] == [(name, name.removesuffix("_1")) for name in names]
    assert found[1].failures[0].stage == "train"


def test_a_run_that_is_over_is_looked_at_once_until_its_log_changes(states, record, monkeypatch):
    asked = counted(states, monkeypatch)
    monkeypatch.setattr("mlaas_condor.server.watching.states.FRESH", 0.0)
    folder = record("failed_1")
    for _ in range(3):
        assert states.of([folder])[0].state == "failed"
    assert asked == [(1, False)]
    os.utime(folder.dagman_log, (1, 1))
    states.of([folder])
    assert asked == [(1, False), (1, False)]


def test_many_who_ask_at_the_same_time_are_answered_by_few_looks(states, record, monkeypatch):
    folders = [record("failed_1", f"failed_{number}") for number in range(1, 6)]
    asked = counted(states, monkeypatch)
    begin = threading.Barrier(20)

    def ask(number):
        begin.wait()
        return states.of([folders[number % 5]])[0].name

    with ThreadPoolExecutor(20) as threads:
        names = list(threads.map(ask, range(20)))
    assert names == [f"failed_{number % 5 + 1}" for number in range(20)]
    assert sum(number for number, _ in asked) == 5  # each run once


def test_runs_of_one_name_of_two_owners_are_kept_apart(settings, states):
    folders = []
    for owner, recorded in (("jane", "cancelled_1"), ("luca", "failed_1")):
        target = settings.home / "users" / owner / "runs" / "tth_1"
        shutil.copytree(RECORDED / recorded, target)
        folders.append(RunFolder(target))
    assert [each.state for each in states.of(folders)] == ["cancelled", "failed"]


def test_without_a_pool_the_disk_is_told(states, alive):
    found = states.of([alive])[0]
    assert found.state == "running"
    assert "never started" in found.unreachable
    assert states.problem


def test_a_schedd_that_hangs_is_waited_for_once(states, alive, pool_config, program, monkeypatch):
    program("condor_q", "sleep 60")
    monkeypatch.setattr("mlaas_condor.server.watching.states.FRESH", 0.0)
    asked = counted(states, monkeypatch)
    for _ in range(5):
        assert "no answer within" in states.of([alive])[0].unreachable
    assert asked == [(1, False), *[(1, True)] * 4]


def test_a_call_that_does_not_return_is_ended(settings, alive, pool_config, program):
    program("condor_q", "exit 0")
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        file = pool_config.with_name("schedd_address")
        file.write_text(f"<{address}>\n$CondorVersion: 25.14.1 2026-01-01 $\n")
        pool_config.write_text(
            f"MLAAS_CONDOR_PERSONAL_POOL = True\nSCHEDD_ADDRESS_FILE = {file}\nSCHEDD_HOST = 127.0.0.1\n"
            f"CONDOR_HOST = {address}\nSEC_DEFAULT_AUTHENTICATION = NEVER\n"
        )
        looking = Looking(settings, pool_seconds=3.0)
        try:
            with pytest.raises(PoolLost, match="not answered within 3 s"):
                looking.states([alive])
            # Another process answers, from the disk.
            found, problem = looking.states([alive], "it hangs")
            assert (found[0].state, problem) == ("running", "it hangs")
        finally:
            looking.close()


def test_a_run_that_cannot_be_read_does_not_spoil_a_list(states, record):
    broken, good = record("failed_1", "broken_1"), record("failed_1")
    shutil.rmtree(broken.path / "tasks")
    (broken.path / "tasks").mkdir()
    (broken.path / "tasks" / "specs.tasks").write_text("not a number\n")
    shutil.rmtree(broken.output("merge"))
    found = states.of([broken, good])
    assert "cannot be told" in found[0].unreachable
    assert found[1].state == "failed"


def test_the_process_ends_with_who_started_it(settings, record):
    looking = Looking(settings)
    looking.states([record("failed_1")])
    number = looking.process
    assert Path(f"/proc/{number}").exists()
    del looking
    assert not Path(f"/proc/{number}").exists()


def test_events_are_listed_with_those_of_dagman(states, record):
    found = states.looking.events(record("failed_1"))
    assert found == sorted(found, key=lambda each: each.time)
    assert {each.stage for each in found} == {"dagman", "specs", "merge", "preprocess", "train"}
    ended = [each for each in found if each.stage == "train" and each.kind == "job_terminated"]
    assert [each.said for each in ended] == ["exit code 22"]
    assert events.listed(Path("/nowhere")) == []


def test_pieces_of_a_log(settings, states, record):
    folder = record("failed_1")
    folder.stdout("train", 0).write_bytes("épée\n".encode())
    tails = Tails(states, settings)
    piece = tails.piece(folder, "train", 0, stderr=False)
    assert (piece.content.decode(), piece.start, piece.end, piece.size) == ("épée\n", 0, 7, 7)
    # Two bytes of which the second begins a character: it comes with the next piece.
    begun = tails.piece(folder, "train", 0, stderr=False, most=4)
    assert begun.content.decode() == "ép"
    assert tails.piece(folder, "train", 0, stderr=False, offset=begun.end).content.decode() == "ée\n"
    beyond = tails.piece(folder, "train", 0, stderr=False, offset=100)
    assert (beyond.content, beyond.start, beyond.size) == (b"", 7, 7)
    assert tails.piece(folder, "train", 5, stderr=False).size == 0
