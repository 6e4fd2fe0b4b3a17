"""Who we are to storage, by token and over https: what it gets, and what it does not."""

from __future__ import annotations

import http.server
import ssl
import threading
from contextlib import contextmanager

import pytest
from authority import HOUR, proxy
from grid_tools import in_process

from mlaas_condor.errors import AccessDenied, CredentialFault

pytestmark = pytest.mark.grid


def size(url):
    from mlaas_condor.data import storage

    return storage.size(url)


def read_all(url):
    from mlaas_condor.data import storage

    with storage.open_bytes(url) as file:
        return file.read()


@pytest.fixture
def with_token(token_server, issuer, tmp_path):
    """Ask for a file with a token of some scope and lifetime, and without a proxy."""
    token_server.put("/data/a.bin", b"0123456789")

    def ask(scope="storage.read:/data", seconds=600, **claims):
        path = issuer.write_token(tmp_path / "token", scope, seconds, **claims)
        url = token_server.url("/data/a.bin")
        return in_process(size, url, env={"BEARER_TOKEN_FILE": path, "X509_USER_PROXY": None})

    return ask


def test_a_token_opens_what_it_covers(with_token):
    assert with_token().get() == 10


def test_an_expired_token_is_told_as_such(with_token):
    with pytest.raises(CredentialFault, match=r"does not accept the token.*token.*expired"):
        with_token(seconds=-60).get()


def test_a_token_for_something_else_is_no_permission(with_token):
    with pytest.raises(AccessDenied, match="no permission"):
        with_token("storage.read:/store").get()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, send):
        peer = self.connection.getpeercert() or {}
        names = [value for part in peer.get("subject", ()) for key, value in part if key == "commonName"]
        self.server.seen.append((self.headers.get("Authorization"), names))
        content, status, extra = b"0123456789", 200, {}
        wanted = self.headers.get("Range")
        if wanted:
            low, high = map(int, wanted.removeprefix("bytes=").split("-"))
            content, status = content[low : high + 1], 206
            extra = {"Content-Range": f"bytes {low}-{high}/10"}
        self.send_response(status)
        for name, value in {"Content-Length": len(content), "Accept-Ranges": "bytes", **extra}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if send:
            self.wfile.write(content)


@contextmanager
def webdav(authority, folder):
    """Serve a file over https with a certificate of the authority, and note who asks."""
    certificate, key = authority.host().write_pair(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(capath=authority.certificates)
    context.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS
    context.verify_mode = ssl.CERT_OPTIONAL
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_davs_shows_the_proxy(authority, jane, tmp_path):
    mine = proxy(jane, HOUR).write_proxy(tmp_path / "x509up")
    with webdav(authority, tmp_path / "host") as server:
        env = {"X509_USER_PROXY": mine, "X509_CERT_DIR": authority.certificates, "no_proxy": "localhost"}
        url = f"davs://localhost:{server.server_port}/a.bin"
        assert in_process(read_all, url, env=env).get() == b"0123456789"
    assert all(token is None and "Jane Doe" in names for token, names in server.seen)


def test_davs_shows_the_token_and_https_shows_nobody_anything(authority, jane, tmp_path, issuer):
    token = issuer.write_token(tmp_path / "token", "storage.read:/", 600)
    mine = proxy(jane, HOUR).write_proxy(tmp_path / "x509up")
    bundle = tmp_path / "authorities.pem"
    bundle.write_bytes(b"".join(path.read_bytes() for path in sorted(authority.certificates.glob("*.0"))))
    env = {"BEARER_TOKEN_FILE": token, "X509_USER_PROXY": mine, "X509_CERT_DIR": authority.certificates,
           "SSL_CERT_FILE": bundle, "no_proxy": "localhost"}  # fmt: skip
    with webdav(authority, tmp_path / "host") as server:
        for scheme in ("davs", "https"):
            url = f"{scheme}://localhost:{server.server_port}/a.bin"
            assert in_process(read_all, url, env=env).get() == b"0123456789"
    of_davs = [seen for seen in server.seen if seen[0]]
    of_https = [seen for seen in server.seen if not seen[0]]
    assert of_davs and {seen[0] for seen in of_davs} == {f"Bearer {token.read_text().strip()}"}
    assert of_https and all(not names for _, names in of_https)
