"""What tests of the service do again and again: runs to look at, events to read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from mlaas_condor.planning import Plan, Size, StagePlan, Wishes
from mlaas_condor.run import STAGES, RunFolder
from mlaas_condor.server.acting.submissions import Belonging

RECORDED = Path(__file__).parents[1] / "runs"


def record(app, name, owner, as_name=None, **belongs):
    """Give somebody a recorded run; give its folder."""
    settings = app.extensions["mlaas_condor"].settings_of(owner)
    settings.make_own()
    folder = RunFolder(settings.runs / (as_name or name))
    shutil.copytree(RECORDED / name, folder.path)
    Belonging(**{"owner": owner, "name": owner, "folder": "tth", "version": "0" * 64, **belongs}).write(
        folder.belongs
    )
    sizes = dict.fromkeys(Size.model_fields, 1)
    asked = {"jobs": 1, "cpus": 1, "gpus": 0, "memory": 512, "disk": 512, "seconds": 1.0}
    stages = [StagePlan(stage=stage, **asked) for stage in STAGES]
    Plan(size=Size(**sizes), wishes=Wishes(), stages=stages).write(folder.plan)
    return folder


def make_alive(folder):
    """Take the end of a recorded run away, from its training on: it seems to be running."""
    text = folder.dagman_log.read_text()
    folder.dagman_log.write_text(text[: text.index("005 (")])
    events = folder.events_log.read_text()
    folder.events_log.write_text(events[: events.rindex("000 (", 0, events.index("train 0"))])
    for stage in ("train", "report"):
        shutil.rmtree(folder.output(stage), ignore_errors=True)


def events_of(pieces):
    """Yield (kind, content, id) of server-sent events, as they come."""
    text = ""
    for piece in pieces:
        text += piece.decode()
        while "\n\n" in text:
            block, _, text = text.partition("\n\n")
            fields = dict(
                line.partition(": ")[::2] for line in block.splitlines() if not line.startswith(":")
            )
            if "event" in fields:
                yield fields["event"], json.loads(fields["data"]), fields.get("id", "")


def audit_of(app):
    """Return the lines of the audit log."""
    path = app.extensions["mlaas_condor"].settings.home / "service" / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
