"""The whole story of an MLaaS4HEP_server user, with curl, for two users at a time, on a real pool."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import time

import issuers
import pytest
from example_tools import EXAMPLE, copy_example, edit
from pool_tools import personal_pool, settings_of, turn_to
from service_tools import bearer, curl, curl_json, served, status_of

from mlaas_condor.batch import queue

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")

USERS = ("jane", "Luca Rossi")

CONFIG = """\
[service]
port = 0

[login]
method = "tokens"

[login.tokens]
issuer = "{issuer}"
audience = ["mlaas-condor"]
"""


@pytest.fixture(scope="module")
def story():
    """A pool, an issuer, and a service that believes it."""
    with (
        personal_pool(cpus=4) as home,
        issuers.running() as issuer,
        served(home, CONFIG.format(issuer=issuer.url)) as service,
    ):
        yield home, issuer, service


@pytest.fixture(scope="module")
def tarball(tmp_path_factory):
    """A folder as a user packs it: request, model and data."""
    folder = copy_example(tmp_path_factory.mktemp("story"), nevts=5000, epochs=1)
    (folder / "data").unlink()
    shutil.copytree(EXAMPLE / "data", folder / "data")
    edit(folder, "job.json", name="luca")
    path = folder.with_name("folder_to_upload.tar.gz")
    subprocess.run(["tar", "-czf", path, "-C", folder.parent, folder.name], check=True)
    return path, folder / "job.json"


class User:
    """Somebody with a token, who types what the old documents say."""

    def __init__(self, name, story, tarball):
        _, issuer, self.service = story
        self.token = bearer(issuer.token(name))
        self.tarball, self.job = tarball

    def call(self, *arguments):
        *options, path = arguments
        return curl("-L", *self.token, *options, f"{self.service.url}{path}")

    def upload(self):
        return self.call("-F", f"file=@{self.tarball}", "/upload?name=luca")

    def submit(self):
        return curl_json(
            *self.token, "-H", "Content-Type: application/json", "-d", f"@{self.job}",
            f"{self.service.url}/submit",
        )  # fmt: skip

    def status(self, run):
        return curl_json(*self.token, f"{self.service.url}/status_docker?process_name={run}")


def test_two_users_go_from_a_folder_to_a_model_and_see_only_their_own(story, tarball, tmp_path):
    home, _, service = story
    users = [User(name, story, tarball) for name in USERS]
    assert [user.upload() for user in users] == ["Successfully uploaded!"] * 2
    submitted = [user.submit() for user in users]
    # Each counts from 1: nobody learns how many runs another has.
    assert [each["process_name"] for each in submitted] == ["luca_1", "luca_1"]
    numbers = [each["job_id"] for each in submitted]
    assert len(set(numbers)) == 2
    assert owners_in_queue(home) == set(USERS)

    for user in users:
        deadline = time.monotonic() + 240
        while (status := user.status("luca_1"))["status"].startswith(("Up", "Created")):
            assert time.monotonic() < deadline, status
            time.sleep(1)
        assert status == {"process_name": "luca_1", "status": status["status"]}
        assert status["status"].startswith("Exited (0)"), user.call("/logs?process_name=luca_1")

    jane, luca = users
    assert "validation" in jane.call("/logs?process_name=luca_1")
    bundle = tmp_path / "luca_1.tar.gz"
    jane.call("-o", bundle, "/model?process_name=luca_1")
    with tarfile.open(bundle) as tar:
        names = {name.removeprefix("./") for name in tar.getnames()}
    assert {"params.json", "saved_model.pb", "variables"} <= names

    # A second run of one is nothing that the other has heard of.
    assert jane.submit()["process_name"] == "luca_2"
    url = f"{service.url}/status_docker?process_name=luca_2"
    assert status_of(*luca.token, url) == 404
    assert status_of(url) == 401
    assert [each["name"] for each in runs_of(luca)] == ["luca_1"]
    assert [each["name"] for each in runs_of(jane)] == ["luca_2", "luca_1"]
    assert status_of(*jane.token, "-X", "POST", f"{service.url}/api/v1/runs/luca_2/cancel") == 200

    assert luca.call("/delete_specs?name=luca") == "Specs deletion completed!"
    assert luca.call("/delete_folder?name=luca") == "Folder deletion completed!"
    assert status_of(*luca.token, f"{service.url}/api/v1/folders/luca") == 404
    assert status_of(*jane.token, f"{service.url}/api/v1/folders/luca") == 200
    said = service.log.read_text()
    assert not any(token in said for token in (jane.token[1], luca.token[1]))


def owners_in_queue(home):
    """Return for whom the queue has jobs; HTCondor shares the pool out among as many accounts."""
    import htcondor2

    turn_to(settings_of(home))
    with queue.pool_errors():
        ads = htcondor2.Schedd().query(projection=["MLaaSOwner", "MLaaSRun"])
    return {ad.get("MLaaSOwner") for ad in ads if ad.get("MLaaSRun")}


def runs_of(user):
    return curl_json(*user.token, f"{user.service.url}/api/v1/runs")["runs"]


def test_a_user_with_a_browser_goes_all_the_way(story, tarball, tmp_path):
    browser_tools = pytest.importorskip("browser_tools")
    expect = browser_tools.expect
    _, issuer, service = story
    archive, job = tarball
    with (
        browser_tools.started() as browser,
        browser_tools.opened(browser, service.url, accept_downloads=True) as page,
    ):
        page.goto("/submit")
        page.get_by_label("Token").fill(issuer.token("maria"))
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/submit")
        page.goto("/folders")
        page.locator("#file").set_input_files(archive)
        page.get_by_label("Name", exact=True).fill("luca")
        page.get_by_role("button", name="Upload").click()
        page.wait_for_url("**/folders/luca*")

        page.goto("/submit")
        browser_tools.drop(page, "job.json", job.read_bytes())
        expect(page.locator("#outcome h2")).to_have_text("It can be done like this")
        page.locator("[data-job=text]").get_by_role("button", name="Submit").click()
        page.wait_for_url("**/runs/luca_1*")
        # Nobody loads it anew: the page follows the run.
        expect(page.locator("h1")).to_contain_text("completed", timeout=240_000)
        report = page.frame_locator("iframe.report")
        expect(report.locator("h1").first).to_contain_text("luca_1")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download the model").click()
        download.value.save_as(tmp_path / "luca_1.tar.gz")
        with tarfile.open(tmp_path / "luca_1.tar.gz") as tar:
            assert "params.json" in {name.removeprefix("./") for name in tar.getnames()}
        page.goto("/")
        expect(page.get_by_role("table")).to_contain_text("luca_1")
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url("**/login*")
