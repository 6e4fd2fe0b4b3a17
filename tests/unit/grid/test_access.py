"""With which credentials a run reads storage: which of them have to do, and which are only warned of."""

from __future__ import annotations

import os

import pytest
from credential_tools import HOUR, Authority, proxy_by_hand, save, token_text

from mlaas_condor import access
from mlaas_condor.confinement import Confinement
from mlaas_condor.errors import CredentialFault
from mlaas_condor.grid import certificates, proxy
from mlaas_condor.grid.credentials import Credentials
from mlaas_condor.request import Request
from mlaas_condor.run import RunFolder

REMOTE = ["root://storage.test//store/user/jane/a.root"]


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(proxy, "_DEFAULT", str(tmp_path / "x509up_u{}"))
    monkeypatch.setattr("mlaas_condor.grid.tokens._LAST", str(tmp_path / "bt_u{}"))


@pytest.fixture(scope="module")
def jane(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority")).credential()


@pytest.fixture
def give(tmp_path, jane, monkeypatch):
    """Put a proxy into the environment; give its path."""

    def put(seconds=HOUR, name="proxy", mode=0o600):
        made = certificates.make_proxy(jane, seconds) if seconds > 0 else proxy_by_hand(jane, seconds=seconds)
        path = save(made, tmp_path / name, mode)
        monkeypatch.setenv("X509_USER_PROXY", str(path))
        return path

    return put


def found(lines=(), params=None, **job):
    """Return the access of a request, and the request, as it is told what is wrong."""
    raw = {"name": "a", "files": list(lines) or REMOTE, "labels": ["1"], "model": "m.py", **job}
    request = Request.of({**raw, "params": params or {}}, folder=os.getcwd())  # noqa: PTH109
    with access.kept():
        return access.find(request, raw["files"]), request


def problems(request):
    return [str(each) for each in request.problems]


def test_files_that_are_here_need_nobody(give, tmp_path):
    give(mode=0o644)
    (tmp_path / "a.root").touch()
    for lines in ([str(tmp_path / "a.root")], ["https://web.test/a.root"], [f"{tmp_path}/*.root"]):
        allowed, request = found(lines, params={"redirector": "root://r.test"})
        assert allowed == access.Access() and not request.problems


@pytest.mark.parametrize(
    "lines", [REMOTE, ["davs://s.test/a.csv"], ["https://w.test/a.root|root://s.test//a.root"]]
)
def test_whoever_reads_storage_shows_a_proxy(give, lines):
    path = give()
    allowed, request = found(lines)
    assert allowed.proxy.path == path and allowed.stages == ("specs", "preprocess") and not request.problems
    assert str(allowed).startswith("storage is read as /DC=test/CN=Jane Doe (proxy ")


def test_what_is_not_here_is_asked_of_the_redirector(give):
    give(mode=0o644)
    _, request = found(["/store/a.root"], params={"redirector": "root://r.test"})
    assert "chmod 600" in problems(request)[0]


def test_nobody_to_show_is_no_mistake_yet():
    allowed, request = found()
    assert allowed.stages and not allowed.proxy and not request.problems and not str(allowed)


def test_a_bad_token_beside_a_good_proxy_is_a_warning(give, monkeypatch):
    give()
    monkeypatch.setenv("BEARER_TOKEN", token_text(exp=1))
    _, request = found()
    assert not request.problems and "ended" in request.warnings[0]
    access._judge(request, found()[0], needed=10.0)
    assert len(request.warnings) == 1, "it is told once"


def test_a_token_that_is_none_beside_a_good_proxy_is_a_warning(give, monkeypatch):
    give()
    monkeypatch.setenv("BEARER_TOKEN", "not a token")
    _, request = found()
    assert not request.problems and request.warnings[0].startswith("token: ")


def test_a_bad_proxy_beside_a_good_token_is_a_warning(give, monkeypatch):
    give(mode=0o644)
    monkeypatch.setenv("BEARER_TOKEN", token_text())
    _, request = found()
    assert not request.problems and "chmod 600" in request.warnings[0]


def test_a_proxy_that_is_not_there_beside_a_good_token_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("X509_USER_PROXY", str(tmp_path / "none"))
    monkeypatch.setenv("BEARER_TOKEN", token_text())
    _, request = found()
    assert not request.problems and "there is no proxy" in request.warnings[0]


def test_where_neither_does_both_are_told(give, monkeypatch):
    give(mode=0o644)
    monkeypatch.setenv("BEARER_TOKEN", token_text(exp=1))
    said = problems(found()[1])
    assert len(said) == 2 and "chmod 600" in said[0] and "ended" in said[1]


def test_a_named_proxy_has_to_do_whatever_token_there_is(give, monkeypatch):
    path = give(name="named", mode=0o644)
    monkeypatch.delenv("X509_USER_PROXY")
    monkeypatch.setenv("BEARER_TOKEN", token_text())
    _, request = found(x509_proxy=str(path))
    assert "chmod 600" in problems(request)[0]
    path.chmod(0o600)
    monkeypatch.setenv("BEARER_TOKEN", token_text(exp=1))
    _, request = found(x509_proxy=str(path))
    assert not request.problems and "ended" in request.warnings[0]


def test_reading_and_writing_are_asked_of_the_token_each_where_it_is_needed(monkeypatch):
    store = {"chunk_store": "root://storage.test//store/user/jane/chunks"}
    monkeypatch.setenv(
        "BEARER_TOKEN", token_text(scope="storage.read:/store storage.modify:/store/user/jane/chunks")
    )
    allowed, request = found(**store)
    assert not request.problems and allowed.stages == ("specs", "preprocess", "train")
    monkeypatch.setenv("BEARER_TOKEN", token_text(scope="storage.read:/store"))
    assert "storage.modify" in problems(found(**store)[1])[0]
    monkeypatch.setenv("BEARER_TOKEN", token_text(scope="storage.modify:/store/user/jane/chunks"))
    assert "storage.read" in " ".join(problems(found(**store)[1]))


def test_a_token_that_the_pool_keeps_is_neither_looked_for_nor_handed_over(monkeypatch):
    monkeypatch.setenv("BEARER_TOKEN", token_text(exp=1))
    allowed, request = found(oauth_services=["wlcg"])
    assert allowed.token is None and not request.problems


@pytest.mark.parametrize("service", ["wlcg\nexecutable = /bin/false", "a b", "$(HOME)", "", "a*b*c"])
def test_names_of_services_are_names(service):
    request = Request.of(
        {"name": "a", "files": ["a"], "labels": ["1"], "model": "m.py", "oauth_services": [service]}
    )
    assert any("oauth_services" in each for each in problems(request))


@pytest.mark.parametrize("name", ["a proxy", "a,b", "$(x)", 'a"b', "a\nexecutable = /bin/false"])
def test_paths_that_htcondor_would_misread_are_refused(give, name):
    give(name=name.replace("/", "_"))
    assert "which HTCondor cannot pass on" in problems(found()[1])[0]


def test_the_next_request_has_credentials_of_its_own(give, monkeypatch):
    path = give()
    monkeypatch.delenv("X509_USER_PROXY")
    assert found(x509_proxy=str(path))[0].proxy
    assert "X509_USER_PROXY" not in os.environ and found()[0].proxy is None


def test_what_a_run_used_is_used_for_it_only(tmp_path, give, monkeypatch):
    path = give()
    monkeypatch.delenv("X509_USER_PROXY")
    run = RunFolder(tmp_path)
    Credentials(proxy=str(path), token="/nowhere", certificates=str(tmp_path)).write(run.credentials)
    with access.used(run):
        assert os.environ["X509_USER_PROXY"] == str(path) and os.environ["X509_CERT_DIR"] == str(tmp_path)
        assert "BEARER_TOKEN_FILE" not in os.environ, "what is not there any more would only hide others"
    assert "X509_USER_PROXY" not in os.environ and "X509_CERT_DIR" not in os.environ


def test_a_token_of_no_file_gets_one_for_its_owner_only(tmp_path, monkeypatch):
    monkeypatch.setenv("BEARER_TOKEN", token_text())
    run = RunFolder(tmp_path)
    kept = found()[0].credentials(run)
    assert kept.token == "bearer.token" and run.token.stat().st_mode & 0o777 == 0o600
    assert run.token.read_text().strip() == os.environ["BEARER_TOKEN"]


@pytest.mark.parametrize(("seconds", "said"), [(1800, "expires in"), (6 * HOUR, ""), (-5, "has expired")])
def test_status_tells_of_a_proxy_that_ends(tmp_path, jane, seconds, said):
    made = certificates.make_proxy(jane, max(seconds, 1))
    path = save(made, tmp_path / "proxy")
    if seconds < 0:
        os.utime(path)
        import time

        time.sleep(1.2)
    run = RunFolder(tmp_path / "run_1")
    run.path.mkdir()
    Credentials(proxy=str(path), stages=["specs"]).write(run.credentials)
    told = access.note(run, {"specs": 3, "train": 1})
    assert said in told and ("3 jobs" in told and "proxy renew run_1" in told if said else not told)
    assert access.note(run, {"specs": 0, "train": 1}) == ""


# ---- in a service, which reads for its users


def of_a_stranger(folder):
    """Return the access of a request that came to a service, and the request."""
    raw = {"name": "a", "files": REMOTE, "labels": ["1"], "model": "m.py"}
    request = Request.of(raw, folder, within=Confinement((folder,)))
    with access.kept():
        return access.find(request, raw["files"]), request


@pytest.mark.parametrize(
    ("seconds", "mode", "words"), [(-30, 0o600, "ended"), (HOUR, 0o640, "can be read by others")]
)
def test_a_user_is_told_of_the_proxy_that_was_delegated_not_of_our_file(give, tmp_path, seconds, mode, words):
    path = give(seconds, mode=mode)
    _, request = of_a_stranger(tmp_path)
    (problem,) = request.problems
    assert problem.where == "your delegated proxy" and words in problem.what
    assert problem.hint == "delegate a new one: mlaas-condor proxy delegate"
    assert str(path) not in str(problem) and "chmod" not in str(problem)


def test_a_delegated_proxy_that_is_damaged(tmp_path, monkeypatch):
    (tmp_path / "proxy").write_text("none")
    monkeypatch.setenv("X509_USER_PROXY", str(tmp_path / "proxy"))
    _, request = of_a_stranger(tmp_path)
    assert problems(request) == [
        "your delegated proxy: cannot be used (delegate a new one: mlaas-condor proxy delegate)"
    ]


def test_what_lies_in_the_usual_places_is_not_the_users(give, tmp_path, monkeypatch):
    give(name=f"x509up_u{os.getuid()}")
    monkeypatch.delenv("X509_USER_PROXY")
    (tmp_path / f"bt_u{os.geteuid()}").write_text(token_text())
    (tmp_path / f"bt_u{os.geteuid()}").chmod(0o600)
    allowed, _ = of_a_stranger(tmp_path)
    assert allowed.proxy and allowed.token
    monkeypatch.setenv(proxy.ONLY_NAMED, "1")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    allowed, request = of_a_stranger(tmp_path)
    assert not allowed.proxy and not allowed.token and not request.problems
    path = give()
    assert of_a_stranger(tmp_path)[0].proxy.path == path


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-30, "has expired"), (600, "expires in"), (2 * HOUR, ""), (None, "cannot be used")],
)
def test_a_run_of_a_service_asks_for_another_delegation(give, tmp_path, seconds, said):
    path = give(seconds or HOUR)
    if seconds is None:
        path.write_text("none")
    run = RunFolder(tmp_path / "run_1")
    run.path.mkdir()
    run.belongs.write_text("{}")
    Credentials(proxy=str(path), stages=["specs"]).write(run.credentials)
    told = access.note(run, {"specs": 3})
    assert said in told and str(path) not in told
    assert not said or ("`mlaas-condor proxy delegate`" in told and "its owner delegated" in told)
    if seconds in (600, 2 * HOUR):
        access.check_again(run, {"specs": 3})
        return
    with pytest.raises(CredentialFault, match="delegate; then: mlaas-condor resume run_1") as caught:
        access.check_again(run, {"specs": 3})
    assert str(path) not in str(caught.value)
