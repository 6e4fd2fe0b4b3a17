"""The preprocess stage: make the chunks of one task.

``python -m mlaas_condor.stages.preprocess dataset.json specs.json FIRST LAST`` writes the chunks from FIRST
to LAST (included) into ``output/preprocess/``.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mlaas_condor.data import chunkfile
from mlaas_condor.data.chunks import Maker
from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.specs import Specs
from mlaas_condor.run import mark
from mlaas_condor.stages.program import log, main, threads


def work(arguments: list[str], output: Path) -> None:
    """Make the chunks of the task."""
    dataset, specs = Dataset.read(Path(arguments[0])), Specs.read(Path(arguments[1]))
    make_chunks(dataset, specs, int(arguments[2]), int(arguments[3]), output, threads())


def make_chunks(dataset: Dataset, specs: Specs, first: int, last: int, output: Path, threads: int) -> None:
    """Make chunks one after another; each is marked as soon as it is written.

    While one is compressed and written the next is made.
    """
    maker = Maker(dataset, specs, threads)
    writing: deque[Future[None]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for index, chunk in maker.make(first, last):
            writing.append(pool.submit(_write, output, index, chunk))
            if len(writing) > threads:
                writing.popleft().result()
        while writing:
            writing.popleft().result()
    maker.close()


def _write(output: Path, index: int, chunk: chunkfile.Chunk) -> None:
    path = output / chunkfile.FILE_NAME.format(index)
    chunkfile.write(path, chunk)
    mark(output, index, [path])
    log.info("chunk %d: %d events, %d bytes", index, len(chunk), path.stat().st_size)


if __name__ == "__main__":
    main("preprocess", work)
