"""A process of a service that reads for a user: with the user's proxy only, and from where it may."""

from __future__ import annotations

import pytest
from grid_tools import in_process

from mlaas_condor.errors import AccessDenied, CredentialFault

pytestmark = pytest.mark.grid


@pytest.fixture
def url(gsi_server):
    gsi_server.put("/private/a.txt", b"jane's")
    return gsi_server.url("/private/a.txt")


def read(url, hosts):
    from mlaas_condor.confinement import Confinement
    from mlaas_condor.data import storage

    if hosts:
        Confinement((), tuple(hosts)).hold()
    with storage.open_bytes(url) as file:
        return file.read()


def environment(proxy, authority, protocols):
    return {
        "X509_USER_PROXY": str(proxy),
        "X509_CERT_DIR": str(authority.certificates),
        "XrdSecPROTOCOL": protocols,
    }


def test_the_users_proxy_is_shown_where_there_is_one(url, jane_proxy, authority):
    given = environment(jane_proxy, authority, "gsi,unix,host")
    assert in_process(read, url, [], env=given).get() == b"jane's"


def test_no_other_is_shown_where_there_is_none(url, jane_proxy, authority):
    """As a client that finds one in the usual places would."""
    given = environment(jane_proxy, authority, "unix,host")
    with pytest.raises(CredentialFault):
        in_process(read, url, [], env=given).get()


def test_storage_that_is_named_is_read(url, jane_proxy, authority):
    given = environment(jane_proxy, authority, "gsi,unix,host")
    host = url.split("/")[2].partition(":")[0]
    assert in_process(read, url, [host], env=given).get() == b"jane's"


def test_storage_of_this_machine_is_not_read_where_it_is_not_named(url, jane_proxy, authority):
    given = environment(jane_proxy, authority, "gsi,unix,host")
    with pytest.raises(AccessDenied, match="whose address is not public"):
        in_process(read, url, ["*"], env=given).get()
