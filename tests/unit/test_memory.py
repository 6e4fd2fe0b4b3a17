"""A task's memory is bounded by what it works on at a time, however large the file."""

import tracemalloc

import numpy as np
import pytest

from mlaas_condor.data import chunkfile, chunks, specs
from mlaas_condor.data.dataset import Dataset, InputFile, split_entries
from mlaas_condor.data.features import Columns
from mlaas_condor.data.inputs import survey
from mlaas_condor.data.measuring import measure
from mlaas_condor.data.streaming import MIXED, Stream

BRANCHES, MIB = 20, 2**20


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A file of 32 MB of values, in clusters of 5000 events."""
    import uproot

    path = tmp_path_factory.mktemp("large") / "large.root"
    random = np.random.default_rng(1)
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        names = [f"x{i:02d}" for i in range(BRANCHES)]
        tree = file.mktree("events", dict.fromkeys(names, np.float32))
        for _ in range(80):
            tree.extend({name: random.random(5000, np.float32) for name in names})
    found = survey(str(path), "events")
    file = InputFile(
        path=str(path), tree="events", uuid=found.uuid, size=found.size, entries=found.entries,
        used=found.entries,
    )  # fmt: skip
    return Dataset(
        files=[file], flat=names, jagged=[], tasks=split_entries([found.entries], 1), block=10_000,
        chunk_size=5000, shuffle=True, seed=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(dataset):
    return specs.of_dataset(dataset, measure(dataset, dataset.tasks[0]))


def peak_of(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_specs_need_a_few_times_what_a_block_holds(dataset, measured):
    block = dataset.block * BRANCHES * 4
    assert peak_of(lambda: measure(dataset, dataset.tasks[0])) < 6 * block + 4 * MIB


def test_chunks_need_a_few_times_what_is_read_together(dataset, measured, monkeypatch, tmp_path):
    monkeypatch.setattr(chunks, "BATCH_BYTES", MIB)

    def work(last=79):
        for index, chunk in chunks.Maker(dataset, measured).make(0, last):
            chunkfile.write(tmp_path / chunkfile.FILE_NAME.format(index), chunk)

    work(0)  # imports what it needs
    assert peak_of(work) < 6 * MIB + 4 * MIB
    paths = sorted(tmp_path.glob("chunk-*.zip"))
    matrix = dataset.chunk_size * BRANCHES * 4

    def stream():
        for _ in Stream(paths, Columns.of(measured)).batches(100, seed=1):
            pass

    assert peak_of(stream) < 3 * (MIXED + 2) * matrix
