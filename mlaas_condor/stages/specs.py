"""The specs stage: measure the entry ranges of one task.

``python -m mlaas_condor.stages.specs dataset.json TASK`` writes ``output/specs/part-NNNNN.json``.
"""

from __future__ import annotations

from pathlib import Path

from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.measuring import PART_NAME, Measurement
from mlaas_condor.run import mark
from mlaas_condor.stages.program import log, main, threads


def work(arguments: list[str], output: Path) -> None:
    """Measure, and write the partial specs."""
    dataset, task = Dataset.read(Path(arguments[0])), int(arguments[1])
    measurement = Measurement(dataset, threads())
    for entries in dataset.tasks[task]:
        log.info(
            "measuring entries %d to %d of %s", entries.start, entries.stop, dataset.files[entries.file].path
        )
        measurement.measure(entries)
    part = measurement.part()
    for lost in part.lost:
        log.warning(
            "lost: entries %d to %d of %s: %s",
            lost.range.start, lost.range.stop, dataset.files[lost.range.file].path, lost.reason,
        )  # fmt: skip
    path = output / PART_NAME.format(task)
    part.write(path)
    mark(output, task, [path])


if __name__ == "__main__":
    main("specs", work)
