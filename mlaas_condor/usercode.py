"""Running a Python file that the user wrote."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType


def run(path: Path, name: str) -> ModuleType:
    """Run a file and return it as the module of that name; whatever it raises comes through.

    Modules beside the file can be imported too, also later from within its functions.
    """
    # The folder goes to the end: a file of the user's that happens to be called json.py or keras.py must not
    # shadow the real one.
    folder = str(path.parent.absolute())
    if folder not in sys.path:
        sys.path.append(folder)
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    # Not by the import system: its cache of compiled files takes two edits within a second for one.
    exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    return module
