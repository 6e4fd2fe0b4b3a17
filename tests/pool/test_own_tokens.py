"""Submission with a user's own token: for the schedd it is the user who submits, and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from example_tools import copy_example, prepend_to_model
from issuer import ANY_AUDIENCE, Issuer
from pool_tools import configured, stage, wait_for

from mlaas_condor import workflow
from mlaas_condor.batch import identity, pool, queue

pytestmark = pytest.mark.pool

DOMAIN = "token.personal-pool"  # no account of this machine has it: only a token says so
LINES = """\
SEC_DEFAULT_AUTHENTICATION_METHODS = FS, PASSWORD, IDTOKENS, SCITOKENS
ALLOW_READ = $(ALLOW_READ) *@{domain}
ALLOW_WRITE = $(ALLOW_WRITE) *@{domain}
CERTIFICATE_MAPFILE = {mapfile}
SCITOKENS_SERVER_AUDIENCE = {audience}
AUTH_SSL_SERVER_CERTFILE = $(LOCAL_DIR)/hostcert.pem
AUTH_SSL_SERVER_KEYFILE = $(LOCAL_DIR)/hostkey.pem
AUTH_SSL_CLIENT_CAFILE = $(LOCAL_DIR)/trust_domain_ca.pem"""

ACT = """\
import sys
from dataclasses import replace
from mlaas_condor import settings, workflow
from mlaas_condor.batch import identity, pool
home, what, name = sys.argv[1:]
own = replace(settings.load(home=home, pool="personal"), owner="alice")
pool.use(own)
if what == "who":
    print(identity.mapped())
elif what == "submit":
    own.make_own()
    print(workflow.submit(name, own).name)
else:
    workflow.open_run(name, own).cancel()
"""


@pytest.fixture(scope="module")
def issuer():
    return Issuer()


@pytest.fixture
def tokens(settings, tmp_path, issuer):
    """Let the pool of the session take tokens, for as long as a test needs it."""
    mapfile = tmp_path / "mapfile"
    mapfile.write_text(f'SCITOKENS "{issuer.url},jane" jane@{DOMAIN}\n')
    issuer.teach(pool.folder(settings) / "run/cache")
    with configured(settings, LINES.format(domain=DOMAIN, mapfile=mapfile, audience=ANY_AUDIENCE)):
        yield


def pools_own(user):
    """Return a token that the pool itself makes for somebody."""
    create = ["condor_token_create", "-key", "POOL", "-lifetime", "600", "-identity", f"{user}@{DOMAIN}"]
    return subprocess.run(create, check=True, capture_output=True, text=True).stdout.strip()


def act(settings, token, what, name=""):
    """Do something in a process that is the user of a token; what it says, or the end of its failure."""
    with identity.as_user(token) as environment:
        command = [sys.executable, "-c", ACT, str(settings.home), what, str(name)]
        done = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
    return (done.stdout or done.stderr).strip().splitlines()[-1] if done.returncode else done.stdout.strip()


SCOPES = "compute.read compute.create compute.modify compute.cancel"


def test_the_schedd_knows_whose_token_it_is(settings, tokens, issuer):
    assert act(settings, pools_own("alice"), "who") == f"alice@{DOMAIN}"
    assert act(settings, issuer.token(SCOPES), "who") == f"jane@{DOMAIN}"


def test_a_token_that_is_not_accepted_is_nobody(settings, tokens, issuer):
    good = pools_own("alice")
    forged = f"{good[:-8]}{'A' * 8}"
    wrong = {
        "forged": forged,
        "ended": issuer.token(SCOPES, seconds=-60),
        "of others": issuer.token(SCOPES, audience="https://elsewhere.example"),
        "of nobody": issuer.token(SCOPES, subject="joe"),
        "without scopes": issuer.token("openid"),
        "only to look": issuer.token("compute.read"),
        "of a stranger": Issuer(issuer.url).token(SCOPES),
    }
    said = {why: act(settings, token, "who") for why, token in wrong.items()}
    assert {why: text.partition(":")[0] for why, text in said.items()} == dict.fromkeys(
        wrong, "mlaas_condor.errors.CredentialFault"
    )


def test_a_run_is_submitted_and_cancelled_in_the_users_own_name(settings, tokens, tmp_path):
    import htcondor2

    folder, token = copy_example(tmp_path, nevts=18100), pools_own("alice")
    prepend_to_model(folder, "import time\ntime.sleep(60)")
    own = replace(settings, owner="alice")
    run = workflow.open_run(act(settings, token, "submit", folder / "job.json"), own)
    try:
        wait_for(run, lambda state: any(each.running or each.done for each in state.stages))
        [dagman] = [
            ad for ad in htcondor2.Schedd().query(constraint=queue.constraint(run.folder))
            if ad["MLaaSStage"] == "dagman"
        ]  # fmt: skip
        assert (dagman["User"], dagman["Owner"], dagman["MLaaSOwner"]) == (
            f"alice@{DOMAIN}",
            "alice",
            "alice",
        )
        assert token not in str(dagman) and "_CONDOR_SEC_" not in str(dagman)
        # DAGMan submits as whom the schedd runs it: here all are this one account, at a site it is alice's.
        wait_for(run, lambda state: stage(state, "train").running)
        assert act(settings, token, "cancel", run.name) == ""
        wait_for(run, lambda state: state.state == "cancelled" and not queue.query([run.folder]))
        written = (path for path in run.folder.path.rglob("*") if path.is_file())
        assert not any(token.encode() in path.read_bytes() for path in written)
    finally:
        queue.remove(run.folder)
