"""Folders that are stored: whole or not at all, unchanged while needed, gone when nobody needs them."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import archive_tools as made
import pytest

from mlaas_condor import settings as settings_module
from mlaas_condor import versions, workflow
from mlaas_condor.errors import CannotWrite
from mlaas_condor.request import Request
from mlaas_condor.server.configuration import Limits
from mlaas_condor.server.faults import Conflict, HttpFault, NotFound, OverLimit, OverQuota, Unavailable
from mlaas_condor.server.identity import Identity
from mlaas_condor.server.permissions import Sharing, missing
from mlaas_condor.server.storage import contents, incoming, unpacking
from mlaas_condor.server.storage.folders import Folders

ODD_OWNERS = [
    "jane",
    "Jane",
    "../jane",
    "jane/../ann",
    "a.b@cern.ch",
    "CN=Jane Doe,O=INFN",
    "é" * 300,
    ".",
    "-",
    "\n",
]


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def folders_in(home, **limits):
    return Folders(settings_module.load(home=str(home)), Limits(**limits))


@pytest.fixture
def folders(home):
    return folders_in(home)


@pytest.fixture
def archive(tmp_path):
    """Return what writes an archive of files."""

    def archive(kind="tar", **files):
        path = tmp_path / f"archive-{random.random()}"
        path.write_bytes(made.pack({name: content.encode() for name, content in files.items()}, kind))
        return path

    return archive


def own(home, owner="jane"):
    return replace(settings_module.load(home=str(home)), owner=owner).own


def run_of(home, name, folder, owner="jane"):
    """Write what a run directory says of a folder."""
    path = own(home, owner) / "runs" / name
    path.mkdir(parents=True)
    (path / "owner.json").write_text(
        json.dumps({"owner": owner, "folder": folder.name, "version": folder.version})
    )
    return path


def kept(home, owner="jane"):
    """Return the versions and the contents that are stored, and make sure that nothing else is."""
    place = own(home, owner)
    versions = {path.name for path in (place / "versions").iterdir() if path.is_dir()}
    assert {path.name for path in (place / "versions").iterdir()} == {
        ".lock",
        *versions,
        *(f"{version}.files" for version in versions),
    }
    assert [path.name for path in (place / "incoming").iterdir()] == [".lock"]
    return versions, {path.name for path in (place / "contents").glob("*/*")}


def test_a_folder_is_put_opened_listed_and_deleted(home, folders, archive):
    assert folders.list("jane") == [] and folders.stored_bytes("jane") == 0
    made_of = folders.put("jane", "luca", archive(a="1", b="2"))
    folders.put("jane", "anna", archive(c="3"))
    assert folders.open("jane", "luca") == made_of
    assert [each.name for each in folders.list("jane")] == ["anna", "luca"]
    assert made_of.path == folders.version_path("jane", made_of.version)
    assert (made_of.path / "a").read_text() == "1"
    assert abs(made_of.uploaded - time.time()) < 600
    folders.delete("jane", "luca")
    assert [each.name for each in folders.list("jane")] == ["anna"]
    assert len(kept(home)[0]) == 1
    for action in (folders.open, folders.delete):
        with pytest.raises(NotFound) as error:
            action("jane", "luca")
        # As of one that is another's: see permissions.
        assert str(error.value) == str(missing("folder 'luca'"))
    with pytest.raises(NotFound):
        folders.share("jane", "luca", Sharing())


def test_nothing_is_made_for_somebody_who_only_looks(home, folders):
    assert folders.list("nobody") == [] and folders.shared_with(Identity("nobody")) == []
    with pytest.raises(NotFound):
        folders.open("nobody", "luca")
    with pytest.raises(NotFound):
        folders.delete("nobody", "luca")
    folders.tidy()
    assert not home.exists()


def test_owners_are_kept_apart_whatever_they_are_called(home, folders, archive):
    for number, owner in enumerate(ODD_OWNERS):
        folders.put(owner, "luca", archive(a=str(number)))
    for number, owner in enumerate(ODD_OWNERS):
        (found,) = folders.list(owner)
        assert found.owner == owner and (found.path / "a").read_text() == str(number)
        folders.delete(owner, "luca")
    assert {path.name for path in home.iterdir()} == {"users"}


def test_an_upload_of_the_same_name_is_a_new_version(home, folders, archive):
    first = folders.put("jane", "luca", archive(a="1", b="same"))
    folders.share("jane", "luca", Sharing(readers=["/cms"]))
    second = folders.put("jane", "luca", archive(a="2", b="same"))
    assert second.version != first.version and second.sharing.readers == ["/cms"]
    assert folders.open("jane", "luca") == second
    assert kept(home) == ({second.version}, {each.sha256 for each in second.entries()})
    with pytest.raises(Conflict, match="replaced or deleted"):
        first.entries()


@pytest.mark.parametrize("staged", [False, True])
def test_what_a_run_uses_stays_until_the_run_is_deleted(home, folders, archive, staged):
    first = folders.put("jane", "luca", archive(a="1", b="same"))
    # `run.staging` writes a run directory under such a name first.
    run = run_of(home, ".luca_1.0123abcd" if staged else "luca_1", first)
    second = folders.put("jane", "luca", archive(a="2", b="same"))
    folders.delete("jane", "luca")
    assert (first.path / "a").read_text() == "1" and kept(home)[0] == {first.version}
    assert not second.path.exists()
    assert folders.list("jane") == []
    shutil.rmtree(run)
    folders.collect("jane")
    assert kept(home) == (set(), set())


def test_where_it_is_unknown_what_a_run_uses_all_stays(home, folders, archive):
    first = folders.put("jane", "luca", archive(a="1"))
    (run_of(home, "luca_1", first) / "owner.json").write_text("{")
    folders.delete("jane", "luca")
    assert first.path.is_dir()
    assert folders.list("jane") == []


def test_a_version_is_kept_while_a_run_of_it_is_submitted(home, folders, archive):
    folder = folders.put("jane", "luca", archive(a="1"))
    with folders.using("jane", folder) as mine:
        assert mine == folder
        folders.delete("jane", "luca")
        folders.collect("jane")
        assert (mine.path / "a").read_text() == "1"
        run = run_of(home, "luca_1", mine)
    folders.collect("jane")
    assert (mine.path / "a").read_text() == "1"
    shutil.rmtree(run)
    folders.collect("jane")
    assert not mine.path.exists()
    with pytest.raises(Conflict, match="replaced or deleted"), folders.using("jane", folder):
        pass
    assert kept(home) == (set(), set())


def test_another_s_folder_becomes_one_s_own_without_taking_space_twice(home, folders, archive):
    theirs = folders.put("jane", "luca", archive(a="1" * 10**5, b="2"))
    with folders.using("ann", theirs) as mine:
        assert mine.path == folders.version_path("ann", theirs.version) != theirs.path
        assert mine.model_copy(update={"path": theirs.path}) == theirs
        assert (mine.path / "a").samefile(theirs.path / "a")
        run_of(home, "luca_1", mine, "ann")
    folders.delete("jane", "luca")
    assert kept(home) == (set(), set())
    assert (mine.path / "a").read_text() == "1" * 10**5 and folders.list("ann") == []
    assert 10**5 < folders.stored_bytes("ann") < 1.1 * 10**5
    assert [each.path for each in mine.model_copy().entries()] == ["a", "b"]
    with pytest.raises(Conflict), folders.using("ann", theirs):
        pass
    again = folders.put("jane", "again", archive(a="3"))
    with folders.using("ann", again) as planned:
        assert (planned.path / "a").read_text() == "3"
    assert kept(home, "ann")[0] == {mine.version}
    small = folders_in(home, stored="1m")
    large = folders.put("jane", "large", archive(a="1" * 2**21))
    with pytest.raises(OverQuota), small.using("ann", large):
        pass
    assert kept(home, "ann")[0] == {mine.version}


def test_sharing_is_with_groups_and_administrators_see_all(folders, archive):
    folders.put("jane", "luca", archive(a="1"))
    folders.put("jane", "own", archive(a="2"))
    folders.put("ann", "hers", archive(a="3"))
    shared = folders.share("jane", "luca", Sharing(readers=["/cms"], writers=["/cms/higgs"]))
    assert folders.open("jane", "luca") == shared
    assert [each.name for each in folders.shared_with(Identity("bob", groups=("/cms",)))] == ["luca"]
    assert [each.name for each in folders.shared_with(Identity("bob", groups=("/cms/higgs",)))] == ["luca"]
    assert folders.shared_with(Identity("bob", groups=("/atlas",))) == []
    assert folders.shared_with(Identity("jane", groups=("/cms",))) == []
    every = folders.shared_with(Identity("root", administrator=True))
    assert [(each.owner, each.name) for each in every] == [("ann", "hers"), ("jane", "luca"), ("jane", "own")]


def test_a_check_that_refuses_leaves_all_as_it_was(home, folders, archive):
    def refuse(found):
        seen.append(found)
        raise Conflict("not now")

    seen = []
    path = archive(a="1")
    with pytest.raises(Conflict):
        folders.put("jane", "luca", path, refuse)
    first = folders.put("jane", "luca", path)
    before = made.listing(home)
    for change in (
        lambda: folders.put("jane", "luca", archive(a="2"), refuse),
        lambda: folders.delete("jane", "luca", refuse),
        lambda: folders.share("jane", "luca", Sharing(readers=["x"]), refuse),
    ):
        with pytest.raises(Conflict):
            change()
    assert made.listing(home) == before and seen == [None, first, first, first]


def test_bytes_are_those_on_the_disk_each_file_once(home, folders, archive):
    folders.put("jane", "luca", archive(a="x" * 1000, b="x" * 1000, c="y" * 500))
    before = folders.stored_bytes("jane")
    assert 1500 < before < 2500
    run = own(home) / "runs" / "luca_1"
    run.mkdir(parents=True)
    (run / "chunk").write_bytes(bytes(10_000))
    (run / "again").hardlink_to(run / "chunk")
    (run / "link").symlink_to("/etc/passwd")
    assert before + 10_000 <= folders.stored_bytes("jane") < before + 10_100
    (own(home) / "incoming" / "x").mkdir()
    (own(home) / "incoming" / "x" / "archive").write_bytes(bytes(10**6))
    assert folders.stored_bytes("jane") < before + 10_100
    assert folders.stored_bytes("ann") == 0


def test_who_has_no_room_is_told_and_nothing_is_left(home, archive):
    folders = folders_in(home, stored="2m", upload="8m")
    one = folders.put("jane", "one", archive(a="1" * 2**20))
    with pytest.raises(
        OverQuota, match=r"1 MiB are stored of yours, and this has 1\.5 MiB more; the limit is 2 MiB"
    ):
        folders.put("jane", "two", archive(a="1" * 2**20, b="2" * (3 * 2**19)))
    assert [each.name for each in folders.list("jane")] == ["one"] and kept(home)[0] == {one.version}
    folders.put("jane", "two", archive(a="1" * 2**20, b="2" * 2**18))  # the first file is there
    (own(home) / "runs").mkdir()
    (own(home) / "runs" / "log").write_bytes(bytes(2**20))
    with pytest.raises(OverQuota, match=r"2\.25\d* MiB are stored of yours; the limit is 2 MiB: delete"):
        folders.put("jane", "two", archive(a="1"))
    with pytest.raises(OverQuota), folders.arriving("jane"):
        pass
    folders.delete("jane", "two")
    folders.put("ann", "hers", archive(a="1"))
    kept(home)


def test_uploads_of_one_owner_have_no_room_together(home, monkeypatch):
    monkeypatch.setattr("mlaas_condor.server.storage.room._LOOK_EVERY", 2**18)
    folders = folders_in(home, stored="1m", upload="1m")
    with folders.arriving("jane") as one, folders.arriving("jane") as two:
        for arrival in (one, two):
            (arrival.path / "archive").write_bytes(bytes(2**20))
            arrival.spend(2**20)
        (one.path / "archive").write_bytes(bytes(3 * 2**20))
        with pytest.raises(OverQuota, match="4 MiB arrive"):
            two.spend(2**20)
    assert [path.name for path in (own(home) / "incoming").iterdir()] == [".lock"]


def test_there_are_so_many_places_for_uploads(home):
    folders = folders_in(home, uploads=4)
    with folders.arriving("jane"), folders.arriving("jane"), folders.arriving("jane"):
        with pytest.raises(OverLimit, match="3 uploads of yours") as refused, folders.arriving("jane"):
            pass
        assert refused.value.headers["Retry-After"]
        with folders.arriving("ann"):
            with (
                pytest.raises(Unavailable, match="4 uploads are under way") as refused,
                folders.arriving("ann"),
            ):
                pass
            assert refused.value.headers["Retry-After"]
        with folders.arriving("ann"):
            pass
    with folders.arriving("jane"):
        pass
    with folders_in(home, uploads=1).arriving("jane"):
        pass


BEGIN = """
import sys
from pathlib import Path
from mlaas_condor import settings
from mlaas_condor.server.configuration import Limits
from mlaas_condor.server.storage.folders import Folders
folders = Folders(settings.load(home=sys.argv[1]), Limits())
"""


def python(code, *arguments, **options):
    """Run code in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN + textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_killed_upload_leaves_nothing_for_long(home, folders, archive):
    first = folders.put("jane", "luca", archive(a="1"))
    code = """
        with folders.arriving("jane") as arrival, folders.using("jane", folders.open("jane", "luca")):
            (arrival.path / "archive").write_bytes(bytes(1000))
            print("ready", flush=True)
            sys.stdin.read()
    """
    with python(code, home, stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == "ready\n"
        place = own(home) / "incoming"
        folders.tidy()
        folders.delete("jane", "luca")
        assert len([*place.iterdir()]) == 3 and first.path.is_dir()
        process.kill()
    assert len([*place.iterdir()]) == 3
    folders.tidy()
    folders.collect("jane")
    assert kept(home) == (set(), set())


def test_killed_at_any_moment_a_folder_is_the_old_or_the_new_one(home, folders, archive):
    """With real signals, anywhere between the first byte and the last."""
    files = [{f"f{i}": f"{version} {i}" for i in range(60)} for version in range(2)]
    archives = [archive(kind="gzip", **each) for each in files]
    versions = [folders.put("jane", "luca", each).version for each in archives]
    code = """
        print("ready", flush=True)
        while True:
            for path in sys.argv[2:]:
                folders.put("jane", "luca", Path(path))
    """
    for number in range(8):
        with python(code, home, *archives) as process:
            process.stdout.readline()
            time.sleep(0.02 + 0.019 * number)
            process.send_signal(signal.SIGKILL)
        found = folders.open("jane", "luca")
        text = {path.name: path.read_text() for path in found.path.iterdir()}
        assert text == files[versions.index(found.version)] and len(found.entries()) == 60
    folders.tidy()
    folders.collect("jane")
    assert kept(home)[0] == {found.version} and len(kept(home)[1]) == 60


def test_many_at_once_change_and_use_the_same_folder(home, folders, archive):
    archives = [archive(same="same", **{f"f{i}": f"{version} {i}" for i in range(5)}) for version in range(6)]
    folders.put("jane", "luca", archives[0])
    problems, over = [], threading.Event()

    def change(number):
        for i in range(8):
            folders.put("jane", "luca" if i % 2 else f"luca{number}", archives[(number + i) % 6])
            if i % 4 == 3:
                folders.delete("jane", f"luca{number}")
                folders.collect("jane")

    def use():
        while not over.is_set():
            try:
                with folders.using("jane", folders.open("jane", "luca")) as found:
                    entries = found.entries()
                    time.sleep(0.002)
                    problems.extend(
                        each for each in entries if len((found.path / each.path).read_bytes()) != each.size
                    )
            except Conflict:
                continue
            except Exception as error:
                problems.append(error)

    users = [threading.Thread(target=use) for _ in range(2)]
    for each in users:
        each.start()
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(change, number) for number in range(4)]
    over.set()
    for each in users:
        each.join()
    assert [each.result() for each in done] == [None] * 4 and problems == []
    folders.collect("jane")
    found = folders.list("jane")
    assert kept(home)[0] == {each.version for each in found}
    assert kept(home)[1] == {entry.sha256 for each in found for entry in each.entries()}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "link", "mkdir", "rename"])
def test_where_nothing_can_be_written_nothing_is_left(home, folders, archive, monkeypatch, call, code):
    folders.put("jane", "luca", archive(a="1"))
    path, before = archive(a="2", b="3"), made.listing(home)

    def fails(*_, **__):
        raise OSError(code, os.strerror(code))

    if call == "write":
        monkeypatch.setattr(unpacking, "open", lambda *_: Full(), raising=False)
    elif call == "open":
        real = os.open
        creates = os.O_CREAT | os.O_EXCL
        monkeypatch.setattr(
            os,
            "open",
            lambda *given, **more: (fails if given[1] & creates == creates else real)(*given, **more),
        )
    elif call == "link":
        monkeypatch.setattr(contents.Contents, "_link", fails)
    elif call == "mkdir":
        monkeypatch.setattr(incoming.secrets, "token_hex", fails)
    elif call == "rename":
        monkeypatch.setattr(Path, "replace", fails)
    else:
        monkeypatch.setattr(os, call, fails)

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, _):
            fails()

    with pytest.raises(CannotWrite, match=os.strerror(code)) as error:
        folders.put("jane", "luca", path)
    assert error.value.http_status == 507 and str(home) not in str(error.value)
    monkeypatch.undo()
    assert made.listing(home) == before
    assert folders.put("jane", "luca", path).files == 2


FULL = """
    import mlaas_condor.errors
    from mlaas_condor.server.faults import HttpFault
    big, small = map(Path, sys.argv[2:])
    first = folders.put("jane", "luca", small)
    def listing():
        found = (str(path) for path in Path(sys.argv[1]).rglob("*"))
        return sorted(path for path in found if "/users/" in path and "/uploads" not in path)
    before = listing()
    try:
        folders.put("jane", "luca", big)
    except mlaas_condor.errors.CannotWrite as error:
        print(error)
    assert listing() == before, {*listing()} ^ {*before}
    assert folders.open("jane", "luca") == first
    try:
        with folders.arriving("jane") as arrival, (arrival.path / "archive").open("wb", 0) as file:
            while file.write(bytes(2**16)) == 2**16:
                pass
            print("less than it should")
    except OSError as error:
        print(error.strerror)
    assert listing() == before, {*listing()} ^ {*before}
"""


def test_a_disk_that_is_really_full(home, archive):
    """On a file system of 2 MiB of its own, where this kernel lets a user mount one."""
    big, small = archive(a="1" * (3 * 2**20)), archive(a="1")
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f'mount -t tmpfs -o size=2m tmpfs "{home}" && '
    home.mkdir()
    possible = shutil.which("unshare") and subprocess.run([*enter, f"{mount} true"], capture_output=True)
    if not possible or possible.returncode:
        pytest.skip("no file system can be mounted here")
    program = BEGIN + textwrap.dedent(FULL)
    done = subprocess.run(
        [*enter, f'{mount} exec "$@"', "sh", sys.executable, "-c", program, str(home), str(big), str(small)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("the service cannot keep this: No space left on device; nothing of it is left")
    assert said[1] in ("No space left on device", "less than it should")


def test_a_file_with_as_many_names_as_it_can_have_is_copied(home, folders, archive, monkeypatch):
    first = folders.put("jane", "one", archive(a="same", b="1"))
    real, left = Path.hardlink_to, [1]

    def hardlink_to(self, target):
        if "contents" in Path(target).parts and left and left.pop():
            raise OSError(errno.EMLINK, "Too many links")
        real(self, target)

    monkeypatch.setattr(Path, "hardlink_to", hardlink_to)
    monkeypatch.setattr(unpacking._Unpacking, "_is_stored", lambda *_: False)
    second = folders.put("jane", "two", archive(a="same", b="2"))
    assert not left and not (first.path / "a").samefile(second.path / "a")
    assert (first.path / "a").read_text() == (second.path / "a").read_text() == "same"
    assert (second.path / "a").stat().st_mode == (first.path / "a").stat().st_mode
    third = folders.put("jane", "three", archive(a="same", b="3"))
    assert (third.path / "a").samefile(second.path / "a")


def test_an_error_of_the_archive_is_not_one_of_the_disk(folders, tmp_path):
    (tmp_path / "hostile").write_bytes(b"no archive")
    with pytest.raises(HttpFault):
        folders.put("jane", "luca", tmp_path / "hostile")
    with pytest.raises(CannotWrite):
        folders.put("jane", "luca", tmp_path / "not there")


def test_a_request_is_planned_with_the_files_of_a_folder(folders, request_folder, tmp_path):
    subprocess.run(["tar", "-czf", tmp_path / "tiny.tar.gz", "-C", tmp_path, "request"], check=True)
    folder = folders.put("jane", "tiny", tmp_path / "tiny.tar.gz")
    with folders.using("jane", folder) as mine:
        job = json.loads((mine.path / "job.json").read_text())
        prepared = workflow.plan(
            Request.of(job, mine.path, "job.json"), settings_module.load(home=str(tmp_path))
        )
    assert [file.path for file in prepared.dataset.files] == [
        str(mine.path / "data" / name) for name in ("signal.root", "background.root")
    ]
    assert prepared.dataset.events == 100
    assert [each.path for each in folder.entries()] == sorted(map(str, versions.files_of(request_folder)))
