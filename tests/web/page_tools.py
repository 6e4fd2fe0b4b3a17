"""What tests of the pages need: runs that have all there is, archives, and what is to be found in a page."""

from __future__ import annotations

import io
import json
import tarfile
from html.parser import HTMLParser
from pathlib import Path

from mlaas_condor.server.login.nobody import account

RECORDED = Path(__file__).parents[1] / "runs"
REPORT = (
    "<!DOCTYPE html><html lang='en'><title>Report</title><h1>Report of the run</h1><script>alert(1)</script>"
)
PLAN = {
    "size": {}, "wishes": {},
    "stages": [
        {"stage": "specs", "jobs": 2, "cpus": 1, "gpus": 0, "memory": 512, "disk": 100, "seconds": 5.0},
        {"stage": "train", "jobs": 1, "cpus": 2, "gpus": 1, "memory": 2048, "disk": 500, "seconds": 90.0},
    ],
}  # fmt: skip
PATHS = ("/", "/folders", "/submit", "/help", "/runs/completed_1", "/runs/failed_1", "/runs/cancelled_1")
VOID = {"meta", "link", "input", "br", "img", "hr"}


def complete(folder, report=REPORT):
    """Add to a recorded run what newer ones have beside."""
    folder.report.write_text(report)
    folder.plan.write_text(json.dumps(PLAN))
    folder.files.mkdir()
    (folder.files / "job.json").write_text('{"name": "tth", "model": "</pre><script>alert(1)</script>"}')


def packed(files):
    """Return an archive of files, by their names."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            content = content if isinstance(content, bytes) else content.encode()
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def keep_folder(app, tmp_path, name="tth", files=None, owner=""):
    """Upload a folder for somebody, the one user if it is not said for whom."""
    archive = Path(tmp_path, f"{name}.tar.gz")
    archive.write_bytes(
        packed(files or {"model.py": "", "files.txt": "", "labels.txt": "", "job.json": "{}"})
    )
    return app.extensions["mlaas_condor"].folders.put(owner or account(), name, archive)


class Page(HTMLParser):
    """The elements of a page: (tag, attributes, text) each."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self._open = []
        self.feed(text)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self._open.append((tag, len(self.elements) - 1))

    def handle_startendtag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        opened, _ = self._open.pop()
        assert opened == tag, f"</{tag}> ends <{opened}>"

    def handle_data(self, data):
        for _, place in self._open:
            self.elements[place][2] += data

    def all(self, tag, **having):
        """Return (attributes, text) of the elements of a kind, with these attributes."""
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in having.items()}
        return [
            (attrs, " ".join(text.split()))
            for each, attrs, text in self.elements
            if each == tag and all(attrs.get(key) == value for key, value in wanted.items())
        ]

    def one(self, tag, **having):
        """Return (attributes, text) of the only one."""
        found = self.all(tag, **having)
        assert len(found) == 1, (tag, having, found)
        return found[0]

    @property
    def text(self):
        """Return all that can be read in the main part."""
        return self.one("main")[1]
