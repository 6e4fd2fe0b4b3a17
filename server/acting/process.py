"""What is done for one owner in a process of its own: plan, submit, resume, cancel, delete.

    python -P -m mlaas_condor.server.acting.process DESCRIPTOR < ACT

What it is to do comes pickled from the service; what it answers goes back as JSON, as by then it has read
files of strangers. `forking` does the same without starting Python anew.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from mlaas_condor import jsonfile, run, workflow
from mlaas_condor.batch import credentials, events, pool, queue
from mlaas_condor.confinement import Confinement
from mlaas_condor.errors import CredentialFault, MlaasError, RequestError, RunNotFound
from mlaas_condor.grid import proxy as proxies
from mlaas_condor.grid.credentials import Credentials
from mlaas_condor.planned import Planned
from mlaas_condor.planning import Plan
from mlaas_condor.prepare import Prepared
from mlaas_condor.request import Request
from mlaas_condor.run import RunFolder

from ..faults import HttpFault
from ..storage.folders import Folder, Folders
from ..storage.incoming import locked
from .acts import SECONDS, TOO_LONG, Act, Belonging, Record, write_whole
from .limits import Limits, is_alive

_END_SECONDS = 20  # to undo what has begun
_CPU_SECONDS = 900
_LEAST_MEMORY = 4 * 2**30
_ABANDONED_SECONDS = 3600.0


def plan(act: Act) -> dict[str, Any]:
    """Check a request and plan it."""
    folders = Folders(act.settings, act.configuration.limits)
    with folders.using(act.settings.owner, _folder(act)) as folder:
        prepared = _prepare(act, folder)
        name = f"{prepared.request.job.name}_n"
        texts = workflow.submit_files(prepared, act.settings, name)
        return Planned.of(prepared, texts, act.settings.python).to_dict()


def submit(act: Act) -> dict[str, Any]:
    """Submit a request, or find the run that the same one has led to."""
    assert act.belonging is not None
    if found := _begun(act, act.belonging):
        pool.use(act.settings)
        number = _number(found) or workflow.submit_created(found, act.settings)
        return _done(act, found.name, number, [])
    folders = Folders(act.settings, act.configuration.limits)
    with folders.using(act.settings.owner, _folder(act)) as folder:
        prepared = _prepare(act, folder)
        pool.use(act.settings)
        with _alone(act):
            run.tidy(act.settings.runs, _ABANDONED_SECONDS)
            _limits(act).check_submission(act.settings.owner, prepared.plan)
            created, number = _submit(act, prepared, act.belonging)
    return _done(act, created.name, number, prepared.warnings)


def _prepare(act: Act, folder: Folder) -> Prepared:
    assert act.job is not None
    inputs = act.configuration.inputs
    own = act.configuration.jobs.submit_as == "user"
    within = Confinement((folder.path, *inputs.folders), tuple(inputs.hosts), own)
    request = Request.of(act.job, folder.path, "job.json", within=within)
    within.hold()
    return workflow.plan(request, act.settings, run_code=False)


def _folder(act: Act) -> Folder:
    assert act.folder is not None
    return act.folder


def _limits(act: Act) -> Limits:
    return Limits(act.configuration.limits, act.settings, act.settings.home / "service" / "rates")


@contextmanager
def _alone(act: Act) -> Iterator[None]:
    """Let nobody else submit for this owner meanwhile: together they might have more than may be."""
    with locked(act.settings.own / ".submitting"):
        yield


def _submit(act: Act, prepared: Prepared, belonging: Belonging) -> tuple[RunFolder, int]:
    """Make a run and submit it; what is known of its key is on disk before it and goes if it fails."""
    record = Path(act.record) if act.record else None
    if record:
        write_whole(Record(body=act.body), record)
    try:
        created = workflow.create(prepared, act.settings, belonging.model_dump_json(indent=1))
        return created, workflow.submit_created(created, act.settings)
    except MlaasError:
        # Nothing is left of it: the same key may come with what is right.
        if record and not _begun(act, belonging):
            record.unlink(missing_ok=True)
        raise


def _begun(act: Act, belonging: Belonging) -> RunFolder | None:
    """Return the run that was made for the same key, by a process that was killed before it could say so."""
    if not act.record or not Path(act.record).exists():
        return None
    for folder in run.list_folders(act.settings.runs):
        with suppress(OSError, ValueError):
            if Belonging.read(folder.belongs).key == belonging.key:
                return folder
    return None


def _number(folder: RunFolder) -> int:
    """Return the number of the DAGMan job of a run; 0 where it never reached the queue."""
    logged = events.read(folder.dagman_log)
    if logged:
        return logged[-1].cluster
    return next((job.cluster for job in queue.query([folder]) if job.stage == "dagman"), 0)


def _done(act: Act, name: str, number: int, warnings: list[str]) -> dict[str, Any]:
    answer: dict[str, Any] = {"name": name, "job_id": number, "warnings": warnings}
    if act.record:
        write_whole(Record(body=act.body, **answer), Path(act.record))
    return answer


def cancel(act: Act) -> dict[str, Any]:
    """Take a run off the queue."""
    workflow.open_run(act.run, act.settings).cancel()
    return {}


def resume(act: Act) -> dict[str, Any]:
    """Let a run go on, with the proxy that its owner has delegated last."""
    found = workflow.open_run(act.run, act.settings)
    with _alone(act):
        if released := _with_new_proxy(act, found.folder):
            return {"done": f"released {released} held jobs"}
        if not is_alive(found.folder):
            with suppress(OSError, ValueError):  # it is being deleted, which the next line says
                _limits(act).check_submission(act.settings.owner, Plan.read(found.folder.plan))
        return {"done": found.resume()}


def _with_new_proxy(act: Act, folder: RunFolder) -> int:
    """Release what was held, as a proxy had ended and there is a new one; return how many jobs that is."""
    given = Credentials.of(folder.credentials)
    if not given.proxy or not is_alive(folder):
        return 0
    try:
        proxy = proxies.read(Path(given.proxy))
    except CredentialFault:
        return 0
    if proxies.faults(proxy):
        return 0
    released = credentials.refreshed(folder, proxy.path, proxy.ends, again=True)
    return released and released + queue.release(folder)


def delete(act: Act) -> dict[str, Any]:
    """Delete a run, and the files that nothing needs any more."""
    with _alone(act):
        workflow.open_run(act.run, act.settings).delete(act.keep_stored)
    Folders(act.settings, act.configuration.limits).collect(act.settings.owner)
    return {}


_ACTS: dict[str, Callable[[Act], dict[str, Any]]] = {
    "submit": submit, "plan": plan, "cancel": cancel, "resume": resume, "delete": delete,
}  # fmt: skip


def _answer(act: Act) -> dict[str, Any]:
    try:
        return _ACTS[act.what](act)
    except RequestError as error:
        problems = [vars(each) for each in error.problems]
        return {"error": "RequestError", "message": str(error), "problems": problems}
    except HttpFault as error:
        return {"error": type(error).__name__, "message": str(error), "headers": error.headers}
    except RunNotFound:  # the folder that it has looked in is nobody's business
        return {"error": "RunNotFound", "message": f"no run {act.run!r}"}
    except MlaasError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except KeyboardInterrupt:
        return {"error": "Unavailable", "message": TOO_LONG, "headers": {"Retry-After": "60"}}
    except (MemoryError, RecursionError):
        said = "a file of this request takes too much memory to look at, or nests too deeply"
        return {"error": "Unprocessable", "message": said}
    except Exception:
        # What happened is for the log of the service, and not for who asked.
        return {"unforeseen": traceback.format_exc()}


def restrict() -> None:
    """Let this process take neither too much nor too long; what may fail on a hostile file fails here."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    for limit, most in (
        (resource.RLIMIT_CPU, _CPU_SECONDS),
        (resource.RLIMIT_AS, max(memory, _LEAST_MEMORY)),
        (resource.RLIMIT_CORE, 0),  # it would hold a proxy
    ):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    with suppress(OSError):  # rather this one than HTCondor's
        Path("/proc/self/oom_score_adj").write_text("500")
    signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(SECONDS)


def _too_late(*_: object) -> NoReturn:
    """Undo what has begun; where that takes too long as well, the next alarm ends the process."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_END_SECONDS)
    raise KeyboardInterrupt


def perform(act: Act, out: IO[str]) -> None:
    """Do an act and write the answer."""
    restrict()
    text = jsonfile.dumps(_answer(act), indent=None)
    # Whoever asked may be gone; what was done is on disk all the same.
    with suppress(BrokenPipeError), out:
        out.write(text)


def main() -> NoReturn:
    """Do what standard input says, and answer to the descriptor of the first argument."""
    act, _ = pickle.load(sys.stdin.buffer)
    perform(act, os.fdopen(int(sys.argv[1]), "w"))
    sys.stderr.flush()
    # Threads of libraries that wait for a server are not waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
