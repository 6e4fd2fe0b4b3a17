"""Submitting: once and no more, as nobody but the owner, and never in the service itself."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from pool_tools import personal_pool, wait_for

from mlaas_condor import errors, run, workflow
from mlaas_condor import settings as settings_module
from mlaas_condor.batch import events, pool, queue
from mlaas_condor.errors import MlaasError, PoolUnreachable, Problem, RequestError, WrongState
from mlaas_condor.grid.delegation import Requests
from mlaas_condor.server import faults
from mlaas_condor.server.acting import acts, starting, submissions
from mlaas_condor.server.acting.acts import Act, Record, write_whole
from mlaas_condor.server.acting.submissions import Submissions
from mlaas_condor.server.configuration import Configuration
from mlaas_condor.server.identity import Identity
from mlaas_condor.server.storage.folders import Folders

JANE = Identity("jane", "Jane Doe")
HERE = Path(__file__).parent


class Office:
    """What submits for Jane, and her folder."""

    def __init__(self, home, request, **configuration):
        self.settings = settings_module.load(home=str(home), pool="personal")
        self.configuration = Configuration.model_validate(configuration)
        self.service = home / "service"
        self.service.mkdir(parents=True, exist_ok=True)
        self.folders = Folders(self.settings, self.configuration.limits)
        self.submissions = Submissions(self.configuration, self.settings, Requests(self.service / "proxies"))
        self.job = json.loads((request / "job.json").read_text())
        self.put(request)

    @property
    def jane(self):
        return replace(self.settings, owner="jane")

    def put(self, request):
        archive = self.service / "sent.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(request, arcname="tiny")
        self.folder = self.folders.put("jane", "tiny", archive)

    def plan(self, **job):
        return self.submissions.plan(JANE, "jane", {**self.job, **job}, self.folder)

    def submit(self, key=None, **job):
        return self.submissions.submit(JANE, "jane", {**self.job, **job}, self.folder, key, "request-1")


@pytest.fixture
def office(tmp_path, request_folder):
    return Office(tmp_path / "home", request_folder)


@pytest.fixture
def mute():
    """A host that never says anything: its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        held = []

        def hold():
            with contextlib.suppress(OSError):
                while True:
                    held.append(listening.accept()[0])

        threading.Thread(target=hold, daemon=True).start()
        yield f"https://127.0.0.1:{listening.getsockname()[1]}/a.csv"
        for each in held:
            each.close()


@pytest.fixture
def slow(tmp_path, request_folder, mute):
    """Jane's, whose storage does not answer: what acts is busy until it is ended."""
    office = Office(tmp_path / "home", request_folder, inputs={"hosts": ["127.0.0.1"]})
    office.job |= {"files": [mute, mute + "?2"], "labels": ["0", "1"]}
    return office


def copies(office):
    """Return the processes that act now."""
    parent = office.submissions._starter._process
    if parent is None:
        return []
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent.pid)], capture_output=True, text=True)
    return [int(each) for each in found.stdout.split()]


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)
    return found


def raised(function):
    try:
        function()
    except Exception as error:
        return error
    return None


# ---- a process of its own


def test_a_plan_is_as_on_the_command_line(office, request_folder):
    told = office.plan()
    own = workflow.plan(request_folder / "job.json", office.settings)
    assert told["plan"] == json.loads(own.plan.model_dump_json())
    assert told["recipe"] == json.loads(own.recipe.model_dump_json())
    assert told["framework"] == "keras" and "run.dag" in told["submit_files"] and told["warnings"] == []
    assert not (office.jane.own / "runs").exists()


def test_all_problems_come_back_as_they_were(office):
    with pytest.raises(RequestError) as caught:
        office.plan(model="/etc/passwd", memory="3xb", labels="no.txt", x509_proxy="/tmp/x509up_u0")
    assert len(caught.value.problems) == 4
    hint = "delegate a proxy instead: mlaas-condor proxy delegate"
    of_proxy = Problem("job.json: x509_proxy", "names a file of the service's machine", hint)
    assert of_proxy in caught.value.problems


@pytest.mark.parametrize(
    "kind",
    [each for module in (errors, faults) for each in vars(module).values()
     if inspect.isclass(each) and issubclass(each, MlaasError) and each is not RequestError],
)  # fmt: skip
def test_every_error_comes_back_as_what_it_is(kind):
    answer = {"error": kind.__name__, "message": "what is wrong", "headers": {"Retry-After": "7"}}
    found = starting._error(answer)
    assert type(found) is kind and str(found) == "what is wrong"
    assert getattr(found, "headers", {"Retry-After": "7"}) == {"Retry-After": "7"}


@pytest.mark.parametrize("named", ["Problem", "os", "LEAVE", "RequestError", "nothing"])
def test_an_error_that_is_none_is_one_of_ours(named):
    assert type(starting._error({"error": named, "message": "x"})) is MlaasError


def test_what_nobody_foresaw_is_for_the_log(office, caplog):
    act = Act("dance", office.jane, office.configuration)
    with pytest.raises(RuntimeError, match="KeyError: 'dance'"):
        office.submissions._do(JANE, act)


SECRETS = {
    "BEARER_TOKEN": "s3cret", "BEARER_TOKEN_FILE": "/tmp/token", "X509_USER_PROXY": "/tmp/x509up_u0",
    "X509_USER_KEY": "/k", "AWS_SECRET_ACCESS_KEY": "s3cret", "KRB5CCNAME": "FILE:/tmp/cc", "LD_PRELOAD": "",
    "SSH_AUTH_SOCK": "/tmp/ssh", "HTTPS_PROXY": "http://p", "_CONDOR_SEC_TOKEN_DIRECTORY": "/tokens",
    "XDG_RUNTIME_DIR": "/run",
}  # fmt: skip


def test_nothing_of_the_services_own_goes_along(office, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("X509_CERT_DIR", "/authorities")
    office.plan()
    environment = Path(f"/proc/{office.submissions._starter._process.pid}/environ").read_text()
    names = {each.partition("=")[0] for each in environment.split("\0")}
    assert names.isdisjoint(SECRETS) and {"PATH", "X509_CERT_DIR"} <= names
    act = Act("plan", office.jane, office.configuration)
    with office.submissions._environment(JANE, act) as given:
        assert given.keys().isdisjoint(SECRETS)
        # Neither does a library look for more in the usual places.
        assert given["MLAAS_CONDOR_ONLY_NAMED_CREDENTIALS"] == "1" and given["XrdSecPROTOCOL"] == "unix,host"


def test_the_proxy_is_that_of_the_owner(office):
    folder = office.service / "proxies" / sha256(b"jane").hexdigest()[:32]
    folder.mkdir(parents=True)
    (folder / "proxy.pem").write_text("a proxy")
    act = Act("plan", office.jane, office.configuration)
    with office.submissions._environment(Identity("root", administrator=True), act) as given:
        assert given["X509_USER_PROXY"] == str(folder / "proxy.pem") and given["XrdSecPROTOCOL"].startswith(
            "gsi"
        )
    with office.submissions._environment(
        JANE, replace(act, settings=replace(office.settings, owner="john"))
    ) as given:
        assert "X509_USER_PROXY" not in given


def test_it_forks_and_has_no_threads_to_lose(office):
    office.plan()
    parent = office.submissions._starter._process
    assert len(list(Path(f"/proc/{parent.pid}/task").iterdir())) == 1
    maps = Path(f"/proc/{parent.pid}/maps").read_text()
    assert "XrdCl" not in maps and "htcondor2" not in maps
    office.plan()
    assert office.submissions._starter._process is parent


def test_it_is_started_again_where_it_was_killed(office):
    office.plan()
    for _ in range(2):
        process = office.submissions._starter._process
        process.kill()
        process.wait()
        assert office.plan()["framework"] == "keras"


def test_it_goes_with_the_service(office):
    office.plan()
    process = office.submissions._starter._process
    office.submissions._starter._stop()
    assert process.wait(30) == 0


def test_it_starts_python_anew_where_a_library_has_a_thread(office, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, threading\n"
        "if 'mlaas_condor.server.acting.forking' in ' '.join(sys.orig_argv):\n"
        "    threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert office.plan()["framework"] == "keras"
    with pytest.raises(RequestError, match="outside of what may be read"):
        office.plan(labels="/etc/passwd")


def test_many_at_a_time(office):
    with ThreadPoolExecutor(6) as many:
        told = list(many.map(lambda _: office.plan(), range(6)))
    assert all(each == told[0] for each in told)


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (signal.SIGSEGV, faults.Unprocessable, "the process that did (SIGSEGV): one of them may be damaged"),
        (signal.SIGABRT, faults.Unprocessable, "SIGABRT"),
        (signal.SIGKILL, faults.Unavailable, "took too long, or too much memory"),
        (signal.SIGXCPU, faults.Unavailable, "took too long"),
    ],
)  # fmt: skip
def test_a_file_that_ends_its_process_ends_no_service(slow, number, kind, words):
    with ThreadPoolExecutor(1) as one:
        answer = one.submit(raised, slow.plan)
        (busy,) = until(lambda: copies(slow))
        until(lambda: "python" in Path(f"/proc/{busy}/comm").read_text())
        os.kill(busy, number)
        error = answer.result(60)
    assert type(error) is kind and words in str(error)
    slow.job = {**slow.job, "files": "files.txt", "labels": "labels.txt"}
    assert slow.plan()["framework"] == "keras"


def test_what_takes_too_long_is_ended_and_says_so(slow):
    with ThreadPoolExecutor(1) as one:
        answer = one.submit(raised, slow.plan)
        (busy,) = until(lambda: copies(slow))
        until(lambda: _handles(busy, signal.SIGALRM))
        os.kill(busy, signal.SIGALRM)
        until(lambda: not _handles(busy, signal.SIGALRM))
        with contextlib.suppress(ProcessLookupError):
            os.kill(busy, signal.SIGALRM)  # it is being ended, and that takes too long as well
        error = answer.result(60)
    assert type(error) is faults.Unavailable and "took too long" in str(error)
    assert error.headers["Retry-After"] == "60"


def _handles(pid, number):
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (number - 1) & 1)


def test_places_are_limited_and_some_are_left_to_others(slow, monkeypatch):
    monkeypatch.setattr(submissions, "_AT_A_TIME", 2)
    monkeypatch.setattr(submissions, "_QUEUE_SECONDS", 0.2)
    with ThreadPoolExecutor(1) as one:
        answer = one.submit(raised, slow.plan)
        (busy,) = until(lambda: copies(slow))
        with pytest.raises(faults.Unavailable, match="too much is submitted at a time") as caught:
            slow.plan()
        assert caught.value.http_status == 503 and "Retry-After" in caught.value.headers
        with slow.submissions._place("john"):
            pass
        os.kill(busy, signal.SIGKILL)
        answer.result(60)
    with slow.submissions._place("jane"):
        pass


# ---- nothing of the user's runs in the service


def test_no_file_of_the_user_is_run_or_imported(client, tmp_path):
    """Through the whole service: what runs would leave a mark."""
    mark = tmp_path / "ran"
    touch = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    job = {
        "name": "evil", "files": ["a.jsonl", "b.jsonl"], "labels": ["0", "1"], "model": "model.py",
        "preproc": "pre.py",
    }  # fmt: skip
    pre = "import helper\ndef preprocessing(rec):\n    rec['y'] = rec['x'] * 2\n    return rec\n"
    files = {
        "a.jsonl": "".join(f'{{"x": {i}}}\n' for i in range(40)),
        "b.jsonl": "".join(f'{{"x": {i + 50}}}\n' for i in range(40)),
        "model.py": touch + "import keras, helper\ndef model(idim):\n    pass\n",
        "pre.py": touch + pre,
    } | dict.fromkeys(("helper.py", "sitecustomize.py", "json.py", "numpy.py", "conftest.py"), touch)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"evil/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    put = client.put("/api/v1/folders/evil", data=out.getvalue(), content_type="application/gzip")
    assert put.status_code in (200, 201), put.text
    planned = client.post("/api/v1/plans", json=job)
    assert planned.status_code == 200, planned.text
    assert planned.json["dataset"]["flat"] == ["x", "y"]
    assert any("planned by reading it" in each for each in planned.json["warnings"])
    assert client.post("/api/v1/runs", json=job).status_code == 503  # there is no pool
    for page in ("/", "/folders", "/folders/evil", "/submit"):
        client.get(page, headers={"Accept": "text/html"})
    assert not mark.exists()


# ---- once and no more


def test_killed_at_any_step_and_repeated_a_run_is_there_once(tmp_path, request_folder):
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-P", str(HERE / "killed_acting.py"), str(home), str(request_folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    told = json.loads(done.stdout)
    assert len(told["steps"]) > 40
    states = set()
    for step in told["steps"]:
        before, after = step["before"], step["after"]
        assert len(before["runs"]) <= 1 and len(before["taken"]) <= 1
        assert after["runs"] == after["taken"] == [step["answer"]["name"]], step
        assert after["keys"] == [True] and after["record"]["job_id"] == step["answer"]["job_id"] == 1
        if before["runs"]:  # the one that is there, not another
            assert after["runs"] == before["runs"]
        states.add((bool(before["record"]), bool(before["runs"]), bool(before["taken"])))
    # It was killed before, in the middle of making it, before and after it was taken.
    assert states == {(False, False, False), (True, False, False), (True, True, False), (True, True, True)}
    assert told["whole"]["hidden"] == 0


def test_what_is_refused_leaves_nothing_and_its_key_is_free(tmp_path, request_folder):
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-P", str(HERE / "killed_acting.py"), str(home), str(request_folder), "1000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    for fault in json.loads(done.stdout)["faults"]:
        assert fault["refused"]["error"] in ("PoolUnreachable", "SubmitRefused")
        left = fault["left"]
        assert (left["runs"], left["taken"], left["hidden"], left["record"]) == ([], [], 0, None)
        assert len(fault["after"]["runs"]) == len(fault["after"]["taken"]) == 1


class Played:
    """Plays the process that acts: it submits everything at once."""

    def __init__(self, office):
        self.office = office
        self.done = []
        self.error = None
        self.begun, self.wait = threading.Event(), threading.Event()
        self.wait.set()

    def answer_of(self, act, environment, lock=None):
        self.begun.set()
        assert self.wait.wait(60)
        if self.error:
            raise self.error
        self.done.append(act)
        answer = {"name": f"tiny_{len(self.done)}", "job_id": len(self.done), "warnings": ["careful"]}
        if act.record:
            write_whole(Record(body=act.body, **answer), Path(act.record))
        return answer


@pytest.fixture
def played(office):
    office.submissions._starter = Played(office)
    return office.submissions._starter


def test_the_same_key_gives_the_same_answer(office, played):
    first, again = office.submit("my own key"), office.submit("my own key")
    assert (first.name, first.job_id, first.warnings, first.repeated) == ("tiny_1", 1, ["careful"], False)
    assert again == replace(first, repeated=True) and len(played.done) == 1
    assert office.submit("other").name == "tiny_2" and office.submit().name == "tiny_3"
    assert office.submit().name == "tiny_4"  # without a key each is one of its own
    belonging = played.done[0].belonging
    assert (belonging.owner, belonging.name, belonging.folder) == ("jane", "Jane Doe", "tiny")
    assert belonging.version == office.folder.version and belonging.request_id == "request-1"
    assert belonging.key == sha256(b"my own key").hexdigest()
    assert "my own key" not in "".join(map(str, office.service.rglob("*")))


def test_a_key_is_its_owners(office, played):
    office.submit("key")
    told = office.submissions.submit(Identity("john"), "john", office.job, office.folder, "key")
    assert told.name == "tiny_2" and not told.repeated


def test_a_key_with_another_request_is_refused(office, played):
    office.submit("key")
    with pytest.raises(faults.Unprocessable, match="came before with another request"):
        office.submit("key", memory="3gb")
    other = office.folder.model_copy(update={"name": "other"})
    with pytest.raises(faults.Unprocessable):
        office.submissions.submit(JANE, "jane", office.job, other, "key")
    newer = office.folder.model_copy(update={"version": "1" * 64})  # uploaded again, as after a lost answer
    assert office.submissions.submit(JANE, "jane", office.job, newer, "key").repeated
    assert office.submissions.submit(JANE, "jane", dict(reversed(office.job.items())), newer, "key").repeated


def test_a_key_whose_request_was_wrong_may_come_with_the_right_one(office, played):
    played.error = RequestError([Problem("job.json: memory", "x")])
    with pytest.raises(RequestError):
        office.submit("key", memory="x")
    played.error = None
    assert not office.submit("key").repeated


@pytest.mark.parametrize("key", ["ü", "x" * 255, "../../etc/passwd", "a b", "%00", "."])
def test_any_text_is_a_key(office, played, key):
    assert [office.submit(key).repeated for _ in range(2)] == [False, True]
    assert len(list((office.service / "submissions/jane").iterdir())) == 2


def test_those_who_come_at_once_wait_for_the_first(office, played):
    played.wait.clear()
    with ThreadPoolExecutor(5) as many:
        coming = [many.submit(office.submit, "key") for _ in range(5)]
        assert played.begun.wait(60)
        time.sleep(0.2)
        played.wait.set()
        told = [each.result(60) for each in coming]
    assert {each.name for each in told} == {"tiny_1"} and len(played.done) == 1
    assert sorted(each.repeated for each in told) == [False, True, True, True, True]


def test_who_waits_too_long_is_told_to_come_again(office, played, monkeypatch):
    monkeypatch.setattr(submissions, "_LOCK_SECONDS", 0.1)
    played.wait.clear()
    with ThreadPoolExecutor(1) as one:
        first = one.submit(office.submit, "key")
        assert played.begun.wait(60)
        with pytest.raises(faults.Conflict, match="is under way") as caught:
            office.submit("key")
        assert caught.value.headers == {"Retry-After": "30"}
        played.wait.set()
        assert first.result(60).name == "tiny_1"


def test_keys_are_forgotten_after_a_week(office, played):
    office.submit("old")
    office.submit("new")
    folder = office.service / "submissions/jane"
    for path in folder.glob(f"{sha256(b'old').hexdigest()}*"):
        os.utime(path, (time.time() - 8 * 86400,) * 2)
    assert not office.submit("old").repeated and office.submit("new").repeated
    assert len(list(folder.iterdir())) == 4


def test_a_lock_that_was_removed_meanwhile_locks_nothing(tmp_path, monkeypatch):
    path = tmp_path / "key.lock"
    first = submissions._locked(path)
    assert submissions._locked(path) is None
    path.unlink()
    second = submissions._locked(path)
    assert second is not None and submissions._locked(path) is None
    first.close()
    assert submissions._locked(path) is None
    second.close()


def test_the_process_that_acts_holds_the_lock_of_its_key(slow):
    """Should the service be killed, whoever asks again waits for it all the same."""
    path = slow.service / "key.lock"
    lock = submissions._locked(path)
    act = Act("plan", slow.jane, slow.configuration, job=slow.job, folder=slow.folder)
    with slow.submissions._environment(JANE, act) as environment, ThreadPoolExecutor(1) as one:
        answer = one.submit(raised, lambda: slow.submissions._starter.answer_of(act, environment, lock))
        (busy,) = until(lambda: copies(slow))
        lock.close()
        assert submissions._locked(path) is None
        os.kill(busy, signal.SIGKILL)
        answer.result(60)
    until(lambda: submissions._locked(path)).close()


def test_without_a_pool_nothing_is_left_behind(office):
    for key in (None, "key"):
        with pytest.raises(PoolUnreachable):
            office.submit(key)
    with pytest.raises(RequestError):  # what is wrong is said all the same
        office.submit("key", labels="none.txt")
    assert not office.jane.runs.exists() or list(office.jane.runs.iterdir()) == []
    assert list((office.service / "submissions/jane").glob("*.json")) == []


def test_a_folder_that_was_replaced_meanwhile_is_told_so(office, request_folder):
    stale = office.folder
    (request_folder / "more.txt").write_text("x")
    office.put(request_folder)
    with pytest.raises(faults.Conflict, match="was replaced or deleted just now"):
        office.submissions.plan(JANE, "jane", office.job, stale)


def test_what_killed_processes_left_of_runs_is_removed(tmp_path):
    old, new, other = (tmp_path / name for name in (".tiny_1.0123abcd", ".tiny_2.0123abcd", ".names"))
    for path in (old, new, other):
        (path / "files").mkdir(parents=True)
    (tmp_path / "tiny_3").mkdir()
    for path in (old, other, tmp_path / "tiny_3"):
        os.utime(path, (time.time() - 7200,) * 2)
    run.tidy(tmp_path, 3600)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".names", ".tiny_2.0123abcd", "tiny_3"]
    run.tidy(tmp_path / "none", 3600)


def test_tokens_are_for_what_is_submitted_in_their_name(tmp_path, request_folder):
    office = Office(tmp_path / "home", request_folder, jobs={"submit_as": "user"})
    assert office.plan()["framework"] == "keras"
    with pytest.raises(faults.Forbidden, match="in your own name"):
        office.submit()
    assert office.plan(oauth_services=["cern"])["framework"] == "keras"  # the account is the user's


# ---- a real pool


@pytest.fixture(scope="module")
def home():
    with personal_pool(cpus=2) as home:
        yield home


@pytest.fixture
def real(home, request_folder):
    office = Office(home, request_folder)
    yield office
    for each in run.list_folders(office.jane.runs):
        with contextlib.suppress(MlaasError):
            workflow.open_run(each.name, office.jane).cancel()


def test_the_story_of_a_run(real):
    told = real.submit("key", name="story")
    assert told.name == "story_1" and told.job_id > 0 and real.submit("key", name="story").repeated
    found = workflow.open_run("story_1", real.jane)
    assert acts.Belonging.read(found.folder.belongs).owner == "jane"
    assert found.folder.belongs.stat().st_uid == os.getuid()
    with pytest.raises(WrongState, match="cancel it first"):
        real.submissions.delete(JANE, found)
    with pytest.raises(WrongState, match="nothing to resume"):
        real.submissions.resume(JANE, found)
    real.submissions.cancel(JANE, found)
    wait_for(found, lambda state: state.state == "cancelled")
    with ThreadPoolExecutor(3) as many:  # one of them does it
        done = list(many.map(lambda _: raised(lambda: real.submissions.resume(JANE, found)), range(3)))
    assert [type(each) for each in done if each] == [WrongState, WrongState]
    (dagman,) = events.read(found.folder.dagman_log)  # its log begins anew
    assert dagman.cluster > told.job_id
    real.submissions.cancel(JANE, found)
    wait_for(found, lambda state: state.state == "cancelled")
    real.submissions.delete(JANE, found)
    with pytest.raises(errors.RunNotFound, match=r"^no run 'story_1'$"):
        real.submissions.delete(JANE, found)
    assert real.submit("key", name="story").name == "story_1"  # what was answered once is answered again


def test_runs_that_come_together_do_not_pass_the_limit(home, request_folder):
    office = Office(home, request_folder, limits={"cpus": 3})
    before = office.submissions
    with ThreadPoolExecutor(4) as many:
        told = list(many.map(lambda _: raised(lambda: office.submit(name="many", cpus=2)), range(4)))
    assert [type(each) for each in told].count(type(None)) == 1
    refused = [each for each in told if each]
    assert all(
        isinstance(each, faults.OverLimit) and "your runs have 2 CPUs" in str(each) for each in refused
    )
    found = workflow.open_run("many_1", office.jane)
    before.cancel(JANE, found)
    wait_for(found, lambda state: state.state == "cancelled")
    assert office.submit(name="many", cpus=3).name == "many_2"
    with pytest.raises(faults.OverLimit):
        before.resume(JANE, found)
    before.cancel(JANE, workflow.open_run("many_2", office.jane))


def test_killed_at_any_time_it_is_in_the_queue_once(real):
    """The processes are real ones here, and the pool; they are killed where it happens to be."""
    pool.use(real.settings)
    for number in range(6):
        key, delay = f"kill-{number}", 0.05 + 0.08 * number
        with ThreadPoolExecutor(1) as one:
            first = one.submit(raised, lambda key=key: real.submit(key, name="killed"))
            (busy,) = until(lambda first=first: copies(real) or (first.done() and [0]))
            time.sleep(delay)
            with contextlib.suppress(ProcessLookupError):
                if busy:
                    os.kill(busy, signal.SIGKILL)
            first.result(120)
        again = real.submit(key, name="killed")
        mine = [
            each for each in run.list_folders(real.jane.runs)
            if acts.Belonging.read(each.belongs).key == sha256(key.encode()).hexdigest()
        ]  # fmt: skip
        assert [each.name for each in mine] == [again.name]
        (dagman,) = [each for each in queue.query(mine) if each.stage == "dagman"]
        assert dagman.cluster == again.job_id
        real.submissions.cancel(JANE, workflow.open_run(again.name, real.jane))
    run.tidy(real.jane.runs, 0)
    assert list(real.jane.runs.glob(".killed*")) == []
