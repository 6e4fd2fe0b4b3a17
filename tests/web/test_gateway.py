"""What reaches the application of a request, however it was sent; and what becomes of its reply."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from functools import partial

import pytest
import requests
from serving_tools import everything, served, small, wait_until

from mlaas_condor.server.serving.exchange import address_of, headers_of, length_of


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def service(home):
    """Few places and little patience, so that their limits are met."""
    with served(small(home, threads=4, streams=3, body_seconds=2)) as running:
        yield running


def content(reply):
    """Return the JSON in a reply as it came."""
    return json.loads(reply.partition(b"\r\n\r\n")[2])


def environ_of(service, *headers, path=b"/environ", version=b"1.1"):
    lines = [b"GET " + path + b" HTTP/" + version, *headers, b"Connection: close", b"", b""]
    return content(service.ask(b"\r\n".join(lines)))


def test_a_header_with_an_underscore_passes_for_no_other(service):
    found = environ_of(service, b"Host: a", b"X-Forwarded-User: jane", b"X_Forwarded_User: root")
    assert found["HTTP_X_FORWARDED_USER"] == "jane"
    assert "HTTP_X_FORWARDED_USER" not in environ_of(service, b"Host: a", b"X_Forwarded_User: root")


def test_headers_of_one_name_are_joined():
    given = [("cookie", "a=1"), ("x-one", "1"), ("cookie", "b=2"), ("x-one", "2"), ("content-type", "x/y")]
    assert headers_of(given) == {"HTTP_COOKIE": "a=1; b=2", "HTTP_X_ONE": "1,2", "CONTENT_TYPE": "x/y"}


def test_two_hosts_are_neither(service):
    assert environ_of(service, b"Host: a", b"Host: b")["HTTP_HOST"] == "a,b"
    assert environ_of(service, version=b"1.0")["HTTP_HOST"] == ""


def test_nothing_of_the_process_is_in_a_request(service):
    assert "PATH" not in environ_of(service, b"Host: a")


def test_paths_and_queries_arrive_as_wsgi_has_them(service):
    found = environ_of(service, b"Host: a", path=b"/environ?a=%C3%BC;b")
    assert (found["PATH_INFO"], found["QUERY_STRING"]) == ("/environ", "a=%C3%BC;b")
    assert requests.get(f"{service.url}/%C3%BC%2f", timeout=30).status_code == 404


@pytest.mark.parametrize(
    ("client", "address"),
    [
        ("192.0.2.7:443", "192.0.2.7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ("[::ffff:192.0.2.7]:443", "192.0.2.7"),
        ("unix", ""),
    ],
)
def test_the_address_of_a_client(client, address):
    assert address_of(client) == address


def test_the_length_of_a_body():
    assert length_of({"CONTENT_LENGTH": "12"}) == 12
    assert length_of({}) == 0
    assert length_of({"HTTP_TRANSFER_ENCODING": "chunked"}) is None


def test_a_body_arrives_whole(service):
    sent = b"x" * 5_000_000 + b"end"
    reply = requests.put(f"{service.url}/echo", data=sent, timeout=60)
    assert reply.json() == {"bytes": len(sent), "last": "end"}


def test_a_form_and_lines_arrive(service):
    reply = requests.post(f"{service.url}/form", data={"a": "b"}, files={"file": b"x" * 300_000}, timeout=60)
    assert reply.json() == {"a": "b", "file": 300_000}
    reply = requests.post(f"{service.url}/lines", data=b"one\ntwo\nthree", timeout=60)
    assert reply.json() == {"first": "one\n", "rest": ["two\n", "three"]}


def test_a_body_that_breaks_off_is_an_error(service, home):
    with service.connect() as connection:
        connection.sendall(b"PUT /echo?note=broken HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nxx")
    wait_until((home / "broken").exists)
    assert (home / "broken").read_text() == "ClientDisconnected"


def test_a_body_without_a_length_is_refused(service, home):
    head = b"PUT /echo?note=%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = b"5\r\nabcde\r\n0\r\n\r\n"
    for number, body in enumerate((whole, b"5\r\nab", b"zz\r\n")):
        with service.connect() as connection:
            connection.sendall(head % number + body)
            assert body != whole or connection.recv(100).startswith(b"HTTP/1.1 411 ")
        wait_until((home / str(number)).exists)
        assert (home / str(number)).read_text() == "LengthRequired"


def test_a_body_that_does_not_come_is_not_waited_for(service):
    head = b"PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
    assert service.ask(head + b"x" * 10).startswith(b"HTTP/1.1 408 ")


def test_a_refused_body_is_not_read(service):
    with service.connect() as connection:
        connection.sendall(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
        assert everything(connection).startswith(b"HTTP/1.1 413 ")


def test_files_and_parts_of_them(service, home):
    (home / "file").write_bytes(bytes(range(256)) * 10_000)
    url = f"{service.url}/file"
    assert requests.get(url, timeout=30).content == (home / "file").read_bytes()
    part = requests.get(url, headers={"Range": "bytes=1000000-1000009"}, timeout=30)
    assert (part.status_code, part.content) == (206, (home / "file").read_bytes()[1_000_000:1_000_010])
    head = requests.head(url, timeout=30)
    assert (head.headers["Content-Length"], head.content) == ("2560000", b"")
    same = requests.get(url, headers={"If-None-Match": head.headers["ETag"]}, timeout=30)
    assert (same.status_code, same.content) == (304, b"")


def test_a_header_that_is_not_ascii_breaks_nothing(service):
    assert requests.get(f"{service.url}/odd", timeout=30).headers["X-Odd"] == "?"


def test_a_reply_that_fails_is_seen_to_have_failed(service):
    assert requests.get(f"{service.url}/broken?when=now", timeout=30).status_code == 500
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(f"{service.url}/broken?when=later", timeout=30)
    service.wait_for_line("a view that fails")


def test_a_follower_ends_when_its_client_leaves(service, home):
    with requests.get(f"{service.url}/stream?note=left", stream=True, timeout=30) as reply:
        assert next(reply.iter_lines()) == b"data: /stream True"
    wait_until((home / "left.closed").exists)
    assert (home / "left.ended").read_text() == "True"


def test_an_endless_reply_ends_when_its_client_leaves(service, home):
    with requests.get(f"{service.url}/endless", stream=True, timeout=30) as reply:
        assert len(next(reply.iter_content(2**18))) == 2**18
    wait_until((home / "endless.closed").exists)


def test_followers_take_no_place_of_other_requests(service):
    """Three places for them; the fourth takes one of the four of requests, and three are left."""
    urls = [f"{service.url}/stream?note=many{number}" for number in range(4)]
    followers = [requests.get(url, stream=True, timeout=30) for url in urls]
    lines = [reply.iter_lines() for reply in followers]  # which would hang up if nobody kept them
    said = [next(each) for each in lines]
    assert sorted(said) == [b"data: /stream False"] + 3 * [b"data: /stream True"]
    refused = requests.put(f"{service.url}/echo", data=b"x" * 2_000_000, timeout=30)
    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "10"
    assert refused.json()["code"] == "unavailable"
    nap = partial(requests.get, f"{service.url}/sleep?seconds=0.3", timeout=30)
    sleepers = [threading.Thread(target=nap) for _ in range(9)]
    for each in sleepers:
        each.start()
    assert requests.put(f"{service.url}/echo", data=b"abc", timeout=30).json()["bytes"] == 3
    for each in sleepers:
        each.join()
    for each in followers:
        each.close()
    wait_until(lambda: requests.put(f"{service.url}/echo", data=b"x" * 2_000_000, timeout=30).ok)


def test_a_connection_is_used_again(service):
    with requests.Session() as session:
        for _ in range(3):
            assert session.get(f"{service.url}/environ", timeout=30).ok
    with service.connect() as connection:
        request = b"GET /odd HTTP/1.1\r\nHost: a\r\n"
        connection.sendall(request + b"\r\n" + request + b"Connection: close\r\n\r\n")
        assert everything(connection).count(b"200 OK") == 2


def test_a_process_that_does_not_stop_is_ended_by_the_kernel():
    program = """
import asyncio, ctypes, os, signal
from mlaas_condor.server.serving.gateway import Gateway
loop = asyncio.new_event_loop()
gateway = Gateway(None, 1, 1, body_seconds=1, stop_seconds=0.2, parent=os.getppid())
gateway.__rsgi_init__(loop)
os.kill(os.getpid(), signal.SIGTERM)
ctypes.PyDLL(None).sleep(60)  # and lets no other thread of Python go on
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=50)
    assert done.returncode == -signal.SIGALRM
