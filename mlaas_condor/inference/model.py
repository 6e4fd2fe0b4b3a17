"""A trained model, opened from its bundle, that predicts from features or from raw events."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from mlaas_condor.data.formula import ExpressionError
from mlaas_condor.errors import InputUnreadable, ModelFault, Problem, RequestError
from mlaas_condor.inference import files, unpacking
from mlaas_condor.inference.events import as_branches
from mlaas_condor.inference.features import Features, Preparation
from mlaas_condor.inference.runtimes import Choice, Runtime, open_runtime
from mlaas_condor.training import description
from mlaas_condor.training.description import FeaturesFile

Scores = NDArray[np.float32]
_SHOWN = 4  # classes that the representation names


class Model:
    """A trained model; opened with `Model.load`.

    What is predicted from:

    - features: an array of shape (events, columns), already normalised, as clients of TFaaS send them; with
      ``normalised=False`` raw values. NaN is padding;
    - raw events in memory: a dict of branches, each an array of numbers, or of lists of numbers (awkward
      array, list of lists), or a dict with one event; or an awkward array or record;
    - a file of any format that a training reads, by its path or URL: ROOT (``file.root:tree`` names another
      tree than the training's), CSV, JSON lines, Parquet, Avro. It is read block by block.

    Raw events go through what the training did with them: new branches, cuts, lengths, normalising, padding.
    Branches that the model does not need are ignored.

    Attributes
    ----------
    name
        Of the run that made it.
    task, classes
        ``classification`` or ``regression``; names of the classes, by number, none for a regression.
    columns
        Names of the feature columns, in order.
    branches
        Branches needed of raw events, and whether each is ``flat`` or ``jagged``; None where that is
        not known.
    metrics, provenance
        How good it is, and where it comes from: what is in ``metrics.json`` and ``provenance.json``.
    runtime
        What computes the scores: ``onnxruntime``, or the framework that made the model.
    """

    def __init__(self, folder: Path, runtime: Choice = "auto", threads: int = 1, trust: bool = False) -> None:
        file = _features_file(folder)
        try:
            self._preparation = Preparation(file, folder, trust)
        except ExpressionError as error:
            raise InputUnreadable(f"{folder / description.FILE}: is damaged: {error}") from error
        self._threads = threads
        self._opened: Runtime | None = open_runtime(folder, file, runtime, threads, trust)
        self._file = file
        self._close: Any = lambda: None
        self.name = file.name
        self.task = file.task
        self.classes = tuple(file.classes)
        self.columns = tuple(file.columns)
        self.branches: Mapping[str, str | None] = MappingProxyType(file.inputs)
        self.metrics: dict[str, Any] = _json(folder / "metrics.json")
        self.provenance: dict[str, Any] = _json(folder / "provenance.json")
        self.runtime = self._opened.name

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, runtime: Choice = "auto", threads: int = 1, trust: bool = False
    ) -> Self:
        """Open a bundle.

        Nothing in it is run unless ``trust`` is set. A tarball is unpacked into a folder of its own, which
        goes with the model: at `close`, at the end of a ``with`` block, or when the
        model itself does.

        Parameters
        ----------
        path
            The tarball ``<run>.tar.gz``, or a folder with what is in it.
        runtime
            ``onnx``, ``native`` (the framework that made the model), or ``auto``: onnxruntime where it is
            installed and the bundle has ``model.onnx``, else native.
        threads
            CPU threads; a framework takes those of the first model in a process.
        trust
            Whether the code in the bundle may be run: the user's model file and ``preprocessing(rec)``, and
            files that are code themselves, as a scikit-learn model. Only where you know who made it.

        Raises
        ------
        InputUnreadable
            It is missing, damaged, no bundle, of a later version, or refused because it would write outside
            its folder, or too much.
        FrameworkMissing
            What it needs is not installed.
        ModelFault
            The model cannot be loaded, or only with ``trust``.
        """
        bundle = Path(path)
        if bundle.is_dir():
            return cls(bundle, runtime, threads, trust)
        folder = Path(tempfile.mkdtemp(prefix="mlaas-model-"))
        remove = partial(shutil.rmtree, folder, ignore_errors=True)
        try:
            unpacking.unpack(bundle, folder)
            model = cls(folder, runtime, threads, trust)
        except BaseException:
            remove()
            raise
        model._close = weakref.finalize(model, remove)
        return model

    def predict(self, events: Any, *, tree: str | None = None, normalised: bool = True) -> Scores:
        """Return a score for every event given, in their order.

        Parameters
        ----------
        events
            Features, raw events, or the path of a file: see `Model`.
        tree
            Path of the tree of a ROOT file; where not given, that of the training.
        normalised
            Of features: whether they are normalised; ``False``: they are raw values.

        Returns
        -------
        array of shape (events,), float32
            With two classes, the score of the second, ``classes[1]``; of a regression, what is predicted.
            With more classes, of shape (events, classes). NaN for events that the cuts of the training drop.

        Raises
        ------
        RequestError
            The events do not fit; holds everything that is wrong with them.
        InputUnreadable
            The file cannot be read, or lacks branches.
        ModelFault
            The model fails on them; or they first go through ``preprocessing(rec)``, and nobody has said that
            it is to be trusted.
        """
        found = [self._scores(block) for block in self._blocks(events, tree, normalised)]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def features(self, events: Any, *, tree: str | None = None, normalised: bool = False) -> Features:
        """Return the feature matrix of raw events, and which of them the cuts keep.

        Parameters
        ----------
        events, tree, normalised
            As of `predict`; an array is taken as raw values where not said otherwise.

        Returns
        -------
        Features
            ``x`` has a row for each event that is kept, ``kept`` says which these are.

        Raises
        ------
        RequestError, InputUnreadable, ModelFault
            As `predict`.
        """
        blocks = list(self._blocks(events, tree, normalised))
        if len(blocks) == 1:
            return blocks[0]
        return Features(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))

    def close(self) -> None:
        """Remove what was unpacked; the model can no longer be used."""
        self._opened = None
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        shown = [*self.classes[:_SHOWN], *(["…"] if len(self.classes) > _SHOWN else [])]
        learnt = f"classes {', '.join(shown)}" if self.classes else self.task
        return (
            f"<Model {self.name}: {len(self.branches)} branches, {len(self.columns)} columns, {learnt}; "
            f"{self.runtime}>"
        )

    def _blocks(self, events: Any, tree: str | None, normalised: bool) -> Iterator[Features]:
        if isinstance(events, str | os.PathLike):
            path = os.fspath(events)
            yield from files.of_file(self._preparation, str(path), tree, self._threads)
        elif tree is not None:
            raise RequestError([Problem("tree", f"{tree!r} is given, but no file", "give the path of one")])
        elif (branches := as_branches(events)) is not None:
            yield from self._preparation.of_events(branches)
        else:
            x = self._matrix(events)
            if normalised:
                yield self._preparation.of_matrix(x)
            else:
                yield self._preparation.of_raw_matrix(x)

    def _matrix(self, events: Any) -> NDArray[Any]:
        """Return an array of features, or why it is none."""
        try:
            x = np.asarray(events)
        except ValueError:  # lists of different lengths
            x = np.empty(0, object)
        n = len(self.columns)
        if x.dtype.kind not in "fiub":
            what = f"{type(events).__name__} is nothing to predict from"
            raise RequestError([Problem("events", what, _ACCEPTED)])
        if x.ndim == 1 and len(x) in (0, n):
            x = x.reshape(-1, n)
        if x.ndim != 2 or x.shape[1] != n:
            raise RequestError(
                [Problem("events", f"an array of shape {x.shape}, the model takes (events, {n})", _ACCEPTED)]
            )
        return x

    def _scores(self, features: Features) -> Scores:
        if self._opened is None:
            raise InputUnreadable(f"{self.name}: the model is closed")
        x, kept = features
        found = np.full(
            (len(kept), len(self.classes))[: 2 if len(self.classes) > 2 else 1], np.nan, np.float32
        )
        if len(x):
            scores = self._opened.scores(np.ascontiguousarray(x, np.float32)).astype(np.float32, copy=False)
            scores = self._chosen(scores)
            if len(x) == len(kept):
                return scores
            found[kept] = scores
        return found

    def _chosen(self, scores: NDArray[np.float32]) -> Scores:
        """Return the scores of the classes there are; of two, those of the second."""
        if scores.ndim == 2 and scores.shape[1] == 1:
            scores = scores[:, 0]
        classes = len(self.classes)
        if scores.ndim == 2 and 2 <= classes <= scores.shape[1]:
            return scores[:, 1] if classes == 2 else scores[:, :classes]
        if scores.ndim == 1 and classes <= 2:
            return scores
        raise ModelFault(f"{self.name}: gives scores of shape {scores.shape} for {classes or 'no'} classes")


_ACCEPTED = (
    "give features (an array), raw events (a dict of branches, an awkward array), or the path of a file; "
    "a list of dicts as awkward.Array(events)"
)


def _features_file(folder: Path) -> FeaturesFile:
    """Read ``features.json``; `InputUnreadable` where it is none that this version understands."""
    path = folder / description.FILE
    raw = _json(path)
    if not raw:
        raise InputUnreadable(f"{folder}: holds no {description.FILE}: it is no bundle of mlaas-condor")
    if raw.get("format") != description.FORMAT:
        raise InputUnreadable(
            f"{path.name}: has format {raw.get('format')!r}, this version reads {description.FORMAT}: "
            "install the mlaas-condor that made the bundle, or a later one"
        )
    try:
        return FeaturesFile.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputUnreadable(f"{path.name}: is damaged: {where}: {first['msg']}") from error


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; nothing where there is no such file."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputUnreadable(f"{path.name}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise InputUnreadable(f"{path.name}: holds no object {{…}}")
    return found
