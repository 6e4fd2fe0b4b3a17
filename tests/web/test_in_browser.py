"""The pages in Chromium, served as users get them: what the scripts do, and that anybody can use them."""

import json
import shutil
from types import SimpleNamespace

import browser_tools
import issuers
import pytest
from browser_tools import DESKTOP, PHONE, drop, expect, opened
from example_tools import EXAMPLE
from page_tools import REPORT, complete, keep_folder, packed
from pool_tools import keep_environment
from service_tools import served
from web_tools import RECORDED, make_alive, record

from mlaas_condor import settings as settings_module
from mlaas_condor.server.app import create_app
from mlaas_condor.server.configuration import Configuration
from mlaas_condor.server.login.nobody import account

axe = pytest.importorskip("axe_core_python.sync_playwright")

LOOKED_AT = (
    "/", "/runs/completed_1", "/runs/failed_1", "/runs/alive_1", "/runs/completed_1/delete",
    "/runs/completed_1/share", "/folders", "/folders/tth", "/submit", "/help", "/api",
)  # fmt: skip
FILES = {
    path.relative_to(EXAMPLE).as_posix(): path.read_bytes()
    for path in EXAMPLE.rglob("*")
    if path.suffix in (".root", ".txt", ".json") or path.name == "model.py"
}
CONFIG = """\
[service]
port = 0
workers = 1

[limits]
requests_per_second = 10000
"""


def own_runs(home):
    """Return what `record` wants of an application, of a home whose service is another process."""
    settings = settings_module.load(home=str(home), pool="personal")
    app = create_app(Configuration(home=home), settings)
    return SimpleNamespace(extensions={"mlaas_condor": app.extensions["mlaas_condor"]})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Runs that are over, one that seems to be running, and a folder."""
    give_back = keep_environment()
    home = tmp_path_factory.mktemp("served")
    app = own_runs(home)
    done = record(app, "completed_1", account(), readers=["/cms/higgs"])
    complete(done, REPORT.replace("<script>alert(1)</script>", ""))
    record(app, "failed_1", account())
    make_alive(record(app, "completed_1", account(), as_name="alive_1"))
    keep_folder(app, home, files=FILES)
    yield home
    give_back()


@pytest.fixture(scope="module")
def service(home):
    with served(home, CONFIG) as running:
        yield running


@pytest.fixture(scope="module")
def chromium():
    with browser_tools.started() as browser:
        yield browser


@pytest.fixture
def page(chromium, service):
    with opened(chromium, service.url) as page:
        yield page


@pytest.mark.parametrize(
    ("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"]
)
def test_anybody_can_use_every_page(chromium, service, viewport, scheme):
    with opened(chromium, service.url, viewport=viewport, color_scheme=scheme) as page:
        for path in LOOKED_AT:
            page.goto(path)
            page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            found = axe.Axe().run(page)["violations"]
            bad = [(each["id"], each["nodes"]) for each in found if each["impact"] in ("serious", "critical")]
            assert not bad, path
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path


def test_an_error_is_a_page_that_anybody_can_use(chromium, service):
    with opened(chromium, service.url, allowed=("404",)) as page:
        assert page.goto("/nothing").status == 404
        assert not axe.Axe().run(page)["violations"]


def test_the_keyboard_alone_gets_a_plan(page):
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    reach(page, "nav.main a[href='/submit']")
    page.keyboard.press("Enter")
    page.wait_for_url("**/submit")
    reach(page, "[data-job=form] button[value=check]")
    page.keyboard.press("Enter")
    outcome = page.locator("#outcome")
    expect(outcome.locator("h2")).to_have_text("It can be done like this")
    expect(outcome).to_be_focused()
    expect(outcome).to_contain_text("16,450")
    expect(page.locator("#told")).to_have_text("It can be done like this")


def reach(page, selector):
    """Press Tab until something has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            return
    raise AssertionError(f"{selector} is not reached by Tab")


def test_a_job_file_that_is_dropped_is_checked_at_once(page):
    page.goto("/submit")
    drop(page, "job.json", FILES["job.json"])
    expect(page.locator("#outcome h2")).to_have_text("It can be done like this")
    assert json.loads(page.locator("#job").input_value()) == json.loads(FILES["job.json"])
    assert page.locator("[data-job=text] select").input_value() == "tth"


def test_every_problem_of_a_job_file_is_shown_at_once(chromium, service):
    job = {**json.loads(FILES["job.json"]), "modle": "model.py", "memory": "much", "files": "file.txt"}
    with opened(chromium, service.url, allowed=("400",)) as page:
        page.goto("/submit")
        drop(page, "job.json", json.dumps(job).encode())
        outcome = page.locator("#outcome")
        expect(outcome.locator("h2")).to_contain_text("problems")
        for words in ("unknown key 'modle'", "memory: 'much' is not a size", "file.txt"):
            expect(outcome).to_contain_text(words)


def test_a_folder_is_dropped_and_sent_with_its_progress(page):
    page.goto("/folders")
    drop(page, "dropped.tar.gz", packed({"model.py": "", "data/a.txt": "a"}))
    assert page.get_by_label("Name", exact=True).input_value() == "dropped"
    page.get_by_role("button", name="Upload").click()
    page.wait_for_url("**/folders/dropped*")
    expect(page.get_by_role("rowheader")).to_have_text(["data/a.txt", "model.py"])


def test_what_is_refused_is_said_beside_the_form(chromium, service):
    with opened(chromium, service.url, allowed=("415", "422")) as page:
        page.goto("/folders")
        drop(page, "notes.zip", b"this is no archive")
        page.get_by_role("button", name="Upload").click()
        expect(page.get_by_role("alert")).not_to_be_empty()
        assert page.url.endswith("/folders")


def test_the_log_is_followed_as_it_is_written(page, home):
    log = next(home.glob("users/*/runs/alive_1/logs")) / "train.0.out"
    log.write_text("first line\n")
    page.goto("/runs/alive_1?stage=train&task=0")
    shown = page.get_by_role("log")
    expect(shown).to_contain_text("first line")
    with log.open("a") as file:
        file.write("<b>second</b> line\n")
    expect(shown).to_contain_text("<b>second</b> line")
    page.locator("select[name=stage]").select_option("specs")
    expect(page.locator("#logs-task")).to_have_text("of specs, task 0")
    whole = page.get_by_role("link", name="Download it").get_attribute("href")
    assert "stage=specs&task=0" in whole


def test_a_page_changes_when_its_run_does_and_says_so_once(page, home):
    folder = next(home.glob("users/*/runs/alive_1"))
    page.goto("/runs/alive_1")
    badge = page.locator("h1 .badge")
    expect(badge).not_to_have_text("completed")
    page.get_by_text("As a table").first.click()
    page.get_by_text("As a table").first.focus()
    for stage in ("train", "report"):
        shutil.copytree(RECORDED / "completed_1" / stage, folder / stage)
    (folder / "report/completed_1.tar.gz").rename(folder / "report/alive_1.tar.gz")
    mark = folder / "report/00000.ok"
    mark.write_text(mark.read_text().replace("completed_1.tar.gz", "alive_1.tar.gz"))
    for name in ("events.log", "run.dag.dagman.log"):
        shutil.copy(RECORDED / "completed_1" / name, folder / name)
    expect(badge).to_have_text("completed")
    expect(page.locator("#told")).to_have_text("alive_1 is completed")
    expect(page.get_by_role("link", name="Download the model")).to_be_visible()
    expect(page.locator("summary:focus")).to_have_text("As a table")
    assert page.locator("section[aria-labelledby=stages-title] details").get_attribute("open") is not None


def test_what_nobody_looks_at_asks_for_nothing(page):
    page.goto("/")
    page.evaluate("""() => {
        Object.defineProperty(document, "hidden", { value: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }""")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(4000)  # twice as long as between two looks while something goes on
    assert not [each for each in asked if "/static/" not in each]


def test_the_report_of_a_job_is_shown_and_can_do_nothing(chromium, service, home):
    report = next(home.glob("users/*/runs/completed_1/report/report.html"))
    kept = report.read_text()
    script = "<script>document.title = 'alive'; alert(1)</script><img src='x' onerror='alert(2)'>"
    form = "<form action='/runs/failed_1/delete' method='post'><button>go</button></form>"
    report.write_text(REPORT + script + form)
    complaints = ("Blocked", "Content Security Policy", "sandboxed")
    try:
        with opened(chromium, service.url, allowed=complaints) as page:
            page.goto("/runs/completed_1")
            page.locator("iframe").scroll_into_view_if_needed()
            frame = page.frame_locator("iframe")
            expect(frame.get_by_role("heading", name="Report of the run")).to_be_visible()
            frame.get_by_role("button", name="go").click()
            page.goto("/api/v1/runs/completed_1/report")  # by itself, too
            expect(page.get_by_role("heading", name="Report of the run")).to_be_visible()
            assert page.title() != "alive"
            page.get_by_role("button", name="go").click()
            page.goto("/runs/failed_1")
            expect(page.locator("h1")).to_contain_text("failed_1")
    finally:
        report.write_text(kept)


def test_a_line_is_copied_at_a_click(chromium, service):
    with opened(chromium, service.url, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto("/help")
        page.get_by_role("button", name="Copy").first.click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        assert "curl" in page.evaluate("navigator.clipboard.readText()")


def test_all_of_it_works_without_scripts(chromium, service, tmp_path):
    archive = tmp_path / "plain.tar.gz"
    archive.write_bytes(packed(FILES))
    with opened(chromium, service.url, java_script_enabled=False) as page:
        page.goto("/folders")
        page.get_by_label("Archive").set_input_files(archive)
        page.get_by_label("Name", exact=True).fill("plain")
        page.get_by_role("button", name="Upload").click()
        expect(page.get_by_role("status").first).to_have_text("It is uploaded.")
        page.get_by_role("link", name="Submit a run of it").click()
        page.get_by_role("button", name="Check").first.click()
        expect(page.locator("#outcome h2")).to_have_text("It can be done like this")
        page.goto("/runs/failed_1")
        expect(page.get_by_role("log")).to_contain_text("no such layer")
        expect(page.locator("[data-logs-follow]")).to_be_hidden()
        page.goto("/folders/plain/delete")
        page.get_by_role("button", name="Delete the folder").click()
        expect(page.get_by_role("status").first).to_have_text("It is deleted.")


def test_somebody_logs_in_with_a_token_and_out_again(chromium, tmp_path):
    with issuers.running() as issuer:
        login = f'\n[login]\nmethod = "tokens"\n[login.tokens]\nissuer = "{issuer.url}"\n'
        with served(tmp_path, f'{CONFIG}{login}audience = ["{issuers.AUDIENCE}"]\n') as running:
            token = issuer.token("jane", name="Jane Doe")
            with opened(chromium, running.url, viewport=PHONE, color_scheme="dark") as page:
                page.goto("/folders")
                assert not [each for each in axe.Axe().run(page)["violations"] if each["impact"] == "serious"]
                page.get_by_label("Token").fill(token)
                page.get_by_role("button", name="Log in").click()
                expect(page.locator("h1")).to_have_text("Folders")
                expect(page.locator(".user")).to_contain_text("Jane")
                drop(page, "mine.tar.gz", packed({"model.py": ""}))
                page.get_by_role("button", name="Upload").click()
                page.wait_for_url("**/folders/mine*")
                page.get_by_role("button", name="Log out").click()
                page.goto("/folders")
                expect(page.locator("h1")).to_have_text("Log in")
