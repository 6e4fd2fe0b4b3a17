"""The report stage: draw the curves, write down where the model comes from, pack the bundle.

``python -m mlaas_condor.stages.report``, beside what train brought back and the files that
describe the run, writes, into ``output/report/``, the pictures, ``provenance.json`` and ``<run>.tar.gz``.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.features import Columns
from mlaas_condor.data.specs import Specs, to_global_specs
from mlaas_condor.stages.program import everything, log, main, mark
from mlaas_condor.training import bundle, plots
from mlaas_condor.training.loop import SPLITS
from mlaas_condor.training.recipe import Recipe

TRAIN = Path("train")
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


def work(_: list[str], output: Path) -> None:
    """Draw, describe, pack."""
    recipe = Recipe.read(TRAIN / "recipe.json")
    dataset, specs = Dataset.read(Path("dataset.json")), Specs.read(Path("specs.json"))
    _draw(recipe, output / "plots")
    (output / "provenance.json").write_text(json.dumps(_provenance(recipe, dataset, specs), indent=1) + "\n")
    packed = Path("bundle")
    shutil.copytree(TRAIN / "model", packed)
    (packed / "assets").mkdir(exist_ok=True)  # an empty folder may not have travelled
    shutil.copytree(output / "plots", packed / "plots")
    _describe(recipe, dataset, specs, packed)
    for path in (
        TRAIN / "metrics.json", TRAIN / "history.jsonl", output / "provenance.json", Path("request.json"),
        Path("specs.json"), Path(recipe.model),
    ):  # fmt: skip
        shutil.copy(path, packed / path.name)
    bundle.write(output / f"{recipe.name}.tar.gz", packed)
    log.info("bundle %s.tar.gz, %d files", recipe.name, len(everything(packed)))
    mark(output, 0, everything(output))


def _draw(recipe: Recipe, folder: Path) -> None:
    folder.mkdir()
    history = [json.loads(line) for line in (TRAIN / "history.jsonl").read_text("utf-8").splitlines()]
    plots.learning_curves(history, folder / "learning_curves.png")
    plots.roc(json.loads((TRAIN / "metrics.json").read_text("utf-8")), folder / "roc.png")
    with np.load(TRAIN / "scores.npz") as scores:
        which = {split: scores["split"] == SPLITS.index(split) for split in ("train", "test")}
        values = {split: scores["score"][rows] for split, rows in which.items()}
        labels = {split: scores["y"][rows] for split, rows in which.items()}
    plots.scores(values, labels, folder / "scores.png", recipe.classes)


def _describe(recipe: Recipe, dataset: Dataset, specs: Specs, packed: Path) -> None:
    """Write what it takes to make the feature matrix of raw events, and what TFaaS wants to know."""
    columns = list(Columns.of(specs).names)
    features = {
        "tree": dataset.tree,
        "flat": dataset.flat,
        "jagged": {name: branch.length for name, branch in specs.jagged.items()},
        "columns": columns,
        "normalise": "minmax",
        "padding": recipe.padding,
        "classes": recipe.classes,
    }
    # Here and not in merge, whose output is shared between runs that may call the same files differently.
    global_specs = to_global_specs(specs, [file.path for file in dataset.files])
    (packed / "global-specs.json").write_text(json.dumps(global_specs, indent=1) + "\n")
    (packed / "features.json").write_text(json.dumps(features, indent=1) + "\n")
    (packed / "labels.txt").write_text("\n".join(recipe.classes) + "\n")
    made = bundle.params_json(
        recipe.name, "saved_model.pb", labels="labels.txt", description=f"{len(columns)} columns"
    )
    (packed / "params.json").write_text(json.dumps(made, indent=1) + "\n")


def _provenance(recipe: Recipe, dataset: Dataset, specs: Specs) -> dict[str, Any]:
    """Say what went into the model: software, inputs, request, seeds."""
    kept = specs.events_of(len(dataset.files))
    return {
        "run": recipe.name,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **_versions(), "htcondor": _htcondor_version()},
        "inputs": [
            {
                "path": file.path, "uuid": file.uuid, "bytes": file.size, "entries": file.entries,
                "entries_used": file.used, "events_kept": n, "label": recipe.label_of(i),
            }
            for i, (file, n) in enumerate(zip(dataset.files, kept, strict=True))
        ],
        "tree": dataset.tree,
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


if __name__ == "__main__":
    main("report", work)
