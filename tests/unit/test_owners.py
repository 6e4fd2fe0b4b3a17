"""Owners of runs: the names that folders, submit files and the pool's accounting have for them."""

from __future__ import annotations

import re
import stat
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from test_dag import CPU, small

from mlaas_condor import owners, settings
from mlaas_condor.batch import dag, queue
from mlaas_condor.errors import RequestError
from mlaas_condor.grid.credentials import Credentials
from mlaas_condor.request import Request
from mlaas_condor.run import STAGES

ODD = [
    "", ".", "..", "../jane", "Jane", "JANE", "jane.doe", "jane@site.example", "a/b", "a b", "x" * 300,
    "jäne", "-jane", "_", "jane\n", "jane\0", "\ud800", "CN=Jane Doe,O=Lab",
    "jane-0123456789abcdef0123", "群",
]  # fmt: skip


@pytest.mark.parametrize("owner", ["jane", "j", "0", "jane_doe", "jane-doe", "x" * 64])
def test_a_plain_name_stays(owner):
    assert owners.short_name(owner) == owner


@given(st.text() | st.sampled_from(ODD))
def test_a_short_name_can_be_held_by_all_that_must(owner):
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", owners.short_name(owner))


def test_no_two_owners_share_a_name():
    names = [*ODD, "jane", "JANE2", "jane2", *(owners.short_name(each) for each in ODD)]
    assert len({owners.short_name(each) for each in names}) == len(set(names))


@given(st.text() | st.sampled_from([*ODD, 'a"\nqueue 5\n', "$(HOME)", "\\", "50%", '"']))
def test_an_owner_in_a_submit_file_is_one_text_in_one_line(owner):
    shown = owners.in_ads(owner)
    if not owner:
        assert shown == "Owner"
        return
    assert re.fullmatch(r'"[^"\\$]*"', shown) and shown.isprintable() and len(shown.splitlines()) == 1


def test_what_is_shown_of_an_owner_can_be_read():
    assert owners.in_ads("jane@site.example") == '"jane@site.example"'
    assert owners.in_ads('J"$\n%') == '"J%22%24%0A%25"'
    assert owners.in_ads("Zoë|7") == '"Zoë|7"'


def test_runs_and_store_are_the_owners_and_the_pool_is_everybodys(tmp_path):
    from mlaas_condor.batch import pool

    shared = settings.load(home=str(tmp_path / "home"))
    jane = replace(shared, owner="Jane")
    assert shared.own == shared.home and shared.runs == shared.home / "runs"
    assert jane.own == shared.home / "users" / owners.short_name("Jane")
    assert (jane.runs, jane.store) == (jane.own / "runs", jane.own / "store")
    assert pool.folder(jane) == pool.folder(shared) == (shared.home / "pool").resolve()


def test_nobody_else_looks_into_the_folder_of_an_owner(tmp_path):
    shared = settings.load(home=str(tmp_path / "home"))
    jane = replace(shared, owner="jane")
    assert jane.make_own() == jane.make_own() == jane.own
    assert {stat.S_IMODE(path.stat().st_mode) for path in (jane.own, jane.own.parent)} == {0o700}
    assert shared.make_own() == shared.home


@pytest.mark.parametrize("how", ["flag", "environment", "file"])
def test_no_flag_variable_or_file_says_whose_the_runs_are(how, monkeypatch):
    path = settings.user_file()
    path.parent.mkdir(parents=True)
    if how == "environment":
        monkeypatch.setenv("MLAAS_CONDOR_OWNER", "jane")
        assert settings.load().owner == ""
        return
    if how == "file":
        path.write_text('owner = "jane"\n')
    with pytest.raises(RequestError, match="owner: no such setting"):
        settings.load(**({"owner": "jane"} if how == "flag" else {}))


@pytest.mark.parametrize("group", ["", "higgs", "group_cms.higgs", "a-b.c_d.e"])
def test_a_group_of_the_pools_accounting_can_be_set(group, monkeypatch):
    monkeypatch.setenv("MLAAS_CONDOR_ACCOUNTING_GROUP", group)
    assert settings.load().accounting_group == group


@pytest.mark.parametrize("group", ["a b", ".a", "a.", "a..b", "a\nqueue", "$(x)", "a@b", 5, "a,b"])
def test_what_is_no_group_is_refused(group):
    with pytest.raises(RequestError, match=r"accounting_group: .* is no group"):
        settings.load(accounting_group=group)


def render(**whose):
    dataset, plan = small(CPU)
    job = Request.of(CPU).job
    return dag.render("tth_1", job, dataset, plan, ["model.py"], "/py", Path("/s"), Credentials(), **whose)


def test_every_job_says_whose_it_is_and_where_it_belongs():
    files = render(owner="Jane Doe", accounting_group="group_cms.higgs")
    for stage in STAGES:
        lines = files[f"{stage}.sub"].splitlines()
        assert "My.MLaaSDirectory     = Iwd" in lines
        assert 'My.MLaaSOwner         = "Jane Doe"' in lines
        assert "accounting_group      = group_cms.higgs" in lines
        assert f"accounting_group_user = {owners.short_name('Jane Doe')}" in lines


def test_without_a_service_a_job_is_of_whoever_submits_it():
    assert all("accounting_group" not in text for text in render().values())
    text = render(accounting_group="higgs")["train.sub"]
    assert "accounting_group      = higgs\n" in text and "accounting_group_user" not in text
    assert "My.MLaaSOwner         = Owner\n" in text


def test_an_owner_cannot_write_into_the_submit_file():
    text = render(owner='x"\nexecutable = /bin/sh\nqueue')["train.sub"]
    assert len(re.findall(r"^(executable|queue)\b", text, re.MULTILINE)) == 2


def test_dagman_gets_what_it_needs_and_no_secret(monkeypatch):
    keep = {"PATH": "/bin", "CONDOR_CONFIG": "/c", "_CONDOR_SCHEDD_HOST": "ap1", "_CONDOR_DAGMAN_DEBUG": "D"}
    drop = [
        "BEARER_TOKEN", "BEARER_TOKEN_FILE", "X509_USER_PROXY", "MLAAS_CONDOR_TOKEN", "MLAAS_CONDOR_HOME",
        "_CONDOR_SEC_TOKEN_DIRECTORY", "_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS", "_CONDOR_SCITOKENS_FILE",
        "_CONDOR_AUTH_SSL_CLIENT_KEYFILE", "_CONDOR_X, BEARER_TOKEN", "_CONDOR_*", "PYTHONPATH",
        "OIDC_CLIENT_SECRET",
    ]  # fmt: skip
    for name in [*keep, *drop]:
        monkeypatch.setenv(name, keep.get(name, "secret"))
    assert keep.keys() <= set(queue._handed_on()) <= keep.keys() | {"HOME", "USER", "LANG", "LC_ALL", "TZ"}
