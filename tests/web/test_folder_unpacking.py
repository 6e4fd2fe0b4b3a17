"""Archives that people send: whatever packed them, the folder has exactly the files that were meant."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile

import archive_tools as made
import numpy as np
import pytest
import uproot
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlaas_condor import settings as settings_module
from mlaas_condor import versions
from mlaas_condor.data.inputs import open_source
from mlaas_condor.errors import RequestError
from mlaas_condor.server.configuration import Limits
from mlaas_condor.server.faults import Unprocessable
from mlaas_condor.server.storage.folders import Folders

FILES = {
    "job.json": b"{}",
    "model.py": b"def model(idim): ...",
    "data/ttH.root": os.urandom(3000),
    "empty": b"",
}


@pytest.fixture
def folders(tmp_path):
    return Folders(settings_module.load(home=str(tmp_path / "home")), Limits())


@pytest.fixture
def put(folders, tmp_path):
    """Return what puts bytes as a folder."""

    def put(content, name="luca", owner="jane"):
        (tmp_path / "sent").write_bytes(content)
        return folders.put(owner, name, tmp_path / "sent")

    return put


def files_of(folder):
    """Return what is on the disk of a version."""
    found = {}
    for path in folder.path.rglob("*"):
        mode = path.lstat().st_mode
        if not stat.S_ISDIR(mode):
            # Readable, as far as this process lets files be; nothing that the sender wanted.
            assert stat.S_ISREG(mode) and mode & 0o400 and not mode & 0o7333
            found[path.relative_to(folder.path).as_posix()] = path.read_bytes()
    return found


def check(folder, files):
    assert files_of(folder) == files
    assert folder.files == len(files) and folder.bytes == sum(map(len, files.values()))
    expected = [
        versions.Entry(name, len(files[name]), hashlib.sha256(files[name]).hexdigest())
        for name in sorted(files)
    ]
    assert folder.entries() == expected
    assert folder.version == versions.digest(expected) == folder.path.name


@pytest.mark.parametrize("kind", made.KINDS)
@pytest.mark.parametrize("top", ["", "folder_to_upload/", "./"])
def test_every_kind_of_archive(put, kind, top):
    check(put(made.pack(FILES, kind, top)), FILES)


names = st.text("abcXYZ09 _.+=@()[]{}!%éßЖ-", min_size=1, max_size=8).filter(
    lambda name: name.strip(" .-") == name and not name.startswith(("-", "."))
)
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=4).map("/".join), st.binary(max_size=3000), min_size=1, max_size=12
).filter(lambda files: not any(above in files for name in files for above in made.parents(name)))


@given(trees, st.sampled_from(made.KINDS), st.sampled_from(made.KINDS), st.integers(0, 99))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_files_come_out_as_they_went_in_and_are_stored_once(put, folders, files, kind, another, seed):
    first = put(made.pack(files, kind, "top/", seed))
    check(first, files)
    stored = folders.stored_bytes("jane")
    again = put(made.pack(files, another, "top/", seed + 1))
    assert again.version == first.version and again.path == first.path
    assert folders.stored_bytes("jane") - stored < 10  # the time in the folder's own file may be longer
    check(again, files)


def test_the_same_content_is_stored_once_whatever_it_is_called(put, folders):
    big = os.urandom(10**6)
    put(made.pack({"a": big, "b": big, "c/d": big}, "tar"))
    assert folders.stored_bytes("jane") < 1.01 * 10**6
    first = put(made.pack({"a": big, "model.py": b"1"}, "zip"), "luca")
    second = put(made.pack({"a": big, "model.py": b"2"}, "zstd"), "another")
    assert folders.stored_bytes("jane") < 1.01 * 10**6
    assert (first.path / "a").samefile(second.path / "a") and first.version != second.version


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"top/a": b"1", "top/b/c": b"2"}, {"a", "b/c"}),
        ({"top/only/a": b"1"}, {"only/a"}),
        ({"top/a": b"1", "beside": b"2"}, {"top/a", "beside"}),
        ({"one/a": b"1", "two/a": b"2"}, {"one/a", "two/a"}),
        ({"a": b"1"}, {"a"}),
        ({"top/a": b"1", "top/._a": b"m", "._top": b"m", "__MACOSX/top/._a": b"m", ".DS_Store": b"m"}, {"a"}),
        ({"top/.hidden": b"1", "top/a": b"2"}, {".hidden", "a"}),
    ],
    ids=["one folder", "one level only", "a file beside", "two folders", "no folder", "macOS", "hidden"],
)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_the_folder_around_everything_is_taken_off(put, kind, files, found):
    assert set(files_of(put(made.pack(files, kind)))) == found


def test_folders_without_files_make_no_difference(put):
    with_empty = put(made.tar(made.folder("top/"), made.folder("top/empty/"), made.file("top/a")), "with")
    assert with_empty.version == put(made.tar("a"), "without").version
    assert set(files_of(with_empty)) == {"a"}


def with_name_of(raw):
    packed = io.BytesIO()
    with gzip.GzipFile("folder_to_upload.tar", "wb", fileobj=packed) as file:
        file.write(raw)
    return packed.getvalue()


def long_window_of(raw):
    parameters = zstandard.ZstdCompressionParameters.from_level(19, window_log=27, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(raw) + packer.flush()


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        (
            "gzip in members",
            lambda raw: gzip.compress(raw[:5000]) + gzip.compress(b"") + gzip.compress(raw[5000:]),
        ),
        ("gzip with a name", with_name_of),
        ("bzip2 in streams", lambda raw: bz2.compress(raw[:5000]) + bz2.compress(raw[5000:])),
        (
            "xz in streams, padded",
            lambda raw: lzma.compress(raw[:5000]) + bytes(8) + lzma.compress(raw[5000:]) + bytes(4),
        ),
        ("xz, best", lambda raw: lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
        ("zstd in frames", lambda raw: made.PACKED["zstd"](raw[:5000]) + made.PACKED["zstd"](raw[5000:])),
        ("zstd, skipped frame", lambda raw: made.PACKED["zstd"](raw) + b"\x50\x2a\x4d\x18\x04\0\0\0abcd"),
        ("zstd, long window", long_window_of),
        ("zeros behind", lambda raw: raw + bytes(2**20)),
        ("one zero block", lambda raw: raw[: len(raw.rstrip(b"\0")) + 511 & ~511] + bytes(512)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_archives_as_unusual_programs_write_them(put, name, pack):
    files = {"top/a": os.urandom(20_000), "top/b": b"x"}
    raw = made.tar(*(made.file(each, content) for each, content in files.items()))
    check(put(pack(raw)), {each[4:]: content for each, content in files.items()})


@pytest.fixture
def packed_here(tmp_path):
    folder = tmp_path / "folder_to_upload"
    (folder / "data").mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    long = folder / ("long name " * 9 + "é") / ("another" * 12)
    long.mkdir(parents=True)
    (long / "file.txt").write_bytes(b"deep")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "tar -cf OUT folder_to_upload",
        "tar -czf OUT folder_to_upload",
        "tar -cjf OUT folder_to_upload",
        "tar -cJf OUT folder_to_upload",
        "tar --zstd -cf OUT folder_to_upload",
        "tar --format=gnu -czf OUT folder_to_upload",
        "tar --format=posix -czf OUT folder_to_upload",
        "tar --format=oldgnu -czf OUT folder_to_upload",
        "tar -b 128 -cf OUT ./folder_to_upload",
        "tar -C folder_to_upload -czf OUT .",
        "tar --owner=jäne --xattrs -czf OUT folder_to_upload",
        "bsdtar -czf OUT folder_to_upload",
        "zip -qr OUT folder_to_upload",
        "zip -0qr OUT folder_to_upload",
        "python3 -m zipfile -c OUT folder_to_upload",
        "python3 -m tarfile -c OUT folder_to_upload",
        "git init -q folder_to_upload && cd folder_to_upload && git add . && "
        "git -c user.name=x -c user.email=x commit -qm x && git archive --format=tar.gz -o OUT HEAD",
    ],
)
def test_what_real_programs_pack(put, packed_here, tmp_path, command):
    programs = {"tar --zstd": "zstd", "tar -cJ": "xz", "tar -cj": "bzip2"}
    needed = [
        command.split()[0],
        *(program for begin, program in programs.items() if command.startswith(begin)),
    ]
    for program in needed:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    meant = versions.of_folder(packed_here)
    out = tmp_path / "out.zip"
    subprocess.run(command.replace("OUT", str(out)), shell=True, check=True, cwd=tmp_path)
    found = put(out.read_bytes())
    assert found.entries() == meant and found.version == versions.digest(meant)


def test_zip_archives_as_unusual_programs_write_them(put, tmp_path):
    class Pipe(io.RawIOBase):
        """Where nobody can go back, sizes are behind the content."""

        def __init__(self):
            self.content = b""

        def writable(self):
            return True

        def write(self, content):
            self.content += bytes(content)
            return len(content)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(content)
    check(put(pipe.content), FILES)
    # macOS does not say that its names are UTF-8.
    name = "datä.root".encode()
    check(put(made.listed(made.local(name, b"x"), made.central(name, b"x", 0))), {"datä.root": b"x"})
    said = made.listed(made.local(name, b"x", flags=0x800), made.central(name, b"x", 0, flags=0x800))
    check(put(said), {"datä.root": b"x"})
    check(put(made.zipped(("a", b"x"), comment=b"made by hand")), {"a": b"x"})


def test_modes_and_owners_of_the_sender_mean_nothing(put):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, mode in (("a", 0o6777), ("b", 0), ("c", 0o222)):
            member = tarfile.TarInfo(name)
            member.mode, member.uid, member.gid, member.mtime = mode, 12345, 54321, 2**33
            archive.addfile(member)
    check(put(raw.getvalue()), dict.fromkeys("abc", b""))


@pytest.mark.parametrize(
    "name", ["ttH (signal).root", "a=b@c+d.root", "data[1].root", "é.root", "Жук.txt", "a{b}!.%", "x" * 255]
)
def test_names_that_are_taken(put, name):
    check(put(made.tar(made.file(name, how=tarfile.PAX_FORMAT))), {name: b"x"})


def test_names_that_differ_in_case_only_are_two(put):
    check(put(made.tar(made.file("a", b"1"), made.file("A", b"2"))), {"a": b"1", "A": b"2"})


def test_a_root_file_opens_where_it_is(put, tmp_path):
    with uproot.recreate(tmp_path / "ttH.root") as file:
        file["events"] = {"x": np.arange(100.0)}
    found = put(made.pack({"top/ttH.root": (tmp_path / "ttH.root").read_bytes(), "top/a": b""}, "gzip"))
    source = open_source(str(found.path / "ttH.root"), "events")
    try:
        assert source.entries == 100
    finally:
        source.close()


def test_the_client_knows_the_version_before_it_sends(put, packed_here, tmp_path):
    (tmp_path / "elsewhere.root").write_bytes(b"large")
    (packed_here / "link.root").symlink_to(tmp_path / "elsewhere.root")
    (packed_here / "._link.root").write_bytes(b"junk")
    (packed_here / ".DS_Store").write_bytes(b"junk")
    meant = versions.of_folder(packed_here)
    assert [str(path) for path in versions.files_of(packed_here)] == [each.path for each in meant]
    assert "link.root" in {each.path for each in meant} and len(meant) == 6
    files = {str(path): (packed_here / path).read_bytes() for path in versions.files_of(packed_here)}
    assert put(made.pack(files, "gzip", "any/")).version == versions.digest(meant)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda folder: (folder / "x").symlink_to("nowhere"), "is a link to nothing"),
        (lambda folder: (folder / "x").symlink_to("."), "is a link to a folder that it is in"),
        (lambda folder: os.mkfifo(folder / "x"), "neither a file nor a folder"),
        (lambda folder: shutil.rmtree(folder), "cannot be read"),
    ],
)
def test_what_a_client_cannot_send(packed_here, make, why):
    make(packed_here)
    with pytest.raises(RequestError, match=why):
        versions.of_folder(packed_here)


def test_the_list_of_a_version_is_what_its_name_is_the_digest_of(put):
    found = put(made.pack(FILES, "tar"))
    listed = found.path.with_name(f"{found.version}.files")
    assert hashlib.sha256(listed.read_bytes()).hexdigest() == found.version
    assert versions.parse(listed.read_text("utf-8")) == found.entries()
    with pytest.raises(ValueError, match="line end"):
        versions.manifest([versions.Entry("a\nb", 0, "")])


def test_a_message_is_short_and_visible(put):
    with pytest.raises(Unprocessable) as refused:
        put(made.tar("x" * 90 + "\x1b[31m" + "y" * 400))
    assert str(refused.value).isprintable() and len(str(refused.value)) < 300
