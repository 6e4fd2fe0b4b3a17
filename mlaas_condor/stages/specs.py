"""The specs stage: measure the entry ranges of one task.

``python -m mlaas_condor.stages.specs dataset.json TASK`` writes ``output/specs/part-NNNNN.json``.
"""

from __future__ import annotations

from pathlib import Path

from mlaas_condor.data import specs
from mlaas_condor.data.dataset import Dataset, EntryRange
from mlaas_condor.data.inputs import Reader
from mlaas_condor.run import unit_name
from mlaas_condor.stages.program import log, main, mark


def part_name(task: int) -> str:
    """Return the name of the partial specs of a task."""
    return f"part-{unit_name(task)}.json"


def work(arguments: list[str], output: Path) -> None:
    """Measure, and write the partial specs."""
    dataset, task = Dataset.read(Path(arguments[0])), int(arguments[1])
    measured = specs.join(_measure(dataset, entries) for entries in dataset.tasks[task])
    path = output / part_name(task)
    measured.write(path)
    mark(output, task, [path])


def _measure(dataset: Dataset, entries: EntryRange) -> specs.Specs:
    file = dataset.files[entries.file]
    log.info("measuring entries %d to %d of %s", entries.start, entries.stop, file.path)
    reader = Reader(file.locate(), dataset.tree, file.uuid)
    try:
        events = reader.read([*dataset.flat, *dataset.jagged], entries.start, entries.stop)
    finally:
        reader.close()
    return specs.measure(events, entries)


if __name__ == "__main__":
    main("specs", work)
