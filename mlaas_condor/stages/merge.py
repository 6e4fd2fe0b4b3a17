"""The merge stage: join the partial specs, and cut the chunks.

``python -m mlaas_condor.stages.merge dataset.json plan.json recipe.json SPECS_FOLDER [GIVEN_SPECS]``
writes, into ``output/merge/``, ``specs.json``, ``file-specs.json``, ``notes.txt`` and the task lists of the
stages that depend on what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path

from mlaas_condor import planning
from mlaas_condor.data import chunks, cutflow
from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.features import Columns
from mlaas_condor.data.measuring import PART_NAME
from mlaas_condor.data.specs import FileSpecs, Part, Specs, join, of_dataset
from mlaas_condor.errors import DataFault, InputUnreadable
from mlaas_condor.run import NOTES, mark
from mlaas_condor.stages.program import everything, log, main
from mlaas_condor.training.recipe import Recipe

_SHOWN = 8  # branches that a note names
_TOGETHER = 4  # partial specs that are joined at a time


def work(arguments: list[str], output: Path) -> None:
    """Join, plan, write."""
    dataset, plan = Dataset.read(Path(arguments[0])), planning.Plan.read(Path(arguments[1]))
    folder = Path(arguments[3])
    given = Specs.read(Path(arguments[4])) if len(arguments) > 4 else None
    try:
        part = _join([folder / PART_NAME.format(task) for task in range(len(dataset.tasks))])
        merged = of_dataset(dataset, part, given)
    except (OSError, ValueError) as error:
        raise InputUnreadable(f"the partial specs in {folder} do not fit the plan: {error}") from error
    if merged.cuts:
        names = [Path(file.path).name for file in dataset.files]
        log.info("cut flow\n%s", cutflow.text(cutflow.table(merged, names)))
    _check(dataset, merged)
    Recipe.read(Path(arguments[2])).check_events(merged, _chunks(dataset, merged))
    columns = Columns.of(merged)
    if not len(columns):
        raise DataFault("no feature has a value in any event: all lists are empty")
    log.info("%d events, %d columns, %d chunks", merged.events, len(columns), _chunks(dataset, merged))
    merged.write(output / "specs.json")
    notes = list(_notes(dataset, merged))
    (output / NOTES).write_text("".join(f"{note}\n" for note in notes), "utf-8")
    for note in notes:
        log.warning("%s", note)
    FileSpecs(files=part.files).write(output / "file-specs.json")
    known = {"events": merged.events, "columns": len(columns), "values": ceil(merged.values_an_event)}
    size = plan.size.model_copy(update=known)
    exact = planning.make(size, plan.wishes.for_data)
    units = {"preprocess": _chunks(dataset, merged), "train": exact.stage("train").jobs}
    for stage, number in units.items():
        rows = planning.task_rows(exact.stage(stage), number)
        (output / f"{stage}.tasks").write_text("\n".join(rows) + "\n")
    mark(output, 0, everything(output))


def _join(paths: Sequence[Path]) -> Part:
    """Join partial specs, a few at a time: of many branches a hundred of them would fill the memory."""
    whole = Part.read(paths[0])
    for start in range(1, len(paths), _TOGETHER):
        whole = join([whole, *map(Part.read, paths[start : start + _TOGETHER])])
    return whole


def _check(dataset: Dataset, merged: Specs) -> None:
    """Make sure that something is left to train on, and that not more was lost than may be."""
    left_out = sum(file.entries for file in dataset.unreadable)
    lost = (merged.entries_lost + left_out) / max(1, dataset.events + left_out)
    if lost > dataset.may_lose:
        first = merged.lost[0] if merged.lost else None
        why = f"; the first of {len(merged.lost)} places: {first.reason}" if first else ""
        raise InputUnreadable(f"{lost:.2%} of the entries are lost, allowed are {dataset.may_lose:.2%}{why}")
    if merged.events:
        return
    flow = merged.flow
    for cut, before, after in zip(merged.cuts, flow, flow[1:], strict=False):
        if before and not after:
            raise DataFault(f"the cut {cut!r} keeps none of {before} events: there is nothing to train on")
    raise DataFault(f"no event of {dataset.events} is kept: there is nothing to train on")


def _notes(dataset: Dataset, merged: Specs) -> Iterator[str]:
    """Yield what the user should know of the data."""
    for file in dataset.unreadable:
        yield f"left out: {file.reason} (about {file.entries} entries)"
    for lost in merged.lost:
        number = lost.range.stop - lost.range.start
        yield f"lost: {number} of {dataset.files[lost.range.file].used} entries: {lost.reason}"
    both = {**merged.flat, **merged.jagged}
    bad = {name: branch.not_finite for name, branch in both.items() if branch.not_finite}
    if bad:
        shown = ", ".join(f"{name} ({number})" for name, number in list(bad.items())[:_SHOWN])
        more = f" and {len(bad) - _SHOWN} more branches" if len(bad) > _SHOWN else ""
        yield f"not finite, treated as padding: values of {shown}{more}"


def _chunks(dataset: Dataset, merged: Specs) -> int:
    return chunks.count(merged.events, dataset.chunk_size)


if __name__ == "__main__":
    main("merge", work)
