"""What tests of the data layer share: events as lists, files in memory, datasets of files."""

from types import SimpleNamespace

import numpy as np

from mlaas_condor.data import chunks, inputs, specs
from mlaas_condor.data.dataset import Dataset, InputFile, split_entries
from mlaas_condor.data.events import Jagged, part
from mlaas_condor.data.measuring import measure


def jagged(lists, dtype=np.float64):
    """Return lists as a column."""
    values = [value for each in lists for value in each]
    return Jagged(np.array([len(each) for each in lists], np.int64), np.array(values, dtype))


def to_lists(column):
    """Return a column as plain Python numbers, or lists of them."""
    if not isinstance(column, Jagged):
        return column.tolist()
    values = iter(column.values.tolist())
    return [[next(values) for _ in range(count)] for count in column.counts.tolist()]


def same_array(one, other):
    """Tell whether two arrays are the same to the last bit."""
    return (one.dtype, one.shape) == (other.dtype, other.shape) and one.tobytes() == other.tobytes()


def same_column(one, other):
    if isinstance(one, Jagged) != isinstance(other, Jagged):
        return False
    if isinstance(one, Jagged):
        return same_array(one.counts, other.counts) and same_array(one.values, other.values)
    return same_array(one, other)


def same_chunk(one, other):
    """Tell whether two chunks are the same to the last bit, and in the same order."""
    return (
        list(one.events) == list(other.events)
        and list(one.carried) == list(other.carried)
        and all(same_column(column, other.events[name]) for name, column in one.events.items())
        and all(same_array(values, other.carried[name]) for name, values in one.carried.items())
        and same_array(one.file, other.file)
        and same_array(one.entry, other.entry)
    )


def fake_reader(*files, boundaries=None):
    """Return a class to put in place of `Reader`: its files are events in memory."""

    class Fake:
        opened = 0

        def __init__(self, dataset, position, *_):
            Fake.opened += 1
            self._events = files[position]
            self.source = SimpleNamespace(path=f"file {position}", boundaries=self._boundaries)

        def _boundaries(self, names):
            entries = max(inputs_of(self._events), default=0)
            return boundaries if boundaries is not None else [0, entries]

        def read(self, names, start, stop):
            return {name: part(self._events[name], start, stop) for name in names}

        def ahead(self, names, start, stop):
            pass

        def close(self):
            Fake.opened -= 1

    return Fake


def inputs_of(events):
    return [len(each.counts) if isinstance(each, Jagged) else len(each) for each in events.values()]


def plain_dataset(entries, tasks=None, **fields):
    """Return a dataset of files that need not exist, with so many entries."""
    files = [
        InputFile(path=f"/{i}.root", uuid=f"u{i}", size=1, entries=n, used=n) for i, n in enumerate(entries)
    ]
    defaults = {"flat": [], "jagged": [], "chunk_size": 10, "shuffle": True, "seed": 21}
    return Dataset(files=files, tasks=tasks or split_entries(list(entries), 1), **{**defaults, **fields})


def dataset_of(paths, tree="events", used=None, tasks=1, carried=(), features=None, **fields):
    """Return a dataset of files; features are all branches, but the ones carried and the lengths of lists."""
    surveys = [inputs.survey(str(path), tree) for path in paths]
    files = [
        InputFile(
            path=each.path, tree=each.tree, uuid=each.uuid, size=each.size, entries=each.entries,
            used=used[i] if used else each.entries, index=list(each.index),
        )
        for i, each in enumerate(surveys)
    ]  # fmt: skip
    branches = surveys[0].branches
    names = features if features is not None else [n for n in branches if not n.startswith("_n_")]
    names = sorted(set(names) - set(carried))
    kinds = {name: branches[name].kind if name in branches else "flat" for name in names}
    defaults = {"chunk_size": 25, "shuffle": True, "seed": 21}
    return Dataset(
        files=files,
        flat=fields.pop("flat", [name for name in names if kinds[name] == "flat"]),
        jagged=fields.pop("jagged", [name for name in names if kinds[name] == "jagged"]),
        carried=list(carried),
        tasks=split_entries([file.used for file in files], tasks),
        **{**defaults, **fields},
    )


def specs_of(dataset, given=None):
    """Measure all tasks one by one, and join them."""
    return specs.of_dataset(dataset, specs.join([measure(dataset, task) for task in dataset.tasks]), given)


def chunks_of(dataset, found):
    """Make all chunks."""
    maker = chunks.Maker(dataset, found)
    try:
        last = chunks.count(found.events, dataset.chunk_size) - 1
        return [chunk for _, chunk in maker.make(0, last)]
    finally:
        maker.close()
