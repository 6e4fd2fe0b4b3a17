"""The chunk store on real servers: files that are there whole or not at all, and runs that use it."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
import zlib

import pytest
from authority import HOUR, proxy
from example_tools import copy_example, edit, prepend_to_model
from grid_tools import in_process
from pool_tools import jobs_by_stage, submit
from servers import PlainServer

from mlaas_condor import chunkstore, local, workflow
from mlaas_condor import settings as settings_module
from mlaas_condor.data import storedchunks
from mlaas_condor.errors import (
    AccessDenied,
    InputChanged,
    InputUnreadable,
    RequestError,
    RunFailed,
    StorageFull,
    StorageUnavailable,
)
from mlaas_condor.grid import storing
from mlaas_condor.grid.waiting import patience
from mlaas_condor.sandbox import jobs_of

pytestmark = pytest.mark.grid

CONTENT = bytes(range(256)) * 100_000
FOLDER = "/store/user/jane/chunks"


@pytest.fixture(scope="module")
def _knowing(xrootd):
    with PlainServer("xrootd.chksum max 2 adler32\n") as server:
        yield server


@pytest.fixture(params=["knows checksums", "knows none"])
def server(request):
    """A server that tells the checksum of a file, and one from which it must be read back."""
    name = "_knowing" if request.param == "knows checksums" else "plain_server"
    found = request.getfixturevalue(name)
    found.leave_room(None)
    shutil.rmtree(found.path("/store"))
    found.path("/store").mkdir()
    found.forget_requests()
    return found


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(CONTENT)
    return path


def names(server, folder):
    return sorted(path.name for path in server.path(folder).iterdir())


def test_a_file_is_written_whole_and_not_twice(server, file):
    url = server.url(f"{FOLDER}/a.zip")
    checksum = storing.put(file, url)
    assert checksum == storing.adler32(file) == f"{zlib.adler32(CONTENT):08x}"
    assert names(server, FOLDER) == ["a.zip"]
    assert server.path(f"{FOLDER}/a.zip").read_bytes() == CONTENT
    asked = server.requests()
    assert asked.written == len(CONTENT)
    assert {each.path for each in asked.of("write")} != {f"{FOLDER}/a.zip"}, "under another name first"
    assert asked.bytes == (0 if server.lines else len(CONTENT)), "read back only where there is no other way"
    server.forget_requests()
    assert storing.put(file, url) == checksum
    assert server.requests().written == 0


def test_another_file_under_the_name_is_replaced(server, file):
    url = server.url(f"{FOLDER}/a.zip")
    server.put(f"{FOLDER}/a.zip", b"x" * len(CONTENT))
    storing.put(file, url)
    assert server.path(f"{FOLDER}/a.zip").read_bytes() == CONTENT and names(server, FOLDER) == ["a.zip"]


def test_a_full_storage_is_said_and_keeps_nothing(plain_server, file):
    url = plain_server.url("/store/full/a.zip")
    plain_server.leave_room(len(CONTENT) // 2)
    with pytest.raises(StorageFull, match=r"/store/full/.*no space left on localhost"):
        storing.put(file, url)
    assert names(plain_server, "/store/full") == []
    plain_server.leave_room(None)
    storing.put(file, url)
    assert names(plain_server, "/store/full") == ["a.zip"]


def in_the_middle(server, folder, act):
    """Do something once a part of a file has been written below a folder."""

    def watch():
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if any(path.stat().st_size > len(CONTENT) // 10 for path in server.path(folder).glob(".*")):
                act()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.fixture
def slow(monkeypatch):
    """Write in so many pieces that there is a middle."""
    monkeypatch.setattr(storing, "_PIECE", 4096)


def test_a_server_that_dies_in_the_middle_leaves_no_file(plain_server, file, slow, monkeypatch):
    url = plain_server.url("/store/dead/a.zip")
    killer = in_the_middle(plain_server, "/store/dead", plain_server.kill)
    with pytest.raises(StorageUnavailable):
        storing.put(file, url)
    killer.join()
    assert not plain_server.path("/store/dead/a.zip").exists()
    assert names(plain_server, "/store/dead") != [], "it was in the middle"
    plain_server.start()


def test_a_server_that_comes_back_is_waited_for(plain_server, file, slow, monkeypatch):
    monkeypatch.setattr(patience, "seconds", 60.0)
    url = plain_server.url("/store/back/a.zip")

    def crash():
        plain_server.kill()
        time.sleep(1)
        plain_server.start()

    crashing = in_the_middle(plain_server, "/store/back", crash)
    storing.put(file, url)
    crashing.join()
    assert names(plain_server, "/store/back") == ["a.zip"]
    assert plain_server.path("/store/back/a.zip").read_bytes() == CONTENT


def test_what_is_fetched_is_checked(plain_server, file, tmp_path):
    url = plain_server.url("/store/fetched/a.zip")
    checksum = storing.put(file, url)
    there = tmp_path / "there.zip"
    storing.get(url, there, len(CONTENT), checksum)
    assert there.read_bytes() == CONTENT
    plain_server.forget_requests()
    storing.get(url, there, len(CONTENT), checksum)
    assert plain_server.requests().opens == 0, "it is there already"
    plain_server.put("/store/fetched/a.zip", CONTENT[:-1] + b"x")
    there.unlink()
    with pytest.raises(
        InputUnreadable, match=r"damaged.*xrdfs root://localhost:\d+ rm /store/fetched/a\.zip"
    ):
        storing.get(url, there, len(CONTENT), checksum)
    plain_server.put("/store/fetched/a.zip", CONTENT[:-1])
    with pytest.raises(InputChanged, match=f"has {len(CONTENT) - 1} bytes, and had {len(CONTENT)}"):
        storing.get(url, there, len(CONTENT), checksum)
    storing.remove(url)
    storing.remove(url)
    with pytest.raises(InputUnreadable, match="no such file"):
        storing.get(url, there, len(CONTENT), checksum)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]


def test_folders_are_made_listed_and_removed_when_empty(plain_server):
    url = plain_server.url("/store/one/two")
    assert storing.make_folder(url) and not storing.make_folder(url)
    plain_server.put("/store/one/two/.hidden", b"123")
    storing.make_folder(f"{url}/three")
    assert storing.sizes(url) == {".hidden": 3}
    storing.remove_folder(url)
    assert storing.sizes(url), "it was not empty"
    storing.remove_folder(f"{url}/three")
    storing.remove(f"{url}/.hidden")
    storing.remove_folder(url)
    assert not plain_server.path("/store/one/two").exists() and storing.sizes(url) == {}


def put_as_another(path, url):
    from pathlib import Path

    from mlaas_condor.grid import storing

    storing.put(Path(path), url)


def test_who_may_not_write_is_told_who_they_are(gsi_server, john_proxy, file):
    url = gsi_server.url(f"{FOLDER}/johns.zip")
    with pytest.raises(AccessDenied, match=r"no permission for /DC=.*John Roe"):
        in_process(put_as_another, str(file), url, env={"X509_USER_PROXY": john_proxy}).get()


# Runs.


@pytest.fixture
def request_folder(tmp_path, gsi_server, monkeypatch, jane):
    """The example, its inputs here, its chunks on the server, with Jane's proxy."""
    shutil.rmtree(gsi_server.path("/store"))
    gsi_server.path("/store").mkdir()
    folder = copy_example(tmp_path, epochs=1, nevts=4000, chunk_size=1000)
    edit(folder, "job.json", chunk_store=gsi_server.url(FOLDER))
    monkeypatch.setenv("X509_USER_PROXY", str(proxy(jane, 6 * HOUR).write_proxy(tmp_path / "x509up")))
    return folder


@pytest.fixture
def home(tmp_path):
    return settings_module.load(home=str(tmp_path / "home"))


def run_here(folder, settings):
    """Run a request without HTCondor."""
    made = workflow.create(workflow.plan(folder / "job.json", settings), settings)
    run = workflow.open_run(made.name, settings)
    local.run(run.folder)
    return run


def stored(server):
    """Return the names of all files below the chunk store, with what they hold."""
    return {path.name: path.read_bytes() for path in server.path(FOLDER).rglob("*") if path.is_file()}


def chunk_files(run):
    return sorted(path.name for path in run.folder.path.rglob("chunk-*.zip"))


@pytest.mark.pool
def test_chunks_go_to_the_storage_and_a_second_model_finds_them_there(request_folder, settings, gsi_server):
    run = submit(request_folder, settings)
    assert run.wait(timeout=300).state == "completed"
    there = stored(gsi_server)
    assert len(there) == 4 and all(storedchunks.OURS.fullmatch(name) for name in there)
    stubs = sorted(run.folder.output("preprocess").glob(storedchunks.STUBS))
    assert len(stubs) == 4 and chunk_files(run) == []
    for each in map(storedchunks.read, stubs):
        assert len(there[each.name]) == each.size and each.events == 1000
    assert {each.user for each in gsi_server.requests().of("login")} == {"jane"}
    given = {name: "x509userproxy" in run.folder.submit_file(name).read_text() for name in
             ("merge", "preprocess", "train", "report")}  # fmt: skip
    assert given == {"merge": False, "preprocess": True, "train": True, "report": False}
    # With the chunks at the access point it is the same training.
    edit(request_folder, "job.json", chunk_store=None)
    plain = submit(request_folder, settings)
    assert plain.wait(timeout=300).state == "completed"
    assert len(chunk_files(plain)) == 4
    assert plain.metrics() == run.metrics()

    edit(request_folder, "job.json", chunk_store=gsi_server.url(FOLDER))
    edit(request_folder, "params.json", epochs=2)
    gsi_server.forget_requests()
    second = submit(request_folder, settings)
    assert second.wait(timeout=300).state == "completed"
    assert jobs_by_stage(second)["preprocess"] == 0 and stored(gsi_server) == there
    assert not [each for each in gsi_server.requests().of("write") if ".probe-" not in each.path]
    run.delete()
    assert stored(gsi_server) == there, "the second one has them"
    second.delete()
    assert stored(gsi_server) == {} and list(gsi_server.path(FOLDER).iterdir()) == []
    assert not chunkstore.place_of(plain.folder) and len(chunk_files(plain)) == 4
    plain.delete()


def exit_code_of_job(run, folder):
    """Return how the preprocess job of a run ends when it is started by hand."""
    place = folder / "job"
    place.mkdir()
    job = jobs_of(run.folder, "preprocess")[0]
    for name in job.inputs:
        (place / name.rpartition("/")[2]).symlink_to(run.folder.path / name)
    return subprocess.run(job.command, cwd=place, capture_output=True, timeout=60).returncode


def test_a_full_storage_ends_the_run_and_with_room_it_goes_on(request_folder, home, gsi_server, tmp_path):
    edit(request_folder, "job.json", tasks={"preprocess": 1})
    prepared = workflow.plan(request_folder / "job.json", home)
    run = workflow.open_run(workflow.create(prepared, home).name, home)
    gsi_server.leave_room(500_000)
    with pytest.raises(RunFailed, match=r"no space left on localhost.*\n→ make room"):
        local.run(run.folder)
    events = json.loads(run.folder.local_log.read_text().splitlines()[-1])
    assert events["event"] == "failed" and events["failure"]["stage"] == "preprocess"
    assert exit_code_of_job(run, tmp_path) == 25
    before = stored(gsi_server)
    assert 0 < len(before) < 4 and len(run.folder.units_done("preprocess")) == len(before)
    assert chunk_files(run) == []
    gsi_server.leave_room(None)
    gsi_server.forget_requests()
    run.resume()
    assert run.status().state == "completed"
    after = stored(gsi_server)
    assert len(after) == 4 and before.items() <= after.items()
    assert gsi_server.requests().written == sum(map(len, after.values())) - sum(map(len, before.values()))


def test_chunks_that_vanished_are_made_again(request_folder, home, gsi_server):
    model = (request_folder / "model.py").read_text()
    prepend_to_model(request_folder, "raise ValueError('not today')")
    with pytest.raises(RunFailed, match="not today"):
        run_here(request_folder, home)
    [run] = workflow.list_runs(home)
    there = stored(gsi_server)
    next(gsi_server.path(FOLDER).rglob("chunk-00002-*")).unlink()
    (run.folder.files / "model.py").write_text(model)
    gsi_server.forget_requests()
    run.resume()
    assert run.status().state == "completed" and stored(gsi_server) == there
    assert gsi_server.requests().written == len(next(v for n, v in there.items() if "chunk-00002" in n))
    # A new run does not rely on what is not there either.
    next(gsi_server.path(FOLDER).rglob("chunk-00001-*")).unlink()
    (request_folder / "model.py").write_text(model)
    assert run_here(request_folder, home).status().state == "completed"
    assert stored(gsi_server) == there


def test_a_run_is_deleted_only_with_its_chunks_unless_they_may_stay(request_folder, home, gsi_server):
    run = run_here(request_folder, home)
    there = stored(gsi_server)
    gsi_server.kill()
    with pytest.raises(StorageUnavailable, match=f"{run.name} is not deleted.*--keep-stored"):
        run.delete()
    assert run.folder.units_done("preprocess") == set(range(4)), "nothing is deleted"
    gsi_server.start()
    run.delete(keep_stored=True)
    assert not run.folder.path.exists() and stored(gsi_server) == there
    # What is made again finds them there.
    gsi_server.forget_requests()
    again = run_here(request_folder, home)
    assert not [each for each in gsi_server.requests().of("write") if ".probe-" not in each.path]
    again.delete()
    assert stored(gsi_server) == {}


@pytest.mark.parametrize("path", ["/denied/chunks", "/elsewhere/chunks"])
def test_where_one_may_not_write_is_said_before_anything_is_queued(request_folder, home, gsi_server, path):
    edit(request_folder, "job.json", chunk_store=gsi_server.url(path))
    with pytest.raises(RequestError) as caught:
        workflow.plan(request_folder / "job.json", home)
    [problem] = caught.value.problems
    assert problem.where == "job.json: chunk_store" and "no permission for" in problem.what
    assert list(gsi_server.path("/denied").iterdir()) == [] and workflow.list_runs(home) == []


def test_trying_whether_one_may_write_leaves_nothing(request_folder, home, gsi_server):
    workflow.plan(request_folder / "job.json", home)
    assert stored(gsi_server) == {}
    shutil.rmtree(gsi_server.path(FOLDER))
    gsi_server.leave_room(3)
    with pytest.raises(RequestError, match="no space left"):
        workflow.plan(request_folder / "job.json", home)
    assert not gsi_server.path(FOLDER).exists()
