"""Specs and feature matrix against plain loops over events, on Monte Carlo of ours and on files of others.

The loops are MLaaS4HEP's definition: the longest list, the smallest and largest value of the events kept; a
row of flat branches, then of lists that are padded, each value ``(x - min) / (max - min)``.
"""

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import uproot
from data_tools import chunks_of, dataset_of, specs_of

from mlaas_condor.data import inputs
from mlaas_condor.data.features import Columns, mask, matrix
from mlaas_condor.data.selection import Cut, Definition, Steps

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
EXAMPLE = ROOT / "examples" / "tth" / "data"
LARGEST = float(np.finfo(np.float32).max)


class Case:
    """Files, some of their branches, and the jagged one, with its cut, and the flat one to try steps with."""

    def __init__(
        self, folder, names, tree, used, branches=None, jagged="", above=(0.0, 0.0), flat="", below=0.0
    ):
        self.paths = [folder / name for name in names]
        self.tree, self.used, self.branches = tree, used, branches
        self.jagged, self.flat, self.below = jagged, flat, below
        self.above = {"any": above[0], "all": above[1]}

    @cache  # noqa: B019 - there are five of them
    def features(self):
        return self.branches(self.paths[0], self.tree) if self.branches else None

    def steps(self, kind):
        if kind == "plain":
            return Steps()
        new = Definition(
            name="new",
            expression=f"sqrt(abs({self.jagged})) + {self.flat}",
            branches=[self.flat, self.jagged],
        )
        cut = Cut(expression=f"{self.jagged} > {self.above[kind]}", branches=[self.jagged], elements=kind)
        second = Cut(expression=f"{self.flat} <= {self.below}", branches=[self.flat])
        return Steps(definitions=[new], cuts=[cut, second])


def some(path, tree):
    """Return a fifth of the branches that are numbers, and some that have NaN or must be there."""
    names = sorted(inputs.survey(str(path), tree).branches)
    return sorted({*names[::5], "HTXS_Higgs_y", "SV_pAngle", "Jet_pt", "MET_pt", "GenPart_pdgId", "event"})


CASES = {
    "example": Case(
        EXAMPLE, ["ttH_1.root", "ttbar_1.root", "qcd_pthat700.root"], "events", [150, 90, 120],
        jagged="jetPt", above=(250, 40), flat="nJets", below=7,
    ),
    "mc": Case(
        SHARED / "mc", ["ttH_1.root", "ttbar_1.root"], "events", [250, 200],
        jagged="jetPt", above=(250, 40), flat="nJets", below=7,
    ),
    "agc": Case(
        SHARED / "real", ["agc--open-data-example.root"], "Events", [700],
        jagged="Muon_pt", above=(10, 10), flat="nMuon", below=2,
    ),
    "nano": Case(
        SHARED / "real", ["unroot--NanoAODv5_sample.root"], "Events", [300], some,
        jagged="Jet_pt", above=(60, 20), flat="MET_pt", below=60,
    ),
    "nano_dy": Case(
        SHARED / "real", ["coffea--nano_dy.root"], "Events", [40], some,
        jagged="Jet_pt", above=(30, 20), flat="MET_pt", below=40,
    ),
}  # fmt: skip


@cache
def events_of(name):
    """Return the first events of each file as plain Python, from uproot alone."""
    case, files = CASES[name], []
    for path, used in zip(case.paths, case.used, strict=True):
        with uproot.open(path) as file:
            tree = file[case.tree]
            names = case.features() or [n for n in tree.keys() if not n.startswith("_n_")]  # noqa: SIM118
            names = sorted({*names, case.jagged, case.flat})
            arrays = tree.arrays(names, entry_stop=used, library="ak", how=dict)
            columns = {name: arrays[name].tolist() for name in names}
        files.append([{n: column[i] for n, column in columns.items()} for i in range(used)])
    return files


def kept_events(name, kind):
    """Return the events kept, each with its file and entry, and the cut flow."""
    case, kept, flow = CASES[name], [], [0, 0, 0]
    for file, rows in enumerate(events_of(name)):
        for entry, row in enumerate(rows):
            flow[0] += 1
            if kind != "plain":
                elements = [x > case.above[kind] for x in row[case.jagged]]
                if not (any(elements) if kind == "any" else all(elements)):
                    continue
                flow[1] += 1
                if not row[case.flat] <= case.below:
                    continue
                row = {**row, "new": [math.sqrt(abs(x)) + row[case.flat] for x in row[case.jagged]]}
            flow[2] += 1
            kept.append((file, entry, row))
    return kept, flow if kind != "plain" else flow[:1]


def numbers(value):
    return value if isinstance(value, list) else [value]


def finite(x):
    return not math.isnan(x) and abs(x) <= LARGEST


def slow_specs(rows, name):
    """Return longest list, minimum, maximum, values and values that are not finite."""
    values = [float(x) for row in rows for x in numbers(row[name])]
    usable = [x for x in values if finite(x)]
    longest = max(len(numbers(row[name])) for row in rows)
    return (
        longest,
        min(usable, default=None),
        max(usable, default=None),
        len(usable),
        len(values) - len(usable),
    )


def slow_row(row, flat, many, specs):
    """Return the normalised row of an event, in double precision, and how far float32 may be from it."""
    wanted, allowed = [], []
    for name in [*sorted(flat), *sorted(many)]:
        longest, low, high, _, _ = specs[name]
        values = [float(x) for x in numbers(row[name])]
        for x in [*values, *[math.nan] * (longest - len(values))]:
            if not finite(x):
                wanted.append(math.nan)
                allowed.append(0.0)
            elif high == low:
                wanted.append(x)
                allowed.append(abs(x) * 2**-23)
            else:
                wanted.append((x - low) / (high - low))
                # All numbers are rounded to 24 bits, unless they are so large that the range would suffer.
                large = max(abs(low), abs(high)) / (high - low)
                allowed.append(2**-21 * (large if large <= 4096 else 1) + 2**-22)
    return np.array(wanted), np.array(allowed)


def present(case):
    return pytest.param(
        case,
        marks=pytest.mark.skipif(
            not all(path.exists() for path in CASES[case].paths), reason="the shared files are not here"
        ),
    )


@pytest.mark.parametrize("kind", ["plain", "any", "all"])
@pytest.mark.parametrize("case", [present(case) for case in CASES])
def test_specs_and_matrix_are_those_of_plain_loops(case, kind):
    it = CASES[case]
    dataset = dataset_of(
        it.paths, it.tree, used=it.used, tasks=3, features=it.features(), steps=it.steps(kind), block=90,
        chunk_size=100,
    )  # fmt: skip
    if kind != "plain":
        dataset = dataset.model_copy(update={"jagged": sorted([*dataset.jagged, "new"])})
    found = specs_of(dataset)
    kept, flow = kept_events(case, kind)
    rows = [row for _, _, row in kept]
    assert found.flow == flow and (kind == "plain" or 2 < len(kept) < sum(it.used))

    specs = {name: slow_specs(rows, name) for name in (*dataset.flat, *dataset.jagged)}
    assert all(isinstance(rows[0][name], list) == (name in dataset.jagged) for name in specs)
    for name, wanted in specs.items():
        branch = found.flat.get(name) or found.jagged[name]
        got = (branch.length, branch.minimum, branch.maximum, branch.values, branch.not_finite)
        if name == "new":  # of which numbers in single precision are made of
            assert got == pytest.approx(wanted, rel=1e-6)
        else:
            assert got == wanted, name

    columns = Columns.of(found)
    names = sorted(dataset.flat)
    for name in sorted(dataset.jagged):
        names += [f"{name}_{i}" for i in range(specs[name][0])]
    assert list(columns.names) == names
    by_place = {(file, entry): row for file, entry, row in kept}
    seen = []
    for chunk in chunks_of(dataset, found):
        got, hidden = matrix(chunk.events, columns), mask(chunk.events, columns)
        for i, place in enumerate(zip(chunk.file.tolist(), chunk.entry.tolist(), strict=True)):
            seen.append(place)
            wanted, allowed = slow_row(by_place[place], dataset.flat, dataset.jagged, specs)
            assert (hidden[i] == np.isnan(wanted)).all() and (got[i][hidden[i]] == 0).all()
            wrong = np.abs(got[i] - np.nan_to_num(wanted)) > allowed
            assert not wrong.any(), [names[j] for j in np.flatnonzero(wrong)]
    assert sorted(seen) == sorted(by_place)


@pytest.mark.parametrize("case", [present("nano"), present("nano_dy")])
def test_files_of_others_have_what_makes_them_hard(case):
    """Values that are NaN, lists that are all empty, long ones, and constant branches are among them."""
    it = CASES[case]
    rows = [row for _, _, row in kept_events(case, "plain")[0]]
    specs = [slow_specs(rows, name) for name in it.features()]
    assert any(bad for *_, bad in specs) and any(longest == 0 for longest, *_ in specs)
    assert max(longest for longest, *_ in specs) > 20
    assert any(low == high for longest, low, high, *_ in specs if longest)
