"""Archives of every kind, as people make them and as nobody should."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import struct
import tarfile
import zipfile
import zlib

import zstandard

BLOCK = 512
END = bytes(2 * BLOCK)
PACKED = {
    "tar": bytes,
    "gzip": lambda raw: gzip.compress(raw, 1),
    "bzip2": lambda raw: bz2.compress(raw, 1),
    "xz": lambda raw: lzma.compress(raw, preset=0),
    "zstd": lambda raw: zstandard.ZstdCompressor(level=1, write_checksum=True).compress(raw),
}
KINDS = [*PACKED, "zip"]


def header(name="x", kind=tarfile.REGTYPE, size=0, target="", how=tarfile.PAX_FORMAT, mode=0o644):
    """Return a header of a tar archive, with what goes before it."""
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname, member.mode = kind, size, target, mode
    return member.tobuf(how, "utf-8", "surrogateescape")


def padded(content):
    return content + bytes(-len(content) % BLOCK)


def file(name, content=b"x", **options):
    return header(name, size=len(content), **options) + padded(content)


def folder(name):
    return header(name, tarfile.DIRTYPE)


def tar(*parts, end=END):
    """Return a tar archive of parts: bytes as they are, or the name of a file."""
    return b"".join(part if isinstance(part, bytes) else file(part) for part in parts) + end


def changed(block, at, content):
    """Return a header with other bytes somewhere, its check sum right again."""
    new = bytearray(block)
    new[at : at + len(content)] = content
    new[148:156] = b" " * 8
    new[148:156] = b"%06o\0 " % sum(new[:BLOCK])
    return bytes(new)


def special(kind, content):
    """Return a header that says more about the next member."""
    member = tarfile.TarInfo("././@Header")
    member.type, member.size = kind, len(content)
    return member.tobuf(tarfile.GNU_FORMAT) + padded(content)


def record(key, value):
    """Return a record of an extended header."""
    rest = b" %s=%s\n" % (key.encode(), value if isinstance(value, bytes) else value.encode())
    size = len(rest)
    while size != len(str(size)) + len(rest):
        size = len(str(size)) + len(rest)
    return str(size).encode() + rest


def pax(**records):
    content = b"".join(record(key.replace("__", "."), value) for key, value in records.items())
    return special(tarfile.XHDTYPE, content)


def long_name(name):
    return special(tarfile.GNUTYPE_LONGNAME, name if isinstance(name, bytes) else name.encode() + b"\0")


def zipped(*members, method=zipfile.ZIP_DEFLATED, comment=b""):
    """Return a zip archive of (name or ZipInfo, content)."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", method) as archive:
        for name, content in members:
            if isinstance(name, zipfile.ZipInfo):
                name.compress_type = method
            archive.writestr(name, content)
        archive.comment = comment
    return raw.getvalue()


def zip_member(name, mode=0):
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    return member


def central(name, content, offset, packed=None, method=8, flags=0, size=None, crc=None):
    """Return an entry of the list of a zip archive."""
    packed = deflated(content) if packed is None else packed
    crc = zlib.crc32(content) if crc is None else crc
    size = len(content) if size is None else size
    return struct.pack(
        "<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, flags, method, 0, 33, crc, len(packed), size,
        len(name), 0, 0, 0, 0, 0, offset,
    ) + name  # fmt: skip


def local(name, content, packed=None, method=8, flags=0):
    packed = deflated(content) if packed is None else packed
    fields = (20, flags, method, 0, 33, zlib.crc32(content), len(packed), len(content), len(name), 0)
    return struct.pack("<4s5H3L2H", b"PK\3\4", *fields) + name + packed


def listed(content, *entries):
    """Return a zip archive of bytes and of the entries of its list."""
    entries_bytes = b"".join(entries)
    number = len(entries)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, number, number, len(entries_bytes), len(content), 0)
    return content + entries_bytes + end


def deflated(content):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def xz_with_dictionary(raw, size_code):
    """Return xz whose header asks for a dictionary of another size, the check sum of the header right."""
    packed = bytearray(lzma.compress(raw))
    assert packed[14:16] == b"\x21\x01"
    packed[16] = size_code
    end = 12 + (packed[12] + 1) * 4
    packed[end - 4 : end] = struct.pack("<L", zlib.crc32(packed[12 : end - 4]))
    return bytes(packed)


def zstd_with_window(exponent):
    """Return zstd whose header asks for a window of 2**exponent bytes."""
    return b"\x28\xb5\x2f\xfd" + bytes([0, (exponent - 10) << 3]) + b"\x01\x00\x00"


def pack(files, kind, top="", seed=0):
    """Return an archive of a dict of files, in some order, as people make it: with the folders too."""
    names = list(files)
    random.Random(seed).shuffle(names)
    folders = {f"{top}{above}/" for name in names for above in parents(name)}
    folders |= {top} if top else set()
    if kind == "zip":
        return zipped(
            *((each, b"") for each in sorted(folders)), *((f"{top}{name}", files[name]) for name in names)
        )
    raw = io.BytesIO()
    how = [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT][seed % 2]
    with tarfile.open(fileobj=raw, mode="w", format=how) as archive:
        for each in sorted(folders):
            member = tarfile.TarInfo(each)
            member.type = tarfile.DIRTYPE
            archive.addfile(member)
        for name in names:
            member = tarfile.TarInfo(f"{top}{name}")
            member.size, member.mode = len(files[name]), 0o6755
            archive.addfile(member, io.BytesIO(files[name]))
    return PACKED[kind](raw.getvalue())


def parents(name):
    parts = name.split("/")[:-1]
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def listing(*folders):
    """Return everything that is in some folders: kind, mode, size, links and time of each."""
    found = {}
    for top in folders:
        for path in sorted(top.rglob("*")):
            status = os.lstat(path)
            found[str(path)] = (
                (status.st_mode, status.st_size, status.st_nlink, status.st_mtime_ns)
                if not path.is_dir()
                else status.st_mode
            )
    return found
