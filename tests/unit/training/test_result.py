import json

import numpy as np
import pytest

from mlaas_condor.training.report.result import Result, Several

RECIPE = {
    "name": "luca_1", "model": "model.py", "labels": [0, 1], "classes": ["b", "s"], "epochs": 2,
    "batch_size": 10, "standard": True, "split": 0.2, "padding": None, "threshold": 0.5, "seed": 1,
    "verbose": 0, "threads": 1,
}  # fmt: skip


def write(folder, recipe=RECIPE, value=0.9, name="auc"):
    """Write what a training leaves; the metric of its test events says the opposite of that of validation."""
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "trained.json").write_text(json.dumps({"framework": "keras", "model": "saved_model.pb"}))
    (folder / "history.jsonl").write_text('{"epoch": 1, "loss": 0.5}\n{"epoch": 2, "loss": 0.4}\n')
    measured = {"validation": {name: value}, "test": {name: None if value is None else 1 - value}}
    (folder / "metrics.json").write_text(json.dumps(measured))
    n = 60
    np.savez(
        folder / "scores.npz", score=np.linspace(0, 1, n), y=np.arange(n) % 2, split=np.arange(n) % 3,
        weight=np.full(n, 2.0), source=np.zeros(n, np.uint32), entry=np.arange(n),
    )  # fmt: skip
    return folder


def test_what_is_there_is_read(tmp_path):
    folder = write(tmp_path / "train")
    (folder / "importance.json").write_text('[{"branch": "x", "importance": 0.1, "deviation": null}]')
    found = Result.read(folder)
    assert [entry["loss"] for entry in found.history] == [0.5, 0.4]
    assert found.scores["train"] == pytest.approx(np.linspace(0, 1, 60)[::3])
    assert found.labels["test"].tolist() == [0, 1] * 10
    assert (found.weights, found.distributions, found.resources, found.branches) == (None, None, {}, [])
    assert found.importance[0]["branch"] == "x"
    assert set(found.overtraining) == {"0", "1"}


def test_weights_are_read_where_events_have_some(tmp_path):
    found = Result.read(write(tmp_path / "train", {**RECIPE, "weight_branch": "w"}))
    assert found.weights["test"].tolist() == [2.0] * 20


def test_a_regression_has_no_overtraining_by_class(tmp_path):
    recipe = {**RECIPE, "task": "regression", "classes": [], "labels": [], "label_branch": "pt"}
    found = Result.read(write(tmp_path / "train", recipe, 3.0, "rmse"))
    assert found.overtraining == {}


def several(folder, values, variants):
    for i, value in enumerate(values):
        write(folder / f"training-{i:05d}", {**RECIPE, "variants": variants, **variants[i]}, value)
    return Several.read(folder)


def test_one_training_is_not_compared(tmp_path):
    assert Several.read(write(tmp_path / "train")) is None


def test_validation_decides_on_the_best_of_a_scan(tmp_path):
    found = several(tmp_path, [0.7, 0.9, None], [{"batch_size": size} for size in (10, 20, 30)])
    assert found.best.name == "training-00001"
    assert (found.metric, found.folds, found.cross_validated) == ("auc", [], None)
    assert Result.read(found.best).recipe.batch_size == 20
    (tmp_path / "out").mkdir()
    found.write(tmp_path / "out")
    plain = json.loads((tmp_path / "out/scan.json").read_text())
    assert [row["validation"] for row in plain["combinations"]] == [0.7, 0.9, None]
    assert plain["best"] == "training-00001"
    assert (tmp_path / "out/scan.txt").read_text().splitlines()[2].startswith("*  20")


def test_folds_of_the_best_combination_are_put_together(tmp_path):
    variants = [{"batch_size": size, "fold": fold} for size in (10, 20) for fold in range(3)]
    found = several(tmp_path, [0.95, 0.2, 0.2, 0.7, 0.6, 0.8], variants)
    assert found.best.name == "training-00005", "the best fold of the best mean"
    assert [fold["auc"] for fold in found.folds] == pytest.approx([0.3, 0.4, 0.2])
    assert found.cross_validated["events"] == 3 * 20
    (tmp_path / "out").mkdir()
    found.write(tmp_path / "out")
    assert json.loads((tmp_path / "out/scan.json").read_text())["cross_validated"]["events"] == 60
