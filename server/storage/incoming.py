"""What arrives: it has a folder of its own, which goes with whoever receives it, however that ends."""

from __future__ import annotations

import fcntl
import os
import random
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MUTEX = ".lock"
_HOLDER = "lock"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, alone among all processes; the file is made, and stays."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def held(folder: Path) -> Iterator[Path]:
    """Give an empty folder in another one; it is removed in the end, by whoever comes next if not by us."""
    with locked(folder / _MUTEX):
        _remove_abandoned(folder)
        mine = folder / secrets.token_hex(8)
        mine.mkdir(mode=0o700)
        try:
            holder = (mine / _HOLDER).open("ab")
        except OSError:
            mine.rmdir()
            raise
        fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        yield mine
    finally:
        shutil.rmtree(mine, ignore_errors=True)
        holder.close()


def tidy(folder: Path) -> None:
    """Remove what processes that were killed have left in a folder."""
    if folder.is_dir():
        with locked(folder / _MUTEX):
            _remove_abandoned(folder)


def living(folder: Path) -> Iterator[Path]:
    """Yield the folders in a folder whose holders are there; who asks keeps new ones from coming."""
    for path in _folders(folder):
        if _is_held(path):
            yield path


def _remove_abandoned(folder: Path) -> None:
    for path in _folders(folder):
        if not _is_held(path):
            shutil.rmtree(path, ignore_errors=True)


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.name != _MUTEX]
    except FileNotFoundError:
        return []


def _is_held(path: Path) -> bool:
    try:
        # To write, as network file systems want it of who asks for a lock.
        with (path / _HOLDER).open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def one_of(folder: Path, number: int) -> Iterator[bool]:
    """Take one of so many places; tell whether there was one. It is free again when the process ends."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for place in random.sample(range(number), number):
        file = os.open(folder / str(place), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        try:
            yield True
        finally:
            os.close(file)
        return
    yield False
