"""What a bundle says of itself: how to make its features of raw events, and what went into the model.

``features.json`` alone suffices to predict as the training saw events: `FeaturesFile` is all that is in it.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.expressions import Expression, ExpressionError
from mlaas_condor.data.features import Columns, Normalise, Scale
from mlaas_condor.data.formula import UNKNOWN
from mlaas_condor.data.selection import Selector, Steps
from mlaas_condor.data.source import FLAT, JAGGED
from mlaas_condor.data.specs import BranchSpecs, Specs
from mlaas_condor.jsonfile import JsonFile, Plain
from mlaas_condor.training.models import Framework
from mlaas_condor.training.recipe import Recipe, Task

FORMAT = 1  # of features.json; raised whenever an older reader would predict something else from it
FILE = "features.json"
Kind = Literal["flat", "jagged"]

_PACKAGES = (
    "mlaas-condor",
    "uproot",
    "awkward",
    "numpy",
    "blosc2",
    "keras",
    "tf-keras",
    "tensorflow",
    "torch",
    "scikit-learn",
    "skops",
    "xgboost",
    "xgboost-cpu",
    "onnx",
    "onnxruntime",
)
_VERSION = re.compile(r'^CondorVersion = "(?P<version>[^"]*)"', re.MULTILINE)


def _inside(name: str) -> str:
    """Refuse the name of a file that is not in the bundle."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(f"{name!r} is outside the bundle")
    return name


Member = Annotated[str, AfterValidator(_inside)]
"""Name of a file or folder in the bundle."""


class BranchScale(Plain):
    """How the values of a branch become features: ``(x - centre) / width``.

    Parameters
    ----------
    centre, width
        0 and 1 where values stay as they are.
    dtype
        Type in which it is worked out; the result is float32.
    padding
        What stands where there is no value, after normalising.
    stored
        Type in which the training had the raw values: ``float32`` where they are to be rounded to that first.
    """

    centre: float
    width: float = Field(gt=0)
    dtype: Literal["float32", "float64"]
    padding: float
    stored: str

    @classmethod
    def of(cls, branch: BranchSpecs, scale: Scale) -> Self:
        """Return what is known of a branch and its scale."""
        return cls(**scale._asdict(), stored=branch.stored)


class FeaturesFile(JsonFile):
    """``features.json``: what the model is, and how the feature matrix is made of raw events.

    Parameters
    ----------
    format
        Of this file.
    name
        Of the run.
    framework, model, source
        What made the model; main file of it in the bundle; the user's model file.
    task, classes
        What was learnt; names of the classes, by number, none for a regression.
    tree
        Path of the tree in the first of the files trained on; empty where they have none.
    inputs
        The branches needed of raw events, and whether each is flat or jagged; None where what is made of it
        does not tell.
    fill_missing
        Those of them that may be missing, which is padding.
    carried
        Branches that were kept with each event and are no features: identifiers, label, weight.
    steps
        New branches, cuts, and lengths that lists are cut to.
    function, modules
        The user's file with ``preprocessing(rec)`` in the bundle, if there is one, and what it imports.
    flat, jagged
        Feature branches; of jagged ones the number of columns.
    columns
        Names of the columns, in order.
    normalise, padding
        As in params.json.
    scales
        How each feature branch is normalised.
    """

    format: int = FORMAT
    name: str
    framework: Framework
    model: Member
    source: Member
    task: Task
    classes: list[str]
    tree: str
    inputs: dict[str, Kind | None]
    fill_missing: dict[str, Kind]
    carried: list[str]
    steps: Steps
    function: Member | None
    modules: list[Member]
    flat: list[str]
    jagged: dict[str, int]
    columns: list[str]
    normalise: Normalise
    padding: float | None
    scales: dict[str, BranchScale]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if sorted(self.scales) != sorted([*self.flat, *self.jagged]):
            raise ValueError("scales are not those of the feature branches")
        lengths = self.jagged.values()
        # Before any list of names is made of lengths that a damaged file may give.
        if min(lengths, default=0) < 0 or len(self.flat) + sum(lengths) != len(self.columns):
            raise ValueError("columns do not follow from the feature branches")
        if self.layout().names != tuple(self.columns):
            raise ValueError("columns do not follow from the feature branches")
        return self

    def layout(self) -> Columns:
        """Return the columns as the training had them, to the last bit."""
        names: list[str] = []
        first: dict[str, int] = {}
        length = dict.fromkeys(sorted(self.flat), 1) | dict(sorted(self.jagged.items()))
        for name, columns in length.items():
            first[name] = len(names)
            names += [name] if name not in self.jagged else [f"{name}_{i}" for i in range(columns)]
        scales = {
            name: Scale(each.centre, each.width, each.dtype, each.padding)
            for name, each in self.scales.items()
        }
        return Columns(tuple(names), first, length, scales)


def features(
    recipe: Recipe,
    dataset: Dataset,
    specs: Specs,
    framework: Framework = "keras",
    model: str = "saved_model.pb",
    branches: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return what it takes to make the feature matrix of raw events, and to predict: ``features.json``.

    Parameters
    ----------
    recipe, dataset, specs
        As the training had them, with the classes that were found.
    framework, model
        What made the model, and its main file, as the adapter's ``save`` returned it.
    branches
        Whether branches of the input files are flat or jagged, where that is known. Of branches that are no
        features, and that only cuts and new branches use, it is otherwise found out as far as it follows.
    """
    columns = Columns.of(specs, recipe.normalise, recipe.padding)
    both = {**specs.flat, **specs.jagged}
    kinds: dict[str, Kind] = {
        name: "jagged" if kind == JAGGED else "flat" for name, kind in dataset.fill_missing.items()
    }
    known = dict(branches) | dict.fromkeys(specs.flat, FLAT) | dict.fromkeys(specs.jagged, JAGGED) | kinds
    found = _kinds(dataset.steps, known)
    inputs = Selector(dataset.steps, [*specs.flat, *specs.jagged]).inputs
    return FeaturesFile(
        name=recipe.name,
        framework=framework,
        model=model,
        source=recipe.model,
        task=recipe.task,
        classes=recipe.classes,
        tree=dataset.files[0].tree,
        inputs={name: found.get(name) for name in inputs},
        fill_missing={name: kind for name, kind in kinds.items() if name in inputs},
        carried=dataset.carried,
        steps=dataset.steps,
        function=dataset.function.name if dataset.function else None,
        modules=dataset.function.modules if dataset.function else [],
        flat=sorted(specs.flat),
        jagged={name: specs.jagged[name].length for name in sorted(specs.jagged)},
        columns=list(columns.names),
        normalise=recipe.normalise,
        padding=recipe.padding,
        scales={name: BranchScale.of(both[name], scale) for name, scale in columns.scales.items()},
    ).model_dump(mode="json")


def _kinds(steps: Steps, known: Mapping[str, str]) -> dict[str, Kind]:
    """Return which branches are flat and which jagged, as far as it follows from what is made of them."""
    found = dict(known) | dict.fromkeys(steps.max_length, JAGGED)
    before = -1
    while len(found) > before:
        before = len(found)
        for made in steps.definitions:
            if all(name in found for name in made.branches):
                found[made.name] = made.parsed.kind(found)
            else:
                found |= _only_possible(made.parsed, found.get(made.name), found)
        for cut in steps.cuts:
            found |= _only_possible(cut.parsed, JAGGED if cut.elements else FLAT, found)
    return {name: "jagged" if kind == JAGGED else "flat" for name, kind in found.items()}


def _only_possible(made: Expression, result: str | None, found: Mapping[str, str]) -> dict[str, str]:
    """Return the kinds of those branches of an expression that can have only one, given what it gives."""
    unknown = [name for name in made.branches if name not in found]
    kinds = {name: found.get(name, UNKNOWN) for name in made.branches}
    only = {}
    for name in unknown:
        possible = []
        for kind in (FLAT, JAGGED):
            try:
                gives = made.kind(kinds | {name: kind})
            except ExpressionError:
                continue
            # One list makes a list of all; as long as another may be one, a number says nothing.
            if result is None or gives == result or (gives == FLAT and len(unknown) > 1):
                possible.append(kind)
        if len(possible) == 1:
            only[name] = possible[0]
    return only


def provenance(recipe: Recipe, dataset: Dataset, specs: Specs) -> dict[str, Any]:
    """Return what went into the model: software, inputs, request, seeds, and what was lost."""
    flow = specs.flow_of(len(dataset.files))
    return {
        "run": recipe.name,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **_versions(), "htcondor": _htcondor_version()},
        "inputs": [
            {
                "path": file.path, "tree": file.tree, "uuid": file.uuid, "bytes": file.size,
                "entries": file.entries, "entries_used": file.used, "events_kept": n[-1] if n else 0,
                "cut_flow": n, "label": recipe.label_of(i),
            }
            for i, (file, n) in enumerate(zip(dataset.files, flow, strict=True))
        ],
        "cuts": specs.cuts,
        "lost": [
            {
                "path": dataset.files[lost.range.file].path, "first_entry": lost.range.start,
                "last_entry": lost.range.stop - 1, "reason": lost.reason,
            }
            for lost in specs.lost
        ],
        "left_out": [file.model_dump() for file in dataset.unreadable],
        "not_finite": {
            name: branch.not_finite
            for name, branch in (*specs.flat.items(), *specs.jagged.items())
            if branch.not_finite
        },
        "seed": recipe.seed,
        "specs_key": dataset.specs_key,
        "chunks_key": dataset.chunks_key,
        "request": json.loads(Path("request.json").read_text("utf-8")),
    }  # fmt: skip


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _htcondor_version() -> str | None:
    """Return the version of the machine this job runs on, None outside HTCondor."""
    path = os.environ.get("_CONDOR_MACHINE_AD")
    if not path or not Path(path).exists():
        return None
    match = _VERSION.search(Path(path).read_text("utf-8", "replace"))
    return match["version"] if match else None
