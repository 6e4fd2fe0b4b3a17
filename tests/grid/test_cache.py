"""The cache of ``images/xcache`` between jobs and their storage."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from authority import HOUR, proxy
from example_tools import EXAMPLE, copy_example
from grid_tools import in_process, read_bytes

from mlaas_condor import local, workflow
from mlaas_condor import settings as settings_module

pytestmark = pytest.mark.grid

SHORT = {"XRD_CONNECTIONRETRY": "1", "XRD_CONNECTIONWINDOW": "3", "XRD_TIMEOUTRESOLUTION": "1"}
NOT_ALLOWED, NOT_FOUND, SERVER_ERROR, INVALID_EXCHANGE = 3010, 3011, 3005, 3030
BLOCK = 2**15
CONTENT = bytes(range(256)) * 4096


def read(url, size=0, offset=0, **environment):
    return in_process(read_bytes, url, size, offset, env=SHORT | environment).get()


def test_second_reading_asks_the_origin_for_nothing(cache_server, gsi_server, jane_proxy):
    gsi_server.put("/data/twice.bin", CONTENT)
    url = cache_server.url("/data/twice.bin")
    assert read(url) == CONTENT
    assert gsi_server.requests("/data/twice.bin").bytes == len(CONTENT)
    gsi_server.forget_requests()
    assert read(url) == CONTENT
    assert gsi_server.requests("/data/twice.bin").bytes == 0


def test_only_blocks_that_are_read_are_fetched(cache_server, gsi_server, jane_proxy):
    gsi_server.put("/data/parts.bin", CONTENT)
    assert read(cache_server.url("/data/parts.bin"), 10, 3 * BLOCK - 5) == CONTENT[3 * BLOCK - 5 :][:10]
    asked = gsi_server.requests("/data/parts.bin")
    assert sorted(part for each in asked.of("read") for part in each.parts) == [
        (2 * BLOCK, BLOCK),
        (3 * BLOCK, BLOCK),
    ]


def test_cache_reads_as_itself_and_asks_who_reads(cache_server, gsi_server, jane_proxy, john_proxy):
    gsi_server.put("/data/whose.bin", CONTENT)
    url = cache_server.url("/data/whose.bin")
    assert read(url) == CONTENT
    # John may read this at the origin, and is nobody to the cache: also for what it has already.
    assert read(url, X509_USER_PROXY=john_proxy)[1] == NOT_ALLOWED
    assert {each.user for each in gsi_server.requests().of("login")} <= {"cache"}


def test_members_of_the_vo_may_read(cache_server, gsi_server, vo, john, tmp_path):
    url = gsi_server.put("/data/members.bin", CONTENT) and cache_server.url("/data/members.bin")
    assert read(url, X509_USER_PROXY=vo.proxy(john, tmp_path / "member")) == CONTENT
    other = vo.proxy(john, tmp_path / "other", ["/cms/sub/Role=NULL/Capability=NULL"])
    # In a group of the VO, and not said to be in the VO itself.
    assert read(url, X509_USER_PROXY=other)[1] == NOT_ALLOWED


def test_file_that_is_written_anew_stays_as_it_was(cache_server, gsi_server, jane_proxy):
    gsi_server.put("/data/rewritten.bin", b"old" * BLOCK)
    url = cache_server.url("/data/rewritten.bin")
    assert read(url, 3) == b"old"
    gsi_server.put("/data/rewritten.bin", b"new" * BLOCK)
    assert read(url, 3) == b"old"
    # The storage's file, as it is now, for what was not read before.
    assert read(url, 3, 2 * BLOCK + 2) == b"new"


def test_what_is_cached_stays_readable_without_the_origin(cache_server, gsi_server, jane_proxy):
    gsi_server.put("/data/kept.bin", CONTENT)
    url = cache_server.url("/data/kept.bin")
    assert read(url, 100) == CONTENT[:100]
    gsi_server.kill()
    assert read(url, 100) == CONTENT[:100]
    cache_server.kill()
    cache_server.start()
    assert read(url, 100) == CONTENT[:100]


def test_origin_that_is_down_is_said_soon_and_asked_again_when_it_is_back(
    cache_server, gsi_server, jane_proxy
):
    gsi_server.put("/data/later.bin", CONTENT)
    gsi_server.kill()
    begin = time.monotonic()
    _, number, _ = read(cache_server.url("/data/later.bin"))
    assert number == SERVER_ERROR
    assert time.monotonic() - begin < 20
    gsi_server.start()
    # The window in which the cache tries no connection.
    time.sleep(2)
    assert read(cache_server.url("/data/later.bin")) == CONTENT


def test_origin_that_hangs_keeps_jobs_waiting_until_their_own_time_is_up(
    cache_server, gsi_server, jane_proxy, mute_server
):
    def open_for(url, seconds):
        from XRootD import client

        return client.File().open(url, timeout=seconds)[0].ok

    gsi_server.put("/data/hangs.bin", CONTENT)
    with gsi_server.frozen():
        done = in_process(open_for, cache_server.url("/data/hangs.bin"), 4, env=SHORT)
    assert done.get() is False and 3 < done.seconds < 15
    time.sleep(2)
    assert read(cache_server.url("/data/hangs.bin")) == CONTENT


def test_files_that_the_origin_has_not(cache_server, gsi_server, jane_proxy):
    assert read(cache_server.url("/data/none.bin"))[1] == NOT_FOUND
    assert read(cache_server.url("/private/a.bin"))[1] == NOT_ALLOWED


def test_proxy_of_the_cache_can_be_replaced_while_it_runs(cache_server, gsi_server, authority, jane_proxy):
    own = Path(cache_server.environment["X509_USER_PROXY"])
    before = own.read_bytes()
    service = authority.user("Cache Service")
    cache_server.kill()
    try:
        proxy(service, -1).write_proxy(own)
        cache_server.start()
        gsi_server.put("/data/expired.bin", CONTENT)
        assert read(cache_server.url("/data/expired.bin"))[1] == INVALID_EXCHANGE
        proxy(service, HOUR).write_proxy(own)
        time.sleep(2)
        assert read(cache_server.url("/data/expired.bin")) == CONTENT
    finally:
        own.write_bytes(before)


def test_a_second_model_is_trained_from_the_cache_with_the_origin_stopped(
    cache_server, gsi_server, jane_proxy, tmp_path
):
    names = {"signal": "ttH_1.root", "background": "qcd_pthat200.root"}
    for name in names.values():
        gsi_server.put(f"/data/{name}", (EXAMPLE / "data" / name).read_bytes())
    folder = copy_example(tmp_path, epochs=1, nevts=-1, redirector=cache_server.url().rstrip("/"))
    (folder / "files.txt").write_text("".join(f"/data/{name}\n" for name in names.values()))
    (folder / "labels.txt").write_text("1\n0\n")
    metrics = []
    for home in ("first", "second"):  # of each other's chunks they know nothing
        settings = settings_module.load(home=str(tmp_path / home), pool="personal")
        run = workflow.create(workflow.plan(folder / "job.json", settings), settings)
        local.run(run)
        metrics.append(workflow.open_run(run.name, settings).metrics())
        if home == "first":
            gsi_server.kill()
    assert metrics[0] == metrics[1]
