"""Which service is meant, and which token goes to it."""

import base64
import json
import time

import pytest

from mlaas_condor import settings
from mlaas_condor.client import profiles
from mlaas_condor.errors import CredentialFault
from mlaas_condor.grid.renewal import WrongSetting

URL = "https://mlaas.example.org"


@pytest.fixture
def write():
    """Write the user's file."""

    def to(text):
        path = settings.user_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return to


@pytest.fixture
def no_token(tmp_path, monkeypatch):
    """No token in any of the usual places."""
    from mlaas_condor.grid import tokens

    monkeypatch.setattr(tokens, "_LAST", str(tmp_path / "bt_u{}"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


def jwt(**claims):
    parts = [
        base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=") for each in ({}, claims)
    ]
    return ".".join([*parts, "signature"])


def test_without_anything_it_is_this_machine():
    assert profiles.find() is None


def test_the_flag_comes_before_the_environment_and_that_before_the_file(write, monkeypatch):
    path = write(f'server = "{URL}/file"')
    found = profiles.find()
    assert (found.url, found.origin) == (f"{URL}/file", str(path))
    monkeypatch.setenv("MLAAS_CONDOR_SERVER", f"{URL}/environment/")
    found = profiles.find()
    assert (found.url, found.origin) == (f"{URL}/environment", "MLAAS_CONDOR_SERVER")
    assert profiles.find(f"{URL}/flag").url == f"{URL}/flag"
    assert profiles.find("local") is None
    monkeypatch.setenv("MLAAS_CONDOR_SERVER", "local")
    assert profiles.find() is None


def test_a_profile_is_found_by_its_name(write, tmp_path):
    (tmp_path / "token").write_text("theirs\n")
    write(
        f'server = "infn"\n[servers.infn]\nurl = "{URL}/"\ntoken_file = "{tmp_path}/token"\n'
        '[servers.cern]\nurl = "https://cern.example.org"\n'
    )
    found = profiles.find()
    assert (found.url, found.name, found.token()) == (URL, "infn", "theirs")
    assert profiles.find("cern").url == "https://cern.example.org"
    with pytest.raises(WrongSetting, match=r"'ifn' is no address, and no profile.*did you mean 'infn'"):
        profiles.find("ifn")


def test_these_keys_are_no_unknown_settings(write):
    write(f'server = "infn"\n[servers.infn]\nurl = "{URL}"\n')
    assert settings.load().memory_mb == 512


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("server = 3", "3 is no address and no name"),
        ('servers = "infn"', "'infn' is no section"),
        ('[servers]\ninfn = "https://x"', "is no section"),
        ("[servers.infn]\n", "needs url"),
        ("[servers.infn]\nurl = 3\n", "needs url"),
        (
            '[servers.infn]\nurl = "https://x"\ntoken_fil = "y"',
            "unknown key 'token_fil' .did you mean 'token_file'",
        ),
        ('[servers.local]\nurl = "https://x"', "'local' means this machine"),
        ('server = "infn"\n[servers.infn]\nurl = "http://x.example.org"', "is not https"),
        ('server = "infn"\n[servers.infn]\nurl = "x.example.org"', "is no address"),
    ],
)
def test_what_is_wrong_with_the_file_is_told(write, text, told):
    path = write(text)
    with pytest.raises(WrongSetting, match=told) as error:
        profiles.find()
    assert error.value.exit_code == 2 and str(path) in str(error.value)


@pytest.mark.parametrize(
    "url", ["http://mlaas.example.org", "ftp://x", "https://", "https://jane:secret@x.org"]
)
def test_addresses_that_are_not_safe_are_refused(url):
    with pytest.raises(WrongSetting, match="--server") as error:
        profiles.find(url)
    assert "secret" not in str(error.value)


def test_the_token_meant_for_it_comes_before_any_other(write, tmp_path, monkeypatch, no_token):
    for name in ("flag", "profile", "bearer"):
        (tmp_path / name).write_text(f"{name}\n")
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "bearer"))
    assert profiles.find(URL).token() == "bearer"
    monkeypatch.setenv("BEARER_TOKEN", "variable")
    assert profiles.find(URL).token() == "variable"
    write(f'[servers.infn]\nurl = "{URL}"\ntoken_file = "{tmp_path}/profile"\n')
    assert profiles.find("infn").token() == "profile"
    monkeypatch.setenv("MLAAS_CONDOR_TOKEN", "ours")
    assert profiles.find("infn").token() == profiles.find(URL).token() == "ours"
    assert profiles.find("infn", str(tmp_path / "flag")).token() == "flag"


def test_there_need_not_be_one(no_token):
    assert profiles.find(URL).token() == ""


def test_a_token_that_is_no_use_is_not_sent(tmp_path, monkeypatch, no_token):
    monkeypatch.setenv("MLAAS_CONDOR_TOKEN", jwt(exp=time.time() - 60))
    with pytest.raises(CredentialFault, match=r"the token of MLAAS_CONDOR_TOKEN ended on .*get a new one"):
        profiles.find(URL).token()
    monkeypatch.setenv("MLAAS_CONDOR_TOKEN", jwt(exp=time.time() + 60))
    assert profiles.find(URL).token()
    monkeypatch.setenv("MLAAS_CONDOR_TOKEN", "se cret\r\nX: y")
    with pytest.raises(CredentialFault, match="holds no token") as error:
        profiles.find(URL).token()
    assert "cret" not in str(error.value)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, told in (("none", "No such file"), ("empty", "holds no token"), ("binary", "it is no text")):
        with pytest.raises(CredentialFault, match=told):
            profiles.find(URL, str(tmp_path / name)).token()
