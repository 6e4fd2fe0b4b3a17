"""Reading from a real server: the same as from disk, in few requests, also while it comes and goes."""

from __future__ import annotations

import threading
import time

import awkward as ak
import numpy as np
import pytest
import uproot
from data_tools import chunks_of, dataset_of, same_chunk, same_column, specs_of
from example_tools import copy_example

from mlaas_condor import settings
from mlaas_condor.data import storage
from mlaas_condor.data.chunks import Maker
from mlaas_condor.data.rootfile import RootSource
from mlaas_condor.data.tables import open_table
from mlaas_condor.errors import InputChanged, InputUnreadable, RequestError, StorageUnavailable
from mlaas_condor.grid import waiting
from mlaas_condor.prepare import prepare
from mlaas_condor.request import Request

pytestmark = pytest.mark.grid

EVENTS, BRANCHES = 20_000, 60


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A TTree and an RNTuple of many branches, in several clusters."""
    random = np.random.default_rng(1)
    flat = {f"x{i}": random.random(EVENTS) for i in range(BRANCHES // 2)}
    counts = random.integers(0, 5, EVENTS)
    lists = {f"y{i}": ak.unflatten(random.random(counts.sum()), counts) for i in range(BRANCHES // 2)}
    found = {}
    for kind in ("tree", "ntuple"):
        path = tmp_path_factory.mktemp(kind) / "a.root"
        with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
            parts = [slice(k, k + 5000) for k in range(0, EVENTS, 5000)]
            if kind == "tree":
                types = dict.fromkeys(flat, "float64") | dict.fromkeys(lists, "var * float64")
                made = file.mktree("events", types, counter_name=lambda name: f"_n_{name}")
                for each in parts:
                    made.extend({name: column[each] for name, column in (flat | lists).items()})
            else:
                made = file.mkrntuple("events", {n: c[parts[0]] for n, c in (flat | lists).items()})
                for each in parts[1:]:
                    made.extend({name: column[each] for name, column in (flat | lists).items()})
        found[kind] = path
    return found


@pytest.fixture
def patient(monkeypatch):
    """Wait for a server as long as a job does."""
    monkeypatch.setattr(waiting.patience, "seconds", 120.0)


@pytest.mark.parametrize("kind", ["tree", "ntuple"])
def test_what_is_read_is_what_is_on_disk_in_few_requests(kind, content, plain_server):
    plain_server.put(f"/data/{kind}.root", content[kind].read_bytes())
    here = RootSource(str(content[kind]), "events")
    there = RootSource(plain_server.url(f"/data/{kind}.root"), "events")
    assert (here.uuid, here.entries, here.size) == (there.uuid, there.entries, there.size)
    assert dict(here.branches) == dict(there.branches)
    names = ["x1", "x7", "x20", "y3", "y11"]
    assert here.boundaries(names) == there.boundaries(names)
    plain_server.forget_requests()
    expected, found = here.read(names, 4000, 12_000), there.read(names, 4000, 12_000)
    assert all(same_column(expected[name], found[name]) for name in names)
    asked = plain_server.requests()
    assert asked.reads + asked.readvs <= 3, "a range of a few branches is a request or two"
    wanted = sum(getattr(column, "values", column).nbytes for column in found.values())
    assert asked.bytes < 2.5 * wanted
    here.close()
    there.close()


@pytest.mark.parametrize("kind", ["tree", "ntuple"])
def test_what_is_read_ahead_is_not_asked_for_again(kind, content, plain_server):
    plain_server.put(f"/data/{kind}.root", content[kind].read_bytes())
    source = RootSource(plain_server.url(f"/data/{kind}.root"), "events")
    source.read(["x1", "y1"], 0, 5000)
    source.ahead(["x1", "y1"], 5000, 9900)
    time.sleep(0.5)
    plain_server.forget_requests()
    source.read(["x1", "y1"], 5000, 9900)
    assert not plain_server.requests().bytes
    source.ahead(["x1", "y1"], 10_000, 15_000)
    source.close()  # with something still on its way


def test_tables_are_read_from_there_too(plain_server):
    plain_server.put("/data/a.csv", b"x,y\n" + b"1,2\n" * 5000)
    table = open_table(plain_server.url("/data/a.csv"))
    assert table.entries == 5000 and table.read(["y"], 4990, 5000)["y"].sum() == 20
    table.close()


def test_globs_of_a_server(plain_server):
    for name in ("b2.root", "b1.root", "c.txt", ".b3.root"):
        plain_server.put(f"/data/glob/{name}", b"root")
    plain_server.put("/data/glob/inner/b4.root", b"root")
    folder = plain_server.url("/data/glob")
    assert storage.expand(f"{folder}/b*.root") == [f"{folder}/b1.root", f"{folder}/b2.root"]
    assert storage.expand(f"{folder}/*/b*.root") == [f"{folder}/inner/b4.root"]
    assert storage.expand(f"{folder}/none*") == []


def test_of_several_places_the_one_that_has_it_is_read(plain_server):
    plain_server.put("/data/here.bin", b"0123456789")
    there = plain_server.url("/data/here.bin")
    places = ["root://no-such-host.invalid//data/here.bin", plain_server.url("/data/gone.bin"), there]
    with storage.open_bytes("|".join(places)) as file:
        assert file.read() == b"0123456789"
    with pytest.raises(StorageUnavailable, match=r"no-such-host.*nor .* from 1 other place: .*no such file"):
        storage.size("|".join(places[:2]))


def test_no_such_file_is_not_asked_for_again(plain_server, patient):
    began = time.monotonic()
    with pytest.raises(InputUnreadable, match="no such file"):
        storage.size(plain_server.url("/data/none.root"))
    assert time.monotonic() - began < 10 and len(plain_server.requests().of("refused")) == 1


def test_the_server_comes_and_goes_and_no_event_is_lost(content, plain_server, patient):
    url = plain_server.url("/data/a.root")
    plain_server.put("/data/a.root", content["tree"].read_bytes())
    here = dataset_of([content["tree"]], chunk_size=400)
    there = here.model_copy(update={"files": [here.files[0].model_copy(update={"path": url, "staged": ""})]})
    found = specs_of(here)
    expected = chunks_of(here, found)
    over, kills = threading.Event(), []

    def trouble():
        while len(kills) < 5 and not over.is_set():
            plain_server.kill()
            kills.append(time.monotonic())
            over.wait(0.3)
            plain_server.start()
            over.wait(0.7)

    maker = Maker(there, found)
    troublemaker = threading.Thread(target=trouble)
    made = []
    for index, chunk in maker.make(0, len(expected) - 1):
        made.append(chunk)
        if index == 0:
            troublemaker.start()
        time.sleep(0.12)
    troublemaker.join()
    maker.close()
    assert len(kills) == 5
    assert all(map(same_chunk, made, expected)) and len(made) == len(expected)
    assert sum(map(len, made)) == EVENTS


def test_the_server_is_away_while_specs_are_measured(content, plain_server, patient):
    url = plain_server.url("/data/a.root")
    plain_server.put("/data/a.root", content["tree"].read_bytes())
    here = dataset_of([content["tree"]], block=1000)
    there = here.model_copy(update={"files": [here.files[0].model_copy(update={"path": url, "staged": ""})]})
    plain_server.kill()
    timer = threading.Timer(2.0, plain_server.start)
    timer.start()
    assert specs_of(there) == specs_of(here)
    timer.join()


def test_lost_connections_lose_no_events_where_damage_may(content, plain_server, monkeypatch):
    monkeypatch.setattr(waiting.patience, "seconds", 0.5)
    plain_server.put("/data/a.root", content["tree"].read_bytes())
    here = dataset_of([content["tree"]], may_lose=0.5)
    url = plain_server.url("/data/a.root")
    there = here.model_copy(update={"files": [here.files[0].model_copy(update={"path": url, "staged": ""})]})
    plain_server.kill()
    with pytest.raises(StorageUnavailable, match="cannot be reached"):
        specs_of(there)


def test_a_file_that_becomes_another_one_is_noticed(plain_server, patient):
    plain_server.put("/data/a.bin", b"x" * 1000)
    file = storage.open_remote(plain_server.url("/data/a.bin"))
    plain_server.kill()
    plain_server.put("/data/a.bin", b"y" * 999)
    timer = threading.Timer(3.0, plain_server.start)
    timer.start()
    with pytest.raises(InputChanged, match="has 999 bytes, it had 1000"):
        file.read([(0, 10)])
    timer.join()
    file.close()


def test_places_that_differ_are_noticed_when_one_goes_away(plain_server, patient):
    one = plain_server.put("/data/same-size.bin", b"A" * 100_000)
    other = plain_server.put("/data/same-size-too.bin", b"B" * 100_000)
    file = storage.open_remote(f"{one}|{other}")
    assert file.read([(70_000, 70_004)]) == [b"AAAA"]
    file._leave()  # as when the connection is lost
    plain_server.path("/data/same-size.bin").unlink()
    with pytest.raises(InputChanged, match="has another content"):
        file.read([(80_000, 80_004)])
    file.close()


def test_a_thousand_files_of_a_host_that_is_away_are_told_soon_and_once(tmp_path, monkeypatch):
    monkeypatch.delenv("X509_USER_PROXY")
    monkeypatch.setattr("mlaas_condor.grid.proxy.default", lambda: tmp_path / "none")
    folder = copy_example(tmp_path)
    (folder / "files.txt").write_text("".join(f"root://localhost:1//data/{i}.root\n" for i in range(1000)))
    (folder / "labels.txt").write_text("".join(f"{i % 2}\n" for i in range(1000)))
    began = time.monotonic()
    with pytest.raises(RequestError) as caught:
        prepare(Request.read(folder), settings.load(home=str(tmp_path / "home")))
    assert time.monotonic() - began < 30
    (said,) = map(str, caught.value.problems)
    assert "localhost:1 cannot be reached" in said and "(and 999 more files there)" in said
