"""Real XRootD servers, an authority and credentials; started once, when a test first wants them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from authority import DAY, HOUR, Authority, proxy
from grid_tools import names_of_credentials
from issuer import Issuer
from pool_tools import personal_pool, settings_of, turn_to
from servers import CacheServer, GsiServer, MuteServer, NoServer, PlainServer, TokenServer
from voms import Vo
from xrootd_install import ensure_xrootd

from mlaas_condor.errors import InstallError


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch, tmp_path):
    """Keep the proxy, the token and the client's settings of whoever runs the tests away from them."""
    for name in names_of_credentials(os.environ):
        monkeypatch.delenv(name)
    # There is none there, and /tmp/x509up_u… is not looked for.
    monkeypatch.setenv("X509_USER_PROXY", str(tmp_path / "no-proxy"))


@pytest.fixture(scope="session")
def grid_folder():
    """A folder of the session, with a short name: sockets and certificates lie there."""
    folder = Path(tempfile.mkdtemp(prefix="grid-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def authority(grid_folder):
    """The certificate authority that all servers believe; ``authority.certificates`` is its directory."""
    return Authority(grid_folder / "authority")


@pytest.fixture(scope="session")
def jane(authority):
    """Jane, who may read /private and write."""
    return authority.user("Jane Doe", end=10 * DAY)


@pytest.fixture(scope="session")
def john(authority):
    """John, who may read /data only."""
    return authority.user("John Roe", end=10 * DAY)


@pytest.fixture(scope="session")
def service(authority, grid_folder):
    """The file of the proxy with which the cache reads at its origin."""
    return proxy(authority.user("Cache Service"), 12 * HOUR).write_proxy(grid_folder / "service-proxy")


@pytest.fixture(scope="session")
def xrootd():
    """XRootD's programs."""
    try:
        return ensure_xrootd(say=lambda line: None)
    except InstallError as error:
        pytest.skip(f"no XRootD server: {error}")


def _running(make):
    """Start a server for a fixture; skip where this machine cannot run one."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(make())
        except NoServer as error:
            pytest.skip(str(error))
        yield server


@pytest.fixture(scope="session")
def _plain(xrootd):
    yield from _running(PlainServer)


@pytest.fixture(scope="session")
def _gsi(xrootd, authority, jane, john):
    friends = {jane.identity: "jane", john.identity: "john", "/DC=org/DC=example/CN=Cache Service": "cache"}
    yield from _running(lambda: GsiServer(authority, friends))


@pytest.fixture(scope="session")
def issuer():
    """The issuer whose tokens the token server believes."""
    return Issuer()


@pytest.fixture(scope="session")
def _tokens(xrootd, authority, issuer):
    yield from _running(lambda: TokenServer(authority, issuer))


@pytest.fixture(scope="session")
def vo(xrootd, authority, grid_folder):
    """The VO ``cms``: ``vo.proxy(jane, path)`` makes proxies with its attributes."""
    try:
        return Vo(authority, grid_folder)
    except NoServer as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def _cache(_gsi, authority, service, jane, vo):
    yield from _running(lambda: CacheServer(authority, _gsi, service, [jane.identity], vo))


def _fresh(server):
    """Give a server of the session to a test: running, whatever the one before did, and nothing asked yet."""
    if server.process is None:
        server.start()
    server.leave_room(None)
    server.forget_requests()
    return server


@pytest.fixture
def plain_server(_plain):
    """A server that asks for no credential; a test may kill and start it."""
    return _fresh(_plain)


@pytest.fixture
def gsi_server(_gsi, authority, monkeypatch):
    """A server that asks for a proxy: all may read /data, Jane /private, nobody /denied; Jane writes /store.

    ``X509_CERT_DIR`` names the authority that it has its certificate from.
    """
    monkeypatch.setenv("X509_CERT_DIR", str(authority.certificates))
    return _fresh(_gsi)


@pytest.fixture
def token_server(_tokens, authority, monkeypatch):
    """A server that asks for a token of `issuer`; no proxy is named."""
    monkeypatch.setenv("X509_CERT_DIR", str(authority.certificates))
    # Where one is named that is not there, the client makes no TLS connection at all.
    monkeypatch.delenv("X509_USER_PROXY")
    return _fresh(_tokens)


@pytest.fixture
def cache_server(_cache, gsi_server):
    """A cache for Jane and the VO in front of `gsi_server`, with the configuration of ``images/xcache``."""
    return _fresh(_cache)


@pytest.fixture
def mute_server():
    """What takes connections and never answers."""
    with MuteServer() as server:
        yield server


@pytest.fixture
def jane_proxy(jane, authority, tmp_path, monkeypatch):
    """Jane's proxy of 12 hours, which the environment of this test names."""
    path = proxy(jane, 12 * HOUR).write_proxy(tmp_path / "jane-proxy")
    monkeypatch.setenv("X509_USER_PROXY", str(path))
    monkeypatch.setenv("X509_CERT_DIR", str(authority.certificates))
    return path


@pytest.fixture
def john_proxy(john, tmp_path):
    """John's proxy of 12 hours, which no environment names."""
    return proxy(john, 12 * HOUR).write_proxy(tmp_path / "john-proxy")


@pytest.fixture(scope="session")
def pool_home():
    """A pool of its own: the other one's tests run in another process."""
    with personal_pool(cpus=4) as home:
        yield home


@pytest.fixture
def settings(pool_home):
    """Settings of that pool, which this process is turned to."""
    return turn_to(settings_of(pool_home))
