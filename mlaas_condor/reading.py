"""Reading what a user wrote by hand: JSON files, lists, names that may be misspelt."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlaas_condor.errors import Problem


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """Return a hint that lists the known names nearest to one that is not known."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    if not close:
        lowered = {each.lower(): each for each in known}
        close = [
            lowered[each] for each in difflib.get_close_matches(name.lower(), lowered, n=most, cutoff=0.5)
        ]
    if close:
        return "did you mean " + " or ".join(repr(each) for each in close) + "?"
    return "there is " + ", ".join(known[:12]) + (", …" if len(known) > 12 else "") if known else ""


def content_lines(text: str) -> Iterable[str]:
    """Yield the lines of a list file without blank lines, comment lines and surrounding space."""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield stripped


def digest_of(paths: Iterable[Path]) -> str:
    """Return a digest of the names and contents of small files, and of those in folders."""
    content = hashlib.sha256()
    for path in paths:
        for each in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            content.update(f"{each.relative_to(path.parent)}\n{each.stat().st_size}\n".encode())
            content.update(each.read_bytes())
    return content.hexdigest()[:20]


def join_path(folder: Path, name: str) -> Path:
    """Return a name relative to a folder; ``~`` is the home folder where there is such a user."""
    try:
        return folder / Path(name).expanduser()
    except RuntimeError:
        return folder / name


def read_json(path: Path, problems: list[Problem]) -> tuple[str, dict[str, Any] | None]:
    """Return the text of a JSON file and the object in it; None where ``problems`` has why there is none."""
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        near = nearest(path.name, [entry.name for entry in _siblings(path)])
        problems.append(Problem(str(path), "no such file", near))
        return "", None
    except (OSError, ValueError) as error:
        problems.append(Problem(str(path), f"cannot be read: {error}"))
        return "", None
    try:
        raw = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        problems.append(Problem(f"{path.name}:{error.lineno}:{error.colno}", f"not valid JSON: {error.msg}"))
        return text, None
    except (ValueError, RecursionError) as error:
        problems.append(Problem(path.name, f"cannot be used: {error}"))
        return text, None
    if not isinstance(raw, dict):
        problems.append(Problem(path.name, f"holds a {type(raw).__name__}, not an object {{…}}"))
        return text, None
    return text, raw


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is given twice: JSON readers would silently take the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return found


def _siblings(path: Path) -> list[Path]:
    try:
        return [entry for entry in path.parent.iterdir() if entry.suffix == path.suffix]
    except OSError:
        return []
