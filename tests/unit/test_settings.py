"""Settings: which layer wins, where a value came from, and what is said of the wrong ones."""

import os
import sys
from pathlib import Path

import pytest

from mlaas_condor import settings
from mlaas_condor.errors import RequestError


@pytest.fixture
def write_user_file():
    """Write the user's settings file."""

    def write(text):
        path = settings.user_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_defaults_and_their_origin(monkeypatch, tmp_path):
    monkeypatch.delenv("MLAAS_CONDOR_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    found = settings.load()
    assert found.home == tmp_path / "mlaas-condor"
    assert found.runs == found.home / "runs" and found.store == found.home / "store"
    assert (found.pool, found.site, found.python) == ("auto", "auto", sys.executable)
    assert found.origins["home"] == "default"
    assert found.origins["job_seconds"] == "site profile personal"


def test_folders_fall_back_to_those_of_the_home_folder(monkeypatch, tmp_path):
    for name in ("MLAAS_CONDOR_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings.load().home == tmp_path / ".local/share/mlaas-condor"
    assert settings.load().cache == tmp_path / ".cache/mlaas-condor"
    assert settings.user_file() == tmp_path / ".config/mlaas-condor/config.toml"


def test_flag_beats_environment_beats_user_file_beats_site_beats_default(monkeypatch, write_user_file):
    def now(**flags):
        found = settings.load(**flags)
        return found.job_seconds, found.origins["job_seconds"]

    assert now()[1] == "site profile personal"
    path = write_user_file("job_seconds = 30\n")
    assert now() == (30, str(path))
    monkeypatch.setenv("MLAAS_CONDOR_JOB_SECONDS", "40")
    assert now() == (40, "environment")
    assert now(job_seconds=50) == (50, "flag")
    assert now(job_seconds=None) == (40, "environment")


def test_empty_variable_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("MLAAS_CONDOR_HOME", "")
    assert settings.load().origins["home"] == "default"


def test_paths_are_absolute_and_know_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert settings.load(home="here").home == tmp_path / "here"
    assert settings.load(home="~/runs").home == tmp_path / "me/runs"
    assert isinstance(settings.load(home=Path("x")).home, Path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pool", "theirs"),
        ("pool", ""),
        ("python", ""),
        ("home", ""),
        ("home", "~no-such-user-here/x"),
        ("home", 5),
        ("job_seconds", "soon"),
        ("job_seconds", 0),
        ("job_seconds", -1),
        ("job_seconds", "nan"),
        ("job_seconds", "inf"),
        ("job_seconds", True),
        ("memory_mb", 0.5),
        ("memory_mb", "inf"),
        ("memory_mb", []),
    ],
)
def test_bad_value_names_setting_and_origin(name, value):
    with pytest.raises(RequestError) as caught:
        settings.load(**{name: value})
    assert f"settings: {name}" in str(caught.value)
    assert "given by flag" in str(caught.value)


def test_all_bad_values_come_at_once(monkeypatch, write_user_file):
    monkeypatch.setenv("MLAAS_CONDOR_MEMORY_MB", "much")
    path = write_user_file('pool = "theirs"\nhoem = "/x"\n')
    with pytest.raises(RequestError) as caught:
        settings.load(job_seconds=-1)
    said = str(caught.value)
    assert len(caught.value.problems) == 4
    assert f"hoem: no such setting, given by {path}" in said and "known: home" in said
    assert "'much' is not a positive whole number, given by environment" in said


def test_unknown_flag_and_unknown_site():
    with pytest.raises(RequestError, match="no such setting, given by flag"):
        settings.load(hoem="/x")
    with pytest.raises(RequestError, match=r"no profile 'cern' \(there is .*personal"):
        settings.load(site="cern")


@pytest.mark.parametrize("text", ["home = ", b"\xff\xfe", "[home\n"])
def test_broken_user_file_is_named(write_user_file, text):
    path = write_user_file(text)
    with pytest.raises(RequestError, match="cannot be read") as caught:
        settings.load()
    assert str(path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_user_file_that_may_not_be_read(write_user_file):
    write_user_file("pool = 'auto'").chmod(0)
    with pytest.raises(RequestError, match="cannot be read"):
        settings.load()


def test_a_sites_pool_has_longer_jobs_than_ones_own(monkeypatch, tmp_path):
    assert settings.load().job_seconds == 20
    config = tmp_path / "condor_config"
    config.write_text("DAEMON_LIST = SCHEDD\n")
    monkeypatch.setenv("CONDOR_CONFIG", str(config))
    assert settings.load().job_seconds == settings.load(pool="site").job_seconds == 600
    assert settings.load(pool="personal").job_seconds == 20
    config.write_text("MLAAS_CONDOR_PERSONAL_POOL = True\n")
    assert settings.load().job_seconds == 20
