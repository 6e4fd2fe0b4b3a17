"""The chunk store of a run: whether one may write there, what is left of it, and removing it.

``URL/<key of the chunks>/`` holds the chunks; in the run directory, and in the local store, are their stubs.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from mlaas_condor import access, run
from mlaas_condor.data import storage, storedchunks
from mlaas_condor.data.dataset import Dataset
from mlaas_condor.errors import Problem, StageError
from mlaas_condor.grid import storing, xrootd
from mlaas_condor.jsonfile import JsonFile
from mlaas_condor.request import Request
from mlaas_condor.run import RunFolder

FILE = "chunk-store.json"
_WHERE = "job.json: chunk_store"
# Neither what a submit file gives a meaning to, nor a query: names of chunks are put behind it.
_ADDRESS = re.compile(r"[a-z]+://[\w.:@\[\]-]+//[\w./+=@:,~-]+", re.ASCII)
_POSSIBLE = "root://host//folder, two slashes before the path, of letters, digits and . _ + = @ : , ~ - /"
_SIDE_BY_SIDE = 8


class Place(JsonFile):
    """Where the chunks of a run are, and their stubs.

    Parameters
    ----------
    url
        The folder on storage.
    stubs
        Their folder in the local store.
    """

    url: str
    stubs: Path


def folder(chunk_store: str, dataset: Dataset) -> str:
    """Return the URL of the folder of some chunks."""
    return f"{chunk_store.rstrip('/')}/{dataset.chunks_key}"


def stubs_key(chunk_store: str, dataset: Dataset) -> str:
    """Return the key of stubs in the local store: another one than that of the chunks themselves."""
    return hashlib.sha256(folder(chunk_store, dataset).encode()).hexdigest()[:20]


def place_of(made: RunFolder) -> Place | None:
    """Return where the chunks of a run are; None where that is the run directory."""
    path = made.path / FILE
    return Place.read(path) if path.exists() else None


def check_address(request: Request) -> None:
    """Make a problem of an address that chunks cannot be written to."""
    url = request.job.chunk_store
    if not url:
        return
    kind = storage.scheme(url)
    if kind not in xrootd.SCHEMES:
        what = f"{url!r}: {f'{kind}:// is' if kind else 'a path of this machine is'} no place for chunks"
        request.problems.append(Problem(_WHERE, what, f"what is: {_POSSIBLE}"))
    elif not _ADDRESS.fullmatch(url):
        request.problems.append(Problem(_WHERE, f"{url!r} does not do", f"write {_POSSIBLE}"))


def check(request: Request, dataset: Dataset, store: Path) -> None:
    """Find out, by doing it, whether chunks can be written; nothing is left there but the folder.

    What the local store knows of chunks that are not there any more is forgotten, so that they are made
    again.

    Parameters
    ----------
    request
        Its problems get what is wrong.
    dataset
        What the chunks are made of.
    store
        The local store.
    """
    url = request.job.chunk_store
    if not url:
        return
    try:
        _try_to_write(url.rstrip("/"))
        forget_missing(store / "preprocess" / stubs_key(url, dataset), folder(url, dataset))
    except StageError as error:
        hint = "name a folder that this identity may write to, with room in it"
        request.problems.append(Problem(_WHERE, str(error), hint))


def _try_to_write(url: str) -> None:
    made = storing.make_folder(url)
    probe = f"{url}/.probe-{secrets.token_hex(8)}"
    try:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"may chunks be written here?\n")
            file.flush()
            storing.put(Path(file.name), probe)
        storing.remove(probe)
    except StageError:
        if made:
            storing.remove_folder(url)
        raise


def forget_missing(stubs: Path, url: str) -> int:
    """Forget the stubs in a folder whose chunks are not in one on storage; return how many.

    Raises
    ------
    StageError
        The storage does not say what it has.
    """
    known = [(path, _read(path)) for path in stubs.glob(storedchunks.STUBS)]
    if not known:
        return 0
    there = storing.sizes(url)
    gone = [path for path, chunk in known if not chunk or there.get(chunk.name, -1) not in (chunk.size, None)]
    for path in gone:
        mark = stubs / f"{run.unit_name(int(path.stem.rpartition('-')[2]))}.ok"
        mark.unlink(missing_ok=True)  # first: it says that the unit is complete
        path.unlink(missing_ok=True)
    return len(gone)


def _read(stub: Path) -> storedchunks.StoredChunk | None:
    with suppress(StageError):
        return storedchunks.read(stub)
    return None


def make_again(made: RunFolder) -> int:
    """Forget chunks of a run that have vanished from storage, where they are still to be trained on.

    Return how many. Where the storage cannot be asked they are taken to be there.
    """
    place = place_of(made)
    trained = made.tasks_done("train").issuperset(made.task_units("train"))
    if not place or trained:
        return 0
    with suppress(StageError), access.used(made):
        forget_missing(place.stubs, place.url)
        return forget_missing(made.output("preprocess"), place.url)
    return 0


def remove(made: RunFolder, runs: Path) -> None:
    """Remove the chunks of a run from storage, unless another run has the same ones.

    Parameters
    ----------
    made, runs
        The run, and the folder of all runs.

    Raises
    ------
    StageError
        The storage does not answer, or refuses; the run is as it was, or `resume` makes again what it lacks.
    """
    place = place_of(made)
    if not place or any(_shares(other, made, place) for other in run.list_folders(runs)):
        return
    try:
        with access.used(made):
            names = [name for name in storing.sizes(place.url) if storedchunks.OURS.fullmatch(name)]
            # Before the chunks, so that no run comes to rely on one that is being removed.
            shutil.rmtree(place.stubs, ignore_errors=True)
            with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
                for _ in pool.map(lambda name: storing.remove(f"{place.url}/{name}"), names):
                    pass
            storing.remove_folder(place.url)
    except StageError as error:
        raise type(error)(
            f"{made.name} is not deleted, as its chunks on storage cannot be: {error}; try again later, or "
            f"leave them there: mlaas-condor delete {made.name} --keep-stored"
        ) from error


def _shares(other: RunFolder, made: RunFolder, place: Place) -> bool:
    if other.name == made.name:
        return False
    theirs = place_of(other)
    return theirs is not None and theirs.url == place.url
