"""Uploads that nobody should send: each is refused, for what is wrong with it, and leaves nothing behind."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile

import archive_tools as made
import pytest
from archive_tools import (
    central,
    file,
    folder,
    header,
    listed,
    local,
    long_name,
    pax,
    tar,
    zip_member,
    zipped,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlaas_condor import settings as settings_module
from mlaas_condor.archives import members
from mlaas_condor.errors import RequestError
from mlaas_condor.server.configuration import Limits
from mlaas_condor.server.faults import HttpFault
from mlaas_condor.server.storage.folders import Folders

GOOD = tar("job.json", "model.py")
LIMITS = Limits(upload="8m", upload_files=200, stored="64m")

NAMES = {
    "up": ("../escaped", "outside"),
    "down and up": ("a/../../escaped", "outside"),
    "up in the middle": ("a/../b", "outside"),
    "only up": ("..", "outside"),
    "absolute": ("/tmp/escaped-by-absolute-path", "outside"),
    "absolute, two slashes": ("//tmp/escaped-by-absolute-path", "outside"),
    "Windows drive": ("C:/escaped", "a : in its name"),
    "Windows path": ("a\\..\\..\\escaped", r"a \\ in its name"),
    "Windows share": ("\\\\server\\share", r"a \\ in its name"),
    "line end": ("a\nb", "cannot be seen"),
    "return": ("a\rb", "cannot be seen"),
    "tab": ("a\tb", "cannot be seen"),
    "escape sequence": ("\x1b[2Jx", "cannot be seen"),
    "delete": ("a\x7f", "cannot be seen"),
    "right to left": ("annexe\u202efdp.py", "cannot be seen"),
    "no width": ("mo\u200bdel.py", "cannot be seen"),
    "byte order mark": ("\ufeffmodel.py", "cannot be seen"),
    "another space": ("a\u00a0b", "cannot be seen"),
    "line separator": ("a\u2028b", "cannot be seen"),
    "private": ("a\ue000", "cannot be seen"),
    "double quote": ('a"b', 'a " in its name'),
    "single quote": ("a'b", "a ' in its name"),
    "macro": ("$(HOME)", "a \\$ in its name"),
    "back quote": ("`id`", "a ` in its name"),
    "comma": ("a,b", "a , in its name"),
    "semicolon": ("a;b", "a ; in its name"),
    "pipe": ("a|b", "a \\| in its name"),
    "redirection": ("a>b", "a > in its name"),
    "star": ("*.root", "a \\* in its name"),
    "question mark": ("a?.root", "a \\? in its name"),
    "option": ("-rf", "begins with -"),
    "home": ("~root", "begins with ~"),
    "comment": ("#files.txt", "begins with #"),
    "space before": (" a", "begins or ends with a space"),
    "space behind": ("a ", "begins or ends with a space"),
    "long name": ("n" * 256, "more than 255 bytes"),
    "long name of two-byte letters": ("é" * 128, "more than 255 bytes"),
    "long path": ("/".join(["d" * 200] * 6), "more than 1000 bytes"),
    "deep": ("/".join("d" * 40), "more than 31 folders"),
}  # fmt: skip

SPARSE = made.changed(header("x", tarfile.GNUTYPE_SPARSE), 483, b"77777777777\0")
TARS = {
    "link": (tar(header("x", tarfile.SYMTYPE, target="/etc/passwd")), 422, "'x' is a link"),
    "link inside": (tar("a", header("x", tarfile.SYMTYPE, target="a")), 422, "'x' is a link"),
    "file through a link": (
        tar(header("x", tarfile.SYMTYPE, target=".."), "x/escaped"),
        422,
        "'x' is a link",
    ),
    "hard link": (tar("a", header("x", tarfile.LNKTYPE, target="a")), 422, "'x' is a link"),
    "hard link out": (tar(header("x", tarfile.LNKTYPE, target="/etc/passwd")), 422, "'x' is a link"),
    "character device": (tar(header("x", tarfile.CHRTYPE)), 422, "'x' is a device"),
    "block device": (tar(header("x", tarfile.BLKTYPE)), 422, "'x' is a device"),
    "named pipe": (tar(header("x", tarfile.FIFOTYPE)), 422, "named pipe"),
    "unknown type": (tar(header("x", b"Z")), 422, "unknown type"),
    "part of several volumes": (tar(header("x", b"M")), 422, "unknown type"),
    "label of a volume": (tar(header("x", b"V"), "a"), 422, "unknown type"),
    "holes": (tar(SPARSE), 422, "with holes"),
    "holes, new way": (tar(pax(GNU__sparse__major="1", GNU__sparse__realsize="9"), "x"), 422, "with holes"),
    "folder up": (tar(folder("../escaped")), 422, "outside"),
    "twice": (tar("a", "a"), 422, "'a' is there twice"),
    "twice, once with a dot": (tar("a", "./a"), 422, "'./a' is there twice"),
    "twice, accents written otherwise": (tar("\u00e9.py", "e\u0301.py"), 422, "there twice"),
    "file, then folder": (tar("a", "a/b"), 422, "'a/b' is in a folder that is there twice"),
    "file, then folder by itself": (tar("a", folder("a")), 422, "there twice"),
    "folder, then file": (tar("a/b", "a"), 422, "'a' is there twice"),
    "the folder itself as a file": (tar("a", "."), 422, "'.' is there twice"),
    "a folder's name for a file": (tar(pax(path="a/"), "x"), 422, "named as a folder"),
    "not UTF-8": (tar(made.changed(header(), 0, b"\xff\xfe"), "a"), 422, "not named in UTF-8"),
    "pax: not UTF-8": (tar(pax(path=b"\xff\xfe"), "x"), 422, "not named in UTF-8"),
    "pax: up": (tar(pax(path="../../escaped"), "x"), 422, "outside"),
    "pax: absolute": (tar(pax(path="/tmp/escaped-by-absolute-path"), "x"), 422, "outside"),
    "pax: NUL": (tar(pax(path="a\0b"), "x"), 422, "NUL"),
    "pax: size below zero": (tar(pax(size="-5"), "x"), 422, "bytes"),
    "pax: size without end": (tar(pax(size="9" * 30), "x"), 422, "bytes"),
    "pax: size beyond the limit": (tar(pax(size=str(2**40)), "x"), 413, "more than 8388608 bytes"),
    "pax: path of all": (
        tar(made.special(tarfile.XGLTYPE, made.record("path", "a")), "x"),
        422,
        "the same path",
    ),
    "pax: huge": (tar(header("h", tarfile.XHDTYPE, size=2**28)), 422, "a header of 268435456 bytes"),
    "pax: length too long": (tar(made.special(tarfile.XHDTYPE, b"99 path=a\n"), "x"), 422, "how long"),
    "pax: length too short": (tar(made.special(tarfile.XHDTYPE, b"3 path=a\n"), "x"), 422, "how long"),
    "pax: length zero": (tar(made.special(tarfile.XHDTYPE, b"0 path=a\n"), "x"), 422, "how long"),
    "pax: length missing": (tar(made.special(tarfile.XHDTYPE, b"path=a\n"), "x"), 422, "how long"),
    "pax: one upon another": (tar(*[pax(comment="x")] * 100, "x"), 422, "more than 8 headers"),
    "pax: nothing behind": (tar("a", pax(path="b")), 422, "ends where a file"),
    "pax: cut off": (tar("a", pax(path="b"), end=b""), 422, "cut off"),
    "GNU: up": (tar(long_name("../" * 60 + "escaped"), "x"), 422, "outside"),
    "GNU: NUL": (tar(long_name(b"a\0../escaped\0"), "x"), 422, "NUL"),
    "GNU: huge": (tar(header("h", tarfile.GNUTYPE_LONGNAME, size=2**28)), 422, "a header of"),
    "GNU: one upon another": (tar(*[long_name("a")] * 100, "x"), 422, "more than 8 headers"),
    "two names": (tar(long_name("a"), pax(path="b"), "x"), 422, "named otherwise"),
    "size below zero": (tar(made.changed(header(), 124, b"\xff" * 12)), 422, "-1 bytes"),
    "size of base 256": (tar(made.changed(header(), 124, b"\x80" + b"\x7f" * 11)), 413, "more than 8388608"),
    "size that is no number": (tar("a", made.changed(header(), 124, b"9zz")), 422, "header is damaged"),
    "check sum": (tar("a", file("b").replace(b"b", b"c", 1)), 422, "header is damaged"),
    "cut off in a file": (file("a", bytes(5000))[:2000], 422, "cut off within 'a'"),
    "cut off in a header": (tar("a", "b", end=b"")[:-700], 422, "cut off"),
    "cut off between files": (tar("a", "b", end=b""), 422, "mark of its end is missing"),
    "something behind": (GOOD + b"#!/bin/sh\n", 422, "something is behind its end"),
    "another archive behind": (GOOD + tar("../escaped"), 422, "something is behind its end"),
    "nothing in it": (bytes(10240), 422, "no file in it"),
    "folders only": (tar(folder("a"), folder("a/b")), 422, "no file in it"),
    "only what macOS adds": (tar("._a", "a/.DS_Store", "__MACOSX/b"), 422, "no file in it"),
    "many files": (tar(*[f"f{i}" for i in range(201)]), 413, "more than 200 files"),
    "many folders": (tar(*[folder(f"f{i}") for i in range(201)]), 413, "more than 200 files"),
    "large": (tar(file("a", bytes(5 * 2**20)), file("b", bytes(5 * 2**20))), 413, "more than 8388608 bytes"),
    "larger than it says": (tar(header("a", size=2**40)), 413, "more than 8388608 bytes"),
    "zeros without end": (gzip.compress(tar("a") + bytes(2**26), 1), 413, "more than"),
    "bomb": (gzip.compress(tar(file("a", bytes(2**23 - 4096))), 9), 413, "250 times"),
    "bomb of bombs": (gzip.compress(gzip.compress(bytes(2**23))), 415, "no tar archive"),
}

BIG = os.urandom(4000)
PACKED = {
    "gzip: of no tar": (gzip.compress(BIG), 415, "no tar archive"),
    "gzip: cut off": (gzip.compress(tar(file("a", BIG)))[:2000], 422, "cut off"),
    "gzip: without its check sum": (gzip.compress(GOOD)[:-8], 422, "cut off"),
    "gzip: wrong check sum": (gzip.compress(GOOD)[:-8] + bytes(8), 422, "damaged"),
    "gzip: garbage behind": (gzip.compress(GOOD) + b"garbage", 422, "damaged"),
    "gzip: a name without end": (b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 2**21, 422, "damaged"),
    "gzip: only the beginning": (b"\x1f\x8b", 422, "cut off"),
    "bzip2: cut off": (bz2.compress(tar(file("a", BIG)))[:2000], 422, "cut off"),
    "bzip2: garbage behind": (bz2.compress(GOOD) + b"garbage", 422, "damaged"),
    "bzip2: no such thing": (b"BZh" + BIG, 422, "damaged"),
    "bzip2: bomb": (bz2.compress(tar(file("a", bytes(2**23 - 4096)))), 413, "250 times"),
    "xz: cut off": (lzma.compress(tar(file("a", BIG)))[:2000], 422, "cut off"),
    "xz: garbage behind": (lzma.compress(GOOD) + b"garbage!", 422, "damaged"),
    "xz: needs 4 GiB of memory": (made.xz_with_dictionary(GOOD, 40), 422, "Memory"),
    "xz: bomb": (lzma.compress(tar(file("a", bytes(2**23 - 4096)))), 413, "250 times"),
    "zstd: cut off": (made.PACKED["zstd"](tar(file("a", BIG)))[:2000], 422, "cut off"),
    "zstd: garbage behind": (made.PACKED["zstd"](GOOD) + b"garbage", 422, "damaged"),
    "zstd: needs 2 GiB of memory": (made.zstd_with_window(31), 422, "memory"),
    "zstd: bomb": (made.PACKED["zstd"](tar(file("a", bytes(2**23 - 4096)))), 413, "250 times"),
}

ONE = local(b"a", b"content")
ZIPS = {
    "link": (zipped((zip_member("x", stat.S_IFLNK | 0o777), "/etc/passwd")), 422, "'x' is a link"),
    "device": (zipped((zip_member("x", stat.S_IFCHR | 0o666), "")), 422, "'x' is a device"),
    "socket": (zipped((zip_member("x", stat.S_IFSOCK | 0o666), "")), 422, "'x' is a device"),
    "folder of a file's kind": (
        zipped((zip_member("x/", stat.S_IFREG | 0o644), "")),
        422,
        "both a file and a folder",
    ),
    "folder with content": (zipped(("x/", b"content")), 422, "is a folder, and has 7 bytes"),
    "twice": (
        listed(ONE * 2, central(b"a", b"content", 0), central(b"a", b"content", len(ONE))),
        422,
        "'a' is there twice",
    ),
    "file, then folder": (zipped(("a", b"x"), ("a/b", b"y")), 422, "there twice"),
    "up": (zipped(("../escaped", b"x")), 422, "outside"),
    "Windows path": (zipped(("..\\escaped", b"x")), 422, r"a \\ in its name"),
    "NUL": (listed(local(b"a\0/../b", b"x"), central(b"a\0/../b", b"x", 0)), 422, "outside|NUL"),
    "not UTF-8": (listed(local(b"\xff\xfe", b"x"), central(b"\xff\xfe", b"x", 0)), 422, "not named in UTF-8"),
    "said to be UTF-8": (
        listed(local(b"\xff", b"x", flags=0x800), central(b"\xff", b"x", 0, flags=0x800)),
        422,
        "damaged",
    ),
    "encrypted": (
        listed(local(b"a", b"x", flags=1), central(b"a", b"x", 0, flags=1)),
        422,
        "'a' is encrypted",
    ),
    "encrypted, not listed so": (
        listed(local(b"a", b"x", flags=1), central(b"a", b"x", 0)),
        422,
        "another file",
    ),
    "method lzma": (zipped(("a", b"x"), method=zipfile.ZIP_LZMA), 422, "method 14"),
    "method bzip2": (zipped(("a", b"x"), method=zipfile.ZIP_BZIP2), 422, "method 12"),
    "another method": (
        listed(local(b"a", b"x", method=9), central(b"a", b"x", 0, method=9)),
        422,
        "method 9",
    ),
    "method listed otherwise": (
        listed(local(b"a", b"x", method=0), central(b"a", b"x", 0)),
        422,
        "another file",
    ),
    "another name": (listed(ONE, central(b"b", b"content", 0)), 422, "another file"),
    "larger than listed": (listed(ONE, central(b"a", b"content", 0, size=3, crc=1)), 422, "not as long"),
    "smaller than listed": (listed(ONE, central(b"a", b"content", 0, size=99)), 422, "not as long"),
    "claims 1 TiB": (
        listed(ONE, central(b"a", b"content", 0, size=2**32 - 2)),
        413,
        "more than 8388608 bytes|250 times",
    ),
    "wrong check sum": (listed(ONE, central(b"a", b"content", 0, crc=1)), 422, "check sum"),
    "stored, sizes differ": (
        listed(local(b"a", b"xy", b"xy", method=0), central(b"a", b"xy", 0, b"xy", method=0, size=1)),
        422,
        "not as long",
    ),
    "two files in the same place": (
        listed(ONE, central(b"a", b"content", 0), central(b"b", b"content", 0)),
        422,
        "shares its bytes",
    ),
    "one file within another": (
        listed(
            local(b"b", b"", local(b"a", b"content"), method=0),
            central(b"b", b"", 0, bytes(len(ONE)), method=0, size=len(ONE)),
            central(b"a", b"content", 31),
        ),
        422,
        "shares its bytes|check sum",
    ),
    "more packed bytes than listed": (
        listed(ONE + b"xx", central(b"a", b"content", 0, made.deflated(b"content") + b"xx")),
        422,
        "damaged|more bytes",
    ),
    "fewer packed bytes than listed": (
        listed(ONE, central(b"a", b"content", 0, made.deflated(b"content")[:-3])),
        422,
        "cut off",
    ),
    "beyond its end": (listed(ONE, central(b"a", b"content", 2**31)), 422, "not where the list says"),
    "no file there": (listed(ONE, central(b"a", b"content", 3)), 422, "not where the list says"),
    "content in the list": (listed(ONE, central(b"a", b"content", 0, bytes(60))), 422, "'a' is cut off"),
    "bomb": (zipped(("a", bytes(2**23 - 4096))), 413, "250 times"),
    "large": (
        zipped(("a", os.urandom(2**22)), ("b", os.urandom(2**22 + 1)), method=0),
        413,
        "more than 8388608 bytes",
    ),
    "many files": (zipped(*[(f"f{i}", b"") for i in range(201)]), 413, "more than 200 files"),
    "a list that fills the memory": (
        listed(ONE, *[central(b"n" * 500, b"", 0)] * 3000),
        413,
        "list of files",
    ),
    "cut off": (zipped(("a", BIG))[:-30], 422, "damaged or cut off"),
    "something behind": (zipped(("a", b"x")) + b"garbage", 422, "behind its end|damaged"),
    "something behind a comment": (
        zipped(("a", b"x"), comment=b"hello") + b"garbage",
        422,
        "behind its end|damaged",
    ),
    "nothing in it": (zipped(), 422, "no file in it"),
}

OTHERS = {
    "nothing": (b"", 415, "nothing is in it"),
    "ROOT file": (b"root" + BIG, 415, "it is a ROOT file"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + BIG, 415, "it is a 7z archive"),
    "RAR": (b"Rar!\x1a\x07" + BIG, 415, "it is a RAR archive"),
    "JSON": (b'{"name": "luca"}', 415, "it is a JSON file"),
    "HTML": (b"<!DOCTYPE html>", 415, "a page of HTML"),
    "text": (b"ttH_signal.root\n" * 100, 415, "it begins with b'ttH_signal.root"),
    "random": (b"\x01\x02" + BIG, 415, "no archive that is known here"),
    "part of a zip": (b"PK\x07\x08" + BIG, 415, "a part of a zip archive"),
}


def cases():
    for group, table in (("tar", TARS), ("packed", PACKED), ("zip", ZIPS), ("other", OTHERS)):
        for name, (content, status, why) in table.items():
            yield pytest.param(content, status, why, id=f"{group}: {name}")
    for name, (path, why) in NAMES.items():
        yield pytest.param(tar(path), 422, why, id=f"named in tar: {name}")
        yield pytest.param(zipped((path, b"x")), 422, why, id=f"named in zip: {name}")


@pytest.fixture
def here(tmp_path):
    """Return a folder with a home in it, and somebody's folder in that."""
    folders = folders_in(tmp_path)
    (tmp_path / "good").write_bytes(GOOD)
    folders.put("jane", "luca", tmp_path / "good")
    return tmp_path


def folders_in(path):
    return Folders(settings_module.load(home=str(path / "deep" / "home")), LIMITS)


@pytest.mark.parametrize(("content", "status", "why"), [*cases()])
def test_it_is_refused_and_nothing_is_left(here, monkeypatch, content, status, why):
    monkeypatch.setattr(members, "ANY_RATIO", 2**20)
    (here / "hostile").write_bytes(content)
    before = made.listing(here)
    folders = folders_in(here)
    with pytest.raises(HttpFault, match=why) as refused:
        folders.put("jane", "luca", here / "hostile")
    assert refused.value.http_status == status
    assert str(here) not in str(refused.value) and str(refused.value).isprintable()
    assert made.listing(here) == before
    assert not os.path.lexists("/tmp/escaped-by-absolute-path")
    assert folders.open("jane", "luca").files == 2


def test_the_table_is_as_long_as_it_should_be():
    assert len([*cases()]) > 200


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/x",
        ".hidden",
        "a b",
        "a\nb",
        "$(x)",
        "-x",
        "x" * 101,
        "é",
        "a\0",
        "a\n",
    ],
)
def test_what_cannot_name_a_folder_is_refused(here, name):
    before = made.listing(here)
    folders = folders_in(here)
    with pytest.raises(RequestError, match="cannot name a folder"):
        folders.put("jane", name, here / "good")
    with pytest.raises(HttpFault) as refused:
        folders.open("jane", name)
    assert refused.value.http_status == 404
    assert made.listing(here) == before


@pytest.mark.parametrize("kind", made.KINDS)
def test_an_archive_cut_off_anywhere_is_refused(here, kind):
    files = {"folder/a": b"1" * 700, "folder/b": b"2" * 100}
    whole = made.pack(files, kind)
    folders = folders_in(here)
    before = made.listing(here / "deep")
    # What fills up a plain tar behind the mark of its end may be missing.
    last = len(whole) if kind != "tar" else len(whole.rstrip(b"\0")) + 412
    for size in range(0, last - (4 if kind == "zstd" else 0), 7):
        (here / "hostile").write_bytes(whole[:size])
        with pytest.raises(HttpFault):
            folders.put("jane", "luca", here / "hostile")
    assert made.listing(here / "deep") == before


@given(st.sampled_from(made.KINDS), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_whatever_bytes_are_changed_it_is_taken_as_a_whole_or_refused(here, kind, data):
    whole = bytearray(made.pack({"folder/a": b"content " * 100, "folder/b/c": b"x"}, kind))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (here / "hostile").write_bytes(whole)
    outside = made.listing(here / "deep" / "home" / "users" / "jane" / "folders")
    folders = folders_in(here)
    try:
        found = folders.put("ann", "luca", here / "hostile")
    except HttpFault:
        assert made.listing(here / "deep" / "home" / "users" / "jane" / "folders") == outside
    else:
        assert [each.path for each in found.entries()] == sorted(
            path.relative_to(found.path).as_posix() for path in found.path.rglob("*") if path.is_file()
        )
    assert {path.name for path in here.iterdir()} == {"good", "hostile", "deep"}
    assert [path.name for path in (here / "deep").iterdir()] == ["home"]
