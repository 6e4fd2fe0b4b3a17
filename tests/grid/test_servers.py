"""The servers, credentials and tools of these tests do what they say."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import jwt
import pytest
from authority import DAY, HOUR, Authority, proxy
from grid_tools import in_process, read_bytes, write_bytes
from issuer import Issuer
from requests_log import Requests
from servers import GsiServer
from xrootd_install import ensure_xrootd

pytestmark = pytest.mark.grid

NOT_AUTHENTICATED, TLS_FAILED = 204, 110
NOT_ALLOWED, NOT_FOUND, NO_SPACE = 3010, 3011, 3009
# By itself the client tries for eight minutes where nobody listens.
SHORT = {"XRD_CONNECTIONRETRY": "1", "XRD_CONNECTIONWINDOW": "3", "XRD_TIMEOUTRESOLUTION": "1"}
CONTENT = bytes(range(256)) * 4000


def read(url, size=0, offset=0, **environment):
    return in_process(read_bytes, url, size, offset, env=SHORT | environment).get()


def write(url, content, **environment):
    return in_process(write_bytes, url, content, env=SHORT | environment).get()


@pytest.fixture
def private(gsi_server):
    return gsi_server.put("/private/a.bin", CONTENT)


def test_plain_server_reads_and_writes_and_counts(plain_server):
    url = plain_server.put("/data/a.bin", CONTENT)
    assert read(url, 100, 5) == CONTENT[5:105]
    assert write(plain_server.url("/store/new/b.bin"), b"x" * 10_000) is None
    assert plain_server.path("/store/new/b.bin").read_bytes() == b"x" * 10_000
    asked = plain_server.requests("/data/a.bin")
    assert (asked.opens, asked.reads, asked.readvs, asked.bytes) == (1, 1, 0, 100)
    assert plain_server.requests("/store/new/b.bin").written == 10_000
    assert len(plain_server.requests().clients) == 2


def test_vector_reads_are_counted_with_their_ranges(plain_server):
    urls = [plain_server.put(f"/data/{name}.bin", CONTENT) for name in "ab"]

    def read_ranges(urls):
        from XRootD import client

        files = [client.File() for _ in urls]
        for file, url in zip(files, urls, strict=True):
            assert file.open(url)[0].ok
        for file, count in zip(files, (2, 3), strict=True):
            status, content = file.vector_read([(1000 * n, 10) for n in range(count)])
            assert status.ok and len(content.chunks) == count
        for file in files:
            file.close()

    in_process(read_ranges, urls).get()
    one, two = (plain_server.requests(f"/data/{name}.bin") for name in "ab")
    assert (one.readvs, one.segments, one.bytes) == (1, 2, 20)
    assert (two.readvs, two.segments, two.bytes) == (1, 3, 30)
    assert two.of("readv")[0].parts == ((0, 10), (1000, 10), (2000, 10))


def test_what_is_missing_is_counted_as_refused(plain_server):
    assert read(plain_server.url("/data/none"))[1] == NOT_FOUND
    assert read(plain_server.url("/elsewhere/none"))[1] == NOT_ALLOWED
    asked = plain_server.requests()
    assert [each.path for each in asked.of("refused")] == ["/data/none", "/elsewhere/none"]
    plain_server.forget_requests()
    assert plain_server.requests() == []


def test_disk_is_full_when_a_test_says_so(plain_server):
    url = plain_server.url("/store/a.bin")
    plain_server.leave_room(len(CONTENT) - 1)
    assert write(url, CONTENT)[1] == NO_SPACE
    plain_server.leave_room(len(CONTENT))
    assert write(url, CONTENT) is None
    assert write(url, b"x")[1] == NO_SPACE
    plain_server.leave_room(None)
    assert write(url, CONTENT) is None


def test_servers_listen_on_loopback_only(plain_server, gsi_server, token_server):
    addresses = {each[4][0] for each in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # No packet is sent: this is how the address toward the outside is asked for.
        probe.connect(("192.0.2.1", 9)) if _has_route() else probe.connect(("127.0.0.1", 9))
        addresses.add(probe.getsockname()[0])
    for address in addresses - {"127.0.0.1"}:
        for server in (plain_server, gsi_server, token_server):
            with pytest.raises(OSError):
                socket.create_connection((address, server.port), 2).close()


def _has_route():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(("192.0.2.1", 9)) == 0


def test_owner_reads_private_others_do_not(gsi_server, private, jane_proxy, john_proxy):
    assert read(private) == CONTENT
    assert read(private, X509_USER_PROXY=john_proxy)[1] == NOT_ALLOWED
    public = gsi_server.put("/data/a.bin", b"for all")
    assert read(public, X509_USER_PROXY=john_proxy) == b"for all"
    assert read(gsi_server.put("/denied/a.bin", b"for nobody"))[1] == NOT_ALLOWED
    assert [each.user for each in gsi_server.requests().of("login")] == ["jane", "john", "john", "jane"]


def test_owner_writes_others_do_not(gsi_server, jane_proxy, john_proxy):
    url = gsi_server.url("/store/user/jane/a.bin")
    assert write(url, b"hers") is None
    assert write(url, b"his", X509_USER_PROXY=john_proxy)[1] == NOT_ALLOWED
    assert gsi_server.path("/store/user/jane/a.bin").read_bytes() == b"hers"


@pytest.mark.parametrize("level", [1, 2, 4])
def test_delegated_proxies_are_their_holder(private, jane, tmp_path, level):
    made = proxy(jane, HOUR, level=level)
    assert made.identity == jane.name and made.name.count("/CN=") == 1 + level
    assert read(private, X509_USER_PROXY=made.write_proxy(tmp_path / "proxy")) == CONTENT


def bad_credentials(jane, folder):
    own = Authority(folder / "other", "Unknown CA")
    yield "missing", folder / "nothing"
    yield "expired", proxy(jane, -1).write_proxy(folder / "expired")
    yield "parent expired", proxy(proxy(jane, -1), HOUR).write_proxy(folder / "parent")
    yield "unknown authority", proxy(own.user("Jane Doe")).write_proxy(folder / "unknown")


def test_no_expired_and_foreign_proxies_are_all_the_same_error(gsi_server, private, jane, tmp_path):
    for name, path in bad_credentials(jane, tmp_path):
        # In a home of its own the client finds no ~/.globus either.
        code, _, message = read(private, X509_USER_PROXY=path, HOME=tmp_path)
        assert (name, code) == (name, NOT_AUTHENTICATED), message
    assert len(gsi_server.requests().of("login")) == 0


def test_user_whose_certificate_has_expired(private, authority, tmp_path):
    old = authority.user("Jane Doe", start=-2 * DAY, end=-DAY)
    path = proxy(old, HOUR).write_proxy(tmp_path / "old")
    assert read(private, X509_USER_PROXY=path)[0] == NOT_AUTHENTICATED


def test_killed_server_comes_back_on_its_port(gsi_server, private, jane_proxy):
    gsi_server.kill()
    begin = time.monotonic()
    code = read(private)[0]
    assert code != 0 and time.monotonic() - begin < 10
    gsi_server.start()
    assert read(private) == CONTENT


def test_server_that_dies_while_a_file_is_open(plain_server):
    url = plain_server.put("/data/a.bin", CONTENT)

    def read_twice(url, pid):
        import os
        import signal

        from XRootD import client

        file = client.File()
        file.open(url)
        first = file.read(0, 10)[0].ok
        os.kill(pid, signal.SIGKILL)
        return first, file.read(10, 10)[0].ok

    done = in_process(read_twice, url, plain_server.process.pid, env=SHORT)
    plain_server.kill()
    assert done.get() == (True, False)


def test_frozen_server_answers_again_when_it_is_let_go(plain_server):
    url = plain_server.put("/data/a.bin", CONTENT)
    with plain_server.frozen():
        done = in_process(read_bytes, url, env=SHORT)
    assert done.get()[0] != 0
    assert read(url) == CONTENT


def test_mute_server_never_answers(mute_server):
    done = in_process(read_bytes, mute_server.url("/data/a.bin"), env=SHORT)
    assert done.get()[0] != 0
    assert 2 < done.seconds < 30
    assert mute_server.connections


def test_port_where_nobody_listens(mute_server):
    mute_server.kill()
    done = in_process(read_bytes, mute_server.url("/data/a.bin"), env=SHORT)
    assert done.get()[0] != 0 and done.seconds < 10


@pytest.mark.parametrize(
    ("claims", "outcome"),
    [
        ({}, None),
        ({"audience": "https://storage.example"}, None),
        ({"scope": "storage.read:/data/sub"}, NOT_ALLOWED),
        ({"scope": "storage.modify:/data"}, NOT_ALLOWED),
        ({"audience": "https://elsewhere.example"}, NOT_ALLOWED),
        ({"seconds": -60}, NOT_AUTHENTICATED),
    ],
)
def test_tokens(token_server, issuer, tmp_path, claims, outcome):
    url = token_server.put("/data/a.bin", CONTENT)
    read_here = read(url, BEARER_TOKEN_FILE=issuer.write_token(tmp_path / "token", **claims))
    if outcome is None:
        assert read_here == CONTENT
    else:
        assert outcome in read_here[:2]


def test_token_of_another_issuer_or_none(token_server, issuer, tmp_path):
    url = token_server.put("/data/a.bin", CONTENT)
    forged = Issuer(issuer.url).write_token(tmp_path / "forged")
    assert read(url, BEARER_TOKEN_FILE=forged)[0] == NOT_AUTHENTICATED
    assert read(url, XDG_RUNTIME_DIR=tmp_path)[0] == NOT_AUTHENTICATED
    # Where the authority of the host is unknown no token is even sent.
    mine = issuer.write_token(tmp_path / "mine")
    assert read(url, BEARER_TOKEN_FILE=mine, X509_CERT_DIR=tmp_path)[0] in (NOT_AUTHENTICATED, TLS_FAILED)


def test_token_allows_writing_below_its_scope(token_server, issuer):
    token = issuer.token("storage.create:/store/jane storage.modify:/store/jane", subject="jane")
    assert jwt.decode(token, options={"verify_signature": False})["sub"] == "jane"
    assert write(token_server.url("/store/jane/a.bin"), b"hers", BEARER_TOKEN=token) is None
    assert write(token_server.url("/store/john/a.bin"), b"his", BEARER_TOKEN=token)[1] == NOT_ALLOWED


def test_environment_of_a_test_names_no_credential(tmp_path):
    assert not Path(os.environ["X509_USER_PROXY"]).exists()
    assert "BEARER_TOKEN" not in os.environ


def test_processes_report_results_errors_and_output():
    assert in_process("result = 6 * 7").get() == 42
    assert in_process("import os\nresult = os.environ['NAME']", env={"NAME": "value"}).get() == "value"
    assert in_process("import os\nresult = os.environ.get('HOME')", env={"HOME": None}).get() is None
    done = in_process("import sys\nprint('out')\nprint('err', file=sys.stderr)\nraise KeyError('what')")
    assert isinstance(done.error, KeyError) and "out" in done.stdout and "err" in done.stderr
    assert in_process("import os\nos._exit(3)").returncode == 3


def test_requests_of_a_log_that_says_nothing():
    assert Requests().bytes == 0 and Requests().clients == set()


def test_server_sees_only_what_it_is_given(xrootd, authority, jane, monkeypatch):
    monkeypatch.setenv("X509_CERT_DIR", "/nowhere")
    with GsiServer(authority, {jane.identity: "jane"}) as server:
        environment = Path(f"/proc/{server.process.pid}/environ").read_text()
        assert "X509" not in environment
    assert not server.folder.exists()


def test_system_without_xrootd_uses_the_private_one(tmp_path):
    tree = tmp_path / "cache/xrootd"
    (tree / "usr/lib/x86_64-linux-gnu").mkdir(parents=True)
    (tree / "complete").touch()
    found = ensure_xrootd(tmp_path / "cache", tmp_path)
    assert found.program("xrootd") == f"{tree}/usr/bin/xrootd"
    assert found.environment == {"LD_LIBRARY_PATH": f"{tree}/usr/lib/x86_64-linux-gnu"}
