"""How fast data goes in: specs, chunks and streaming, against uproot reading the same branches.

``python benchmarks/data.py [MC.root …]`` makes a file of the published shape (22 flat and 52 jagged
branches, 100,000 events), takes it and the Monte Carlo files given, and prints events a second of

- uproot reading the branches into awkward arrays (the peer, on one core),
- specs, chunks, and both with a jagged cut and a new branch, on one core and on two,
- shuffled batches of 500 columns from 20 chunks,

each with its ratio to the peer, measured in the same round; peak memory; and the bytes of chunks over those
of ROOT. Every measurement is a process of its own on the cores it is given.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

EVENTS, BASKET, BATCH = 100_000, 10_000, 100
COLLECTIONS = {"jet": (19, 6.5), "fatjet": (14, 1.6), "parton": (9, 8.0), "lepton": (10, 1.0)}
FLAT = 22
STEPS = {
    "definitions": [{"name": "log_jet_0", "expression": "log(jet_0)", "branches": ["jet_0"]}],
    "cuts": [{"expression": "jet_0 > 60", "branches": ["jet_0"], "elements": "any"}],
}
MC_STEPS = {
    "definitions": [{"name": "log_jetPt", "expression": "log(jetPt)", "branches": ["jetPt"]}],
    "cuts": [{"expression": "jetPt > 60", "branches": ["jetPt"], "elements": "any"}],
}
COLUMNS = 500  # of the streaming


def make_published(path: Path) -> None:
    """Write a file of the published shape: collections whose branches share their lengths."""
    import awkward as ak
    import uproot

    random = np.random.default_rng(1)

    def rounded(values):  # to 12 bits of mantissa, as the Monte Carlo is
        return (values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFF800)).view(np.float32)

    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        tree = None
        for _ in range(EVENTS // BASKET):
            events = {}
            for i in range(FLAT):
                whole = random.integers(0, 20, BASKET).astype(np.int32)
                events[f"flat_{i:02d}"] = whole if i % 3 == 0 else rounded(random.exponential(100, BASKET))
            for name, (branches, mean) in COLLECTIONS.items():
                counts = random.poisson(mean, BASKET)
                for i in range(branches):
                    n = int(counts.sum())
                    drawn = random.exponential(50, n) if i % 2 == 0 else random.normal(0, 2, n)
                    events[f"{name}_{i}"] = ak.unflatten(rounded(drawn), counts)
            if tree is None:
                kinds = {k: getattr(v, "dtype", "var * float32") for k, v in events.items()}
                tree = file.mktree("events", kinds)
            tree.extend(events)


# ---- in a process of its own: `--measure CASE`


def dataset_of(paths, steps=None, chunk_size=10_000, max_columns=None):
    """Return the dataset of files: all branches but the counters that only say how long lists are."""
    from mlaas_condor import planning
    from mlaas_condor.data.dataset import Dataset, InputFile, split_entries
    from mlaas_condor.data.inputs import survey
    from mlaas_condor.data.selection import Steps

    surveys = [survey(path, "events") for path in paths]
    names = surveys[0].branches
    counters = {f"n{name}" for name in names}
    chosen = {name: each.kind for name, each in names.items() if name not in counters}
    made = Steps.model_validate(steps or {})
    used = [each.entries for each in surveys]
    jagged = sorted(name for name, kind in chosen.items() if kind == "jagged")
    new = [each.name for each in made.definitions]
    if max_columns:
        flat = len(chosen) - len(jagged)
        lengths = dict.fromkeys(jagged, max(1, (max_columns - flat) // len(jagged)))
        made = made.model_copy(update={"max_length": lengths})
    return Dataset(
        files=[
            InputFile(
                path=each.path, tree="events", uuid=each.uuid, size=each.size, entries=each.entries,
                used=each.entries,
            )
            for each in surveys
        ],
        flat=sorted(set(chosen) - set(jagged)), jagged=sorted([*jagged, *new]), steps=made,
        tasks=split_entries(used, 1), block=planning.block_entries(250), chunk_size=chunk_size, shuffle=True,
        seed=21,
    )  # fmt: skip


def measured(dataset, threads=1):
    from mlaas_condor.data.measuring import Measurement
    from mlaas_condor.data.specs import of_dataset

    measurement = Measurement(dataset, threads)
    for entries in dataset.tasks[0]:
        measurement.measure(entries)
    return of_dataset(dataset, measurement.part())


def case_peer(paths, folder, threads):
    import uproot  # and nothing of ours, which makes uproot decompress with another library

    def work():
        for path in paths:
            with uproot.open(path) as file:
                tree = file["events"]
                names = [branch.name for branch in tree.branches]
                names = [name for name in names if not (name[0] == "n" and name[1:] in names)]
                tree.arrays(names, library="ak", how=dict)

    return work


def case_specs(paths, folder, threads, steps=None):
    dataset = dataset_of(paths, steps)
    return lambda: measured(dataset, threads)


def case_chunks(paths, folder, threads, steps=None):
    from mlaas_condor.stages.preprocess import make_chunks

    dataset = dataset_of(paths, steps)
    specs = measured(dataset)
    return lambda: make_chunks(dataset, specs, 0, chunks_of(dataset, specs) - 1, folder, threads)


def chunks_of(dataset, specs):
    from mlaas_condor.data.chunks import count

    return count(specs.events, dataset.chunk_size)


def steps_for(paths):
    return STEPS if "published" in Path(paths[0]).name else MC_STEPS


CASES: dict[str, Callable] = {
    "peer": case_peer,
    "specs": case_specs,
    "chunks": case_chunks,
    "specs, cut": lambda paths, folder, threads: case_specs(paths, folder, threads, steps_for(paths)),
    "chunks, cut": lambda paths, folder, threads: case_chunks(paths, folder, threads, steps_for(paths)),
}


def measure(case, paths, threads):
    """Measure one case here; print seconds, MiB at the peak and before, and bytes of the chunks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = CASES[case](paths, folder, threads)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        size = sum(path.stat().st_size for path in folder.glob("chunk-*"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "before": before, "peak": peak, "bytes": size}))


def stream(paths, threads, wide):
    """Measure shuffled batches from 20 chunks, the first epoch and the two after it."""
    from mlaas_condor.data import chunkfile
    from mlaas_condor.data.features import Columns
    from mlaas_condor.data.streaming import Stream
    from mlaas_condor.stages.preprocess import make_chunks

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if wide:
            columns = write_wide(folder)
        else:
            dataset = dataset_of(paths, chunk_size=EVENTS // 20, max_columns=COLUMNS)
            specs = measured(dataset)
            make_chunks(dataset, specs, 0, chunks_of(dataset, specs) - 1, folder, 1)
            columns = Columns.of(specs)
        files = sorted(folder.glob("chunk-*.zip"))
        events = sum(chunkfile.events_in(path) for path in files)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        batches = Stream(files, columns, folder, threads)
        rates = []
        for epoch in range(3):
            started = time.perf_counter()
            seen = sum(len(batch.x) for batch in batches.batches(BATCH, 1, epoch))
            rates.append(seen / (time.perf_counter() - started))
            assert seen == events
        limit = rate_of_copying(np.load(folder / "matrix-00000.npy"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {"rates": rates, "limit": limit, "columns": len(columns), "before": before, "peak": peak}
    print(json.dumps(found))


def rate_of_copying(x):
    """Return events a second of the least that shuffled batches need: each row copied once, from memory."""
    order = np.random.default_rng(1).permutation(len(x))
    batch = np.empty((BATCH, x.shape[1]), x.dtype)
    started = time.perf_counter()
    for start in range(0, len(x) - BATCH + 1, BATCH):
        np.take(x, order[start : start + BATCH], axis=0, out=batch, mode="clip")
    return len(x) // BATCH * BATCH / (time.perf_counter() - started)


def write_wide(folder):
    """Write 20 chunks of 500 flat branches: nothing is padded, which is the most there can be to read."""
    from mlaas_condor.data import chunkfile
    from mlaas_condor.data.features import Columns
    from mlaas_condor.data.specs import BranchSpecs, Specs

    random = np.random.default_rng(1)
    names = [f"x{i:03d}" for i in range(COLUMNS)]
    n = EVENTS // 20
    for k in range(20):
        events = {name: random.normal(0, 1, n).astype(np.float32) for name in names}
        for values in events.values():
            values.view(np.uint32)[:] &= np.uint32(0xFFFFF800)
        chunk = chunkfile.Chunk(events, np.zeros(n, np.uint32), np.arange(n, dtype=np.int64), {})
        chunkfile.write(folder / chunkfile.FILE_NAME.format(k), chunk)
    branch = BranchSpecs(length=1, minimum=-5.0, maximum=5.0)
    return Columns.of(Specs(flat=dict.fromkeys(names, branch), jagged={}, kept=[]))


# ---- all together


def child(cores, *arguments):
    """Run one measurement on so many cores, and return what it printed."""
    code = f"import os; os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[:cores]!r})"
    command = [sys.executable, "-c", f"{code}; import runpy, sys; sys.argv = sys.argv[1:]; "
               "runpy.run_path(sys.argv[0], run_name='__main__')", __file__, *arguments]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(name, paths, rounds):
    """Print the cases of some files, each with its ratio to the peer of the same round."""
    import uproot

    dataset = dataset_of(paths)
    branches = [*dataset.flat, *dataset.jagged]
    compressed = 0
    for path in paths:
        with uproot.open(path) as file:
            compressed += sum(file["events"][branch].compressed_bytes for branch in branches)
    size = compressed / dataset.events
    print(f"\n{name}: {dataset.events} events, {len(branches)} branches, {size:.0f} bytes an event")
    runs = [(case, cores) for cores in (1, 2) for case in CASES if (case, cores) != ("peer", 2)]
    found = {run: [] for run in runs}
    for _ in range(rounds):
        for case, cores in runs:
            found[case, cores].append(child(cores, "--measure", case, "--threads", str(cores), *paths))
    heads = f"{'events/s':>9} {'of uproot':>9} {'least to most':>14} {'peak MiB':>9}"
    print(f"  {'case':<12} {'cores':>5} {heads}")
    for case, cores in runs:
        seconds = [each["seconds"] for each in found[case, cores]]
        ratios = [peer["seconds"] / s for peer, s in zip(found["peer", 1], seconds, strict=True)]
        peak = max(each["peak"] for each in found[case, cores])
        rate = dataset.events / statistics.median(seconds)
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        ratio = statistics.median(ratios)
        print(f"  {case:<12} {cores:>5} {rate:>9,.0f} {ratio:>9.2f} {spread:>14} {peak:>9.0f}")
    size = found["chunks", 1][0]["bytes"]
    print(
        f"  chunks: {size / dataset.events:.0f} bytes an event, {size / compressed:.2f} of the ROOT branches"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", help="Monte Carlo files of the same tree, measured as well")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--stream", choices=("published", "wide"), help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.files, options.threads)
    elif options.stream:
        stream(options.files, options.threads, options.stream == "wide")
    else:
        with tempfile.TemporaryDirectory() as folder:
            published = Path(folder, "published.root")
            make_published(published)
            compare("published shape", [str(published)], options.rounds)
            if options.files:
                compare("Monte Carlo", options.files, options.rounds)
            show_streaming(str(published), options.rounds)


def show_streaming(published, rounds):
    print(
        f"\nshuffled batches of {BATCH} from 20 chunks of {EVENTS // 20} events; limit: each row copied once"
    )
    heads = f"{'first epoch':>12} {'later':>12} {'later of limit':>14} {'peak MiB':>9}"
    print(f"  {'chunks':<10} {'columns':>7} {'cores':>5} {heads}")
    for kind in ("published", "wide"):
        for cores in (1, 2):
            arguments = ("--stream", kind, "--threads", str(cores), published)
            found = [child(cores, *arguments) for _ in range(rounds)]
            first = statistics.median(each["rates"][0] for each in found)
            later = statistics.median(statistics.mean(each["rates"][1:]) for each in found)
            ratio = statistics.median(statistics.mean(e["rates"][1:]) / e["limit"] for e in found)
            peak = max(each["peak"] - each["before"] for each in found)
            rates = f"{first:>12,.0f} {later:>12,.0f} {ratio:>14.2f} {peak:>9.0f}"
            print(f"  {kind:<10} {found[0]['columns']:>7} {cores:>5} {rates}")


if __name__ == "__main__":
    main()
