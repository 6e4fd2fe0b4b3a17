"""The preprocess stage: make the chunks of one task.

``python -m mlaas_condor.stages.preprocess dataset.json specs.json FIRST LAST`` writes the chunks from FIRST
to LAST (included) into ``output/preprocess/``.
"""

from __future__ import annotations

from pathlib import Path

from mlaas_condor.data import chunks
from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.inputs import Reader
from mlaas_condor.data.specs import Specs
from mlaas_condor.stages.program import log, main, mark


def work(arguments: list[str], output: Path) -> None:
    """Make the chunks one after another; each is marked as soon as it is written."""
    dataset, specs = Dataset.read(Path(arguments[0])), Specs.read(Path(arguments[1]))
    readers: dict[int, Reader] = {}
    for index in range(int(arguments[2]), int(arguments[3]) + 1):
        chunk = chunks.make(dataset, specs, index, readers)
        path = output / chunks.FILE_NAME.format(index)
        chunks.write(path, chunk)
        mark(output, index, [path])
        log.info("chunk %d: %d events, %d bytes", index, len(chunk), path.stat().st_size)


if __name__ == "__main__":
    main("preprocess", work)
