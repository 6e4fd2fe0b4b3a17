"""What is wrong with a credential or a storage is told at once, in words, before anything is queued."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from authority import HOUR, Authority, proxy
from example_tools import EXAMPLE, copy_example

pytestmark = pytest.mark.grid


@pytest.fixture
def plan(tmp_path, gsi_server):
    """Plan a request on a remote file as somebody would at a terminal; give exit code and what was said."""
    folder = copy_example(tmp_path, nevts=2000)
    for name, source in (("a.root", "ttH_1.root"), ("b.root", "qcd_pthat200.root")):
        gsi_server.put(f"/private/{name}", (EXAMPLE / "data" / source).read_bytes())
    (folder / "labels.txt").write_text("1\n0\n")

    def call(url=None, **environment):
        first, second = gsi_server.url("/private/a.root"), gsi_server.url("/private/b.root")
        (folder / "files.txt").write_text(f"{url or first}\n{second}\n")
        known = {**os.environ, "MLAAS_CONDOR_HOME": str(tmp_path / "home"), **environment}
        known = {name: str(value) for name, value in known.items() if value is not None}
        begin = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "mlaas_condor.cli.main", "plan", folder / "job.json"],
            capture_output=True, text=True, env=known, timeout=120,
        )  # fmt: skip
        assert time.monotonic() - begin < 30
        assert not (tmp_path / "home" / "runs").exists(), "nothing may be left of what was refused"
        return done.returncode, re.sub(r"\s+", " ", done.stderr + done.stdout)

    return call


@pytest.fixture
def of_jane(tmp_path, jane):
    """Make a proxy of Jane's."""
    return lambda seconds=6 * HOUR, **more: proxy(jane, seconds, **more).write_proxy(tmp_path / "x509up")


def test_a_good_proxy_is_taken_and_shown(plan, of_jane):
    code, said = plan(X509_USER_PROXY=of_jane())
    assert code == 0 and f"storage is read as /DC=org/DC=example/CN=Jane Doe (proxy {of_jane()}, 5 h" in said


def test_no_proxy(plan):
    code, said = plan(X509_USER_PROXY=None)
    if Path(f"/tmp/x509up_u{os.getuid()}").exists():
        pytest.skip("somebody's proxy is there")
    assert (
        code == 2
        and "there is neither a proxy nor a token; make a proxy with `mlaas-condor proxy init" in said
    )


def test_a_named_proxy_that_is_not_there(plan, tmp_path):
    code, said = plan(X509_USER_PROXY=tmp_path / "none")
    assert (
        code == 2 and f"there is no proxy {tmp_path}/none, which the variable X509_USER_PROXY names" in said
    )


def test_an_expired_proxy(plan, of_jane):
    code, said = plan(X509_USER_PROXY=of_jane(-60, start=-3600))
    assert code == 2 and "expired" in said and "mlaas-condor proxy init" in said


def test_a_proxy_that_others_can_read(plan, of_jane):
    path = of_jane()
    path.chmod(0o644)
    code, said = plan(X509_USER_PROXY=path)
    assert code == 2 and f"chmod 600 {path}" in said


def test_a_proxy_that_is_too_short(plan, of_jane):
    code, said = plan(X509_USER_PROXY=of_jane(200))
    assert code == 2 and "3 min" in said and "--proxy-lifetime-ok" in said


def test_an_authority_that_the_server_does_not_know(plan, tmp_path):
    stranger = Authority(tmp_path / "stranger", "Stranger CA").user("Jane Doe")
    code, said = plan(X509_USER_PROXY=proxy(stranger, HOUR).write_proxy(tmp_path / "x509up"))
    assert code == 2 and "do not trust each other" in said and "Stranger" in said


def test_a_server_whose_authority_is_not_known_here(plan, of_jane, tmp_path):
    (tmp_path / "empty").mkdir()
    code, said = plan(X509_USER_PROXY=of_jane(), X509_CERT_DIR=tmp_path / "empty")
    assert code == 2 and "do not trust each other" in said and f"{tmp_path}/empty does not hold" in said


def test_a_wrong_path(plan, of_jane, gsi_server):
    code, said = plan(gsi_server.url("/private/none.root"), X509_USER_PROXY=of_jane())
    assert code == 2 and "/private/none.root: no such file" in said


def test_no_permission(plan, john, tmp_path):
    code, said = plan(X509_USER_PROXY=proxy(john, HOUR).write_proxy(tmp_path / "x509up"))
    assert code == 2 and "no permission for /DC=org/DC=example/CN=John Roe" in said


def test_a_wrong_host(plan, of_jane):
    code, said = plan("root://no-such-host.invalid//private/a.root", X509_USER_PROXY=of_jane())
    assert code == 2 and "its host is unknown" in said


def test_a_wrong_port(plan, of_jane):
    code, said = plan("root://localhost:1//private/a.root", X509_USER_PROXY=of_jane())
    assert code == 2 and "localhost:1 cannot be reached" in said


def test_a_server_that_says_nothing(plan, of_jane, mute_server):
    code, said = plan(mute_server.url("/private/a.root"), X509_USER_PROXY=of_jane())
    assert code == 2 and "cannot be reached" in said
