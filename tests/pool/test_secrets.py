"""A token of whoever submits is nobody else's: the queue, which many can read, does not show it."""

from __future__ import annotations

import pytest
from example_tools import edit
from pool_tools import submit, wait_for

from mlaas_condor.batch import queue

pytestmark = pytest.mark.pool

SECRET = "eyJhbGciOiJub25lIn0.eyJzZWNyZXQiOiJ5ZXMifQ.c2VjcmV0"  # a token, of nobody


def test_a_token_in_the_environment_is_in_no_ad_and_in_no_file(settings, request_folder, monkeypatch):
    import htcondor2

    monkeypatch.setenv("BEARER_TOKEN", SECRET)
    edit(request_folder, "params.json", nevts=17000)
    run = submit(request_folder, settings)
    wait_for(run, lambda state: state.state == "running", 60)
    ads = [str(ad) for ad in htcondor2.Schedd().query(constraint=f'MLaaSRun == "{run.name}"')]
    assert ads and not any(SECRET in ad for ad in ads)
    run.cancel()
    wait_for(run, lambda state: state.state == "cancelled" and not queue.query([run.folder]))
    written = [path for path in run.folder.path.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in path.read_bytes() for path in written)
    history = settings.home / "pool"
    assert not any(
        SECRET.encode() in path.read_bytes() for path in history.rglob("history*") if path.is_file()
    )
