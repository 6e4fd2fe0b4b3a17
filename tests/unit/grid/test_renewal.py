"""Fresh proxies: of each kind of source, only where they may replace the old one, and not asked too often."""

import fcntl
import json
import os
import re
import shutil
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest
import typer
from credential_tools import DAY, HOUR, Authority, proxy_by_hand, save
from hypothesis import given
from hypothesis import settings as configured
from hypothesis import strategies as some

from mlaas_condor import renewing, settings
from mlaas_condor.errors import CannotWrite, CredentialFault, PoolUnreachable, WrongState
from mlaas_condor.grid import backoff, certificates, programs, renewal
from mlaas_condor.grid.credentials import Credentials
from mlaas_condor.grid.renewal import MyProxy, Source, WrongSetting

JANE, JOHN = "/DC=test/CN=Jane Doe", "/DC=test/CN=John Roe"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def jane(authority):
    return authority.credential(JANE)


@pytest.fixture
def long_proxy(jane, tmp_path):
    return save(proxy_by_hand(jane, seconds=5 * DAY), tmp_path / "long.pem")


@pytest.fixture
def proxy(jane, tmp_path):
    """Jane's proxy of 12 hours, of which one is left."""
    return save(proxy_by_hand(jane, begins=-11 * HOUR, seconds=HOUR), tmp_path / "x509up")


def hours_left(path):
    return (certificates.load(path).ends - time.time()) / HOUR


def program(folder, name, text):
    """Put a program into a folder of programs."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def write_toml(text):
    path = renewing.source_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


# --- what the user's file may say


def test_no_file_no_section_and_an_empty_one_are_no_source(tmp_path):
    assert renewal.read_source(tmp_path / "renewal.toml") is None
    assert renewal.read_source(write_toml("# nothing yet\n")) is None
    assert renewal.read_source(write_toml("[renewal]\n# nothing yet\n")) is None


def test_every_mistake_of_the_file_is_told_at_once():
    path = write_toml(
        '[renewal]\nlong_prox = "/a"\nzzz = 1\nvoms = 3\nmyproxy = {usrname = "jane"}\n[other]\n'
    )
    with pytest.raises(WrongSetting) as error:
        renewal.read_source(path)
    place = f"  {path}: [renewal]: "
    known = ", ".join(Source.model_fields)
    first, *lines = str(error.value).splitlines()
    assert first == "6 problems, nothing was done"
    assert sorted(lines) == sorted([
        f"  {path}: no such section [other] (there is [renewal])",
        f"{place}unknown key 'long_prox' (did you mean long_proxy?)",
        f"{place}unknown key 'zzz' (there is {known})",
        f'{place}voms must be a text: "…"',
        f"{place}myproxy: 'server' is missing",
        f"{place}myproxy: unknown key 'usrname' (did you mean username?)",
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('voms = "cms"', "names no source"),
        ('long_proxy = "/a"\ncommand = ["make", "{out}"]', "long_proxy and command are given"),
        ('certificate = "/a"', "certificate and key go together"),
        ('command = ["make"]', "put {out} among its arguments"),
        ("myproxy = {port = 7512}", "myproxy: 'server' is missing"),
        ('myproxy = {server = "a", port = "1"}', "myproxy.port must be a whole number"),
        ('myproxy = "a"', 'myproxy must be a table: {server = "…"}'),
        ('command = "secret {out}"', 'command must be a list of texts: ["my-proxy", "--out", "{out}"]'),
        ('command = ["secret", 3]', "command must be a list of texts"),
        ("voms = 2026-01-01", 'voms must be a text: "…"'),
        ('long_proxy = ["a', "cannot be read"),
    ],
)
def test_a_source_that_cannot_be_one_is_refused(text, told):
    with pytest.raises(WrongSetting, match=re.escape(told)) as error:
        renewal.read_source(write_toml(f"[renewal]\n{text}\n"))
    assert "secret" not in str(error.value) and error.value.exit_code == 2
    assert "Input" not in str(error.value) and "submitted" not in str(error.value)


@pytest.mark.parametrize("text", ["renewal = 3", "[[renewal]]"])
def test_what_is_no_section_is_refused(text):
    with pytest.raises(WrongSetting, match=r"\[renewal\]: must be a section of keys$"):
        renewal.read_source(write_toml(f"{text}\n"))


def test_a_file_that_others_can_write_is_refused_since_it_names_programs():
    path = write_toml('[renewal]\ncommand = ["make", "{out}"]\n')
    path.chmod(0o622)
    with pytest.raises(WrongSetting, match="chmod 600"):
        renewal.read_source(path)


# --- one source after the other


def test_a_long_proxy_makes_short_ones_for_its_owner_only(long_proxy, tmp_path):
    out = tmp_path / "new"
    made = renewal.fresh(Source(long_proxy=str(long_proxy)), 12 * HOUR, out)
    assert made.identity == JANE and made.level == 2
    assert hours_left(out) == pytest.approx(12, abs=0.1)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_a_long_proxy_that_others_can_read_or_that_has_ended_is_refused(jane, long_proxy, tmp_path):
    long_proxy.chmod(0o644)
    with pytest.raises(CredentialFault, match="can be read by others, its mode is 0644; run: chmod 600"):
        renewal.fresh(Source(long_proxy=str(long_proxy)), HOUR, tmp_path / "new")
    ended = save(proxy_by_hand(jane, begins=-DAY, seconds=-60), tmp_path / "ended")
    for voms in ("", "cms"):
        with pytest.raises(CredentialFault) as error:
            renewal.fresh(Source(long_proxy=str(ended), voms=voms), HOUR, tmp_path / "new")
        told = str(error.value)
        assert told.startswith(f"the long proxy {ended} ended on 20")
        assert told.endswith(f"; make a new one with `mlaas-condor proxy init --hours 168 --out {ended}`")


def test_a_file_that_is_not_there_is_told_with_the_key_that_names_it(authority, tmp_path):
    none = tmp_path / "none"
    with pytest.raises(CredentialFault) as error:
        renewal.fresh(Source(long_proxy=str(none)), HOUR, tmp_path / "new")
    assert str(error.value) == (
        f"there is no {none}, which long_proxy in renewal.toml names; "
        f"make one with `mlaas-condor proxy init --hours 168 --out {none}`, or change long_proxy"
    )
    certificate, _ = authority.pair(stem="here")
    account = MyProxy(server="s", password_file=str(none))
    for source, key in [
        (Source(certificate=str(none), key=str(none)), "certificate"),
        (Source(certificate=str(certificate), key=str(none)), "key"),
        (Source(myproxy=account), "password_file"),
        (Source(myproxy=account.model_copy(update={"authorization": str(none)})), "authorization"),
    ]:
        with pytest.raises(CredentialFault) as error:
            renewal.fresh(source, HOUR, tmp_path / "new")
        told = f"there is no {none}, which {key} in renewal.toml names; put it there, or change {key}"
        assert str(error.value) == told


def test_a_certificate_that_has_ended_is_told_as_one(authority, tmp_path):
    certificate, key = authority.pair("/DC=test/CN=Old", stem="old", begins=-DAY, seconds=-60)
    with pytest.raises(
        CredentialFault, match=r"old.*ended on .*; ask the authority that issued it for a new"
    ):
        renewal.fresh(Source(certificate=str(certificate), key=str(key)), HOUR, tmp_path / "new")


def test_a_certificate_of_a_robot_makes_proxies_if_its_key_is_private(authority, tmp_path):
    certificate, key = authority.pair("/DC=test/CN=Robot: chunks", stem="robot")
    source = Source(certificate=str(certificate), key=str(key))
    assert renewal.fresh(source, HOUR, tmp_path / "new").identity == "/DC=test/CN=Robot: chunks"
    key.chmod(0o640)
    with pytest.raises(CredentialFault, match="chmod"):
        renewal.fresh(source, HOUR, tmp_path / "other")


@configured(max_examples=25)  # each makes a key
@given(wanted=some.floats(60, 30 * DAY), lasts=some.floats(60, 10 * DAY))
def test_a_renewed_proxy_never_outlives_its_source(wanted, lasts, jane, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    holder = proxy_by_hand(jane, seconds=lasts)
    source = save(holder, folder / "long.pem")
    made = renewal.fresh(Source(long_proxy=str(source)), wanted, folder / "new")
    assert made.ends <= min(holder.ends, time.time() + wanted)


def test_voms_attributes_are_asked_for_with_what_is_long_lived(authority, long_proxy, tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    program(
        folder,
        "voms-proxy-init",
        f'echo "$X509_USER_PROXY $@" > {tmp_path}/called\n'
        f'while [ "$1" != -out ]; do shift; done\ncp {long_proxy} "$2"',
    )
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("X509_USER_PROXY", "/elsewhere")
    renewal.fresh(Source(long_proxy=str(long_proxy), voms="cms"), 12.5 * HOUR, tmp_path / "new")
    called = (tmp_path / "called").read_text()
    assert called.startswith(f"{long_proxy} -noregen")
    assert "-valid 12:30 -voms cms" in called
    certificate, key = authority.pair(stem="another")
    renewal.fresh(Source(certificate=str(certificate), key=str(key), voms="cms"), HOUR, tmp_path / "new")
    called = (tmp_path / "called").read_text()
    assert f"-cert {certificate} -key {key}" in called and "-noregen" not in called
    assert "/elsewhere" not in called


def test_myproxy_gets_its_pass_phrase_on_no_command_line(long_proxy, tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    program(
        folder,
        "myproxy-logon",
        f'cat > {tmp_path}/read; echo "$@" > {tmp_path}/called\n'
        f'while [ "$1" != -o ]; do shift; done\ncp {long_proxy} "$2"',
    )
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("open sesame\n")
    account = MyProxy(server="myproxy.test", username="jane", password_file=str(secret))
    renewal.fresh(Source(myproxy=account, voms="cms"), 12 * HOUR, tmp_path / "new")
    called = (tmp_path / "called").read_text()
    assert "-s myproxy.test -p 7512" in called and "-t 12 -l jane -m cms -S" in called
    assert (tmp_path / "read").read_text() == "open sesame\n" and "sesame" not in called
    secret.chmod(0o644)
    with pytest.raises(CredentialFault, match="chmod 600"):
        renewal.fresh(Source(myproxy=account), HOUR, tmp_path / "new")
    renewal.fresh(Source(myproxy=MyProxy(server="s", name="robot")), HOUR, tmp_path / "new")
    assert (tmp_path / "called").read_text().endswith("-k robot -n\n")


def test_what_a_program_says_is_shown_nowhere_as_there_may_be_a_secret_in_it(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    wrong = program(
        folder, "myproxy-logon", 'read it\necho "invalid: $it" >&2\n'
        'echo "-----BEGIN RSA PRIVATE KEY-----\nabcdefgh\n-----END RSA PRIVATE KEY-----"\nexit 3',
    )  # fmt: skip
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("open sesame")
    source = Source(myproxy=MyProxy(server="s", password_file=str(secret)))
    with pytest.raises(CredentialFault) as error:
        renewal.fresh(source, HOUR, tmp_path / "new")
    assert str(error.value) == (
        "myproxy-logon ended with exit code 3; what it said is not shown, since it may hold a secret: run "
        "`myproxy-logon -q -s s -p 7512 -o FILE -t 1 -S` by hand to see it"
    )
    command = Source(command=[str(wrong), "--password=sesame", "{out}"])
    with pytest.raises(CredentialFault) as error:
        renewal.fresh(command, HOUR, tmp_path / "new")
    assert str(error.value) == (
        "myproxy-logon ended with exit code 3; what it said is not shown, since it may hold a secret: run "
        "the command of renewal.toml by hand to see it"
    )


def test_the_command_to_run_by_hand_has_the_credential_that_it_needs(long_proxy, tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    program(folder, "voms-proxy-init", "exit 1")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    with pytest.raises(CredentialFault) as error:
        renewal.fresh(Source(long_proxy=str(long_proxy), voms="cms"), 12 * HOUR, tmp_path / "new")
    assert (
        f"run `X509_USER_PROXY={long_proxy} voms-proxy-init -noregen -rfc -quiet -bits 2048 -valid 12:00 "
        "-voms cms -out FILE` by hand"
    ) in str(error.value)


def test_a_command_writes_the_file_it_is_told(long_proxy, tmp_path):
    made = program(
        tmp_path / "bin", "make", f'cp {long_proxy} "$1"; chmod 644 "$1"; echo $2 > {tmp_path}/said'
    )
    source = Source(command=[str(made), "{out}", "{hours}h-{seconds}s-{voms}"], voms="cms")
    out = tmp_path / "new"
    assert renewal.fresh(source, 6 * HOUR, out).identity == JANE
    assert (tmp_path / "said").read_text() == "6h-21600s-cms\n"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("true", "wrote no proxy"),
        ("echo nonsense > $1", "gave no proxy: the file holds no certificate"),
        ("cp {ended} $1", "gave a proxy that ended on"),
        ("exit 7", "make ended with exit code 7; "),
    ],
)
def test_what_a_command_writes_is_looked_at(script, told, jane, tmp_path):
    ended = save(proxy_by_hand(jane, begins=-DAY, seconds=-60), tmp_path / "ended")
    made = program(tmp_path / "bin", "make", script.replace("{ended}", str(ended)))
    with pytest.raises(CredentialFault, match=told):
        renewal.fresh(Source(command=[str(made), "{out}"]), HOUR, tmp_path / "new")


def test_a_program_that_hangs_or_is_not_there_is_no_hang_and_no_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "LONGEST_SECONDS", 0.5)
    hanging = program(tmp_path / "bin", "make", "sleep 60 & sleep 60")
    before = time.monotonic()
    with pytest.raises(CredentialFault, match=r"make did not end within 0\.5 s"):
        renewal.fresh(Source(command=[str(hanging), "{out}"]), HOUR, tmp_path / "new")
    assert time.monotonic() - before < 20
    with pytest.raises(CredentialFault, match="no program 'no-such-program' here"):
        renewal.fresh(Source(command=["no-such-program", "{out}"]), HOUR, tmp_path / "new")


# --- in the place of the old one


def test_a_proxy_is_replaced_at_once_through_links_and_nothing_is_left_behind(long_proxy, proxy, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(proxy)
    before = proxy.stat().st_ino
    names = {path.name for path in tmp_path.iterdir()}
    renewal.replace(link, Source(long_proxy=str(long_proxy)), 12 * HOUR)
    assert link.is_symlink() and proxy.stat().st_ino != before
    assert hours_left(proxy) == pytest.approx(12, abs=0.1)
    assert stat.S_IMODE(proxy.stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == names


def refused(path, source, told, **options):
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(renewal.Refused, match=told):
        renewal.replace(path, source, 12 * HOUR, **options)
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_proxy_is_not_replaced_by_another_persons(authority, proxy, tmp_path):
    john = save(proxy_by_hand(authority.credential(JOHN), seconds=5 * DAY), tmp_path / "john.pem")
    source = Source(long_proxy=str(john))
    refused(proxy, source, f"gives proxies of {JOHN}, and the run reads as {JANE}")
    refused(tmp_path / "gone", source, f"the run reads as {JANE}", identity=JANE)


def test_a_proxy_is_not_replaced_by_one_that_ends_no_later(jane, proxy, tmp_path):
    source = Source(long_proxy=str(save(proxy_by_hand(jane, seconds=HOUR), tmp_path / "long.pem")))
    again = "make a new one with `mlaas-condor proxy init --hours 168 --out"
    for least in (60.0, 0.0):
        refused(proxy, source, f"gives nothing that lasts longer than .*; {again}", least=least)
    longer = save(proxy_by_hand(jane, seconds=HOUR + 20), tmp_path / "longer.pem")
    refused(proxy, Source(long_proxy=str(longer)), "gives nothing that lasts longer")
    renewal.replace(proxy, Source(long_proxy=str(longer)), 12 * HOUR, least=0.0)
    assert certificates.load(proxy).ends == certificates.load(longer).ends


def test_who_asked_for_too_short_a_proxy_is_told_to_ask_for_more(jane, long_proxy, tmp_path):
    path = save(proxy_by_hand(jane, begins=0, seconds=20 * HOUR), tmp_path / "x509up")
    refused(path, Source(long_proxy=str(long_proxy)), "; ask for more with --hours$", least=0.0)


def test_a_copy_of_the_proxy_in_place_is_no_renewal(proxy, tmp_path):
    copying = program(tmp_path / "bin", "make", f'cp {proxy} "$1"')
    source = Source(command=[str(copying), "{out}"])
    for least in (60.0, 0.0):
        refused(proxy, source, "gives the very proxy that is in place; it has to give", least=least)


def test_a_proxy_is_not_replaced_by_one_of_another_authority(proxy, tmp_path):
    other = Authority(tmp_path / "other", "/DC=test/CN=Other CA")
    made = save(proxy_by_hand(other.credential(JANE), seconds=5 * DAY), tmp_path / "other.pem")
    assert certificates.load(made).identity == JANE
    told = "that /DC=test/CN=Other CA issued, and that of the proxy in place is of /DC=test/CN=Test CA; if"
    refused(proxy, Source(long_proxy=str(made)), told)


def test_a_proxy_without_the_certificate_of_the_person_replaces_none(jane, proxy, tmp_path):
    whole = proxy_by_hand(jane, seconds=5 * DAY)
    part = save(certificates.Credential(whole.chain[:1], whole.key), tmp_path / "part.pem")
    assert certificates.load(part).identity == JANE
    refused(proxy, Source(command=["cp", str(part), "{out}"]), "a certificate that nobody known issued")
    longer = save(proxy_by_hand(jane, seconds=6 * DAY), tmp_path / "longer.pem")
    renewal.replace(part, Source(command=["cp", str(longer), "{out}"]), 12 * HOUR)


def test_a_proxy_of_another_user_is_left_to_that_user(long_proxy, proxy, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    refused(proxy, Source(long_proxy=str(long_proxy)), "let that user renew it")


def test_a_place_that_cannot_be_written_is_told(long_proxy, tmp_path):
    with pytest.raises(CannotWrite, match="cannot be replaced"):
        renewal.replace(tmp_path / "none" / "x509up", Source(long_proxy=str(long_proxy)), HOUR)


@pytest.fixture
def with_attributes(authority, tmp_path):
    """Return a proxy with attributes of cms for some hours, from the program that makes them for tests."""
    if not shutil.which("voms-proxy-fake"):
        pytest.skip("voms-proxy-fake is not installed")

    def make(name, hours=12):
        certificate, key = authority.pair(JANE)
        host, host_key = authority.pair("/DC=test/CN=voms.test", stem="host")
        path = tmp_path / name
        subprocess.run(
            ["voms-proxy-fake", "-cert", certificate, "-key", key, "-hostcert", host, "-hostkey", host_key,
             "-voms", "cms", "-fqan", "/cms/Role=NULL/Capability=NULL", "-uri", "voms.test:15000", "-rfc",
             "-bits", "2048", "-hours", str(hours), "-vomslife", str(hours), "-out", path],
            env={**os.environ, "X509_CERT_DIR": str(authority.certificates)}, check=True, capture_output=True,
        )  # fmt: skip
        return path

    return make


def test_attributes_are_not_lost_and_their_end_counts(with_attributes, long_proxy, tmp_path):
    path = with_attributes("x509up", hours=10)
    refused(path, Source(long_proxy=str(long_proxy)), r'without the VOMS attributes of cms.*voms = "cms"')
    long = with_attributes("long", hours=100)
    renewal.replace(path, Source(long_proxy=str(long)), 12 * HOUR)
    found = certificates.load(path)
    assert certificates.voms(found)[0] == ["/cms"]
    assert renewal.lasts(found) <= found.ends


def test_due_is_what_has_less_than_half_of_its_life_or_less_than_asked_for(jane):
    proxy, now = proxy_by_hand(jane, begins=0, seconds=12 * HOUR), time.time()
    assert not renewal.is_due(proxy, None, now + 5.9 * HOUR)
    assert renewal.is_due(proxy, None, now + 6.1 * HOUR)
    assert not renewal.is_due(proxy, 2 * HOUR, now + 9.9 * HOUR)
    assert renewal.is_due(proxy, 2 * HOUR, now + 10.1 * HOUR)


# --- not too often


@given(failures=some.integers(0, 2000))
def test_back_off_never_shrinks_and_never_exceeds_an_hour(failures):
    assert backoff.wait_seconds(failures) <= backoff.wait_seconds(failures + 1) <= HOUR


def test_back_off_doubles_from_a_minute_and_ends_with_a_success(tmp_path):
    assert [backoff.wait_seconds(n) / 60 for n in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    back = backoff.BackOff(tmp_path / "state.json")
    back.check(0)
    for _ in range(3):
        back.failed(1000, CredentialFault("the server is down"))
    with pytest.raises(backoff.TooSoon, match=r"the server is down \(failed 3 times; not asked again before"):
        back.check(1000 + 239)
    back.check(1000 + 241)
    back.check(999)  # the clock was set back
    back.succeeded()
    back.check(1001)
    assert list(tmp_path.iterdir()) == []


def test_back_off_survives_a_damaged_file(tmp_path):
    path = tmp_path / "state.json"
    path.write_text("{")
    back = backoff.BackOff(path)
    back.check(time.time())
    back.failed(time.time(), CredentialFault("no"))
    assert back.read().failures == 1


def test_a_source_that_was_mended_is_another_one(long_proxy):
    source = Source(long_proxy=str(long_proxy))
    before = source.fingerprint
    assert source.fingerprint == before
    os.utime(long_proxy, (1, 1))
    assert source.fingerprint != before


# --- the runs


@pytest.fixture
def home(tmp_path):
    return settings.load(home=str(tmp_path / "home"))


@pytest.fixture
def living(home, proxy):
    """Make runs that are alive, without HTCondor, and read with a proxy."""
    locks = []

    def make(name="tth_1", proxy=proxy, identity=JANE):
        folder = home.runs / name
        (folder / "logs").mkdir(parents=True)
        (folder / "run.dag").touch()
        note = {"time": time.time(), "event": "started", "failure": None}
        (folder / "local.log").write_text(json.dumps(note) + "\n")
        Credentials(proxy=str(proxy), identity=identity, stages=["specs"]).write(folder / "credentials.json")
        lock = (folder / "local.lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        locks.append(lock)
        return name

    yield make
    for lock in locks:
        lock.close()


def use(long_proxy):
    write_toml(f'[renewal]\nlong_proxy = "{long_proxy}"\n')


def test_all_living_runs_get_a_fresh_proxy_once_and_the_log_says_so(home, living, proxy, long_proxy):
    living("tth_1"), living("tth_2")
    living("none_1", proxy="")
    use(long_proxy)
    said = []
    first, second = renewing.renew(None, home, say=said.append)
    assert (first.run, second.run) == ("tth_1", "tth_2")
    assert first.renewed and not first.error and first.identity == JANE
    assert first.ends == pytest.approx(time.time() + 12 * HOUR, abs=60)
    log = renewing.log_file(home).read_text()
    assert log.splitlines() == said and len(said) == 2
    assert f"tth_1: renewed the proxy of {JANE}, valid until" in said[0]
    assert "PRIVATE" not in log
    before = proxy.stat().st_ino
    again = renewing.renew(None, home, say=said.append)
    assert not any(each.renewed or each.error for each in again)
    assert proxy.stat().st_ino == before and len(said) == 2


def test_a_new_proxy_in_place_needs_no_source_and_an_old_one_says_how_to_get_one(home, living, proxy, jane):
    living()
    [old] = renewing.renew(["tth_1"], home)
    assert "lasts only 59 min more" in old.error and "nothing says how to renew it" in old.error
    assert "mlaas-condor proxy init" in old.error and "renewal.toml" in old.error
    save(proxy_by_hand(jane, begins=0, seconds=12 * HOUR), proxy)
    [new] = renewing.renew(["tth_1"], home)
    assert not new.error and not new.renewed
    assert str(new).startswith(f"tth_1: the proxy of {JANE} needs no renewal, valid until")
    proxy.unlink()
    [gone] = renewing.renew(["tth_1"], home)
    assert "there is no usable proxy in" in gone.error and gone.ends is None


def test_a_proxy_that_vanished_comes_back_as_the_same_persons_only(home, living, proxy, long_proxy):
    proxy.unlink()
    living(identity=JOHN)
    use(long_proxy)
    [wrong] = renewing.renew(None, home)
    assert f"gives proxies of {JANE}, and the run reads as {JOHN}" in wrong.error and not proxy.exists()
    shutil.rmtree(home.runs / "tth_1")
    living("tth_2")
    [right] = renewing.renew(None, home)
    assert right.renewed and proxy.exists()


def test_a_new_proxy_of_somebody_else_in_place_is_an_error(home, living, proxy, authority):
    living()
    save(proxy_by_hand(authority.credential(JOHN), begins=0, seconds=12 * HOUR), proxy)
    [outcome] = renewing.renew(None, home)
    assert f"the proxy in place is of {JOHN}, and the run reads as {JANE}" in outcome.error
    assert (outcome.identity, outcome.ends) == (JANE, None)


def test_one_proxy_that_cannot_be_renewed_does_not_stop_the_others(
    home, living, proxy, long_proxy, authority, tmp_path
):
    johns = proxy_by_hand(authority.credential(JOHN), begins=-11 * HOUR, seconds=HOUR)
    living("a_1", proxy=save(johns, tmp_path / "johns"), identity=JOHN)
    living("b_1")
    use(long_proxy)
    wrong, right = renewing.renew(None, home)
    assert "gives proxies of" in wrong.error and wrong.ends == pytest.approx(johns.ends, abs=1)
    assert right.renewed and not right.error


def test_a_failed_source_is_left_alone_for_a_while_but_not_when_it_must_be(home, living, proxy, tmp_path):
    living()
    count = tmp_path / "count"
    broken = program(tmp_path / "bin", "make", f"echo x >> {count}; exit 1")
    write_toml(f'[renewal]\ncommand = ["{broken}", "{{out}}"]\n')
    said = []
    for _ in range(3):
        [outcome] = renewing.renew(None, home, say=said.append)
    assert "not asked again before" in outcome.error
    log = renewing.log_file(home).read_text().splitlines()
    assert len(count.read_text().split()) == 1 and len(log) == 1
    assert said == [], "what goes wrong is told by whoever called, once"
    renewing.renew(None, home, now=True)
    assert len(count.read_text().split()) == 2


def test_now_renews_what_is_not_due(home, living, proxy, long_proxy, jane):
    living()
    use(long_proxy)
    save(proxy_by_hand(jane, begins=0, seconds=10 * HOUR), proxy)
    assert not renewing.renew(None, home)[0].renewed
    assert renewing.renew(None, home, now=True)[0].renewed
    assert hours_left(proxy) == pytest.approx(12, abs=0.1)


def test_now_does_not_make_a_proxy_shorter(home, living, proxy, long_proxy, jane):
    living()
    use(long_proxy)
    before = save(proxy_by_hand(jane, begins=0, seconds=20 * HOUR), proxy).read_bytes()
    said = []
    [outcome] = renewing.renew(None, home, now=True, say=said.append)
    assert not outcome.renewed and outcome.error.endswith("ask for more with --hours")
    assert proxy.read_bytes() == before and said == []
    assert outcome.ends == pytest.approx(time.time() + 20 * HOUR, abs=60)


def test_the_log_is_for_its_owner_only_also_one_of_before(home, living, proxy, long_proxy):
    living()
    use(long_proxy)
    path = renewing.log_file(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("before\n")
    path.chmod(0o644)
    renewing.renew(None, home)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("before\n") and "renewed" in path.read_text()
    path.unlink()
    renewing.renew(None, home, now=True, hours=14)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and "renewed" in path.read_text()


def test_two_at_a_time_ask_the_source_once(home, living, proxy, long_proxy, tmp_path):
    living()
    count = tmp_path / "count"
    slow = program(tmp_path / "bin", "make", f'echo x >> {count}; sleep 0.5; cp {long_proxy} "$1"')
    write_toml(f'[renewal]\ncommand = ["{slow}", "{{out}}"]\n')
    found = []
    threads = [threading.Thread(target=lambda: found.extend(renewing.renew(None, home))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.renewed for outcome in found) == [False, False, True]
    assert not any(outcome.error for outcome in found)
    assert len(count.read_text().split()) == 1


def test_runs_that_are_over_or_use_no_proxy_are_told_when_named(home, living, long_proxy):
    living("none_1", proxy="")
    with pytest.raises(WrongState, match="none_1 uses no proxy"):
        renewing.renew(["none_1"], home)
    Credentials(token="bearer.token").write(home.runs / "none_1" / "credentials.json")
    with pytest.raises(WrongState, match=r"a token: put a new one into .*none_1/bearer\.token, then run"):
        renewing.renew(["none_1"], home)
    living("over_1")
    (home.runs / "over_1" / "local.lock").unlink()
    with pytest.raises(WrongState, match="over_1 is not running: `mlaas-condor resume over_1`"):
        renewing.renew(["over_1"], home)
    assert renewing.renew(None, home) == []


@pytest.mark.parametrize(("hours", "below"), [(12, 12), (float("nan"), None), (0, None), (1, float("nan"))])
def test_hours_that_would_renew_for_ever_are_refused(home, hours, below):
    with pytest.raises(WrongSetting, match=r"--below|--hours"):
        renewing.renew(None, home, hours, below)


# --- the commands


@pytest.fixture
def call(capsys, monkeypatch):
    """Run a command of the group as the program does; give exit code, stdout and stderr."""
    import signal

    import typer

    from mlaas_condor.cli import common
    from mlaas_condor.cli import renewing as commands
    from mlaas_condor.errors import MlaasError

    app = typer.Typer()
    commands.add_to(app)
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments):
        try:
            code = app(list(map(str, arguments)), standalone_mode=False) or 0
        except MlaasError as error:
            common.show_error(error)
            code = error.exit_code
        return (code, *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)


def test_the_command_is_made_for_cron(call, living, proxy, long_proxy, home, monkeypatch):
    monkeypatch.setenv("MLAAS_CONDOR_HOME", str(home.home))
    living()
    use(long_proxy)
    code, out, err = call("renew", "--all", "--hours", 10)
    assert (code, err) == (0, "") and f"tth_1: renewed the proxy of {JANE}" in out
    assert call("renew", "--all") == (0, "", "")
    code, out, err = call("renew", "tth_1")
    assert code == 0 and "needs no renewal" in out
    code, out, _ = call("renew", "--all", "--json")
    assert json.loads(out)[0]["identity"] == JANE
    long_proxy.unlink()
    code, out, err = call("renew", "--all", "--below", 11)
    assert code == 29 and err.startswith("error: tth_1: there is no ") and "long_proxy in renewal.toml" in err


def test_what_goes_wrong_is_told_once_and_without_what_a_program_said(
    call, living, proxy, home, monkeypatch, tmp_path
):
    monkeypatch.setenv("MLAAS_CONDOR_HOME", str(home.home))
    living()
    broken = program(tmp_path / "bin", "make", 'echo "token hunter2"; echo "password hunter2" >&2; exit 3')
    write_toml(f'[renewal]\ncommand = ["{broken}", "{{out}}"]\n')
    code, out, err = call("renew", "--all")
    assert (code, out) == (29, "") and err.count("\n") == 1
    assert err.startswith("error: tth_1: make ended with exit code 3; what it said is not shown")
    log = renewing.log_file(home).read_text()
    assert log.count("ended with exit code 3") == 1
    kept = [path.read_text() for path in (home.home / "renewal").iterdir()]
    assert "hunter2" not in "".join([out, err, log, *kept])
    code, out, err = call("renew", "--all", "--json", "--now")
    assert code == 29 and err == "" and "exit code 3" in json.loads(out)[0]["error"]


def test_what_was_renewed_is_told_apart_from_what_went_wrong_after_it(
    call, living, proxy, long_proxy, home, monkeypatch
):
    monkeypatch.setenv("MLAAS_CONDOR_HOME", str(home.home))
    living()
    use(long_proxy)

    def told(self, outcome, *_):
        return renewing.replace(outcome, error="the pool does not answer")

    monkeypatch.setattr(renewing._Keeper, "_told", told)
    code, out, err = call("renew", "--all")
    assert code == 29 and "renewed the proxy" in out and "answer" not in out
    assert err == "error: tth_1: the pool does not answer\n"
    assert "error: the pool does not answer" in renewing.log_file(home).read_text()


def test_commands_that_submit_nothing_do_not_say_that_nothing_was_submitted(call, proxy):
    path = write_toml('[renewal]\nlong_prox = "/a"\n')
    code, out, err = call("renew", "--all")
    assert (code, out) == (2, "")
    assert err == f"error: {path}: [renewal]: unknown key 'long_prox' (did you mean long_proxy?)\n"
    code, out, err = call("delegate", "--server", "mlaas.example.org", "--proxy", proxy)
    assert (code, out) == (2, "") and err.startswith("error: --server: 'mlaas.example.org' is no address")
    code, out, err = call("renew", "--all", "--hours", "5", "--below", "6")
    assert code == 2 and err.startswith("error: --below: ")


def test_the_command_wants_names_or_all(call):
    for arguments in ([], ["tth_1", "--all"]):
        with pytest.raises(typer.BadParameter, match="name runs, or give --all"):
            call("renew", *arguments)


def test_the_loop_ends_when_the_run_does(call, living, proxy, long_proxy, home, monkeypatch):
    monkeypatch.setenv("MLAAS_CONDOR_HOME", str(home.home))
    living()
    use(long_proxy)
    rounds = []

    def sleep(seconds):
        rounds.append(seconds)
        if len(rounds) == 2:
            (home.runs / "tth_1" / "local.lock").unlink()

    monkeypatch.setattr(time, "sleep", sleep)
    code, out, err = call("renew", "tth_1", "--loop", "--every", 5)
    assert code == 0 and rounds == [300, 300]
    assert "renewed" in out and "is not running" in err


@pytest.fixture
def rounds(monkeypatch):
    """Do something between two rounds of the loop, one after the other, instead of waiting."""

    def between(*acts):
        left = list(acts)
        monkeypatch.setattr(time, "sleep", lambda _: left.pop(0)())
        return left

    return between


def test_the_loop_goes_on_for_the_others_when_one_run_is_over(
    call, living, proxy, long_proxy, home, monkeypatch, rounds
):
    monkeypatch.setenv("MLAAS_CONDOR_HOME", str(home.home))
    for number in (1, 2, 3):
        living(f"tth_{number}")
    use(long_proxy)
    left = rounds(
        (home.runs / "tth_1" / "local.lock").unlink,
        lambda: shutil.rmtree(home.runs / "tth_3"),
        proxy.unlink,  # which is made again for the one that is left
        (home.runs / "tth_2" / "local.lock").unlink,
    )
    code, out, err = call("renew", "tth_1", "tth_2", "tth_3", "--loop")
    assert code == 0 and left == [] and proxy.exists()
    assert out.count("tth_1 is not running") == 1, "told once"
    assert out.count("no run 'tth_3'") == 1
    assert out.count("tth_2: renewed the proxy") == 2
    assert err == "tth_2 is not running: `mlaas-condor resume tth_2` takes the proxy as it is\n"


def test_the_loop_ends_with_29_where_the_last_that_was_done_for_a_run_went_wrong(
    call, living, proxy, home, monkeypatch, rounds
):
    monkeypatch.setenv("MLAAS_CONDOR_HOME", str(home.home))
    living("tth_1"), living("tth_2")
    left = rounds((home.runs / "tth_1" / "local.lock").unlink, (home.runs / "tth_2" / "local.lock").unlink)
    code, _, err = call("renew", "tth_1", "tth_2", "--loop")
    assert code == 29 and left == [] and "error: tth_2: the proxy in" in err


def test_what_can_pass_does_not_end_the_loop_in_the_first_round_neither(
    call, living, proxy, long_proxy, home, monkeypatch, rounds
):
    monkeypatch.setenv("MLAAS_CONDOR_HOME", str(home.home))
    living()
    use(long_proxy)
    states = renewing.runs.states
    calls = []

    def away(*arguments):
        calls.append(arguments)
        if len(calls) in (1, 3):
            raise PoolUnreachable("HTCondor does not answer")
        return states(*arguments)

    monkeypatch.setattr(renewing.runs, "states", away)
    left = rounds(lambda: None, lambda: None, (home.runs / "tth_1" / "local.lock").unlink)
    code, out, err = call("renew", "tth_1", "--loop", "--now")
    assert code == 0 and left == []
    assert err.count("error: HTCondor does not answer") == 2
    assert out.count("renewed the proxy") == 1, "--now is for the first round that there is"


def test_the_loop_does_not_begin_with_what_is_wrong_with_the_command(call, living, home, monkeypatch, rounds):
    monkeypatch.setenv("MLAAS_CONDOR_HOME", str(home.home))
    living()
    left = rounds()
    assert call("renew", "none_1", "--loop")[0] == 5
    assert call("renew", "tth_1", "--loop", "--hours", "5", "--below", "6")[0] == 2
    (home.runs / "tth_1" / "local.lock").unlink()
    assert call("renew", "tth_1", "--loop")[0] == 6
    assert left == []


def test_a_renewal_file_that_gets_wrong_meanwhile_does_not_end_the_loop(
    call, living, proxy, long_proxy, home, monkeypatch, rounds
):
    monkeypatch.setenv("MLAAS_CONDOR_HOME", str(home.home))
    living()
    use(long_proxy)
    rounds(
        lambda: write_toml('[renewal]\nvoms = "cms"\n'),
        (home.runs / "tth_1" / "local.lock").unlink,
        lambda: use(long_proxy),
    )
    code, _, err = call("renew", "tth_1", "--loop")
    assert code == 0 and err.count("names no source") == 2 and "is not running" in err


@pytest.mark.parametrize("damage", ["{", '{"proxy": 3}', None])
def test_a_run_whose_credentials_are_damaged_is_as_one_that_uses_none(home, living, long_proxy, damage):
    living("bad_1"), living("good_1")
    use(long_proxy)
    path = home.runs / "bad_1" / "credentials.json"
    path.unlink()
    if damage:
        path.write_text(damage)
    assert Credentials.of(path) == Credentials()
    [outcome] = renewing.renew(None, home)
    assert outcome.run == "good_1" and outcome.renewed
    with pytest.raises(WrongState, match="bad_1 uses no proxy"):
        renewing.renew(["bad_1"], home)


def test_the_units_and_the_page_call_commands_that_there_are(call):
    root = Path(__file__).parents[3]
    unit = (root / "images/renewal/mlaas-condor-renew.service").read_text()
    timer = (root / "images/renewal/mlaas-condor-renew.timer").read_text()
    assert "proxy renew --all" in unit and "OnCalendar=*:0/10" in timer
    page = (root / "docs/renewal.md").read_text()
    for key in (*Source.model_fields, *MyProxy.model_fields):
        assert f"`{key}`" in page, key
