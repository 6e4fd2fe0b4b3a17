"""What a bundle says of itself: how to make its features of raw events, and what went into the model."""

from __future__ import annotations

import json
import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.features import Columns
from mlaas_condor.data.specs import Specs
from mlaas_condor.training.recipe import Recipe

_PACKAGES = (
    "mlaas-condor",
    "uproot",
    "awkward",
    "numpy",
    "blosc2",
    "keras",
    "tf-keras",
    "tensorflow",
    "scikit-learn",
)
_VERSION = re.compile(r'^CondorVersion = "(?P<version>[^"]*)"', re.MULTILINE)


def features(recipe: Recipe, dataset: Dataset, specs: Specs) -> dict[str, Any]:
    """Return what it takes to make the feature matrix of raw events: ``features.json``."""
    columns = Columns.of(specs, recipe.normalise, recipe.padding)
    return {
        "tree": dataset.files[0].tree,
        "flat": dataset.flat,
        "jagged": {name: branch.length for name, branch in specs.jagged.items()},
        "columns": list(columns.names),
        "steps": dataset.steps.model_dump(),
        "function": dataset.function.name if dataset.function else None,
        "normalise": recipe.normalise,
        "scales": {
            name: {"centre": scale.centre, "width": scale.width, "dtype": scale.dtype}
            for name, scale in columns.scales.items()
        },
        "padding": recipe.padding,
        "task": recipe.task,
        "classes": recipe.classes,
    }


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
