"""Files that nobody here wrote, from public repositories: each is read, or refused with what is wrong.

They are not part of the repository (``shared/data`` beside it); without them these tests are skipped.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from mlaas_condor.data import inputs, measuring, specs
from mlaas_condor.data.dataset import Dataset, EntryRange, InputFile
from mlaas_condor.data.events import Jagged
from mlaas_condor.data.features import Columns, matrix
from mlaas_condor.data.selection import Selector, Steps
from mlaas_condor.errors import InputUnreadable

SHARED = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not (SHARED / "real").is_dir(), reason="the shared files are not here")
LONGEST, FIRST = 20, 1000


class Read(NamedTuple):
    """A tree that is read: its entries, and branches that are flat, jagged (or fixed) and left out."""

    file: str
    tree: str
    entries: int
    flat: int
    jagged: int
    left_out: int
    why: str


class Refused(NamedTuple):
    """A tree, or a file, that is refused with this message."""

    file: str
    tree: str
    message: str


# fmt: off
READ = [Read(*each) for each in (
    ("agc--open-data-example", "Events", 100000, 1, 5, 0, "NanoAOD muons, all baskets embedded"),
    ("coffea--PHYSLITE_example",
     "CollectionTree", 100, 60, 669, 716, "ATLAS: objects, structures and lists of lists"),
    ("coffea--nano_dy", "Events", 40, 1120, 379, 0, "NanoAOD, 63 branches always empty"),
    ("coffea--nano_dy", "Runs", 1, 6, 2, 0, "one entry"),
    ("coffea--nano_tree", "Events", 10, 724, 287, 0, "NanoAOD"),
    ("coffea--nano_tree", "Runs", 1, 6, 2, 0, "one entry"),
    ("coffea--treemaker", "PreSelection", 10, 122, 269, 0, "lists of 4750"),
    ("hepdl--single_top", "events", 5684, 28, 23, 0, "CMS tutorial"),
    ("hepdl--ww", "events", 4580, 28, 23, 0, "CMS tutorial"),
    ("laurelin--all-types", "Events", 9, 11, 20, 0, "every integer, fixed and jagged"),
    ("roottest--distrdf_roottest_check_friend_trees_friend", "TF", 10000, 1, 0, 0, "friend tree"),
    ("roottest--distrdf_roottest_check_friend_trees_main", "T", 10000, 1, 0, 0, "has a friend"),
    ("roottest--python__JsMVA__tmva_class_example", "TreeB", 6000, 5, 0, 0, "two trees"),
    ("roottest--python__JsMVA__tmva_class_example", "TreeS", 6000, 4, 0, 0, "two trees"),
    ("roottest--tree__cache__jagged", "t", 6000, 0, 1, 1, "4500 baskets; lists of 20 numbers each"),
    ("roottest--tree__chain__n_empty", "ntup", 0, 1, 0, 0, "no entries"),
    ("roottest--tree__chain__n_full", "ntup", 10, 1, 0, 0, "ten entries"),
    ("skhep--HZZ-lz4", "events", 2421, 28, 23, 0, "compression"),
    ("skhep--HZZ-lzma", "events", 2421, 28, 23, 0, "compression"),
    ("skhep--HZZ-objects", "events", 2421, 4, 7, 11, "TLorentzVector"),
    ("skhep--HZZ-uncompressed", "events", 2421, 28, 23, 0, "compression"),
    ("skhep--HZZ-zlib", "events", 2421, 28, 23, 0, "compression"),
    ("skhep--HZZ-zstd", "events", 2421, 28, 23, 0, "compression"),
    ("skhep--Run2012BC_DoubleMuParked_Muons_1000evts_rntuple_v1-0-0-0",
     "Events", 1000, 1, 5, 1, "RNTuple; a structure over its own fields"),
    ("skhep--cmsopendata2015_ttbar_19980_NANOAOD_RNTupleImporter_rntuple_v1-0-0-1",
     "Events", 10, 603, 344, 22, "RNTuple; structures over their own fields"),
    ("skhep--double32-float16", "tree", 17, 10, 2, 0, "Double32 and Float16"),
    ("skhep--empty", "tree", 0, 2, 0, 1, "no entries, text"),
    ("skhep--hepdata-example", "ntuple", 75000, 5, 0, 0, "TNtuple"),
    ("skhep--issue-172", "events", 10, 0, 10, 0, "NaN in lists"),
    ("skhep--issue-85", "Hyp3O2", 39308, 48, 0, 0, "flat, bool and Double32"),
    ("skhep--issue187", "fTreeV0", 12230, 4, 57, 1, "jagged Double32; pairs"),
    ("skhep--issue261", "events", 0, 0, 0, 0, "no entries, no branches"),
    ("skhep--issue31", "T", 5, 3, 0, 1, "two cycles; text"),
    ("skhep--issue31", "T;1", 5, 3, 0, 1, "the earlier cycle"),
    ("skhep--issue335", "empty_tree", 0, 1, 0, 0, "no entries"),
    ("skhep--issue64", "events/events", 500, 27, 23, 5, "lists of text"),
    ("skhep--leaflist", "tree", 5, 0, 0, 1, "structure"),
    ("skhep--nesteddirs", "one/tree", 4, 2, 0, 1, "trees in folders"),
    ("skhep--nesteddirs", "one/two/tree", 100, 7, 12, 1, "trees in folders"),
    ("skhep--nesteddirs", "three/tree", 100, 12, 24, 5, "trees in folders"),
    ("skhep--ntpl001_staff_rntuple_v1-0-0-0", "Staff", 3354, 9, 0, 2, "RNTuple; text"),
    ("skhep--sample-5.23.02-uncompressed", "sample", 30, 12, 22, 1, "every number, fixed and jagged; text"),
    ("skhep--sample-6.20.04-zlib", "sample", 30, 12, 22, 1, "every number, fixed and jagged; text"),
    ("skhep--small-dy-nooffsets", "tree", 501, 4, 2, 2, "offsets only in the counter"),
    ("skhep--stl_containers", "tree", 5, 0, 1, 25, "containers"),
    ("skhep--string-example", "Refs", 0, 0, 0, 4, "only text, no entries"),
    ("skhep--test_1jag_int_float_rntuple_v1-0-0-0", "ntuple", 100, 0, 2, 0, "RNTuple of lists"),
    ("skhep--test_stl_containers_rntuple_v1-0-0-0", "ntuple", 5, 0, 2, 11, "RNTuple; containers"),
    ("skhep--vectorVectorDouble", "t", 5, 0, 0, 1, "lists of lists"),
    ("unroot--NanoAODv5_sample", "Events", 1000, 1119, 360, 0, "NanoAOD, 1479 branches; NaN"),
    ("unroot--cms_ntuple_wjet", "variable", 24, 155, 56, 0, "split objects, leaves of one name"),
    ("unroot--tree_with_doubly_jagged", "t1", 5, 0, 0, 2, "lists of lists"),
    ("unroot--unsigned_integers", "tree", 3, 4, 0, 0, "uint8 to uint64"),
)]

REFUSED = [Refused(*each) for each in (
    ("real/coffea--bad_delphes", "events", "no tree 'events': it has no tree at all$"),
    ("real/roottest--tree__friend__short0", "Global",
     "tree 'Global' cannot be read: ValueError: unsupported compression algorithm: b'CS'"),
    ("real/skhep--histograms", "events", "no tree 'events': it has no tree at all$"),
    ("real/skhep--issue-586", "events", "no tree 'events': it has no tree at all$"),
    ("real/skhep--issue70", "events", "no tree 'events': it has no tree at all$"),
    ("real/skhep--issue31", "T;3", "no tree 'T;3': it has T; set 'branch' in params.json$"),
    ("real/skhep--nesteddirs", "tree", "no tree 'tree': it has one/tree, one/two/tree, three/tree; set"),
    ("broken/flipped_Jet_Px", "events", "entries 0 to 2421 of Jet_Px cannot be read: "),
    ("broken/header_only", "events", "is cut short: it has 100 of 222324 bytes$"),
    ("broken/not_root", "events", r"is not a ROOT file \(begins with b'this'\)$"),
    ("broken/trunc60", "events", "is cut short: it has 133394 of 222324 bytes$"),
    ("broken/trunc_last100", "events", "is cut short: it has 222224 of 222324 bytes$"),
    ("broken/trunc_nano50", "Events", "is cut short: it has 1515441 of 3030882 bytes$"),
    ("broken/zero", "events", r"is empty \(0 bytes\)$"),
)]
# fmt: on


def path_of(name):
    return str(SHARED / f"{name}.root")


def name_of(each):
    return f"{each.file}-{each.tree}"


@pytest.mark.parametrize("row", REFUSED, ids=name_of)
def test_file_is_refused(row):
    path = path_of(row.file)
    with pytest.raises(InputUnreadable, match=re.escape(f"{path}: ") + row.message) as caught:
        source = inputs.open_source(path, row.tree)
        source.read(source.branches, 0, source.entries)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("row", READ, ids=name_of)
def test_file_is_read(row):
    found = inputs.survey(path_of(f"real/{row.file}"), row.tree)
    kinds = [branch.kind for branch in found.branches.values()]
    seen = (found.entries, kinds.count("flat"), kinds.count("jagged"), len(found.left_out))
    assert seen == (row.entries, row.flat, row.jagged, row.left_out), row.why
    for reason in found.left_out.values():
        assert re.match(r"(holds|is|has|cannot be read: ) ?\S", reason) and "\n" not in reason
    if found.entries and found.branches:
        first_events(found)


def first_events(found):
    """Measure the first events of all branches, lay them out, and hold every part to what it promises."""
    dataset = dataset_of(found)
    names = [*dataset.flat, *dataset.jagged]
    [[entries]] = dataset.tasks
    measured = specs.of_dataset(dataset, measuring.measure(dataset, [entries]))
    for name in names:
        branch = (measured.flat if name in dataset.flat else measured.jagged)[name]
        known = [branch.minimum, branch.maximum, branch.mean, *branch.quantiles]
        assert all(number is None or np.isfinite(number) for number in known), name
        assert 0 <= branch.length <= LONGEST, name
    reader = inputs.Reader(dataset, 0)
    raw = reader.read(names, 0, entries.stop)
    reader.close()
    for name, column in raw.items():
        branch = found.branches[name]
        values = column.values if isinstance(column, Jagged) else column
        assert (branch.kind, branch.dtype) == (
            "jagged" if isinstance(column, Jagged) else "flat",
            values.dtype.name,
        ), name
        if isinstance(column, Jagged):
            assert len(values) == column.counts.sum() and len(column.counts) == entries.stop
            assert not branch.length or set(column.counts) == {branch.length}
    columns = Columns.of(measured)
    x = matrix(Selector(dataset.steps, names).apply(raw).events, columns)
    width = len(dataset.flat) + sum(measured.jagged[name].length for name in dataset.jagged)
    assert x.shape == (entries.stop, width) == (entries.stop, len(columns))
    assert np.isfinite(x).all()
    both = {**measured.flat, **measured.jagged}
    for name, start in columns.first.items():
        if both[name].minimum != both[name].maximum:  # others stay as they are
            block = x[:, start : start + columns.length[name]]
            assert -0.01 <= block.min() <= block.max() <= 1.01, name


def dataset_of(found):
    first = min(found.entries, FIRST)
    jagged = sorted(name for name, branch in found.branches.items() if branch.kind == "jagged")
    return Dataset(
        files=[
            InputFile(
                path=found.path, tree=found.tree, uuid=found.uuid, size=found.size,
                entries=found.entries, used=first,
            )
        ],
        flat=sorted(name for name, branch in found.branches.items() if branch.kind == "flat"),
        jagged=jagged,
        steps=Steps(max_length=dict.fromkeys(jagged, LONGEST)),
        tasks=[[EntryRange(file=0, start=0, stop=first)]],
        chunk_size=-1, shuffle=False, seed=0,
    )  # fmt: skip


def test_every_file_is_in_the_tables():
    real = {path.stem for path in (SHARED / "real").glob("*.root")}
    broken = {path.stem for path in (SHARED / "broken").glob("*.root")}
    refused = [each.file.split("/") for each in REFUSED]
    assert real == {each.file for each in READ} | {name for folder, name in refused if folder == "real"}
    assert broken == {name for folder, name in refused if folder == "broken"}


def test_numbers_of_a_file_are_the_same_in_all_compressions():
    sources = [
        inputs.open_source(path_of(f"real/skhep--HZZ-{codec}"), "events")
        for codec in ("uncompressed", "zlib", "lz4", "lzma", "zstd")
    ]
    plain, *others = (source.read(source.branches, 100, 900) for source in sources)
    for other in others:
        for name, column in plain.items():
            pair = column, other[name]
            for one, two in [pair] if not isinstance(column, Jagged) else zip(*map(parts, pair), strict=True):
                np.testing.assert_array_equal(one, two)


def parts(column):
    return column.counts, column.values


def test_double32_and_float16_are_numbers():
    source = inputs.open_source(path_of("real/skhep--double32-float16"), "tree")
    read = source.read(source.branches, 0, source.entries)
    dtypes = {name: branch.dtype for name, branch in source.branches.items()}
    assert set(dtypes.values()) <= {"float32", "float64", "int32"} and {"float32", "float64"} <= {
        *dtypes.values()
    }
    fixed = {name: branch.length for name, branch in source.branches.items() if branch.length}
    assert len(fixed) == 2
    for name, length in fixed.items():
        assert read[name].counts.tolist() == [length] * source.entries


def test_nested_branches_of_one_leaf_name_are_told_apart_by_their_paths():
    source = inputs.open_source(path_of("real/unroot--cms_ntuple_wjet"), "variable")
    nested = [name for name in source.branches if name.endswith("/fCoordinates.fPt")]
    assert len(nested) > 20 and not source.left_out
    read = source.read(nested, 0, source.entries)
    straight = {name: source.read([name], 0, source.entries)[name] for name in nested[:5]}
    for name, column in straight.items():
        for one, two in zip(
            parts(column) if isinstance(column, Jagged) else [column],
            parts(read[name]) if isinstance(column, Jagged) else [read[name]],
            strict=True,
        ):
            np.testing.assert_array_equal(one, two)


def test_lists_whose_lengths_are_elsewhere_are_told_before_they_are_read():
    found = inputs.survey(path_of("real/skhep--small-dy-nooffsets"), "tree")
    reason = "cannot be read: the lengths of its lists are those of 'nJet', in other portions"
    assert found.left_out == {"Jet_jetId": reason, "Jet_pt": reason}
    source = inputs.open_source(found.path, found.tree)
    assert len(source.read(found.branches, 0, found.entries)) == 6
