"""Packing: what a request needs from this machine goes along, and means there what it means here."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from mlaas_condor import Request, RequestError, versions
from mlaas_condor.archives import members, reading
from mlaas_condor.archives.sending import Archive
from mlaas_condor.client.packing import pack
from mlaas_condor.errors import InputChanged, InputUnreadable
from mlaas_condor.lists import read_lines, read_lists


@pytest.fixture
def packed(request_folder):
    """Pack the request as it is now."""
    return lambda: pack(Request.read(request_folder))


@pytest.fixture
def there(tmp_path):
    """Put a package where a service would have it; give the request that it reads there."""

    def unpack(package):
        folder = tmp_path / "there"
        for name, path in package.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        return Request.of(json.loads(json.dumps(package.job)), folder)

    return unpack


def inputs(request):
    """Return content, tree and label of each input of a request, in order."""
    lists = read_lists(request, read_lines(request))
    request.check()
    labels = lists.labels.of_files or [lists.labels.branch] * len(lists.inputs)
    pairs = zip(lists.inputs, labels, strict=True)
    return [(Path(each.path).read_bytes(), each.tree, label) for each, label in pairs]


def write_files(folder, *lines, labels=None):
    (folder / "files.txt").write_text("\n".join(lines) + "\n")
    if labels is not None:
        (folder / "labels.txt").write_text("\n".join(labels) + "\n")


def elsewhere(tmp_path, *names):
    for name in names:
        path = tmp_path / "elsewhere" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content of {name}".encode())
    return tmp_path / "elsewhere"


def test_lists_and_params_are_in_the_job_and_the_rest_in_the_folder(packed):
    package = packed()
    assert package.name == "tiny" and package.warnings == []
    assert list(package.files) == ["data/background.root", "data/signal.root", "model.py"]
    assert package.job["files"] == ["data/signal.root", "data/background.root"]
    assert package.job["labels"] == ["1", "0"] and package.job["model"] == "model.py"
    assert package.job["params"]["branch"] == "events" and package.job["params"]["epochs"] == 1


def test_other_params_need_no_other_upload(packed, change):
    before = packed().files
    change("params", epochs=7)
    change(memory="3gb")
    after = packed()
    assert after.files == before and after.job["params"]["epochs"] == 7 and after.job["memory"] == "3gb"


def test_what_is_read_there_is_what_is_read_here(packed, there, request_folder):
    here = Request.read(request_folder)
    found = there(packed())
    assert inputs(found) == inputs(here)
    assert found.params == here.params and found.problems == []
    assert found.job.model_copy(update={"files": "", "labels": ""}) == here.job.model_copy(
        update={"files": "", "labels": ""}
    )


@pytest.mark.parametrize(
    "lines",
    [
        ["{out}/a.root:deep/tree", "{out}/b.root"],
        ["../elsewhere/a.root", "../elsewhere/b.root:other"],
        ["file://{out}/a.root", "{out}/sub/../b.root"],
        ["{out}/sub/*.root:deep/tree", "{out}/[ab].root"],
        ["../elsewhere/s*/**/*.root", "{out}/b.root"],
        ["{out}/*.root", "{out}/a.root"],
        ["{here}/data/*.root", "{out}/sub/d.root"],
        ["data/*.root", "{here}/data/signal.root"],
        ["./data/../data/signal.root", "data/back*.root"],
        ["*/signal.root", "{out}/signal.root"],
        ["**/*.root", "{out}/b.root"],
        ["{out}/odd, names/*.root", "{out}/b.root"],
        ["{out}/odd, names/-x.root", "{out}/odd, names/b|c.root:t"],
        ["{out}/one[1].root", "{out}/b.root"],
    ],
)
def test_inputs_from_anywhere_go_along_in_their_order(packed, there, request_folder, tmp_path, lines):
    names = ["a.root", "b.root", "signal.root", "sub/c.root", "sub/d.root", "sub/deep/a.root", "one[1].root"]
    out = elsewhere(tmp_path, *names, *(f"odd, names/{each}.root" for each in ("-x", "b|c", "B d", "a;b")))
    write_files(request_folder, *(line.format(out=out, here=request_folder) for line in lines))
    package = packed()
    for name in package.files:
        members.checked_path(name, members.Bounds(files=1, bytes=1))
    assert inputs(there(package)) == inputs(Request.read(request_folder))


def test_a_label_for_each_file_of_a_pattern_stays_with_it(packed, there, request_folder, tmp_path):
    out = elsewhere(tmp_path, "a.root", "b;.root", "c.root")
    write_files(request_folder, f"{out}/*.root", "data/signal.root", labels=["a", "b", "c", "s"])
    assert inputs(there(packed())) == inputs(Request.read(request_folder))


def test_a_folder_of_the_users_is_not_mixed_with_ours(packed, there, request_folder, tmp_path, mktree):
    out = elsewhere(tmp_path, "x.root")
    mktree("request/inputs/1/x.root", 5)
    write_files(request_folder, "inputs/1/x.root", f"{out}/x.root")
    package = packed()
    assert sorted(package.files) == ["inputs/1/x.root", "inputs_/1/x.root", "model.py"]
    assert inputs(there(package)) == inputs(Request.read(request_folder))


def test_what_is_on_storage_stays_there(packed, request_folder, change):
    lines = [
        "root://storage//a/*.root",
        "https://web/b.root:t",
        "root://x//c.root|root://y//c.root",
        "/store/d.root",
    ]
    write_files(request_folder, *lines)
    change("params", redirector="root://storage")
    package = packed()
    assert package.job["files"] == lines and list(package.files) == ["model.py"]


def test_links_are_followed(packed, request_folder, tmp_path):
    out = elsewhere(tmp_path, "big.root")
    (request_folder / "data" / "signal.root").unlink()
    (request_folder / "data" / "signal.root").symlink_to(out / "big.root")
    assert packed().files["data/signal.root"].read_bytes() == b"content of big.root"


def test_modules_that_the_model_imports_go_along(packed, request_folder):
    (request_folder / "model.py").write_text("import keras\nimport layers, blocks\ndef model(idim): ...\n")
    (request_folder / "layers.py").write_text("import blocks\n")
    (request_folder / "unused.py").write_text("")
    for name in ("__init__.py", "deep/one.py", "__pycache__/one.pyc", "weights.txt", ".DS_Store"):
        path = request_folder / "blocks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    names = [name for name in packed().files if not name.startswith("data/")]
    assert names == [
        "blocks/__init__.py",
        "blocks/deep/one.py",
        "blocks/weights.txt",
        "layers.py",
        "model.py",
    ]


def test_a_model_from_elsewhere_stays_with_its_modules(packed, request_folder, tmp_path, change):
    for folder in (tmp_path / "models", tmp_path / "odd, models"):
        folder.mkdir()
        (folder / "my model.py").write_text("import helper\nimport keras\ndef model(idim): ...\n")
        (folder / "helper.py").write_text("")
        change(model=str(folder / "my model.py"))
        package = packed()
        where = Path(package.job["model"])
        assert where.parts[0] == "inputs" and f"{where.parent}/helper.py" in package.files
        assert package.files[str(where)].read_text().startswith("import helper")


def test_all_that_a_request_can_name_goes_along(packed, there, request_folder, tmp_path, change):
    (tmp_path / "cuts.json").write_text("{}")
    (tmp_path / "specs.json").write_text("{}")
    (request_folder / "branches.txt").write_text("met\n# no\njet_pt\n")
    (request_folder / "weights.txt").write_text("1\n0.5\n")
    change(
        preproc="../cuts.json", specs=str(tmp_path / "specs.json"), weights="weights.txt", labels=["s", "b"]
    )
    change("params", selected_branches="branches.txt", hist=str(tmp_path / "pdfs"))
    package = packed()
    assert package.files[package.job["preproc"]] == tmp_path / "cuts.json"
    assert package.files[package.job["specs"]] == tmp_path / "specs.json"
    assert package.job["weights"] == ["1", "0.5"] and package.job["labels"] == ["s", "b"]
    assert package.job["params"]["selected_branches"] == ["met", "jet_pt"]
    assert package.job["params"]["hist"] == "pdfs"
    assert there(package).problems == []


def test_a_function_for_records_goes_along_with_what_it_imports(packed, request_folder, change):
    (request_folder / "prep").mkdir()
    (request_folder / "prep" / "prep.py").write_text("import tools\ndef preprocessing(rec): return rec\n")
    (request_folder / "prep" / "tools.py").write_text("")
    change(preproc="prep/prep.py")
    assert {"prep/prep.py", "prep/tools.py"} <= set(packed().files)


def test_the_name_of_a_branch_stays_one(packed, change):
    change(labels="trigger", weights="met")
    package = packed()
    assert package.job["labels"] == "trigger" and package.job["weights"] == "met"


def test_files_for_validation_are_named_as_they_are_there(packed, there, request_folder, tmp_path, change):
    from fnmatch import fnmatch

    elsewhere(tmp_path, "v1.root", "v2.root", "t[3].root", "other.root")
    write_files(request_folder, "../elsewhere/*.root", "data/signal.root", labels=["1"] * 4 + ["0"])
    split = {
        "validation": ["../elsewhere/v*.root", "data/signal.root"],
        "test": "other.root, ../elsewhere/t*",
    }
    change("params", split=split)
    found = there(packed())
    paths = [each.path for each in read_lists(found, read_lines(found)).inputs]

    def matching(patterns):
        whole = [str(found.path(each)) for each in patterns]
        return {
            Path(p).name
            for p in paths
            for w, e in zip(whole, patterns, strict=True)
            if fnmatch(p, w) or fnmatch(Path(p).name, e)
        }

    assert matching(found.params.split.validation) == {"v1.root", "v2.root", "signal.root"}
    assert matching(found.params.split.test) == {"other.root", "t[3].root"}


def test_a_proxy_never_goes_along(packed, tmp_path, change):
    (tmp_path / "x509").write_text("secret")
    change(x509_proxy=str(tmp_path / "x509"), cert_folder="/home/jane/certificates", fout="/x")
    package = packed()
    assert not {"x509_proxy", "cert_folder", "fout"} & set(package.job)
    assert tmp_path / "x509" not in package.files.values()
    assert any("mlaas-condor proxy delegate" in each for each in package.warnings)
    assert any("'cert_folder' is not needed here" in each for each in package.warnings)


def test_all_that_is_wrong_is_said_at_once(packed, request_folder, change):
    write_files(request_folder, "data/signl.root", "no/*.root", "data", "data/*/../x*", "data/signal.root")
    change(model="modle.py", preproc="none.json", memory="3xb", specs="data")
    change("params", nevtts=1)
    with pytest.raises(RequestError) as error:
        packed()
    told = {f"{each.where} {each.what}" for each in error.value.problems}
    assert told >= {
        "data/signl.root no such file",
        "no/*.root matches no file",
        "data is a directory, not a file",
        "data/*/../x* '..' after a pattern cannot be sent",
        "job.json: model: modle.py no such file",
        "job.json: preproc: none.json no such file",
        "job.json: specs: data is a directory, not a file",
    }
    assert any("3xb" in each for each in told) and any("nevtts" in each for each in told)
    assert any("signal.root" in each.hint for each in error.value.problems)


@pytest.mark.parametrize("text", ['{"epochs": 1', "[1]", '{"epochs": 1, "epochs": 2}'])
def test_params_that_cannot_be_read_are_told(packed, request_folder, text):
    (request_folder / "params.json").write_text(text)
    with pytest.raises(RequestError, match=r"params\.json"):
        packed()


def test_a_request_that_is_no_file_is_packed_from_this_folder(request_folder, monkeypatch):
    monkeypatch.chdir(request_folder)
    job = json.loads((request_folder / "job.json").read_text())
    package = pack(Request.of({**job, "params": {"branch": "events", "nan": float("nan")}}))
    assert "data/signal.root" in package.files and package.job["params"]["branch"] == "events"


# --- the archive


def listed(archive, tmp_path):
    path = tmp_path / "sent"
    path.write_bytes(b"".join(archive.stream()))
    assert path.stat().st_size == archive.length
    bounds = members.Bounds(files=100, bytes=2**30)
    return {
        str(name): b"".join(member.pieces) for name, member in reading.read(path, bounds) if not member.folder
    }


def test_an_archive_has_the_files_and_says_how_long_it_is(tmp_path):
    contents = {"a.root": os.urandom(300_000), "deep/" + "é" * 90: b"", "deep/c.csv": b"1,2,3\n" * 50_000}
    files = {}
    for i, (name, content) in enumerate(contents.items()):
        files[name] = tmp_path / str(i)
        files[name].write_bytes(content)
    archive = Archive.of(files)
    assert archive.compressed and archive.length < 350_000
    assert listed(archive, tmp_path) == contents
    assert b"".join(archive.stream()) == b"".join(archive.stream()), "it is the same each time"
    with tarfile.open(fileobj=io.BytesIO(b"".join(archive.stream()))) as tar:
        assert {(each.uid, each.uname, each.mtime, each.mode) for each in tar} == {(0, "", 0, 0o644)}


def test_what_does_not_become_smaller_is_sent_as_it_is(tmp_path):
    (tmp_path / "a").write_bytes(os.urandom(2**20))
    archive = Archive.of({"a": tmp_path / "a"})
    assert not archive.compressed
    assert listed(archive, tmp_path) == {"a": (tmp_path / "a").read_bytes()}


def test_nor_what_would_look_like_a_bomb(tmp_path):
    (tmp_path / "a").write_bytes(bytes(2**22))
    archive = Archive.of({"a": tmp_path / "a"})
    assert not archive.compressed and archive.length > 2**22


def test_progress_is_told_in_bytes_of_files(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    told = []
    list(Archive.of({"a": tmp_path / "a"}).stream(told.append))
    assert sum(told) == 3_000_000 and len(told) == 3


def test_a_file_that_is_gone_or_became_shorter_is_told(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(os.urandom(2**21))
    archive = Archive.of({"a": path})
    pieces = archive.stream()
    next(pieces)
    path.write_bytes(b"")
    with pytest.raises(InputChanged, match="became shorter while it was sent"):
        list(pieces)
    path.unlink()
    with pytest.raises(InputUnreadable, match="No such file"):
        list(archive.stream())


def test_the_version_is_that_of_the_folder_there(packed, there):
    package = packed()
    entries = [
        versions.Entry(name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for name, path in package.files.items()
    ]
    assert versions.digest(entries) == versions.digest(versions.of_folder(there(package).folder))
