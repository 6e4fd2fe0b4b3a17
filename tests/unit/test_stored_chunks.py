"""The chunk store without a storage: stubs, what HTCondor gets, the plan, and who shares a folder."""

import pytest
from test_dag import CPU, small

from mlaas_condor import chunkstore, planning
from mlaas_condor.batch import dag
from mlaas_condor.data import storedchunks
from mlaas_condor.data.storedchunks import StoredChunk
from mlaas_condor.errors import InputUnreadable, StorageUnavailable
from mlaas_condor.grid import storing
from mlaas_condor.grid.credentials import Credentials
from mlaas_condor.request import Request
from mlaas_condor.run import RunFolder, mark
from mlaas_condor.sandbox import jobs_of

URL = "root://storage.example//store/user/jane/chunks"
STORED = {**CPU, "chunk_store": URL}


def stub(folder, number, size=10):
    """Put a stub and its mark into a folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"chunk-{number:05d}-0000{number:04x}.zip"
    made = StoredChunk(url=f"{URL}/key/{name}", size=size, checksum=f"0000{number:04x}", events=100)
    path = folder / storedchunks.STUB_NAME.format(number)
    made.write(path)
    mark(folder, number, [path])
    return made


def test_a_stub_read_back_is_the_same_and_a_damaged_one_is_said(tmp_path):
    made = stub(tmp_path, 3)
    path = tmp_path / "chunk-00003.stored"
    assert storedchunks.read(path) == made and made.name == "chunk-00003-00000003.zip"
    assert RunFolder(tmp_path.parent).is_complete(tmp_path.name, 3)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(InputUnreadable, match=r"chunk-00003\.stored: does not say where its chunk is"):
        storedchunks.read(path)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("chunk-00003-2eb8bd17.zip", True),
        (".chunk-123456-2eb8bd17.zip.00ff00ff", True),
        ("chunk-00003.zip", False),
        ("chunk-00003-2eb8bd17.zip.old", False),
        ("thesis.root", False),
    ],
)
def test_what_is_removed_is_ours_by_its_name(name, ours):
    assert bool(storedchunks.OURS.fullmatch(name)) is ours


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/eos/user/jane", "a path of this machine is no place for chunks"),
        ("https://storage.example/chunks", "https:// is no place for chunks"),
        ("root://storage.example/store", "does not do"),
        ("root://storage.example//store/my chunks", "does not do"),
        ("root://storage.example//store/$(task)", "does not do"),
        ("root://storage.example//store?class=tape", "does not do"),
    ],
)
def test_an_address_that_does_not_do_is_said_with_what_does(url, said):
    request = Request.of({**CPU, "chunk_store": url})
    chunkstore.check_address(request)
    [problem] = request.problems
    assert problem.where == "job.json: chunk_store" and repr(url) in problem.what and said in problem.what
    assert "root://host//folder" in problem.hint


@pytest.mark.parametrize("url", [URL, f"{URL}/", "roots://jane@storage.example:1094//store/a=b+c"])
def test_an_address_that_does(url):
    request = Request.of({**CPU, "chunk_store": url})
    chunkstore.check_address(request)
    assert request.problems == []


def render(job, store, stages=("specs", "preprocess", "train")):
    dataset, plan = small(job)
    credentials = Credentials(proxy="/tmp/x509up_u1000", stages=list(stages))
    files = dag.render("tth_1", Request.of(job).job, dataset, plan, ["model.py"], "/opt/python", store,
                       credentials)  # fmt: skip
    return files, dataset


def test_preprocess_is_told_where_to_and_the_run_keeps_it(tmp_path):
    files, dataset = render(STORED, tmp_path / "store")
    made = RunFolder(tmp_path / "tth_1")
    made.path.mkdir()
    dag.write(made, files, {"preprocess": ["0 0 2 512 100"]})
    made.todo("preprocess").write_text("0 0 2 512 100\n")
    assert jobs_of(made, "preprocess")[0].command[-3:] == ["0", "2", f"{URL}/{dataset.chunks_key}"]
    place = chunkstore.place_of(made)
    assert place.url == f"{URL}/{dataset.chunks_key}"
    assert f" {place.stubs} " in files["run.dag"].replace("\n", " ")
    assert "x509userproxy" in files["train.sub"]


def test_without_a_store_nothing_speaks_of_one(tmp_path):
    files, _ = render(CPU, tmp_path)
    assert chunkstore.FILE not in files and not any("root://" in text for text in files.values())


def test_stubs_and_chunks_never_share_a_store_folder(tmp_path):
    dataset, plan = small(STORED)
    folders = [dag.store_folders(tmp_path, dataset, plan, url) for url in (None, URL, f"{URL}2")]
    assert len({each["preprocess"] for each in folders}) == len({each["merge"] for each in folders}) == 3
    assert len({each["specs"] for each in folders}) == 1
    assert dag.store_folders(tmp_path, dataset, plan, f"{URL}/") == folders[1]


def test_preprocess_jobs_keep_no_chunk_that_is_stored():
    size = planning.Size(
        files=10, bytes=2**40, transferred=0, events=10**9, flat=100, jagged=0, columns=100, values=100,
        chunk_size=10**6,
    )  # fmt: skip
    here = planning.make(size, planning.Wishes(preprocess_jobs=10))
    there = planning.make(size, planning.Wishes(preprocess_jobs=10, stored=True))
    assert (
        here.stage("preprocess").disk > 30_000 > 1000 > there.stage("preprocess").disk > 2 * size.packed_mib
    )
    assert here.stage("train") == there.stage("train"), "it holds them all the same"
    assert there.wishes.for_data.stored, "merge plans with it"


def test_stubs_of_what_is_not_there_any_more_are_forgotten(tmp_path, monkeypatch):
    folder = tmp_path / "preprocess"
    kept, short, gone = (stub(folder, number) for number in (0, 1, 2))
    (folder / "chunk-00003.stored").write_text("{")
    there = {kept.name: 10, short.name: 9, "thesis.root": 10}
    monkeypatch.setattr(storing, "sizes", lambda url: there)
    assert chunkstore.forget_missing(folder, URL) == 3
    assert sorted(path.name for path in folder.iterdir()) == ["00000.ok", "chunk-00000.stored"]
    assert gone.name not in there


def run_with_a_store(runs, name, url=f"{URL}/key"):
    made = RunFolder(runs / name)
    made.path.mkdir(parents=True)
    made.dag.touch()
    chunkstore.Place(url=url, stubs=runs.parent / "store/preprocess/key").write(made.path / chunkstore.FILE)
    stub(made.output("preprocess"), 0)
    return made


@pytest.fixture
def there(monkeypatch):
    """A storage: its files by URL; a test may have it fail."""
    files = {f"{URL}/key/{name}": 10 for name in ("chunk-00000-00000000.zip", "thesis.root")}

    def sizes(url):
        if not files:
            raise StorageUnavailable(f"{url}: does not answer")
        return {path.rpartition("/")[2]: size for path, size in files.items()}

    monkeypatch.setattr(storing, "sizes", sizes)
    monkeypatch.setattr(storing, "remove", files.pop)
    monkeypatch.setattr(storing, "remove_folder", lambda url: None)
    return files


def test_chunks_go_with_the_last_run_that_has_them(tmp_path, there):
    one, two = (run_with_a_store(tmp_path / "runs", name) for name in ("a_1", "a_2"))
    run_with_a_store(tmp_path / "runs", "b_1", f"{URL}/another")
    (tmp_path / "store/preprocess/key").mkdir(parents=True)
    chunkstore.remove(one, tmp_path / "runs")
    assert len(there) == 2, "the other one needs them"
    one.dag.unlink()
    chunkstore.remove(two, tmp_path / "runs")
    assert list(there) == [f"{URL}/key/thesis.root"], "what is not ours stays"
    assert not (tmp_path / "store/preprocess/key").exists()


def test_a_storage_that_is_away_lets_nothing_be_deleted_and_the_way_out_is_said(tmp_path, there):
    made = run_with_a_store(tmp_path / "runs", "a_1")
    there.clear()
    with pytest.raises(StorageUnavailable, match=r"a_1 is not deleted.*delete a_1 --keep-stored"):
        chunkstore.remove(made, tmp_path / "runs")
    assert made.is_complete("preprocess", 0)
