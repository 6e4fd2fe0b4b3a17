"""``mlaas-condor proxy``: what it shows, what it makes, what it refuses."""

import io
import json
import os
import time

import pytest
import typer
from credential_tools import DAY, HOUR, Authority, save, token_text
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from mlaas_condor.grid import certificates, proxy, tokens


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A user without anything: no certificate, no proxy, no token, no tools."""
    names = (
        "X509_USER_PROXY",
        "X509_USER_CERT",
        "X509_USER_KEY",
        "BEARER_TOKEN",
        "BEARER_TOKEN_FILE",
        "XDG_RUNTIME_DIR",
    )
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(proxy, "_DEFAULT", str(tmp_path / "x509up_u{}"))
    monkeypatch.setattr(tokens, "_LAST", str(tmp_path / "bt_u{}"))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def usual(home):
    return proxy.default()


def globus(authority, home, **options):
    """Put a certificate and key where they usually are."""
    (home / ".globus").mkdir()
    for path, name in zip(authority.pair(**options), ("usercert.pem", "userkey.pem"), strict=True):
        path.replace(home / ".globus" / name)
    return home / ".globus"


def answer(monkeypatch, text, terminal=False):
    stream = io.StringIO(text)
    stream.isatty = lambda: terminal
    monkeypatch.setattr("sys.stdin", stream)


# info


def test_a_good_proxy_is_shown_in_full(authority, usual, command):
    certificates.write(certificates.make_proxy(authority.credential(), 11.71 * HOUR), usual)
    code, out, err = command("proxy", "info")
    assert (code, err) == (0, "")
    rows = dict(line.split(None, 1) for line in out.splitlines())
    assert rows["proxy"].strip() == str(usual)
    assert rows["identity"].strip() == "/DC=test/CN=Jane Doe"
    assert rows["key"].strip() == "RSA, 2048 bits"
    assert rows["level"].strip() == "1 (RFC 3820)"
    assert rows["permissions"].strip() == "0600"
    assert "11 h 42 min, until 20" in out
    assert "FAULT" not in out


def test_what_is_wrong_is_marked_and_ends_with_29(authority, home, command):
    path = save(certificates.make_proxy(authority.credential(), HOUR), home / "mine", mode=0o644)
    code, out, _ = command("proxy", "info", path)
    assert code == 29
    assert f"FAULT        can be read by others, its mode is 0644; run: chmod 600 {path}" in out


def test_nothing_at_all_ends_with_29_and_the_next_command(usual, command):
    code, out, err = command("proxy", "info")
    assert (code, out) == (29, "")
    assert (
        err
        == f"error: there is no proxy {usual}, and no token; make a proxy with `mlaas-condor proxy init`\n"
    )


def test_a_file_that_is_named_and_missing_is_an_error(home, command):
    code, _, err = command("proxy", "info", home / "missing")
    assert code == 29
    path = home / "missing"
    assert err == f"error: there is no proxy {path}; make one with `mlaas-condor proxy init --out {path}`\n"


def test_a_token_is_shown_but_never_its_text(authority, usual, command, monkeypatch):
    certificates.write(certificates.make_proxy(authority.credential(), HOUR), usual)
    text = token_text(exp=time.time() + 1205)
    monkeypatch.setenv("BEARER_TOKEN", text)
    code, out, _ = command("proxy", "info")
    assert code == 0
    for each in ("https://cms-auth.test/", "storage.read:/ openid", "20 min, until 20", "BEARER_TOKEN"):
        assert each in out
    code, as_json, _ = command("proxy", "info", "--json")
    assert code == 0
    for shown in (out, as_json):
        assert text not in shown
        assert text.split(".")[2] not in shown


def test_a_token_alone_is_enough(home, command, monkeypatch):
    monkeypatch.setenv("BEARER_TOKEN", "opaque")
    code, out, _ = command("proxy", "info")
    assert code == 0
    assert "it is no JSON Web Token" in out
    monkeypatch.setenv("BEARER_TOKEN", token_text(exp=time.time() - 5))
    assert command("proxy", "info")[0] == 29


def test_a_token_that_is_no_use_is_marked_and_harmless_beside_a_proxy(authority, usual, command, monkeypatch):
    certificates.write(certificates.make_proxy(authority.credential(), HOUR), usual)
    monkeypatch.setenv("BEARER_TOKEN_FILE", "/missing/token")
    code, out, _ = command("proxy", "info")
    assert code == 0
    assert "FAULT" in out and "there is no token /missing/token" in out


def test_programs_get_json(authority, usual, command):
    save(certificates.make_proxy(authority.credential(), HOUR), usual, mode=0o604)
    code, out, _ = command("proxy", "info", "--json")
    found = json.loads(out)
    assert code == 29
    assert found["proxy"]["path"] == str(usual)
    assert found["proxy"]["identity"] == "/DC=test/CN=Jane Doe"
    assert found["proxy"]["mode"] == "0604"
    assert found["proxy"]["seconds_left"] == pytest.approx(HOUR, abs=10)
    assert [fault["hint"] for fault in found["faults"]] == [f"run: chmod 600 {usual}"]
    assert (found["token"], found["token_faults"]) == (None, [])


# init


def test_a_proxy_is_made_from_the_usual_certificate_in_the_usual_place(authority, home, usual, command):
    globus(authority, home)
    code, out, err = command("proxy", "init")
    assert (code, err) == (0, "")
    assert "11 h 59 min, until" in out
    assert "next:" not in out
    made = proxy.read(usual)
    assert (made.level, made.bits, made.mode) == (1, 2048, 0o600)


def test_hours_bits_and_place_can_be_chosen(authority, home, command):
    globus(authority, home)
    code, out, _ = command("proxy", "init", "--hours", "0.5", "--bits", "3072", "--out", home / "mine")
    assert code == 0
    assert f"next: export X509_USER_PROXY={home / 'mine'}" in out
    made = proxy.read(home / "mine")
    assert made.bits == 3072
    assert made.seconds_left == pytest.approx(HOUR / 2, abs=10)
    assert command("proxy", "init", "--bits", "1024")[0] == 2
    assert command("proxy", "init", "--hours", "0")[0] == 2


def test_variables_say_where_certificate_key_and_proxy_are(authority, home, command, monkeypatch):
    certificate, key = authority.pair(stem="elsewhere")
    monkeypatch.setenv("X509_USER_CERT", str(certificate))
    monkeypatch.setenv("X509_USER_KEY", str(key))
    monkeypatch.setenv("X509_USER_PROXY", str(home / "mine"))
    code, out, _ = command("proxy", "init")
    assert code == 0
    assert "next:" not in out
    assert (home / "mine").exists()


def test_the_key_beside_a_named_certificate_is_found(authority, home, usual, command):
    certificate, _ = authority.pair(stem="beside")
    assert command("proxy", "init", "--certificate", certificate)[0] == 0
    assert usual.exists()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_pass_phrase_is_asked_for_on_the_terminal_or_read_from_standard_input(
    authority, home, usual, command, monkeypatch, terminal
):
    folder = globus(authority, home, password=b"open sesame", stem="locked")
    asked = []

    def prompt(text, **options):
        asked.append((text, options["hide_input"]))
        return "open sesame"

    monkeypatch.setattr(typer, "prompt", prompt)
    answer(monkeypatch, "" if terminal else "open sesame\n", terminal)
    code, out, err = command("proxy", "init")
    assert code == 0
    assert usual.exists()
    assert "sesame" not in out + err
    assert asked == ([(f"Pass phrase of {folder / 'userkey.pem'}", True)] if terminal else [])


def test_a_wrong_or_missing_pass_phrase_is_an_error(authority, home, usual, command, monkeypatch):
    globus(authority, home, password=b"open sesame", stem="locked")
    answer(monkeypatch, "wrong\n")
    code, _, err = command("proxy", "init")
    assert code == 29
    assert "the pass phrase is wrong, or the key damaged" in err
    answer(monkeypatch, "")
    code, _, err = command("proxy", "init")
    assert code == 29
    assert "has a pass phrase; there is no terminal to ask for it, and standard input is empty" in err
    assert not usual.exists()


def test_a_file_from_a_browser_will_do(authority, home, usual, command, monkeypatch):
    jane = authority.credential()
    (home / ".globus").mkdir()
    path = home / ".globus" / "usercred.p12"
    path.touch(0o600)
    how = serialization.BestAvailableEncryption(b"open sesame")
    path.write_bytes(pkcs12.serialize_key_and_certificates(b"Jane", jane.key, jane.leaf, None, how))
    answer(monkeypatch, "open sesame\n")
    assert command("proxy", "init")[0] == 0
    assert proxy.read(usual).identity == "/DC=test/CN=Jane Doe"


def test_without_a_certificate_it_says_where_to_put_one(home, command):
    code, _, err = command("proxy", "init")
    assert code == 29
    assert (
        f"there is no certificate {home}/.globus/usercert.pem; name yours with --certificate and --key" in err
    )


def test_what_is_wrong_with_the_certificate_is_said_and_nothing_written(authority, home, usual, command):
    folder = globus(authority, home, begins=-DAY, seconds=-60)
    code, _, err = command("proxy", "init")
    assert code == 29
    assert "/DC=test/CN=Jane Doe ended on" in err and "ask the authority" in err
    _, other = authority.pair("/DC=test/CN=Somebody Else", stem="other")
    code, _, err = command("proxy", "init", "--key", other)
    assert code == 29
    assert "the key does not belong to the certificate /DC=test/CN=Jane Doe" in err
    (folder / "userkey.pem").chmod(0o644)
    code, _, err = command("proxy", "init")
    assert code == 29
    assert f"its mode is 0644; run: chmod 400 {folder / 'userkey.pem'}" in err
    assert not usual.exists()


def test_a_place_that_cannot_be_written_is_an_error(authority, home, command):
    globus(authority, home)
    code, _, err = command("proxy", "init", "--out", home / "missing" / "proxy")
    assert code == 9
    assert "missing/proxy cannot be written: No such file or directory" in err


def test_a_proxy_cut_short_by_its_certificate_is_made_with_a_warning(authority, home, usual, command):
    globus(authority, home, seconds=2 * HOUR)
    code, _, err = command("proxy", "init")
    assert code == 0
    assert "warning: shorter than asked for, /DC=test/CN=Jane Doe ends then" in err


def fake_tool(home, script):
    path = home / "bin" / "voms-proxy-init"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_attributes_are_asked_for_by_the_tool_of_the_vo(authority, home, usual, command):
    globus(authority, home)
    made = save(certificates.make_proxy(authority.credential(), 24 * HOUR), home / "made")
    # What it gets, and a proxy where it is told to put it.
    fake_tool(
        home, f'echo "$@" > {home}/call; umask 077; while read line; do echo "$line"; done < {made} > {usual}'
    )
    code, out, _ = command("proxy", "init", "--voms", "cms:/cms/Role=production", "--hours", "24")
    assert code == 0
    assert (home / "call").read_text().split() == [
        "-rfc", "-voms", "cms:/cms/Role=production", "-valid", "24:00", "-bits", "2048", "-out", str(usual),
        "-cert", f"{home}/.globus/usercert.pem", "-key", f"{home}/.globus/userkey.pem",
    ]  # fmt: skip
    assert "23 h 59 min, until" in out


def test_a_tool_that_fails_is_an_error(home, command):
    fake_tool(home, "exit 3")
    code, _, err = command("proxy", "init", "--voms", "cms")
    assert code == 29
    assert "voms-proxy-init ended with exit code 3; what it said is above" in err


def test_without_the_tool_it_says_which_package_has_it(home, command):
    code, _, err = command("proxy", "init", "--voms", "cms")
    assert code == 29
    assert "attributes of cms need voms-proxy-init, which is not installed" in err
    assert "voms-clients" in err


def test_owner_and_mode_do_not_depend_on_the_umask(authority, home, usual, command):
    globus(authority, home)
    before = os.umask(0)
    try:
        assert command("proxy", "init")[0] == 0
    finally:
        os.umask(before)
    assert usual.stat().st_mode & 0o777 == 0o600
