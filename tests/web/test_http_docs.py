"""Every line with a call in docs/http.md is one that the service understands."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from service_tools import served
from web_tools import RECORDED

DOCUMENT = Path(__file__).parents[2] / "docs" / "http.md"
ASK = """\
ask() { curl -sS -w ' %{http_code}' "$@"; }
uuidgen() { echo 0b9e6b1e-5a55-4b0a-9a53-7d4d3c9d3c11; }
"""
# There is no pool here, and the run that is there failed: it has no model.
FINE = {"200", "201", "204", "404", "409", "503"}


def lines():
    """Return the lines that call the service, in their order."""
    blocks = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("ask ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A service with a run, and a folder with the files that the lines name."""
    home, typed = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("typed")
    shutil.copytree(RECORDED / "failed_1", home / "users" / getpass.getuser() / "runs" / "luca_1")
    (typed / "labels.txt").write_text("signal\n")
    for name in ("job.json", "submit.json"):
        (typed / name).write_text('{"name": "luca", "files": "f.txt", "labels": "l.txt", "model": "m.py"}')
    for name in ("luca.tar.gz", "folder_to_upload.tar.gz"):
        with tarfile.open(typed / name, "w:gz") as tar:
            tar.add(typed / "labels.txt", "folder/l.txt")
    with served(home, "[service]\nport = 0\n") as service:
        yield service.url, typed


def test_there_are_lines():
    assert len(lines()) > 35


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_each_is_understood(place):
    url, typed = place
    for line in lines():
        done = subprocess.run(
            ["bash", "-c", ASK + line],
            cwd=typed,
            env={**os.environ, "URL": url},
            capture_output=True,
            text=True,
        )
        assert done.returncode == (22 if "-f" in line else 0), (line, done.stderr)  # 22: a status of 409
        status = done.stdout.rpartition(" ")[2]
        # What the job.json names is not in the folder: everything else was understood.
        assert status in FINE or "f.txt" in done.stdout, (line, done.stdout)
