"""What the documentation says is what the code does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from mlaas_condor import Request

ROOT = Path(__file__).parents[2]


def test_the_request_in_the_readme_is_one():
    text = re.search(r"```json\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)[1]
    request = Request.of(json.loads(text) | {"params": {}})
    assert request.problems == []
    assert request.job.memory == 2048


def test_the_tables_of_the_documentation_are_those_of_the_code():
    command = [sys.executable, ROOT / "docs" / "tables.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_links_between_the_documents_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
