"""Tarballs from anyone."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.errors import InputUnreadable
from mlaas_condor.inference import unpacking
from mlaas_condor.inference.unpacking import unpack
from mlaas_condor.training import bundle


def tarball(path, *members, **options):
    """Write a tarball of (name, content) or of members as they are."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", **options) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    path.write_bytes(gzip.compress(raw.getvalue(), 1))
    return path


def special(kind, name="x", target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "deep" / "folder"
    made.mkdir(parents=True)
    return made


def test_a_bundle_comes_out_as_it_went_in(tmp_path, folder):
    packed = tmp_path / "model"
    (packed / "variables").mkdir(parents=True)
    (packed / "assets").mkdir()
    (packed / "saved_model.pb").write_bytes(os.urandom(3_000_001))
    (packed / "variables" / "variables.index").write_bytes(b"")
    bundle.write(tmp_path / "m.tar.gz", packed)
    unpack(tmp_path / "m.tar.gz", folder)
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    assert sorted(found) == ["assets", "saved_model.pb", "variables", "variables/variables.index"]
    assert found["saved_model.pb"].read_bytes() == (packed / "saved_model.pb").read_bytes()
    assert stat.S_IMODE(found["variables"].stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([("../escaped", b"x")], "outside the folder"),
        ([("a/../../escaped", b"x")], "outside the folder"),
        ([("/tmp/escaped-by-absolute-path", b"x")], "outside the folder"),
        ([special(tarfile.DIRTYPE, "../escaped")], "outside the folder"),
        ([special(tarfile.SYMTYPE, "link", "/etc/passwd")], "'link' is a link"),
        ([special(tarfile.SYMTYPE, "link", ".."), ("link/escaped", b"x")], "'link' is a link"),
        ([("a", b"x"), special(tarfile.LNKTYPE, "hard", "a")], "'hard' is a link"),
        ([special(tarfile.CHRTYPE)], "a device"),
        ([special(tarfile.BLKTYPE)], "a device"),
        ([special(tarfile.FIFOTYPE)], "a device"),
        ([special(b"Z")], "no bundle|unknown type"),
        ([("a", b"x"), ("./a", b"y")], "'./a' is there twice"),
        ([("a", b"x"), ("a/b", b"y")], "no bundle"),
        ([(".", b"x")], "twice"),
    ],
)
def test_what_is_no_file_of_the_bundle_is_refused(tmp_path, folder, members, why):
    path = tarball(tmp_path / "evil.tar.gz", *members)
    before = {each for each in tmp_path.rglob("*") if folder not in each.parents}
    with pytest.raises(InputUnreadable, match=why):
        unpack(path, folder)
    assert {each for each in tmp_path.rglob("*") if folder not in each.parents} == before
    assert not os.path.lexists("/tmp/escaped-by-absolute-path")
    assert not any(each.is_symlink() for each in folder.rglob("*"))


def test_a_file_with_holes_is_refused(tmp_path, folder):
    """GNU's sparse files claim any size for a few bytes."""
    member = special(tarfile.GNUTYPE_SPARSE, "sparse")
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"77777777777\0"  # the real size, octal
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "evil.tar.gz").write_bytes(gzip.compress(bytes(header) + bytes(1024)))
    with pytest.raises(InputUnreadable, match=r"more than|unknown type"):
        unpack(tmp_path / "evil.tar.gz", folder)


def test_too_much_is_refused_before_it_is_written(tmp_path, folder):
    path = tarball(tmp_path / "bomb.tar.gz", ("a", bytes(10**6)), ("b", bytes(10**7)))
    assert path.stat().st_size < 200_000
    with pytest.raises(InputUnreadable, match=r"more than 5000000 bytes; if you trust it"):
        unpack(path, folder, most_bytes=5 * 10**6)
    assert not (folder / "b").exists()
    unpack(path, folder / "..", most_bytes=11 * 10**6)


def test_too_many_files_are_refused(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(unpacking, "MOST_FILES", 20)
    path = tarball(tmp_path / "many.tar.gz", *[(f"f{i}", b"") for i in range(21)])
    with pytest.raises(InputUnreadable, match="more than 20 files"):
        unpack(path, folder)


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path, folder):
    """An extended header says itself how long it is."""
    long = special(tarfile.XHDTYPE, "header")
    long.size = 2**28
    (tmp_path / "evil.tar.gz").write_bytes(gzip.compress(long.tobuf(tarfile.PAX_FORMAT) + bytes(2**20)))
    with pytest.raises(InputUnreadable, match="a header of 268435456 bytes"):
        unpack(tmp_path / "evil.tar.gz", folder)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:2000], lambda b: b"no tarball", lambda b: b[:-8], lambda b: b""]
)
def test_a_damaged_tarball_is_named(tmp_path, folder, damage):
    path = tarball(tmp_path / "m.tar.gz", ("a", os.urandom(5000)))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputUnreadable, match=r"m\.tar\.gz: is no bundle that can be read: \w"):
        unpack(path, folder)


@given(st.binary(max_size=2000), st.integers(0, 1500), st.integers(0, 255))
def test_no_tarball_does_anything_but_unpack_or_be_refused(tmp_path_factory, junk, at, value):
    here = tmp_path_factory.mktemp("junk")
    path = tarball(here / "m.tar.gz", ("a/b", b"content"), ("c", junk))
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[at % len(raw)] = value
    path.write_bytes(gzip.compress(bytes(raw), 1))
    (here / "out").mkdir()
    with contextlib.suppress(InputUnreadable):
        unpack(path, here / "out")
    assert {each.name for each in here.iterdir()} == {"m.tar.gz", "out"}


def test_a_tarball_that_is_not_there(tmp_path, folder):
    with pytest.raises(InputUnreadable, match="No such file"):
        unpack(tmp_path / "none.tar.gz", folder)
