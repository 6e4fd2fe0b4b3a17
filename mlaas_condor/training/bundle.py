"""The bundle: one tarball with the model and its ``params.json``, as inference services take it."""

from __future__ import annotations

import gzip
import tarfile
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from mlaas_condor.errors import InputUnreadable
from mlaas_condor.training.writing import replacing


def params_json(
    name: str,
    model_file: str,
    *,
    labels: str = "",
    options: Any = None,
    input_node: str = "",
    output_node: str = "",
    description: str = "",
    timestamp: str | None = None,
) -> dict[str, Any]:
    """Return the content of a bundle's ``params.json``.

    Parameters
    ----------
    name
        What the model is called where it is served: the name of the run.
    model_file
        The main file in the bundle, as the adapter's ``save`` returned it: of Keras ``saved_model.pb``.
    labels
        A file in the bundle with one class label a line.
    options
        Further options of the model, free for its users.
    input_node, output_node
        Names in the graph; empty: to be found from the model.
    description
        A line for people.
    timestamp
        When the model was made; now, in UTC, where not given.
    """
    made = timestamp if timestamp is not None else datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {
        "name": name,
        "model": model_file,
        "labels": labels,
        "op": "",
        "input_name": "",
        "output_name": "",
        "img_channels": 0,
        "options": options,
        "input_node": input_node,
        "output_node": output_node,
        "description": description,
        "timestamp": made,
    }


def write(path: Path, folder: Path) -> None:
    """Pack a folder, so that the same content gives the same bytes.

    Parameters
    ----------
    path
        The tarball to write, ``.tar.gz``; it is replaced only once it is complete.
    folder
        Its content becomes the members ``./…``, in order of name; links and special files are left out.
    """
    with (
        replacing(path) as part,
        part.open("wb") as raw,
        # A file name or a time in gzip's header would differ from one writing to the next.
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for entry in sorted(folder.rglob("*")):
            if not entry.is_symlink() and (entry.is_dir() or entry.is_file()):
                _add(tar, entry, f"./{entry.relative_to(folder).as_posix()}")


def _add(tar: tarfile.TarFile, entry: Path, name: str) -> None:
    member = tarfile.TarInfo(name)
    if entry.is_dir():
        member.type = tarfile.DIRTYPE
        member.mode = 0o755
        tar.addfile(member)
        return
    member.mode = 0o644
    member.size = entry.stat().st_size
    with entry.open("rb") as content:
        tar.addfile(member, content)


def members(path: Path) -> list[str]:
    """Return the names of the files in a bundle, without the leading ``./``; errors as ``read_member``."""
    try:
        with tarfile.open(path, "r:gz") as tar:
            return sorted(_plain(member.name) for member in tar if member.isfile())
    except (OSError, EOFError, tarfile.TarError) as error:
        raise InputUnreadable(f"{path}: is no bundle that can be read: {error}") from error


def read_member(path: Path, name: str) -> bytes:
    """Return one file of a bundle; nothing is unpacked to disk.

    Parameters
    ----------
    path
        The tarball.
    name
        The file in it, with or without ``./``.

    Raises
    ------
    KeyError
        There is no such file in it.
    InputUnreadable
        The tarball is missing or damaged.
    """
    wanted = _plain(name)
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                if member.isfile() and _plain(member.name) == wanted:
                    content = tar.extractfile(member)
                    return content.read() if content else b""
    except (OSError, EOFError, tarfile.TarError) as error:
        raise InputUnreadable(f"{path}: is no bundle that can be read: {error}") from error
    raise KeyError(f"{path}: holds no file {wanted}")


def _plain(name: str) -> str:
    return PurePosixPath(name).as_posix()
