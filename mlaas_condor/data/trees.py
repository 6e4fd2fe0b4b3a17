"""The trees of a ROOT file, for whoever does not know which one to open."""

from __future__ import annotations

from typing import Any

from mlaas_condor.data import rootfile
from mlaas_condor.errors import InputUnreadable


def trees(path: str) -> dict[str, int | None]:
    """Return the paths of the trees of a file, with their entries.

    These are None for a tree that cannot be read, and for the only one: opening it takes a second where it
    has a thousand branches.

    Raises
    ------
    InputUnreadable
        The file is missing, empty, no ROOT file, or cut short.
    """
    file = rootfile.open_file(path)
    try:
        names = rootfile.tree_names(file)
        return {name: _entries(file, path, name) if len(names) > 1 else None for name in names}
    except MemoryError:
        raise
    except Exception as error:
        raise InputUnreadable(f"{path}: its list of trees cannot be read: {error}") from error
    finally:
        file.close()


def _entries(file: Any, path: str, tree: str) -> int | None:
    try:
        return int(rootfile.tree_in(file, path, tree).num_entries)
    except MemoryError:
        raise
    except Exception:
        return None
