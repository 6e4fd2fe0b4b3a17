"""The report stage: draw the curves, write down where the model comes from, pack the bundle.

``python -m mlaas_condor.stages.report``, beside what train brought back and the files that describe the run,
writes, into ``output/report/``, the pictures, ``cutflow.txt``, the specs as MLaaS4HEP has them,
``provenance.json`` and ``<run>.tar.gz``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from mlaas_condor.data import cutflow, global_specs
from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.specs import FileSpecs, Specs
from mlaas_condor.run import mark
from mlaas_condor.stages.program import everything, log, main
from mlaas_condor.training import bundle, description, plots
from mlaas_condor.training.loop import SPLITS
from mlaas_condor.training.recipe import Recipe

TRAIN = Path("train")


def work(_: list[str], output: Path) -> None:
    """Draw, describe, pack."""
    recipe = Recipe.read(TRAIN / "recipe.json")
    dataset, specs = Dataset.read(Path("dataset.json")), Specs.read(Path("specs.json"))
    _draw(recipe, output / "plots")
    _write_json(output / "provenance.json", description.provenance(recipe, dataset, specs))
    rows = cutflow.table(specs, [Path(file.path).name for file in dataset.files], recipe.weights)
    (output / "cutflow.txt").write_text(cutflow.text(rows), "utf-8")
    packed = Path("bundle")
    shutil.copytree(TRAIN / "model", packed)
    (packed / "assets").mkdir(exist_ok=True)  # an empty folder may not have travelled
    shutil.copytree(output / "plots", packed / "plots")
    _write_specs(dataset, specs, output)
    shutil.copytree(output / "specs", packed / "specs")
    _describe(recipe, dataset, specs, packed)
    for path in (
        TRAIN / "metrics.json", TRAIN / "history.jsonl", output / "provenance.json", output / "cutflow.txt",
        output / "global-specs.json", Path("request.json"), Path("specs.json"), Path(recipe.model),
    ):  # fmt: skip
        shutil.copy(path, packed / path.name)
    for name in [dataset.function.name, *dataset.function.modules] if dataset.function else ():
        (shutil.copytree if Path(name).is_dir() else shutil.copy)(name, packed / name)
    bundle.write(output / f"{recipe.name}.tar.gz", packed)
    log.info("bundle %s.tar.gz, %d files", recipe.name, len(everything(packed)))
    mark(output, 0, everything(output))


def _draw(recipe: Recipe, folder: Path) -> None:
    folder.mkdir()
    history = [json.loads(line) for line in (TRAIN / "history.jsonl").read_text("utf-8").splitlines()]
    plots.learning_curves(history, folder / "learning_curves.png")
    with np.load(TRAIN / "scores.npz") as scores:
        which = {split: scores["split"] == SPLITS.index(split) for split in ("train", "test")}
        values, labels, weight = (
            {split: scores[name][rows] for split, rows in which.items()} for name in ("score", "y", "weight")
        )
    weights = weight if recipe.weighted else None
    if recipe.task == "regression":
        plots.residuals(labels, values, folder / "residuals.png", recipe.label_branch, weights)
        return
    plots.roc(json.loads((TRAIN / "metrics.json").read_text("utf-8")), folder / "roc.png")
    plots.scores(values, labels, folder / "scores.png", recipe.classes, weights)


def _describe(recipe: Recipe, dataset: Dataset, specs: Specs, packed: Path) -> None:
    """Write what it takes to make the feature matrix of raw events, and what TFaaS wants to know."""
    features = description.features(recipe, dataset, specs)
    _write_json(packed / "features.json", features)
    made = bundle.params_json(
        recipe.name,
        "saved_model.pb",
        labels="labels.txt" if recipe.classes else "",
        description=f"{len(features['columns'])} columns",
    )
    _write_json(packed / "params.json", made)
    if recipe.classes:
        (packed / "labels.txt").write_text("\n".join(recipe.classes) + "\n")


def _write_specs(dataset: Dataset, specs: Specs, output: Path) -> None:
    """Write the specs as MLaaS4HEP does, those of each file too; files of one name get their number added."""
    # Here and not in merge, whose output is shared between runs that may call the same files differently.
    _write_json(output / "global-specs.json", global_specs.of_specs(specs, [f.path for f in dataset.files]))
    of_files = FileSpecs.read(Path("file-specs.json")).files
    kept = specs.events_of(len(dataset.files))
    folder = output / "specs"
    folder.mkdir()
    names = [Path(file.path).stem for file in dataset.files]
    for position, extents in of_files.items():
        path, name = dataset.files[position].path, names[position]
        unique = name if names.count(name) == 1 else f"{name}-{position}"
        events = {path: kept[position], "total": kept[position]}
        _write_json(folder / f"specs-{unique}.json", global_specs.of_extents(extents, dataset.flat, events))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main("report", work)
