"""``/api/v1/folders``: upload under conditions, look, share, delete, and forget what was measured."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile

import pytest
from web_tools import audit_of, make_alive, record

JANE, LUCA = "jane", "luca"


@pytest.fixture
def jane(user):
    return user(JANE)


@pytest.fixture
def luca(user):
    return user(LUCA, groups=["/cms/higgs"])


def packed(**files):
    """Return a tarball of a folder, as bytes."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"folder/{name.replace('__', '.')}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return content.getvalue()


def put(client, name="luca", query="", headers=None, **files):
    return client.put(
        f"/api/v1/folders/{name}{query}", data=packed(**files or {"a__txt": "1"}), headers=headers
    )


def test_an_upload_makes_or_replaces_a_folder(shared_app, jane):
    made = put(jane, a__txt="1")
    assert (made.status_code, made.headers["Location"]) == (201, "/api/v1/folders/luca")
    folder = made.json
    assert (folder["owner"], folder["name"], folder["files"], folder["bytes"]) == (JANE, "luca", 1, 1)
    assert made.headers["ETag"] == f'"{folder["version"]}"'
    again = put(jane, a__txt="1")
    assert (again.status_code, again.json["version"]) == (200, folder["version"])
    other = put(jane, b__txt="22")
    assert other.json["version"] != folder["version"]
    assert [(line["action"], line["what"]) for line in audit_of(shared_app)] == [
        ("upload", "folder luca")
    ] * 3


def test_a_form_does_as_well(jane):
    form = {"file": (io.BytesIO(packed(a__txt="1")), "luca.tar.gz")}
    assert jane.put("/api/v1/folders/luca", data=form).status_code == 201


def test_folders_are_listed_and_their_files(jane):
    put(jane, "one", a__txt="1", b__txt="22")
    put(jane, "two", c__txt="3")
    assert [each["name"] for each in jane.get("/api/v1/folders").json["folders"]] == ["one", "two"]
    found = jane.get("/api/v1/folders/one/files").json
    assert [(each["path"], each["bytes"]) for each in found["files"]] == [("a.txt", 1), ("b.txt", 2)]
    assert found["version"] == jane.get("/api/v1/folders/one").json["version"]


def test_a_version_that_one_has_is_not_sent_again(jane):
    tag = put(jane).headers["ETag"]
    assert jane.get("/api/v1/folders/luca", headers={"If-None-Match": tag}).status_code == 304
    assert jane.get("/api/v1/folders/luca", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    ("header", "value", "new", "there"),
    [
        ("If-None-Match", "*", 201, 412),
        ("If-None-Match", "TAG", 201, 412),
        ("If-None-Match", '"other"', 201, 200),
        ("If-Match", "*", 412, 200),
        ("If-Match", "TAG", 412, 200),
        ("If-Match", '"other", TAG', 412, 200),
        ("If-Match", '"other"', 412, 412),
        ("If-Match", "", 412, 412),
    ],
)
def test_conditions_of_an_upload(jane, header, value, new, there):
    tag = put(jane, "sample").headers["ETag"]
    headers = {header: value.replace("TAG", tag)}
    assert put(jane, headers=headers, a__txt="1").status_code == new
    put(jane, a__txt="1")  # the same content, so the same version
    refused = put(jane, headers=headers, b__txt="2")
    assert refused.status_code == there
    if there == 412:
        assert refused.json["code"] == "precondition_failed"
        assert jane.get("/api/v1/folders/luca").headers["ETag"] == tag


def test_conditions_of_other_changes(jane):
    tag = put(jane).headers["ETag"]
    wrong, right = {"If-Match": '"other"'}, {"If-Match": tag}
    assert jane.patch("/api/v1/folders/luca", json={"readers": ["/a"]}, headers=wrong).status_code == 412
    assert jane.delete("/api/v1/folders/luca", headers=wrong).status_code == 412
    assert jane.patch("/api/v1/folders/luca", json={"readers": ["/a"]}, headers=right).status_code == 200
    assert jane.delete("/api/v1/folders/luca", headers=right).status_code == 204
    assert jane.get("/api/v1/folders/luca").status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/files"), ("PUT", ""), ("PATCH", ""), ("DELETE", ""), ("DELETE", "/specs")],
)
def test_anothers_folder_is_as_if_it_were_not_there(jane, luca, method, path):
    put(jane)
    sent = {"PUT": {"data": packed(a__txt="9")}, "PATCH": {"json": {"readers": []}}}.get(method, {})
    theirs = luca.open(f"/api/v1/folders/luca{path}?owner={JANE}", method=method, **sent)
    nobodys = luca.open(f"/api/v1/folders/luca{path}?owner=nobody", method=method, **sent)
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.json["error"] == nobodys.json["error"] == "no folder 'luca'"
    assert luca.get("/api/v1/folders").json["folders"] == []
    assert luca.get(f"/api/v1/folders?owner={JANE}").json["folders"] == []


def test_a_group_reads_or_writes_what_it_was_given(jane, luca):
    put(jane)
    jane.patch("/api/v1/folders/luca", json={"readers": ["/cms/higgs"]})
    address = f"/api/v1/folders/luca?owner={JANE}"
    assert luca.get(address).json["readers"] == ["/cms/higgs"]
    assert [each["owner"] for each in luca.get("/api/v1/folders?shared=true").json["folders"]] == [JANE]
    for method in ("PUT", "PATCH", "DELETE"):
        sent = {"PUT": {"data": packed(a__txt="9")}, "PATCH": {"json": {}}}.get(method, {})
        assert luca.open(address, method=method, **sent).status_code == 403
    jane.patch("/api/v1/folders/luca", json={"writers": ["/cms/higgs"]})
    assert put(luca, query=f"?owner={JANE}", b__txt="22").status_code == 200
    found = jane.get("/api/v1/folders/luca").json
    assert (found["bytes"], found["writers"]) == (2, ["/cms/higgs"])
    refused = luca.patch(address, json={"readers": ["/cms/all"]})
    assert "only its owner" in refused.json["error"]
    assert luca.delete(address).status_code == 204


def test_who_may_read_a_folder_may_submit_from_it(jane, luca, request_folder):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        tar.add(request_folder, "request")
    jane.put("/api/v1/folders/tiny", data=content.getvalue())
    job = json.loads((request_folder / "job.json").read_text())
    address = f"/api/v1/plans?owner={JANE}"
    assert luca.post(address, json=job).json["error"] == "no folder 'tiny'"
    jane.patch("/api/v1/folders/tiny", json={"readers": ["/cms/higgs"]})
    planned = luca.post(address, json=job)
    assert planned.status_code == 200, planned.text
    assert planned.json["plan"]["size"]["events"] == 100
    # What would be submitted is Luca's.
    assert not re.search(r"/\S*/(users|versions|folders)/", planned.text)


def test_what_is_no_archive_is_refused(shared_app, jane):
    refused = jane.put("/api/v1/folders/luca", data=b"no archive", content_type="application/gzip")
    assert refused.status_code in (415, 422)
    assert jane.get("/api/v1/folders/luca").status_code == 404
    assert audit_of(shared_app)[-1]["refused"] == refused.json["code"]


@pytest.fixture
def measured(shared_app, jane):
    """A run of a folder whose specs and chunks are in the store, as its DAG says."""

    def make(recorded, name, key):
        run = record(shared_app, recorded, JANE, name, folder="luca")
        store = shared_app.extensions["mlaas_condor"].settings_of(JANE).store
        lines = run.dag.read_text().splitlines()
        for number, line in enumerate(lines):
            words = line.split()
            if words[:2] == ["SCRIPT", "PRE"] and words[5] != "-":
                words[5] = str(store / words[2] / key)
                lines[number] = " ".join(words)
        run.dag.write_text("\n".join(lines) + "\n")
        for stage in ("specs", "merge", "preprocess"):
            if not (store / stage / key).exists():
                shutil.copytree(run.output(stage), store / stage / key, copy_function=os.link)
        return run, store

    put(jane)
    return make


def stored(store):
    return sorted(str(path.relative_to(store)) for path in store.glob("*/*"))


def test_measured_specs_are_forgotten(shared_app, jane, measured):
    run, store = measured("completed_1", "luca_1", "k1")
    assert jane.delete("/api/v1/folders/luca/specs").json == {"dropped": 2}
    assert stored(store) == ["preprocess/k1"]  # chunks are no specs
    assert run.tasks_done("specs") == {0, 1}  # and the run keeps what it has
    assert jane.delete("/api/v1/folders/luca/specs").json == {"dropped": 0}
    assert audit_of(shared_app)[-1]["what"] == "specs of folder luca"


def test_specs_of_a_run_that_has_not_ended_stay(jane, measured):
    measured("failed_1", "luca_1", "k1")
    alive, store = measured("completed_1", "luca_2", "k2")
    make_alive(alive)
    assert jane.delete("/api/v1/folders/luca/specs").json == {"dropped": 2}
    assert stored(store) == ["merge/k2", "preprocess/k1", "preprocess/k2", "specs/k2"]


def test_specs_that_an_alive_run_shares_with_one_that_is_over_stay(jane, measured):
    _, store = measured("failed_1", "luca_1", "k1")
    alive, _ = measured("completed_1", "luca_2", "k1")
    make_alive(alive)
    assert jane.delete("/api/v1/folders/luca/specs").json == {"dropped": 0}
    assert stored(store) == ["merge/k1", "preprocess/k1", "specs/k1"]


def test_nothing_outside_the_store_is_dropped(jane, measured, tmp_path):
    run, store = measured("failed_1", "luca_1", "k1")
    precious = tmp_path / "precious"
    precious.mkdir()
    text = run.dag.read_text()
    for stage in ("specs", "merge"):
        text = text.replace(
            f"ready.sh {stage} {store}/{stage}/k1",
            f"ready.sh {stage} {store}/x/../../../../../{precious.name}",
        )
    run.dag.write_text(text)
    assert jane.delete("/api/v1/folders/luca/specs").json == {"dropped": 0}
    assert precious.is_dir()
