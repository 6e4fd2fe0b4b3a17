"""The user's proxy: where it is looked for, what is read of it, what is wrong with it."""

import os
import shutil
import time
from dataclasses import replace

import pytest
from credential_tools import (
    DAY,
    HOUR,
    Authority,
    curve_key,
    key_called,
    proxy_by_hand,
    save,
    with_attributes,
)

from mlaas_condor.errors import CredentialFault
from mlaas_condor.grid import certificates, proxy, times


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def jane(authority):
    return authority.credential()


@pytest.fixture(autouse=True)
def usual(tmp_path, monkeypatch):
    """The usual place, which is in nobody's /tmp here, and no variable."""
    monkeypatch.delenv("X509_USER_PROXY", raising=False)
    monkeypatch.setattr(proxy, "_DEFAULT", str(tmp_path / "x509up_u{}"))
    return proxy.default()


@pytest.fixture(scope="module")
def saved(jane, tmp_path_factory):
    path = tmp_path_factory.mktemp("proxy") / "proxy"
    certificates.write(certificates.make_proxy(jane, 12 * HOUR), path)
    return path


@pytest.fixture
def good(saved):
    return proxy.read(saved)


def sentences(found, needed=0.0):
    return [str(problem) for problem in proxy.faults(found, needed)]


def only(found, needed=0.0):
    (problem,) = proxy.faults(found, needed)
    return problem


# Finding


def test_the_one_named_comes_first_then_the_variable_then_the_usual_place(usual, tmp_path, monkeypatch):
    assert proxy.find() is None
    usual.touch()
    assert proxy.find() == usual == tmp_path / f"x509up_u{os.getuid()}"
    other, named = tmp_path / "other", tmp_path / "named"
    other.touch()
    named.touch()
    monkeypatch.setenv("X509_USER_PROXY", str(other))
    assert proxy.find() == other
    assert proxy.find(str(named)) == named


def test_an_empty_variable_is_none(usual, monkeypatch):
    monkeypatch.setenv("X509_USER_PROXY", "")
    assert proxy.find() is None


def test_one_that_is_named_and_missing_is_a_fault_that_says_where_it_was_named(usual, tmp_path, monkeypatch):
    usual.touch()
    missing = tmp_path / "missing"
    with pytest.raises(CredentialFault) as caught:
        proxy.find(str(missing), "job.json: x509_proxy")
    assert str(caught.value) == (
        f"there is no proxy {missing}, which job.json: x509_proxy names; "
        f"make one with `mlaas-condor proxy init --out {missing}`, or change job.json: x509_proxy"
    )
    monkeypatch.setenv("X509_USER_PROXY", str(missing))
    with pytest.raises(CredentialFault, match=r"`mlaas-condor proxy init`, or unset X509_USER_PROXY$"):
        proxy.find()


def test_a_home_folder_may_be_written_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").touch()
    assert proxy.find("~/mine") == tmp_path / "mine"


# Reading


def test_a_proxy_says_whose_it_is_and_how_long_it_lasts(good, saved):
    assert good.path == saved
    assert good.subject.startswith("/DC=test/CN=Jane Doe/CN=")
    assert good.identity == good.issuer == "/DC=test/CN=Jane Doe"
    assert (good.key_kind, good.bits, good.level, good.legacy) == ("RSA", 2048, 1, False)
    assert (good.mode, good.owner) == (0o600, os.geteuid())
    assert good.seconds_left == pytest.approx(12 * HOUR, abs=10)
    assert good.certificate_ends == pytest.approx(time.time() + 30 * DAY, abs=60)
    assert (good.attributes, good.attributes_end, good.vo) == ((), None, "")
    assert sentences(good, 11 * HOUR) == []


def test_what_cannot_be_read_says_how_to_make_one(tmp_path):
    (tmp_path / "file").write_text("nonsense")
    with pytest.raises(CredentialFault, match=r"nothing in it is PEM.*; make a proxy with `mlaas-condor"):
        proxy.read(tmp_path / "file")


@pytest.mark.skipif(not shutil.which("voms-proxy-fake"), reason="needs voms-proxy-fake")
def test_attributes_and_their_own_end_are_read(authority, tmp_path):
    found = proxy.read(with_attributes(authority, tmp_path / "proxy"))
    assert found.attributes == ("/cms", "/cms/Role=production")
    assert found.attributes_end == pytest.approx(time.time() + 6 * HOUR, abs=360)
    assert found.ends == pytest.approx(time.time() + 12 * HOUR, abs=360)
    assert found.vo == "cms"
    assert sentences(found, 5 * HOUR) == []
    assert "has attributes of cms for 5 h" in only(found, 8 * HOUR).what


def test_attributes_that_cannot_be_read_leave_a_remark_only(jane, tmp_path):
    from cryptography import x509

    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.8005.100.100.5"), b"\x05\x00")
    found = proxy.read(save(proxy_by_hand(jane, extensions=[(broken, False)]), tmp_path / "proxy"))
    assert "VOMS attributes cannot be read" in found.remark
    assert found.attributes == ()
    assert sentences(found) == []


# What is wrong with it


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o610])
def test_a_proxy_that_others_can_read_is_refused(good, saved, mode):
    problem = only(replace(good, mode=mode))
    assert problem.what == f"can be read by others, its mode is {mode:04o}"
    assert problem.hint == f"run: chmod 600 {saved}"


def test_a_proxy_that_only_its_owner_can_read_is_fine(good):
    assert sentences(replace(good, mode=0o400)) == []


def test_the_mode_is_that_of_the_file(jane, tmp_path):
    found = proxy.read(save(certificates.make_proxy(jane, HOUR), tmp_path / "proxy", mode=0o644))
    assert "0644" in only(found).what


def test_a_proxy_of_another_user_is_refused_also_to_root(good):
    problem = only(replace(good, owner=os.geteuid() + 54321))
    assert problem.what.startswith(f"belongs to user {os.geteuid() + 54321}, not to ")
    assert problem.hint == "make one of your own: mlaas-condor proxy init"


def test_a_proxy_that_has_ended_says_when_and_what_to_run(jane, tmp_path, usual):
    found = proxy.read(save(proxy_by_hand(jane, seconds=-3 * HOUR - 90, begins=-DAY), usual))
    problem = only(found, DAY)
    assert problem.where == str(usual)
    assert problem.what == f"ended 3 h 1 min ago, on {times.moment(found.ends)}"
    assert problem.hint == "run: mlaas-condor proxy init --hours 24"


def test_a_proxy_of_a_parent_that_has_ended_has_ended_too(jane, tmp_path):
    parent = proxy_by_hand(jane, seconds=-60)
    child = proxy_by_hand(parent, name="2", key=key_called("child"), seconds=HOUR)
    assert only(proxy.read(save(child, tmp_path / "proxy"))).what.startswith("ended 1 min ago")


def test_a_certificate_that_has_ended_needs_another_certificate_not_another_proxy(authority, tmp_path):
    old = authority.credential(begins=-DAY, seconds=-60)
    problem = only(proxy.read(save(proxy_by_hand(old), tmp_path / "proxy")))
    assert "is of a certificate that ended on" in problem.what
    assert problem.what.endswith(": /DC=test/CN=Jane Doe")
    assert "ask the authority" in problem.hint


def test_a_proxy_of_the_future_tells_of_clocks(jane, tmp_path):
    problem = only(proxy.read(save(proxy_by_hand(jane, begins=1800 + 5), tmp_path / "proxy")))
    assert problem.what.startswith("is valid only from ")
    assert problem.what.endswith("in 30 min")
    assert "clock" in problem.hint


def test_a_weak_key_anywhere_in_the_chain_is_refused_and_a_curve_is_not(authority, jane, tmp_path):
    weak = proxy_by_hand(jane, key=key_called("weak", 1024))
    for holder in (weak, certificates.make_proxy(weak, HOUR)):
        problem = only(proxy.read(save(holder, tmp_path / "proxy")))
        assert problem.what == "has an RSA key of 1024 bits: too weak, storage refuses less than 2048"
    curve = proxy.read(save(proxy_by_hand(jane, key=curve_key()), tmp_path / "proxy"))
    assert (curve.key_kind, curve.bits) == ("EC", 256)
    assert sentences(curve) == []


def test_the_old_kind_is_called_so(jane, tmp_path):
    found = proxy.read(save(proxy_by_hand(jane, name="proxy", info=None), tmp_path / "proxy"))
    problem = only(found)
    assert problem.what == "is an old kind of proxy that storage refuses"
    assert problem.hint == "make one with: voms-proxy-init -rfc"


def test_a_proxy_shorter_than_the_run_says_both_times_and_both_ways_out(good, monkeypatch):
    monkeypatch.setenv("X509_USER_PROXY", str(good.path))
    problem = only(replace(good, ends=time.time() + 2 * HOUR + 5), 30 * HOUR)
    assert problem.what == "has 2 h left, and the run is expected to need 30 h"
    assert problem.hint == (
        "run: mlaas-condor proxy init --hours 30; or submit with --proxy-lifetime-ok all the same"
    )


def test_attributes_that_have_ended_are_a_fault_though_the_proxy_has_not(good):
    found = replace(good, attributes=("/cms",), attributes_end=time.time() - 60)
    problem = only(found)
    assert problem.what.startswith("has attributes of cms that ended on ")
    assert problem.hint.startswith("run: voms-proxy-init --voms cms --rfc")


def test_everything_wrong_is_said_at_once(good):
    found = replace(good, mode=0o644, owner=54321, weakest_bits=1024, ends=time.time() - 60)
    assert len(proxy.faults(found)) == 4


def test_attributes_of_any_form_name_a_vo(good):
    for attribute, vo in (("/cms/Role=production", "cms"), ("cms", "cms"), ("/", ""), ("", "")):
        assert replace(good, attributes=(attribute,)).vo == vo


# Making a new one


def test_the_command_for_a_new_one_knows_vo_role_time_and_place(good, monkeypatch):
    assert proxy.how_to_renew() == "mlaas-condor proxy init"
    assert proxy.how_to_renew(needed=HOUR) == "mlaas-condor proxy init"
    assert proxy.how_to_renew(needed=47.5 * HOUR) == "mlaas-condor proxy init --hours 48"
    assert proxy.how_to_renew(good) == f"mlaas-condor proxy init --out {good.path}"
    monkeypatch.setenv("X509_USER_PROXY", str(good.path))
    assert proxy.how_to_renew(good) == "mlaas-condor proxy init"
    cms = replace(good, attributes=("/cms", "/cms/Role=production"))
    assert proxy.how_to_renew(cms, 24 * HOUR) == "voms-proxy-init --voms cms --rfc --valid 24:00"
    role = replace(good, attributes=("/cms/Role=production", "/cms"))
    assert proxy.how_to_renew(role) == "voms-proxy-init --voms cms:/cms/Role=production --rfc"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (HOUR, "1 h"),
     (42120, "11 h 42 min"), (47.9 * HOUR, "47 h 54 min"), (48 * HOUR, "2 days"),
     (7 * DAY + 3.5 * HOUR, "7 days 3 h")],
)  # fmt: skip
def test_times_in_words_never_promise_more_than_there_is(seconds, words):
    assert times.in_words(seconds) == words


@pytest.mark.parametrize("seconds", [-1e300, 0, 1.8e9, 1e300])
def test_every_moment_can_be_written(seconds):
    assert times.moment(seconds).endswith(" UTC")
