"""What the pool tests do again and again: submit a request, wait for something."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from mlaas_condor import settings as settings_module
from mlaas_condor import workflow
from mlaas_condor.batch import events, pool

# Before any test changes the environment: HTCondor is installed once for all of them.
CACHE = settings_module.load().cache


def settings_of(home):
    """Return the settings of a home with a personal pool."""
    return settings_module.load(home=str(home), cache=str(CACHE), pool="personal")


def turn_to(settings):
    """Turn this process to the pool of some settings."""
    pool.use(settings)
    return settings


@contextmanager
def personal_pool(**options):
    """Start a pool in a home of its own, give the home, and leave nothing of it."""
    give_back = keep_environment()
    home = Path(tempfile.mkdtemp(prefix="mlaas-"))
    pool.up(settings_of(home), **options)
    yield home
    pool.down(turn_to(settings_of(home)), force=True)
    shutil.rmtree(home)
    give_back()


@contextmanager
def configured(settings, *lines):
    """Give the pool of some settings lines of one's own; take them back in the end."""
    import htcondor2

    file = pool.folder(settings) / "local.config"
    number = uuid.uuid4().hex

    def reconfigure(text, wanted):
        file.write_text(text)
        ask = ["condor_config_val", "-schedd", "THIS_TEST"]
        deadline = time.monotonic() + 60
        subprocess.run(["condor_reconfig"], check=True, capture_output=True)
        while wanted not in subprocess.run(ask, capture_output=True, text=True, check=False).stdout:
            assert time.monotonic() < deadline, "the pool does not take its new configuration"
            time.sleep(0.1)
        htcondor2.reload_config()

    reconfigure("\n".join((*lines, f"THIS_TEST = {number}\n")), number)
    try:
        yield
    finally:
        reconfigure("THIS_TEST = none\n", "none")


def submit(folder, settings):
    """Submit the request in a folder."""
    return workflow.submit(folder / "job.json", settings)


def wait_for(run, condition, seconds=120):
    """Return the first state that fulfils a condition."""
    deadline = time.monotonic() + seconds
    while not condition(state := run.status()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {state}"
        time.sleep(0.3)
    return state


def stage(state, name):
    """Return the state of one stage."""
    return next(each for each in state.stages if each.stage == name)


def jobs_by_stage(run):
    """Count the jobs that were ever submitted for each stage."""
    return Counter(job.stage for job in events.read(run.folder.events_log))


def keep_environment():
    """Return a function that gives back what using a pool sets in this process."""
    before = {name: os.environ.get(name) for name in ("CONDOR_CONFIG", "PATH")}

    def give_back():
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    return give_back
