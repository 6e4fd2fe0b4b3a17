#!/usr/bin/env python3
"""Cut this example's slices from our Monte Carlo samples.

    python make_slices.py FOLDER

FOLDER holds the samples (``ttH_1.root``, ``ttbar_1.root``, ``qcd_pthat200.root``, …: Pythia 8, 13 TeV,
no detector). Each slice is the beginning of one sample, without the branches that know the truth: a
network would learn to read the answer from them.
"""

import sys
from pathlib import Path

import awkward as ak
import uproot

# Events a slice: half of all are signal; most of the background is ttbar, which is harder to tell from it
# than QCD. As many as go into 6 MB.
EVENTS = {
    "ttH_1": 2750,
    "ttH_2": 2750,
    "ttH_3": 2750,
    "ttbar_1": 2750,
    "ttbar_2": 2750,
    "qcd_pthat200": 900,
    "qcd_pthat400": 900,
    "qcd_pthat700": 900,
}
TRUTH = {"genWeight", "nPartons", "nBHadrons", "nBJets", "jetFlavor", "jetMinDRB", "fatJetNBHad", "qScale"}
TRUTH_PREFIXES = ("parton", "bHad")
COUNTERS = {"jet": "nJets", "fatJet": "nFatJets", "lep": "nLeptons"}


def is_truth(branch):
    """Tell whether a branch knows what the generator did."""
    return branch in TRUTH or branch.startswith(TRUTH_PREFIXES)


def cut(source, target, events):
    """Write the first events of a sample, without the truth."""
    with uproot.open(source) as file:
        tree = file["events"]
        names = [name for name in tree.keys() if not is_truth(name)]  # noqa: SIM118
        branches = {name: tree[name].array(entry_stop=events) for name in names}
    # The branches of one kind of object share its counter, as in the samples.
    for prefix, counter in COUNTERS.items():
        group = {name.removeprefix(prefix): branches.pop(name) for name in names if name.startswith(prefix)}
        branches[prefix] = ak.zip(group)
        del branches[counter]
    with uproot.recreate(target, compression=uproot.ZLIB(9)) as file:
        tree = file.mktree(
            "events",
            {name: array.type.content for name, array in branches.items()},
            counter_name=COUNTERS.__getitem__,
            field_name=lambda prefix, name: prefix + name,
        )
        tree.extend(branches)


def main(samples):
    """Write all slices into ``data`` beside this file."""
    target = Path(__file__).parent / "data"
    target.mkdir(exist_ok=True)
    for name, events in EVENTS.items():
        cut(samples / f"{name}.root", target / f"{name}.root", events)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
