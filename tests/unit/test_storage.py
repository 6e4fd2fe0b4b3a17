"""Files as bytes: local paths and URLs, read in parts; what fails is told in one line, and soon."""

import http.server
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from mlaas_condor.data import remote, storage
from mlaas_condor.data import web as web_files
from mlaas_condor.data.tables import open_table
from mlaas_condor.errors import InputUnreadable


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the files of a folder, also in parts, as web servers of experiments do."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.serve(False)

    def do_GET(self):
        self.serve(True)

    def serve(self, send):
        server = self.server
        url = urlsplit(self.path)
        if url.path.startswith("/webhdfs/v1/"):
            self.webhdfs(url)
            return
        if url.path.startswith("/status/"):
            self.answer(int(url.path.rpartition("/")[2]), b"", send)
            return
        if url.path == "/slow":
            server.stop.wait(30)
            return
        if url.path == "/gone":
            self.close_connection = True
            return
        path = server.folder / url.path.lstrip("/")
        if not path.is_file():
            self.answer(404, b"", send)
            return
        content = path.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if match and server.ranges:
            low, high = int(match[1]), min(int(match[2]) + 1, len(content))
            extra = {"Content-Range": f"bytes {low}-{high - 1}/{len(content)}"}
            self.answer(206, content[low:high], send, extra)
        else:
            self.answer(200, content, send)

    def webhdfs(self, url):
        """Answer the three questions of WebHDFS that reading needs."""
        query = parse_qs(url.query)
        operation = query["op"][0]
        path = self.server.folder / url.path.removeprefix("/webhdfs/v1/")
        if not path.exists():
            body = {"RemoteException": {"exception": "FileNotFoundException", "message": "none"}}
            self.answer(404, json.dumps(body).encode(), True)
        elif operation == "GETFILESTATUS":
            self.answer(200, json.dumps({"FileStatus": self.status_of(path)}).encode(), True)
        elif operation == "LISTSTATUS":
            found = [self.status_of(each) | {"pathSuffix": each.name} for each in sorted(path.iterdir())]
            self.answer(200, json.dumps({"FileStatuses": {"FileStatus": found}}).encode(), True)
        elif query.get("noredirect") or "offset" in query:
            low = int(query.get("offset", ["0"])[0])
            part = path.read_bytes()[low : low + int(query.get("length", [str(2**40)])[0])]
            self.answer(200, part, True)

    @staticmethod
    def status_of(path):
        return {"type": "DIRECTORY" if path.is_dir() else "FILE", "length": path.stat().st_size}

    def answer(self, code, body, send, extra=None):
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(extra or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if send:
            self.server.sent += len(body)
            self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder, ranges=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ranges, self.sent, self.stop = folder, ranges, 0, threading.Event()
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def handle_error(self, request, client_address):
        pass  # who asks may go away


@contextmanager
def serving(folder, ranges=True, wrap=None):
    server = Server(folder, ranges)
    if wrap:
        server.socket = wrap(server.socket)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def web(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(tmp_path) as server:
        yield server


def fails(function, path):
    with pytest.raises(InputUnreadable) as caught:
        function(str(path))
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message.removeprefix(str(path))


def make(path, size):
    path.write_bytes(bytes(i * 31 % 251 for i in range(1000)) * (size // 1000))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("a.csv", ""), ("/x/a:b.csv", ""), ("HTTPS://h/a", "https"), ("root://h//a", "root"), ("a://", "a"),
        ("x/http://h/a", ""), ("webhdfs://h:1/a", "webhdfs"),
    ],
)  # fmt: skip
def test_scheme(path, scheme):
    assert storage.scheme(path) == scheme and storage.is_url(path) == bool(scheme)


@pytest.mark.parametrize("function", [storage.open_bytes, storage.size, storage.ends_digest])
@pytest.mark.parametrize("url", ["s3://b/a.csv", "gopher://h/a"])
def test_other_schemes_are_not_supported(function, url):
    assert "is not supported (what is: local paths, file://, hdfs://" in fails(function, url)


def test_local_file(tmp_path):
    path = tmp_path / "a b%.bin"
    content = make(path, 300_000)
    for name in (str(path), f"file://{tmp_path}/a%20b%25.bin", f"file://localhost{tmp_path}/a b%25.bin"):
        with storage.open_bytes(name) as file:
            assert file.seek(123456) == 123456 and file.read(10) == content[123456:123466]
        assert storage.size(name) == 300_000
    assert "names a file of this machine" in fails(storage.open_bytes, f"file://elsewhere{path}")


def test_local_failures(tmp_path):
    assert fails(storage.open_bytes, tmp_path) == ": is a directory, not a file"
    assert fails(storage.open_bytes, tmp_path / "a") == ": no such file"
    assert fails(storage.size, tmp_path / "a") == ": no such file"
    os.mkfifo(tmp_path / "pipe")
    assert fails(storage.open_bytes, tmp_path / "pipe") == ": is a pipe, not a file"
    assert fails(storage.open_bytes, "/dev/null") == ": is a device or socket, not a file"
    (tmp_path / "file").touch()
    assert "cannot be read: Not a directory" in fails(storage.open_bytes, tmp_path / "file" / "a")
    with pytest.raises(InputUnreadable, match="is no file name"):
        storage.open_bytes("a\0b")


def test_digest_tells_size_and_both_ends(tmp_path):
    path = tmp_path / "a"
    content = bytearray(make(path, 300_000))
    known = {storage.ends_digest(str(path))}
    for at in (0, 2**16 - 1, 300_000 - 2**16, 299_999):
        path.write_bytes(content[:at] + b"!" + content[at + 1 :])
        known.add(storage.ends_digest(str(path)))
    path.write_bytes(content[: 2**17] + content[2**17 + 1000 :])
    known.add(storage.ends_digest(str(path)))
    assert len(known) == 6 and all(re.fullmatch("ends-[0-9a-f]{32}", each) for each in known)


def test_local_globs(tmp_path):
    for name in ("b.csv", "a.csv", "x[1].csv"):
        (tmp_path / name).touch()
    assert storage.expand(f"{tmp_path}/*.csv") == [f"{tmp_path}/{n}" for n in ("a.csv", "b.csv", "x[1].csv")]
    assert storage.expand(f"file://{tmp_path}/a*") == [f"{tmp_path}/a.csv"]
    assert storage.expand(f"{tmp_path}/x[1].csv") == [f"{tmp_path}/x[1].csv"]
    assert storage.expand("none.csv") == ["none.csv"] and storage.expand(f"{tmp_path}/n*") == []


def test_web_file_is_read_in_parts(tmp_path, web):
    content = make(tmp_path / "a.bin", 8_000_000)
    url = f"{web.url}/a.bin?token=x"
    assert storage.size(url) == 8_000_000
    with storage.open_bytes(url) as file:
        for at in (7_999_000, 10, 4_000_000):
            file.seek(at)
            assert file.read(1000) == content[at : at + 1000]
        assert web.sent < 1_000_000
        file.seek(100)
        assert file.read(5_000_000) == content[100:5_000_100]
    assert storage.ends_digest(url) == storage.ends_digest(str(tmp_path / "a.bin"))
    assert web.sent < 8_000_000


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_table_on_the_web_is_read_in_parts(tmp_path, web, suffix):
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    path = tmp_path / f"a.{suffix}"
    table = pa.table(dict(zip("abcd", np.random.default_rng(1).random((4, 100_000)), strict=True)))
    if suffix == "csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path, row_group_size=20_000)
    local = open_table(str(path))
    index = local.index
    wanted = local.read(["b"], 99_000, 99_010)["b"]
    local.close()
    remote = open_table(f"{web.url}/a.{suffix}", index)
    assert remote.read(["b"], 99_000, 99_010)["b"].tolist() == wanted.tolist()
    assert (remote.entries, remote.size, remote.uuid) == (100_000, local.size, local.uuid)
    remote.close()
    assert web.sent < path.stat().st_size * 0.75


@pytest.mark.parametrize("code", [401, 403, 404, 410, 500, 503])
def test_web_says_why_not(web, code):
    said = {401: "no permission (HTTP 401)", 403: "no permission (HTTP 403)", 404: "no such file"}
    said |= {410: "no such file", 500: "the server fails (HTTP 500)", 503: "the server fails (HTTP 503)"}
    url = f"{web.url}/status/{code}"
    assert fails(storage.open_bytes, url) == fails(storage.size, url) == f": {said[code]}"


def test_web_server_that_hangs_up(web):
    for function in (storage.open_bytes, storage.size):
        assert (
            fails(function, f"{web.url}/gone")
            == ": cannot be read: ServerDisconnectedError: Server disconnected"
        )


def test_web_server_without_ranges(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    make(tmp_path / "a.bin", 2_000_000)

    def read_end(url):
        with storage.open_bytes(url) as file:
            file.seek(1_900_000)
            file.read(10)

    with serving(tmp_path, ranges=False) as server:
        assert "the server sends no parts of files" in fails(read_end, f"{server.url}/a.bin")


def test_web_cannot_list(web):
    assert "does not list its files" in fails(storage.expand, f"{web.url}/*.csv")
    assert storage.expand(f"{web.url}/a.csv?x=[1]*") == [f"{web.url}/a.csv?x=[1]*"]


def test_wrong_host_and_port_fail_soon():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begin = time.monotonic()
    for scheme in ("http", "https", "webhdfs"):
        for function in (storage.open_bytes, storage.size):
            remote._silent.clear()
            assert fails(function, f"{scheme}://127.0.0.1:{port}/a") == ": its host refuses the connection"
            assert fails(function, f"{scheme}://no-such-host.invalid/a") == ": its host is unknown"
    begin = time.monotonic()
    for name in range(100):  # it is not asked for each of its files
        assert fails(storage.size, f"https://no-such-host.invalid/{name}") == ": its host is unknown"
    assert time.monotonic() - begin < 2
    assert time.monotonic() - begin < 40


def test_host_that_never_answers_is_given_up(web, monkeypatch):
    for name in ("CONNECT_SECONDS", "SILENCE_SECONDS", "REQUEST_SECONDS"):
        monkeypatch.setattr(web_files, name, 1)
    begin = time.monotonic()
    assert fails(storage.open_bytes, f"{web.url}/slow") == ": timed out: its host does not answer"
    assert time.monotonic() - begin < 10


def test_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    said = fails(storage.open_bytes, "https://h/a.csv")
    assert said == ": needs a package that is missing: pip install aiohttp"


def test_hdfs_without_java_says_so():
    pytest.importorskip("pyarrow")
    if os.environ.get("JAVA_HOME") or os.environ.get("HADOOP_HOME"):
        pytest.skip("there may be a libhdfs")
    assert "hdfs:// needs Java and Hadoop's libhdfs" in fails(storage.open_bytes, "hdfs://nowhere:8020/a.csv")


def test_webhdfs(tmp_path, web):
    content = make(tmp_path / "a.bin", 3_000_000)
    (tmp_path / "b.csv").write_text("x\n1\n")
    host = f"webhdfs://127.0.0.1:{web.port}"
    with storage.open_bytes(f"{host}/a.bin") as file:
        file.seek(2_000_000)
        assert file.read(10) == content[2_000_000:2_000_010]
    assert web.sent < 1_000_000
    assert storage.size(f"{host}/a.bin") == 3_000_000
    assert storage.expand(f"{host}/*.csv") == [f"{host}/b.csv"]
    assert fails(storage.open_bytes, f"{host}/none") == ": no such file"
    assert fails(storage.open_bytes, f"{host}/") == ": is a directory, not a file"


CLIENT = """
import sys
from mlaas_condor.data import remote, storage
from mlaas_condor.data import web as web_files
from mlaas_condor.errors import InputUnreadable
try:
    with storage.open_bytes(sys.argv[1]) as file:
        file.seek(1000)
        print(len(file.read(500)))
except InputUnreadable as error:
    print(error)
"""


def test_secure_web_needs_a_certificate_that_is_trusted(tmp_path):
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
    ]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    try:
        subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl")
    make(tmp_path / "a.bin", 10_000)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with serving(tmp_path, wrap=lambda plain: context.wrap_socket(plain, server_side=True)) as server:
        url = f"https://localhost:{server.port}/a.bin"
        # Which certificates are trusted is read once a process.
        environment = {**os.environ, "no_proxy": "localhost", "SSL_CERT_FILE": str(tmp_path / "cert.pem")}
        command = [sys.executable, "-W", "error", "-c", CLIENT, url]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("500\n", "")
        del environment["SSL_CERT_FILE"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.stdout.startswith(f"{url}: its certificate is not trusted (self-signed certificate)")


def test_storage_loads_no_library_before_it_needs_one(tmp_path):
    code = "import sys, mlaas_condor.data.storage as s, mlaas_condor.data.tables\n"
    code += "print(s.is_url('http://a'), *({'fsspec', 'aiohttp', 'pyarrow', 'fastavro'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(tmp_path))
    assert done.stdout == "True\n"
