"""Bearer tokens: where they are looked for, what is read of them, what is wrong with them."""

import os
import time
from pathlib import Path

import pytest
from credential_tools import jwt, token_text
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.errors import CredentialFault
from mlaas_condor.grid import tokens

NAME = f"bt_u{os.geteuid()}"


@pytest.fixture(autouse=True)
def usual(tmp_path, monkeypatch):
    """The last place, which is in nobody's /tmp here, and no variable."""
    for name in ("BEARER_TOKEN", "BEARER_TOKEN_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tokens, "_LAST", str(tmp_path / "bt_u{}"))
    return tmp_path / NAME


def put(path, text, mode=0o600):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode)
    path.write_text(text)
    path.chmod(mode)
    return path


def wrong(token, paths=("/store/a.root",), **more):
    return [problem.what for problem in tokens.faults(token, paths, **more)]


# Finding


def test_the_places_are_looked_at_in_the_order_of_wlcg(usual, tmp_path, monkeypatch):
    assert tokens.find() is None
    put(usual, "last\n")
    assert (tokens.find().text, tokens.find().origin) == ("last", str(usual))
    runtime = put(tmp_path / "run" / NAME, "third")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime.parent))
    assert tokens.find().text == "third"
    named = put(tmp_path / "named", "  second  \n")
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(named))
    assert tokens.find().text == "second"
    monkeypatch.setenv("BEARER_TOKEN", " first\n")
    assert (tokens.find().text, tokens.find().origin) == ("first", "BEARER_TOKEN")


def test_a_folder_of_the_session_without_a_token_is_passed_over(usual, tmp_path, monkeypatch):
    put(usual, "last")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nothing"))
    assert tokens.find().text == "last"
    put(tmp_path / "nothing" / NAME, "\n")
    assert tokens.find().text == "last"


def test_empty_variables_are_none(usual, monkeypatch):
    for name in ("BEARER_TOKEN", "BEARER_TOKEN_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, "")
    put(usual, "last")
    assert tokens.find().text == "last"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "there is no token [^ ]*/named, which BEARER_TOKEN_FILE names; "),
        ("", "the token [^ ]*/named, which BEARER_TOKEN_FILE names, is empty; "),
        (" \n", "is empty"),
        ("two words", "no token"),
        ("x" * (2**20 + 1), "too large"),
    ],
)
def test_a_file_that_is_named_and_no_use_stops_the_search(usual, tmp_path, monkeypatch, content, what):
    put(usual, "last")
    if content is not None:
        put(tmp_path / "named", content)
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "named"))
    with pytest.raises(CredentialFault, match=what) as caught:
        tokens.find()
    assert str(tmp_path / "named") in str(caught.value)
    assert "two words" not in str(caught.value)


def test_a_folder_is_no_token(tmp_path, monkeypatch):
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path))
    with pytest.raises(CredentialFault, match="which BEARER_TOKEN_FILE names, is no file"):
        tokens.find()


def test_a_file_that_cannot_be_read_stops_the_search_also_in_the_usual_place(usual, monkeypatch):
    put(usual, "last")

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CredentialFault, match=f"{usual} cannot be read: Permission denied"):
        tokens.find()


def test_a_file_that_somebody_else_put_into_the_usual_place_is_not_used(usual, monkeypatch):
    put(usual, "last")
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    usual.rename(usual.with_name("bt_u54321"))
    with pytest.raises(CredentialFault, match="belongs to somebody else; set BEARER_TOKEN_FILE"):
        tokens.find()


# Reading


def test_a_token_says_who_made_it_and_what_for():
    token = tokens.parse(
        token_text(aud=["a", "b"], scope="storage.read:/ storage.create:/home"), "BEARER_TOKEN"
    )
    assert (token.issuer, token.subject, token.audience) == ("https://cms-auth.test/", "jane", ("a", "b"))
    assert token.scopes == ("storage.read:/", "storage.create:/home")
    assert token.ends == pytest.approx(time.time() + 3600, abs=10)
    assert not token.opaque


def test_the_text_of_a_token_is_never_shown():
    token = tokens.parse(token_text(), "BEARER_TOKEN")
    assert token.text not in repr(token)
    assert "signature" not in repr(token)
    assert not any(token.text in str(problem) for problem in tokens.faults(token, ["/a"], needed=1e9))


@pytest.mark.parametrize("text", ["opaque", "a.b.c", "a.b.c.d", "MTIz.MTIz.MTIz", "abc-._~+/=="])
def test_a_text_that_is_no_json_web_token_may_be_good_all_the_same(text):
    token = tokens.parse(text, "BEARER_TOKEN")
    assert token.opaque
    assert (token.ends, token.scopes) == (None, ())
    assert wrong(token, needed=1e9) == []


def test_claims_of_the_wrong_kind_are_taken_as_missing():
    token = tokens.parse(
        jwt(iss=1, sub=None, aud={}, scope=[1, "read:/"], exp="soon", nbf=True), "BEARER_TOKEN"
    )
    assert (token.issuer, token.subject, token.audience, token.scopes) == ("", "", (), ("read:/",))
    assert (token.ends, token.starts) == (None, None)


@given(st.text(min_size=1).filter(str.strip))
def test_any_text_is_a_token_or_a_fault(text):
    try:
        token = tokens.parse(text, "BEARER_TOKEN")
    except CredentialFault as fault:
        assert "BEARER_TOKEN holds no token" in str(fault)
    else:
        assert token.text == text.strip()


# What is wrong with it


def test_a_token_that_will_do_has_no_faults():
    assert wrong(tokens.parse(token_text(), "BEARER_TOKEN"), needed=3000) == []


def test_the_times_of_a_token_are_judged():
    def of(needed=0.0, **claims):
        return wrong(tokens.parse(token_text(**claims), "BEARER_TOKEN"), needed=needed)

    now = time.time()
    assert of(exp=now - 125)[0].startswith("ended 2 min ago, on ")
    assert of(exp=now + 605, needed=7200) == ["has 10 min left, and the run is expected to need 2 h"]
    assert of(exp=None) == ["does not say when it ends, so storage refuses it"]
    assert of(nbf=now + 605)[0].startswith("is valid only from ")
    assert of(exp=1e300, needed=1e9) == []
    assert of(exp=-1e300)[0].endswith("ago, on 1970-01-01 00:00 UTC")


def test_a_token_that_others_can_read_is_refused(usual):
    put(usual, token_text(), mode=0o644)
    (problem,) = tokens.faults(tokens.find(), [])
    assert problem.what == "can be read by others, its mode is 0644"
    assert problem.hint == f"run: chmod 600 {usual}"


@pytest.mark.parametrize(
    ("scope", "path", "fits"),
    [
        ("storage.read:/", "/store/a.root", True),
        ("storage.read:/store", "/store/a.root", True),
        ("storage.read:/store/", "/store//a.root", True),
        ("storage.read:/store", "/store", True),
        ("storage.read:/store", "/storehouse/a.root", False),
        ("storage.read:/store/mc", "/store/data/a.root", False),
        ("storage.read:/store", "root://host.test:1094//store/a.root", True),
        ("storage.read:/store", "https://host.test/store/a.root?x=1", True),
        ("storage.read:/a%20b", "/a b/c", True),
        # The root of the issuer is a folder of the storage.
        ("storage.read:/store", "root://host.test//eos/cms/store/a.root", True),
        ("storage.read:/cms/store", "/eos/cms/store/a.root", True),
        ("storage.read:/store", "/eos/cms/my_store/a.root", False),
        ("storage.read:/store", "/store/../secret", False),
        ("storage.read:/store/..", "/secret", False),
        ("storage.stage:/store", "/store/a.root", True),
        ("storage.modify:/store", "/store/a.root", False),
        ("storage.create:/store", "/store/a.root", False),
        ("read:/store", "/store/a.root", True),
        ("read", "/store/a.root", True),
        ("write:/store", "/store/a.root", False),
        ("reader:/store", "/store/a.root", False),
        ("openid", "/store/a.root", False),
    ],
)
def test_a_scope_covers_what_lies_under_its_path(scope, path, fits):
    assert tokens.covers(scope, path) is fits


@pytest.mark.parametrize(
    ("access", "scopes"),
    [
        ("storage.create", {"storage.create", "storage.modify", "write"}),
        ("storage.modify", {"storage.modify", "write"}),
        ("storage.stage", {"storage.stage"}),
    ],
)
def test_each_access_has_its_scopes(access, scopes):
    every = ("storage.read", "storage.create", "storage.modify", "storage.stage", "read", "write")
    assert {scope for scope in every if tokens.covers(f"{scope}:/", "/a", access)} == scopes


def test_files_that_no_scope_covers_are_named_but_not_all_of_them():
    token = tokens.parse(token_text(scope="storage.read:/mine openid"), "BEARER_TOKEN")
    paths = [f"/store/{i}.root" for i in range(9)]
    (problem,) = tokens.faults(token, ["/mine/a.root", *paths])
    assert problem.what == (
        "has no scope for /store/0.root, /store/1.root, /store/2.root and 6 more: "
        "it has storage.read:/mine, openid"
    )
    assert problem.hint == "ask its issuer for a token with storage.read:/ or storage.read:/FOLDER"
    assert wrong(tokens.parse(token_text(scope=None), "x"))[0].endswith("it has none at all")


def test_a_token_with_groups_and_without_scopes_of_storage_is_left_to_the_storage():
    assert wrong(tokens.parse(token_text(scope="openid", **{"wlcg.groups": ["/cms"]}), "BEARER_TOKEN")) == []
    assert (
        wrong(tokens.parse(token_text(scope="read:/mine", **{"wlcg.groups": ["/cms"]}), "BEARER_TOKEN")) != []
    )


@given(
    st.lists(st.sampled_from("ab"), max_size=4),
    st.lists(st.sampled_from("ab"), max_size=3),
    st.text("ab", min_size=1),
)
def test_what_is_covered_stays_so_further_down(folder, scope, name):
    scope, path = "storage.read:/" + "/".join(scope), "/" + "/".join(folder)
    if tokens.covers(scope, path):
        assert tokens.covers(scope, f"{path}/{name}")
