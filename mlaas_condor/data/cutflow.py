"""The cut flow: how many events each cut leaves, of each file and of all."""

from __future__ import annotations

from collections.abc import Sequence

from mlaas_condor.data.specs import Specs


def table(specs: Specs, files: Sequence[str], of_files: Sequence[float] = ()) -> list[list[str]]:
    """Return the cut flow as rows of cells, the first of them the heading.

    Parameters
    ----------
    specs
        What was measured.
    files
        What each file is called, by its position.
    of_files
        Weight of the events of each file, where they do not come from a branch.

    Returns
    -------
    list
        A row for what there was before any cut and one for each cut, a column for each file and one for all;
        below, where events have weights, the sums of these.
    """
    heads = ["all entries", *specs.cuts]
    events = [flow or [0] * len(heads) for flow in specs.flow_of(len(files))]
    rows = [["", *files, "all"]]
    for k, head in enumerate(heads):
        counts = [flow[k] for flow in events]
        rows.append([head, *map(str, counts), str(sum(counts))])
    weights = [sums or [0.0] * len(heads) for sums in specs.weights_of(len(files))]
    if of_files:
        weights = [[weight * n for n in flow] for weight, flow in zip(of_files, events, strict=True)]
    if any(any(sums) for sums in weights):
        for k, head in enumerate(heads):
            sums = [flow[k] for flow in weights]
            rows.append([f"{head} (weights)", *(f"{value:.6g}" for value in (*sums, sum(sums)))])
    return rows


def text(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as lines of text, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "".join(line.rstrip() + "\n" for line in lines)
