"""Kill a process that submits at every single step, and ask again: what came of it, as JSON.

``python killed_acting.py HOME FOLDER [STRIDE]``, where FOLDER has a request. A schedd is not needed: what
would take a run is played by a file, which has a line for each run taken.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from mlaas_condor.batch import queue
from mlaas_condor.errors import PoolUnreachable, SubmitRefused
from mlaas_condor.run import RunFolder
from mlaas_condor.server.acting import process as acting
from mlaas_condor.server.acting.acts import Act, Belonging, Record
from mlaas_condor.server.configuration import Configuration
from mlaas_condor.server.storage.folders import Folders
from mlaas_condor.settings import load

KEY = sha256(b"key").hexdigest()
CHANGES = (
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.truncate",
    "shutil.rmtree",
)
KILLED, REFUSED = 9, 3
SUBMITTED = "000 ({:03d}.000.000) 2026-01-01 10:00:00 Job submitted from host: <127.0.0.1:9618>\n...\n"


class Schedd:
    """A schedd that takes everything, and remembers it."""

    def __init__(self, ledger, die):
        self.ledger = ledger
        self.die = die

    def taken(self):
        return self.ledger.read_text().splitlines() if self.ledger.exists() else []

    def submit(self, folder, owner=""):
        folder.submitted_to.write_text("here")
        self.die()  # before it has it
        with self.ledger.open("a") as file:
            file.write(f"{folder.path}\n")
        self.die()  # it has it, and nobody knows
        folder.dagman_log.write_text(SUBMITTED.format(len(self.taken())))
        self.die()  # its log says so
        return len(self.taken())

    def query(self, folders):
        return [
            queue.QueuedJob(number, 0, "idle", queue.directory(each), "dagman", 0)
            for each in folders
            for number, path in enumerate(self.taken(), 1)
            if path == str(each.path)
        ]

    def remove(self, folder):
        gone = [path for path in self.taken() if path != str(folder.path)]
        self.ledger.write_text("".join(f"{path}\n" for path in gone))
        return 1


class World:
    """A home with an uploaded folder, and a request on it that is prepared once."""

    def __init__(self, home, request):
        self.home = home
        self.settings = replace(load(home=str(home), pool="personal"), owner="jane")
        self.configuration = Configuration()
        archive = home / "request.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(request, arcname="request")
        self.folder = Folders(self.settings, self.configuration.limits).put("jane", "tiny", archive)
        self.job = json.loads((request / "job.json").read_text())
        self.record = home / "service" / f"{KEY}.json"
        self.record.parent.mkdir(exist_ok=True)
        self.ledger = home / "ledger"
        self.prepared = None

    def act(self):
        belonging = Belonging(owner="jane", folder="tiny", version=self.folder.version, key=KEY)
        return Act(
            "submit", self.settings, self.configuration, job=self.job, folder=self.folder,
            belonging=belonging, record=str(self.record), body="body",
        )  # fmt: skip

    def prepare(self):
        """Prepare here, once: it takes longest, and is the same each time."""
        real = acting._prepare
        # Held to what it may reach, this process would be for good.
        acting.Confinement.hold = lambda self: None
        with Folders(self.settings, self.configuration.limits).using("jane", self.folder) as folder:
            self.prepared = real(self.act(), folder)
        acting._prepare = lambda act, folder: self.prepared

    def reset(self):
        for path in (self.settings.runs, self.settings.store):
            shutil.rmtree(path, ignore_errors=True)
        for path in (self.record, self.ledger):
            path.unlink(missing_ok=True)

    def submit(self, step=0, fault=None):
        """Submit in a process of its own; return its exit code and its answer."""
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                self._child(step, writing, fault)
            finally:
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading) as file:
            answer = file.read()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, json.loads(answer) if answer else None

    def _child(self, step, writing, fault):
        left = [step]

        def die():
            left[0] -= 1
            if left[0] == 0:
                os._exit(KILLED)

        def watch(event, arguments):
            # Whatever changes something on disk; what is only read does not matter.
            if event in CHANGES and str(self.home) in str(arguments[0]):
                die()

        schedd = Schedd(self.ledger, die)
        acting.pool.use = lambda settings: None
        for name in ("submit", "query", "remove"):
            setattr(queue, name, getattr(schedd, name))
        if fault:
            queue.submit = lambda folder, owner="": (_ for _ in ()).throw(fault)
        sys.addaudithook(watch)
        answer = acting._answer(self.act())
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)

    def found(self):
        """Return what there is: runs, what the schedd has taken, what is left over."""
        runs = self.settings.runs
        visible = sorted(path.name for path in runs.glob("[!.]*")) if runs.exists() else []
        return {
            "runs": visible,
            "taken": [Path(path).name for path in Schedd(self.ledger, None).taken()],
            "keys": [Belonging.read(RunFolder(runs / each).belongs).key == KEY for each in visible],
            "hidden": len(list(runs.glob(".tiny*"))) if runs.exists() else 0,
            "record": json.loads(self.record.read_text()) if self.record.exists() else None,
        }


def main(home, request, stride=1):
    world = World(Path(home), Path(request))
    world.prepare()
    steps, step = [], 1
    while True:
        world.reset()
        code, _ = world.submit(step)
        if code != KILLED:
            break
        before = world.found()
        # Once more it is killed, somewhere else; and then it may come to its end.
        world.submit(step // 2 + 1)
        _, answer = world.submit()
        steps.append({"step": step, "before": before, "answer": answer, "after": world.found()})
        step += stride
    whole = world.found()
    faults = []
    for fault in (PoolUnreachable("away"), SubmitRefused("no")):
        world.reset()
        _, refused = world.submit(fault=fault)
        left = world.found()
        _, answer = world.submit()
        faults.append({"refused": refused, "left": left, "answer": answer, "after": world.found()})
    print(json.dumps({"steps": steps, "whole": whole, "faults": faults, "record": Record.__name__}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
