"""The preprocess stage: make the chunks of one task.

``python -m mlaas_condor.stages.preprocess dataset.json specs.json FIRST LAST [URL]`` writes the chunks from
FIRST to LAST (included) into ``output/preprocess/``; or, given the URL of a folder, to that storage, and for
each a stub that says where it is.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mlaas_condor.data import chunkfile, storedchunks
from mlaas_condor.data.chunks import Maker
from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.specs import Specs
from mlaas_condor.run import mark
from mlaas_condor.stages.program import log, main, threads

UNSENT = Path("unsent")
"""Chunks on their way to storage, in the scratch space of the job."""


def work(arguments: list[str], output: Path) -> None:
    """Make the chunks of the task."""
    dataset, specs = Dataset.read(Path(arguments[0])), Specs.read(Path(arguments[1]))
    store = arguments[4] if len(arguments) > 4 else ""
    make_chunks(dataset, specs, int(arguments[2]), int(arguments[3]), output, threads(), store)


def make_chunks(
    dataset: Dataset, specs: Specs, first: int, last: int, output: Path, threads: int, store: str = ""
) -> None:
    """Make chunks one after another; each is marked as soon as it is written.

    While one is compressed and written, or sent to the storage folder ``store``, the next is made.
    """
    maker = Maker(dataset, specs, threads)
    writing: deque[Future[None]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for index, chunk in maker.make(first, last):
            writing.append(pool.submit(_write, output, index, chunk, store))
            if len(writing) > threads:
                writing.popleft().result()
        while writing:
            writing.popleft().result()
    maker.close()


def _write(output: Path, index: int, chunk: chunkfile.Chunk, store: str) -> None:
    # What is in the output comes back, also when the job fails: only stubs of what is to be stored go there.
    path = (UNSENT if store else output) / chunkfile.FILE_NAME.format(index)
    path.parent.mkdir(exist_ok=True)
    chunkfile.write(path, chunk)
    size, file = path.stat().st_size, path
    if store:
        file = output / storedchunks.STUB_NAME.format(index)
        try:
            storedchunks.store(path, store, len(chunk)).write(file)
        finally:
            path.unlink()
    mark(output, index, [file])
    log.info("chunk %d: %d events, %d bytes", index, len(chunk), size)


if __name__ == "__main__":
    main("preprocess", work)
