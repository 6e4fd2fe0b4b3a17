"""What needs no server: URLs of XRootD storage taken apart, and what answers of the client mean."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.data.remote import cut_out, joined
from mlaas_condor.errors import (
    AccessDenied,
    CredentialFault,
    InputUnreadable,
    StorageFull,
    StorageUnavailable,
)
from mlaas_condor.grid import xrootd


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("root://h//store/a.root", ("root://h", "/store/a.root", "")),
        ("root://h:1094/store/a.root", ("root://h:1094", "/store/a.root", "")),
        ("root://h//store/a.root?authz=x", ("root://h", "/store/a.root", "authz=x")),
        ("root://h//store/tt?.root", ("root://h", "/store/tt?.root", "")),
        ("root://cache//root://origin//store/a", ("root://cache", "/root://origin//store/a", "")),
    ],
)
def test_urls_are_taken_apart(url, parts):
    assert xrootd.split(url) == parts


def test_a_query_is_no_glob_and_is_not_shown():
    url = "root://h//store/a.root?authz=secret"
    assert not xrootd.is_pattern(url) and xrootd.shown(url) == "root://h//store/a.root"
    assert xrootd.is_pattern("root://h//store/tt?.root") and xrootd.is_pattern("root://h//a*?authz=secret")


@pytest.mark.parametrize(
    ("code", "number", "kind", "words"),
    [
        (400, 3011, InputUnreadable, "no such file"),
        (400, 3010, AccessDenied, "no permission"),
        (400, 3016, InputUnreadable, "is a directory"),
        (400, 3009, StorageFull, "no space left on h"),
        (400, 3021, StorageFull, "no space left on h"),
        (400, 3005, StorageUnavailable, "h fails"),
        (101, 0, xrootd.HostSilent, "its host is unknown"),
        (108, 111, xrootd.HostSilent, "h cannot be reached"),
        (206, 0, xrootd.HostSilent, "timed out"),
        (999, 0, StorageUnavailable, "code 999"),
    ],
)
def test_what_an_answer_means(code, number, kind, words):
    error = xrootd.fault("root://h//a.root", code, number, "[ERROR] it\n said so")
    assert type(error) is kind and str(error).startswith("root://h//a.root: ") and words in str(error)


def test_without_any_credential_it_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setattr("mlaas_condor.grid.proxy.default", lambda: tmp_path / "none")
    monkeypatch.setattr("mlaas_condor.grid.tokens.find", lambda: None)
    error = xrootd.fault("root://h//a.root", 204, 0, "[FATAL] Auth failed")
    assert isinstance(error, CredentialFault) and "mlaas-condor proxy init" in str(error)


RANGES = st.lists(
    st.tuples(st.integers(0, 500), st.integers(1, 60)).map(lambda each: (each[0], each[0] + each[1])),
    min_size=1,
    max_size=30,
)


@given(RANGES, st.integers(0, 50))
def test_joined_ranges_hold_exactly_what_was_asked_for(ranges, gap):
    content = bytes(n % 251 for n in range(600))
    wide = joined(ranges, gap)
    assert all(one[1] + gap < two[0] for one, two in pairwise(wide))
    parts = [content[start:stop] for start, stop in wide]
    assert cut_out(ranges, wide, parts) == [content[start:stop] for start, stop in ranges]
