"""The pages as the server writes them: what they show and let one do, and that nothing in them is alive."""

import io
import json
import re
from urllib.parse import urlsplit

import issuers
import pytest
from page_tools import PATHS, Page, complete, keep_folder, packed
from pool_tools import keep_environment
from web_tools import record

from mlaas_condor import settings as settings_module
from mlaas_condor.server import changes
from mlaas_condor.server.acting.submissions import Belonging, Submitted
from mlaas_condor.server.app import create_app
from mlaas_condor.server.configuration import Configuration
from mlaas_condor.server.login.nobody import account
from mlaas_condor.server.pages import runs as run_pages

HTML = "text/html,application/xhtml+xml,*/*;q=0.8"
OURS = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}


def furnish(made, tmp_path):
    """Give the one user of a service three runs that are over, and a folder."""
    complete(record(made, "completed_1", account(), readers=[]))
    record(made, "failed_1", account())
    record(made, "cancelled_1", account(), folder="other")
    keep_folder(made, tmp_path)
    return made


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """A service for one user, to look at: one for every test would take minutes."""
    folder = tmp_path_factory.mktemp("pages")
    give_back = keep_environment()
    made = create_app(Configuration(), settings_module.load(home=str(folder / "home"), pool="personal"))
    yield furnish(made, folder)
    if viewing := made.extensions.get("mlaas_condor.viewing"):
        viewing.states.close()
    give_back()


@pytest.fixture
def own_app(make_app, tmp_path):
    """One whose runs and folders can be changed."""
    return furnish(make_app(), tmp_path)


class Browser:
    """Looks at pages, and sends their forms with what a browser adds."""

    def __init__(self, app):
        self.client = app.test_client()

    def get(self, path, status=200, **headers):
        reply = self.client.get(path, headers={"Accept": HTML, **headers})
        assert reply.status_code == status, reply.text
        return Page(reply.text)

    def post(self, path, status=303, follow=True, **fields):
        token = self.get("/help").one("meta", name="csrf")[0]["content"]
        data = {"csrf": token, **fields}
        reply = self.client.post(path, data=data, headers={"Accept": HTML, **OURS})
        assert reply.status_code == status, reply.text
        return self.get(reply.location) if status == 303 and follow else Page(reply.text)


@pytest.fixture
def browser(app):
    return Browser(app)


@pytest.fixture
def own(own_app):
    return Browser(own_app)


def folder_of(app, name):
    return app.extensions["mlaas_condor"].settings_of(account()).runs / name


def test_the_runs_are_listed_with_what_they_do(browser):
    page = browser.get("/")
    rows = [text for _, text in page.all("tr", role="row")[1:]]
    assert {row.split()[0] for row in rows} == {"completed_1", "failed_1", "cancelled_1"}
    (completed,) = [row for row in rows if row.startswith("completed_1")]
    assert "completed" in completed
    assert completed.endswith("0.9219")  # the AUC
    words = {attrs["aria-label"] for attrs, _ in page.all("svg", class_="stages")}
    assert any("train failed, 0 of 1 done, 1 failed" in each for each in words)


@pytest.mark.parametrize(("query", "names"), [
    ("state=failed", {"failed_1"}),
    ("name=comp", {"completed_1"}),
    ("folder=other", {"cancelled_1"}),
    ("whose=shared", set()),
    ("state=nonsense&name=", {"completed_1", "failed_1", "cancelled_1"}),
    ("offset=nonsense", {"completed_1", "failed_1", "cancelled_1"}),
    ("offset=100", set()),
])  # fmt: skip
def test_the_list_is_filtered_without_a_script(browser, query, names):
    page = browser.get(f"/?{query}")
    assert {text.split()[0] for _, text in page.all("th", role="rowheader")} == names


def test_pages_of_the_list_keep_the_filters(browser, monkeypatch):
    monkeypatch.setattr(run_pages, "LIMIT", 1)
    page = browser.get("/?folder=tth&_external=1&endpoint=x")
    older = page.one("a", rel="next")[0]["href"]
    assert older == "/?folder=tth&offset=1"
    assert browser.get(older).one("a", rel="prev")[0]["href"] == "/?folder=tth&offset=0"


def test_without_runs_one_is_told_how_to_begin(make_app):
    browser = Browser(make_app())
    assert "No runs yet" in browser.get("/").text
    assert "First, a folder" in browser.get("/submit").text


def test_a_completed_run_shows_what_came_of_it(browser):
    page = browser.get("/runs/completed_1")
    assert page.one("h1")[1] == "completed_1 completed"
    facts = page.one("dl", class_="facts")[1]
    assert "Test AUC 0.9219 on 3,290 events" in facts
    titles = [text for _, text in page.all("title")]
    assert {"ROC, with the AUC", "Loss", "AUC", "Stages of the run"} <= set(titles)
    legends = [text for _, text in page.all("ul", class_="legend")]
    assert "test 0.9219 validation 0.9240 train 0.9359" in legends
    frame = page.one("iframe")[0]
    assert frame["sandbox"] == ""
    assert frame["src"] == "/api/v1/runs/completed_1/report"
    assert page.one("a", download=None, href="/api/v1/runs/completed_1/model")[1] == "Download the model"
    resources = page.one("div", aria_label="Resources")[1]
    assert "train 1 2 1 2.0 GB 659 MB 500 MB ~1:30" in resources
    assert "</pre><script>alert(1)</script>" in page.one("pre", class_="text")[1]  # as text


def test_a_failed_run_says_why_and_what_to_do(browser):
    page = browser.get("/runs/failed_1")
    words = page.one("div", class_="callout is-failed")[1]
    assert "train, task 0:" in words
    assert "RuntimeError: no such layer" in words
    assert "What to do correct the model file and submit again" in words
    assert "no such layer" in page.one("pre", class_="log")[1]
    assert not page.all("iframe")


@pytest.mark.parametrize(("query", "says"), [
    ("stage=train&task=0&stream=stderr", "of train, task 0"),
    ("stage=report", "of report, task 0"),
    ("stage=nonsense&task=-5&stream=x", "of train, task 0"),
    ("task=99999999999999999999", "of train, task 0"),
])  # fmt: skip
def test_the_log_is_chosen_without_a_script(browser, query, says):
    assert browser.get(f"/runs/failed_1?{query}").one("span", id="logs-task")[1] == says


def test_what_jobs_and_users_write_is_text(own_app, own):
    evil = "<script>alert(1)</script><b onclick=x>"
    (folder_of(own_app, "failed_1") / "logs/train.0.err").write_text(evil)
    path = folder_of(own_app, "failed_1") / "owner.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "readers": [evil], "folder": evil}))
    page = own.get("/runs/failed_1")
    assert evil in page.one("pre", class_="log")[1]
    assert page.text.count(evil) >= 3


@pytest.mark.parametrize("path", [
    *PATHS, "/folders/tth", "/runs/completed_1/delete", "/runs/completed_1/share", "/folders/tth/share",
    "/nothing",
])  # fmt: skip
def test_nothing_in_a_page_is_alive_or_from_elsewhere(browser, path):
    page = browser.get(path, 404 if path == "/nothing" else 200)
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs, text in page.elements:
        assert not any(name.startswith("on") for name in attrs), attrs
        assert "style" not in attrs
        assert tag != "style"
        assert tag != "script" or (attrs["src"].startswith("/static/") and not text.strip())
        for name in ("src", "href", "action", "srcset", "data"):
            parts = urlsplit(attrs.get(name) or "")
            assert (parts.scheme, parts.netloc) in (("", ""), ("data", "")), attrs
        for name in ("aria-labelledby", "aria-describedby", "for", "list"):
            assert set((attrs.get(name) or "").split()) <= set(ids), attrs
    assert all(page.all("form", method="post") or [True])
    for attrs, _ in page.all("form", method="post"):
        assert attrs["action"].startswith("/")
    assert len(page.all("input", name="csrf")) == len(page.all("form", method="post"))
    assert page.one("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1


def test_a_part_is_sent_again_only_where_it_has_changed(own):
    address = "/runs/completed_1?part=live"
    first = own.client.get(address)
    assert first.text.count("data-part=") == 2
    tag = {"If-None-Match": first.headers["ETag"]}
    assert own.client.get(address, headers=tag).status_code == 304
    own.post("/runs/completed_1/share", readers="/cms/top", writers="")
    assert "/cms/top" in own.client.get(address, headers=tag).text
    assert own.client.get("/?part=live").text.count("data-part=") == 1


def test_static_files_are_kept_by_their_digest(browser):
    page = browser.get("/")
    style = page.one("link", rel="stylesheet")[0]["href"]
    assert re.fullmatch(r"/static/pages\.css\?v=[0-9a-f]{12}", style)
    kept = {
        address: browser.client.get(address, buffered=True).headers["Cache-Control"]
        for address in (style, style.partition("?")[0])
    }
    assert ["immutable" in each for each in kept.values()] == [True, False]
    assert browser.client.get("/static/../blueprint.py").status_code == 404


def test_the_buttons_are_those_of_what_may_be_done(browser):
    completed = {text for _, text in browser.get("/runs/completed_1").all("a")}
    assert {"Delete…", "Share…", "Download the model"} <= completed
    assert "Cancel…" not in completed
    failed = browser.get("/runs/failed_1")
    assert "Resume" in {text for _, text in failed.all("button")}
    assert "Resume" not in {text for _, text in browser.get("/runs/completed_1").all("button")}


def test_deleting_asks_first(own_app, own):
    asked = own.get("/runs/cancelled_1/delete")
    assert "Delete cancelled_1?" in asked.text
    assert folder_of(own_app, "cancelled_1").exists()
    action = asked.one("form", method="post", action="/runs/cancelled_1/delete")[0]["action"]
    assert "It is deleted." in own.post(action).text
    assert not folder_of(own_app, "cancelled_1").exists()


def test_what_cannot_be_done_now_is_a_page_that_says_why(browser):
    page = browser.post("/runs/completed_1/cancel", 409)
    assert "Not now" in page.text
    assert "completed" in page.text


def test_sharing_names_groups(own_app, own):
    page = own.post("/runs/completed_1/share", readers="/cms/higgs, /cms/top ,", writers="")
    assert "shared with /cms/higgs, /cms/top" in page.text
    kept = Belonging.read(folder_of(own_app, "completed_1") / "owner.json")
    assert (kept.readers, kept.writers) == (["/cms/higgs", "/cms/top"], [])
    shared = own.post("/folders/tth/share", readers="", writers="/cms/higgs")
    assert "shared with /cms/higgs" in shared.text


@pytest.mark.parametrize("path", [
    "/runs/completed_1/cancel", "/runs/failed_1/resume", "/runs/completed_1/delete",
    "/runs/completed_1/share", "/folders/tth/delete", "/folders/tth/share", "/submit/form", "/folders/upload",
])  # fmt: skip
@pytest.mark.parametrize(
    "headers", [OURS, {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}]
)
def test_no_form_works_without_the_token(app, browser, path, headers):
    data = {"name": "x", "csrf": "0" * 64, "file": (io.BytesIO(packed({"a": "b"})), "x.tar.gz")}
    multipart = path == "/folders/upload"
    fields = data if multipart else {"csrf": "", "name": "x"}
    reply = browser.client.post(path, data=fields, headers={"Accept": HTML, **headers})
    assert reply.status_code == 403
    assert "You may not do that" in reply.text
    assert folder_of(app, "completed_1").exists()
    assert [each.name for each in app.extensions["mlaas_condor"].folders.list(account())] == ["tth"]


def test_folders_are_listed_and_looked_into(browser):
    page = browser.get("/folders")
    (row,) = [text for _, text in page.all("tr", role="row")[1:]]
    assert row.startswith("tth ")
    assert row.endswith(" 2")  # runs of it
    page = browser.get("/folders/tth")
    files = [text for _, text in page.all("th", scope="row")]
    assert files == ["files.txt", "job.json", "labels.txt", "model.py"]
    assert {"completed_1", "failed_1"} <= {text for _, text in page.all("a")}


def test_a_folder_is_uploaded_without_a_script(app, browser):
    token = browser.get("/folders").one("meta", name="csrf")[0]["content"]
    archive = (io.BytesIO(packed({"model.py": "x", "data/a.txt": "yy"})), "luca.tar.gz")
    data = {"csrf": token, "name": "luca", "file": archive}
    reply = browser.client.post("/folders/upload", data=data, headers={"Accept": HTML, **OURS})
    assert reply.status_code == 303, reply.text
    page = browser.get(reply.location)
    assert "It is uploaded." in page.text
    assert [text for _, text in page.all("th", scope="row")] == ["data/a.txt", "model.py"]
    assert "It is deleted." in browser.post("/folders/luca/delete").text
    browser.get("/folders/luca", 404)


@pytest.mark.parametrize(
    "path", ["/runs/never_1", "/folders/never", "/nothing", "/runs/completed_1?owner=jane"]
)
def test_what_is_not_there_is_a_page_that_says_so(browser, path):
    page = browser.get(path, 404)
    assert page.one("h1")[1] == "There is no such thing here"
    assert page.all("code")  # what the log knows it by


def test_the_form_is_filled_in_with_what_the_folder_says(app, browser, tmp_path):
    job = {"name": "higgs", "model": "model.py", "cpus": 2, "device": "gpu", "params": {"epochs": 3}}
    files = {"model.py": "", "my_files.txt": "", "labels.txt": "", "job.json": json.dumps(job)}
    keep_folder(app, tmp_path, "higgs", files)
    page = browser.get("/submit?folder=higgs")
    values = {attrs["name"]: attrs.get("value") for attrs, _ in page.all("input") if "name" in attrs}
    assert (values["name"], values["cpus"], values["gpus"]) == ("higgs", "2", "1")
    chosen = {text for attrs, text in page.all("option") if "selected" in attrs}
    assert {"higgs", "model.py", "my_files.txt"} <= chosen
    assert values["labels"] == "labels.txt"


@pytest.mark.parametrize("content", ["[]", "{", '{"name": ["x"]}', "\0", '{"name": "a", "name": 7}'])
def test_a_job_file_that_is_none_does_no_harm(app, browser, tmp_path, content):
    keep_folder(app, tmp_path, "odd", {"job.json": content, "model.py": ""})
    assert browser.get("/submit?folder=odd").all("form", data_job="form")


def test_checking_shows_every_problem_at_once(browser, monkeypatch):
    page = browser.post("/submit/form", 400, way="job", do="check", job="{", folder="tth")
    assert "is no JSON" in page.one("section", id="outcome")[1]
    page = browser.post("/submit/form", 404, way="job", do="check", job='{"name": "never"}', folder="")
    assert "no folder 'never'" in page.one("section", id="outcome")[1]
    assert "Upload it first" in {text for _, text in page.all("a")}


def test_submitting_the_form_is_submitting_its_job(browser, monkeypatch):
    given = []

    def submit(job, folder=None, owner=None, key=None):
        given.append((job, folder, owner, key))
        return Submitted("completed_1", 77, [], False)

    monkeypatch.setattr(changes, "submit", submit)
    job = {"name": "tth", "model": "m.py", "files": "f.txt", "labels": "l.txt", "task": "regression"}
    asked = {"way": "form", "do": "submit", "folder": "tth", "key": "k", "gpus": "2", "cpus": ""}
    assert "It is submitted." in browser.post("/submit/form", **asked, **job).text
    assert given == [({**job, "gpus": 2}, "tth", None, "k")]


def test_a_run_is_submitted_again_with_its_own_job(browser):
    page = browser.get("/submit?run=completed_1")
    assert '"name": "tth"' in page.one("textarea")[1]


def test_help_has_the_address_of_this_service(browser):
    page = browser.get("/help")
    assert "curl -sS -T luca.tar.gz http://localhost/api/v1/folders/luca" in page.one("pre", id="c-upload")[1]
    assert "no token is needed" in page.text


def test_help_tells_how_to_get_a_token_and_to_show_it(user):
    page = Page(user("jane").get("/help", headers={"Accept": HTML}).text)
    issuer = page.one("a", rel="noreferrer")[1]
    assert page.one("pre", id="c-once")[1].endswith(f"oidc-gen -w device --iss {issuer} mlaas")
    assert page.one("pre", id="c-token")[1] == f"TOKEN=$(oidc-token --aud {issuers.AUDIENCE} mlaas)"
    assert '-H "Authorization: Bearer $TOKEN"' in page.one("pre", id="c-upload")[1]
    assert "export BEARER_TOKEN=$TOKEN" in page.one("pre", id="c-cli")[1]


def test_somebody_who_is_not_known_is_sent_to_log_in(shared_app):
    client = shared_app.test_client()
    reply = client.get("/runs/luca_1?x=1", headers={"Accept": HTML})
    assert reply.status_code == 302
    assert reply.location == "/login?next=/runs/luca_1?x%3D1"
    page = Page(client.get(reply.location, headers={"Accept": HTML}).text)
    assert page.one("h1")[1] == "Log in"
    assert not page.all("nav", aria_label="Main")
    assert client.get("/runs/luca_1").status_code == 401
    assert client.get("/static/pages.css").status_code == 200


@pytest.mark.parametrize(("name", "claims", "buttons"), [
    ("jane", {}, {"Delete…", "Share…", "Submit it again…"}),
    ("jane", {"scope": "compute.read"}, set()),
    ("jane", {"scope": "compute.read compute.cancel"}, {"Delete…"}),
    ("luca", {"groups": ["/cms/higgs"]}, {"Submit it again…"}),
    ("luca", {"groups": ["/cms/experts"]}, {"Delete…", "Submit it again…"}),
    ("olga", {"groups": ["/cms/operators"]}, {"Delete…", "Share…", "Submit it again…"}),
])  # fmt: skip
def test_everybody_gets_the_buttons_of_what_they_may_do(shared_app, user, name, claims, buttons):
    folder = record(shared_app, "completed_1", "jane", readers=["/cms/higgs"], writers=["/cms/experts"])
    complete(folder)
    client = user(name, **claims)
    query = "" if name == "jane" else "?owner=jane"
    page = Page(client.get(f"/runs/completed_1{query}", headers={"Accept": HTML}).text)
    links = {text: attrs["href"] for attrs, text in page.all("a")}
    assert {text for text in links if "…" in text} == buttons
    assert links["Download the model"] == f"/api/v1/runs/completed_1/model{query}"
    assert page.one("iframe")[0]["src"] == f"/api/v1/runs/completed_1/report{query}"
    if query:
        listed = Page(client.get("/?whose=shared", headers={"Accept": HTML}).text)
        assert listed.one("a", href=f"/runs/completed_1{query}")
        assert client.get("/runs/completed_1", headers={"Accept": HTML}).status_code == 404


def test_strangers_see_nothing_of_it(shared_app, user, tmp_path):
    record(shared_app, "completed_1", "jane")
    keep_folder(shared_app, tmp_path, "secret", owner="jane")
    stranger = user("luca")
    for path in (
        "/runs/completed_1?owner=jane",
        "/folders/secret?owner=jane",
        "/runs/completed_1/delete?owner=jane",
    ):
        assert stranger.get(path, headers={"Accept": HTML}).status_code == 404
    for path in ("/", "/?whose=shared", "/folders", "/submit", "/submit?folder=secret/jane"):
        page = stranger.get(path, headers={"Accept": HTML}).text
        assert "completed_1" not in page
        assert "secret" not in page
