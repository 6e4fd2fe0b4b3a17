"""A proxy that is replaced while jobs are queued: what the queue knows of it, and the jobs that it holds."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from mlaas_condor import renewing, runs
from mlaas_condor.batch import credentials, queue
from mlaas_condor.grid import certificates
from mlaas_condor.grid.credentials import Credentials
from mlaas_condor.run import RunFolder

pytestmark = pytest.mark.pool

RUN = "renewed_1"


@pytest.fixture(scope="module")
def person():
    """A certificate that only its own key vouches for: the pool asks nobody who issued it."""
    key, now = rsa.generate_private_key(65537, 2048), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Jane Doe")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=2))
    return certificates.Credential((builder.sign(key, hashes.SHA256()),), key)


@pytest.fixture
def proxy(person, tmp_path):
    path = tmp_path / "x509up"
    certificates.write(certificates.make_proxy(person, 3600), path)
    return path


JOB = """\
executable = /bin/sh
transfer_executable = False
arguments = "-c 'test ! -e {broken} || exit 29'"
x509userproxy = {proxy}
should_transfer_files = YES
on_exit_hold = ExitCode =?= 29
on_exit_hold_subcode = 29
log = events.log
submit_event_user_notes = specs 0
My.MLaaSRun = "{name}"
My.MLaaSStage = "specs"
My.MLaaSTask = 0
My.MLaaSDirectory = Iwd
queue
"""


def test_a_held_run_is_renewed_by_one_command(settings, person, proxy, tmp_path, monkeypatch):
    """A DAG of one job, which goes on hold as a job does that may not read any more."""
    folder = RunFolder(settings.runs / "whole_1")
    (folder.path / "tasks").mkdir(parents=True)
    folder.logs.mkdir()
    folder.tasks("specs").write_text("0 0 0\n")
    broken = tmp_path / "broken"
    broken.touch()
    folder.submit_file("specs").write_text(JOB.format(broken=broken, proxy=proxy, name=folder.name))
    folder.dag.write_text("JOB specs specs.sub\n")
    Credentials(proxy=str(proxy), identity="/CN=Jane Doe", stages=["specs"]).write(folder.credentials)
    long = tmp_path / "long"
    certificates.write(certificates.make_proxy(person, 40 * 3600), long)
    source = tmp_path / "renewal.toml"
    source.write_text(f'[renewal]\nlong_proxy = "{long}"\n')
    monkeypatch.setattr(renewing, "source_file", lambda: source)
    try:
        queue.submit(folder)
        wait_for(lambda: runs.states([folder], settings)[0].state == "held")
        broken.unlink()
        [outcome] = renewing.renew(None, settings, below=6)
        assert outcome.renewed and outcome.released == 1 and not outcome.error
        # It may have gone through the queue already.
        assert set(queue_ends(folder.name)) <= {int(outcome.ends)} == {int(certificates.load(proxy).ends)}
        wait_for(lambda: not queue.query([folder]))
    finally:
        queue.remove(folder)
        wait_for(lambda: not queue.query([folder]))
        shutil.rmtree(folder.path)


def queue_ends(name):
    import htcondor2

    found = htcondor2.Schedd().query(constraint=f'MLaaSRun == "{name}" && MLaaSStage == "specs"')
    return [ad["x509UserProxyExpiration"] for ad in found]


@pytest.fixture
def submit(settings, proxy, tmp_path):
    """Submit jobs that go on hold with an exit code while a file is there; remove them in the end."""
    import htcondor2

    schedd = htcondor2.Schedd()

    def make(code, jobs=1, **more):
        description = {
            "executable": "/bin/sh",
            "transfer_executable": "False",
            "arguments": f"\"-c 'test ! -e {tmp_path}/broken || exit {code}'\"",
            "x509userproxy": str(proxy),
            "should_transfer_files": "YES",
            "initialdir": str(tmp_path),
            "log": str(tmp_path / "log"),
            "on_exit_hold": "ExitCode =!= 0",
            "on_exit_hold_subcode": "ExitCode",
            "My.MLaaSRun": f'"{RUN}"',
            "My.MLaaSDirectory": "Iwd",
            **more,
        }
        (tmp_path / "broken").touch()
        return schedd.submit(htcondor2.Submit(description), count=jobs).cluster()

    yield make
    schedd.act(htcondor2.JobAction.Remove, f'MLaaSRun == "{RUN}"')


def ads(cluster):
    import htcondor2

    return htcondor2.Schedd().query(constraint=f"ClusterId == {cluster}")


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.3)
    return found


def held(cluster, jobs=1):
    def look():
        found = ads(cluster)
        return found if [ad["JobStatus"] for ad in found] == [5] * jobs else None

    return wait_for(look)


def renewed(person, proxy, seconds):
    made = certificates.make_proxy(person, seconds)
    certificates.write(made, proxy)
    return made.ends


def test_jobs_held_for_the_old_proxy_go_on_with_the_new_one(submit, person, proxy, tmp_path):
    mine, others = submit(29, jobs=2), submit(23)
    before = [ad["x509UserProxyExpiration"] for ad in held(mine, 2)]
    assert (held(mine, 2)[0]["HoldReasonCode"], held(mine, 2)[0]["HoldReasonSubCode"]) == (3, 29)
    held(others)
    ends = renewed(person, proxy, 24 * 3600)
    (tmp_path / "broken").unlink()
    assert credentials.refreshed(RunFolder(proxy.parent), proxy, ends) == 2
    assert min(before) < ends - 3600
    wait_for(lambda: not ads(mine))  # they have run, and ended well
    [left] = ads(others)
    assert left["JobStatus"] == 5, "held for another reason"
    assert left["x509UserProxyExpiration"] == int(ends)
    assert credentials.refreshed(RunFolder(proxy.parent), proxy, ends) == 0
    assert credentials.refreshed(RunFolder(proxy.parent / "another_1"), proxy, ends) == 0


def test_a_job_that_the_same_proxy_did_not_help_stays_held_unless_a_person_wants_it(
    submit, proxy, monkeypatch
):
    cluster = submit(29)
    held(cluster)
    ends = certificates.load(proxy).ends
    monkeypatch.setattr(credentials, "_DELIVERY_SECONDS", -3600)
    assert credentials.refreshed(RunFolder(proxy.parent), proxy, ends) == 0
    assert ads(cluster)[0]["JobStatus"] == 5
    assert credentials.refreshed(RunFolder(proxy.parent), proxy, ends, again=True) == 1


def asked_before(monkeypatch, act):
    """Let something happen right after the queue was asked for the first time."""
    import htcondor2

    query, left = htcondor2.Schedd.query, [act]

    def asked(self, **options):
        found = query(self, **options)
        if left:
            left.pop()()
        return found

    monkeypatch.setattr(htcondor2.Schedd, "query", asked)


def test_jobs_that_leave_the_queue_meanwhile_do_not_keep_the_others_held(
    submit, person, proxy, tmp_path, monkeypatch
):
    import htcondor2

    schedd = htcondor2.Schedd()
    gone, stays, left = submit(29), submit(29), submit(29, jobs=2)
    held(gone), held(stays), held(left, 2)
    ends = renewed(person, proxy, 24 * 3600)
    (tmp_path / "broken").unlink()
    remove = htcondor2.JobAction.Remove
    asked_before(monkeypatch, lambda: schedd.act(remove, [f"{gone}.0", f"{left}.1"]))
    assert credentials.refreshed(RunFolder(proxy.parent), proxy, ends) == 2
    wait_for(lambda: not ads(stays) and not ads(left))


def test_where_all_jobs_leave_the_queue_meanwhile_nothing_is_wrong(submit, person, proxy, monkeypatch):
    import htcondor2

    schedd = htcondor2.Schedd()
    gone = submit(29)
    held(gone)
    ends = renewed(person, proxy, 24 * 3600)
    asked_before(monkeypatch, lambda: schedd.act(htcondor2.JobAction.Remove, f"ClusterId == {gone}"))
    assert credentials.refreshed(RunFolder(proxy.parent), proxy, ends) == 0


def test_a_job_with_another_proxy_and_one_with_a_relative_path(submit, person, proxy, tmp_path):
    shutil.copy(proxy, tmp_path / "other")
    other, relative = submit(29, x509userproxy=str(tmp_path / "other")), submit(29, x509userproxy="x509up")
    held(other), held(relative)
    ends = renewed(person, proxy, 24 * 3600)
    assert credentials.refreshed(RunFolder(proxy.parent), proxy, ends) == 1
    assert ads(other)[0]["x509UserProxyExpiration"] < ends - 3600
    assert ads(other)[0]["JobStatus"] == 5
