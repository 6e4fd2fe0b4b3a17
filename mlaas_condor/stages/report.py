"""The report stage: draw the pictures, write the report, say where the model comes from, pack the bundle.

``python -m mlaas_condor.stages.report``, beside what train brought back and the files that describe the run,
writes into ``output/report/``: ``report.html``, the pictures, what was measured of the model,
``cutflow.txt``, the specs as MLaaS4HEP has them, ``provenance.json``, ``<run>.tar.gz``. Of several trainings
it packs the best, and compares all.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlaas_condor.data import cutflow, global_specs
from mlaas_condor.data.dataset import Dataset
from mlaas_condor.data.specs import FileSpecs, Specs
from mlaas_condor.jsonfile import dumps
from mlaas_condor.run import mark
from mlaas_condor.stages.program import everything, log, main
from mlaas_condor.training import bundle, description
from mlaas_condor.training.report import page, pictures
from mlaas_condor.training.report.result import Result, Several

TRAIN = Path("train")
BRANCHES = "branches"  # folder of the pictures of single branches, where the request names none
# By the train stage, of the model that is kept.
_MEASURED = (
    "metrics.json", "history.jsonl", "importance.json", "distributions.json", "resources.json", "onnx.json",
)  # fmt: skip
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]*")


def work(_: list[str], output: Path) -> None:
    """Draw, describe, pack."""
    several = Several.read(TRAIN)
    folder = several.best if several else TRAIN
    result = Result.read(folder)
    dataset, specs = Dataset.read(Path("dataset.json")), Specs.read(Path("specs.json"))
    provenance = description.provenance(result.recipe, dataset, specs)
    rows = cutflow.table(specs, [Path(file.path).name for file in dataset.files], result.recipe.weights)
    _write_json(output / "provenance.json", provenance)
    (output / "cutflow.txt").write_text(cutflow.text(rows), "utf-8")
    _write_specs(dataset, specs, output)
    _write_measured(folder, result, output)
    if several:
        several.write(output)
    _write_page(result, several, provenance, rows, output)
    _pack(folder, result, dataset, specs, output)
    mark(output, 0, everything(output))


def _write_measured(folder: Path, result: Result, output: Path) -> None:
    """Write what is known of the model beside its metrics."""
    for name in _MEASURED:
        if (folder / name).exists():
            shutil.copy(folder / name, output / name)
    if result.overtraining:
        (output / "overtraining.json").write_text(dumps(result.overtraining) + "\n", "utf-8")


def _write_page(
    result: Result,
    several: Several | None,
    provenance: Mapping[str, Any],
    rows: Sequence[Sequence[str]],
    output: Path,
) -> None:
    """Draw everything, and write the report."""
    recipe = result.recipe
    folder = output / "plots"
    folder.mkdir()
    regression = recipe.task == "regression"
    drawn = pictures.draw(result, folder)
    if several:
        drawn |= pictures.draw_scan(several.table, regression, folder)
        drawn |= pictures.draw_folds(several.folds, regression, folder)
    content = page.Content(
        name=recipe.name,
        made=provenance["made"],
        task=recipe.task,
        framework=page.framework(result.framework, provenance["versions"]),
        classes=recipe.classes,
        metrics=result.metrics,
        history=result.history,
        provenance=provenance,
        plan=_read_json(Path("plan.json")),
        request=provenance["request"],
        cutflow=rows,
        model=(recipe.model, Path(recipe.model).read_text("utf-8", "replace")),
        overtraining=result.overtraining,
        pictures=drawn,
        resources=_resources(result),
        onnx=result.onnx,
        scan=several.table if several else (),
        folds=several.folds if several else (),
        cross_validated=several.cross_validated if several else None,
        branches=_draw_branches(result, provenance["request"], output),
    )
    page.write(output / "report.html", content)


def _resources(result: Result) -> list[dict[str, Any]]:
    """Return what the training asked for, also by the plan, and used; nothing where that is not known."""
    if not result.resources:
        return []
    plan = next(stage for stage in _read_json(Path("plan.json"))["stages"] if stage["stage"] == "train")
    asked = {key: plan[key] for key in ("memory", "disk", "cpus", "gpus")}
    return [
        {
            "stage": "train",
            "asked": {**asked, **result.resources.get("asked", {})},
            "used": result.resources.get("used", {}),
        }
    ]


def _draw_branches(result: Result, request: Mapping[str, Any], output: Path) -> str:
    """Draw branches before and after normalising; return a sentence that says where, empty for none."""
    hist = request["params"].get("hist")
    folder = output / _folder(hist, output)
    number = pictures.draw_branches(result, folder, everything=bool(hist))
    if not number:
        return ""
    log.info("%d pictures of branches in %s/", number, folder.name)
    which = str(number) if hist else f"{number} most important"
    return (
        f"The folder {folder.name}/ beside this page has a picture of each of the {which} branches, before "
        "and after normalising."
    )


def _folder(hist: str | None, output: Path) -> str:
    """Return the folder for pictures of branches: what the request calls it, if that can be one here."""
    name = Path(hist).name if hist else ""
    taken = {path.name for path in output.iterdir()} | {path.name for path in TRAIN.glob("**/model/*")}
    return name if _FOLDER.fullmatch(name) and name not in taken else BRANCHES


def _pack(folder: Path, result: Result, dataset: Dataset, specs: Specs, output: Path) -> None:
    """Pack the bundle: the model, and whatever was written here."""
    recipe, packed = result.recipe, Path("bundle")
    shutil.copytree(folder / "model", packed)
    (packed / "assets").mkdir(exist_ok=True)  # an empty folder may not have travelled
    shutil.copytree(output, packed, dirs_exist_ok=True)
    _describe(result, dataset, specs, packed)
    for path in (Path("request.json"), Path("specs.json"), Path(recipe.model)):
        shutil.copy(path, packed / path.name)
    own = [dataset.function.name, *dataset.function.modules] if dataset.function else []
    for name in {*recipe.modules, *own}:
        (shutil.copytree if Path(name).is_dir() else shutil.copy)(name, packed / name)
    bundle.write(output / f"{recipe.name}.tar.gz", packed)
    log.info("bundle %s.tar.gz, %d files", recipe.name, len(everything(packed)))


def _describe(result: Result, dataset: Dataset, specs: Specs, packed: Path) -> None:
    """Write what it takes to make the feature matrix of raw events, and what TFaaS wants to know."""
    recipe = result.recipe
    features = description.features(recipe, dataset, specs, result.framework, result.model)
    _write_json(packed / "features.json", features)
    made = bundle.params_json(
        recipe.name,
        result.model,
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


def _read_json(path: Path) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return plain


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main("report", work)
