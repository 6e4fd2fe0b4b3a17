"""A copy of the example that a test may change."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "tth"


def copy_example(parent, **params):
    """Make a copy of the example that a test may change; keys of params.json can be given."""
    folder = parent / "request"
    folder.mkdir()
    for path in EXAMPLE.iterdir():
        if path.suffix in (".json", ".txt", ".py"):
            shutil.copy(path, folder)
    (folder / "data").symlink_to(EXAMPLE / "data")
    edit(folder, "params.json", **{"epochs": 3, **params})
    return folder


def interruptible():
    """For ``preexec_fn``: let Ctrl-C reach a program also where the tests run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def edit(folder, name, /, **keys):
    """Change keys of a JSON file of a request."""
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | keys, indent=1))


def prepend_to_model(folder, statements):
    """Put statements at the start of the request's `model` function, after its docstring."""
    path = folder / "model.py"
    text = path.read_text()
    start = text.index('"""\n', text.index("def model(idim):")) + 4
    body = "".join(f"    {line}\n" for line in statements.splitlines())
    path.write_text(text[:start] + body + text[start:])
