"""What a recipe makes of a chunk: targets, weights, and what it refuses."""

from types import SimpleNamespace

import numpy as np
import pytest

from mlaas_condor.data.dataset import EntryRange
from mlaas_condor.data.specs import Kept, Specs
from mlaas_condor.errors import DataFault
from mlaas_condor.training.recipe import Recipe


def make(**changes):
    values = {
        "name": "r", "model": "model.py", "labels": [0, 1, 1], "classes": ["0", "1"], "epochs": 3,
        "batch_size": 10, "standard": True, "split": 0.25, "padding": None, "threshold": 0.5, "seed": 5,
        "verbose": 0, "threads": 1,
    }  # fmt: skip
    return Recipe(**(values | changes))


def chunk(**carried):
    return SimpleNamespace(
        file=np.array([0, 2, 1, 0], np.uint32),
        carried={name: np.asarray(values) for name, values in carried.items()},
    )


def test_classes_are_of_files_or_of_a_branch():
    of_files = make().targets(chunk())
    assert (of_files.dtype, of_files.tolist()) == (np.int64, [0, 1, 1, 0])
    by_branch = make(labels=[], label_branch="kind", values=(-1.0, 3.0, 4.0))
    of_branch = by_branch.targets(chunk(kind=[4, -1, 3, 4]))
    assert (of_branch.dtype, of_branch.tolist()) == (np.int64, [2, 0, 1, 2])


@pytest.mark.parametrize("kind", [np.float32, np.int16, np.float64, bool])
def test_targets_of_a_regression_are_the_numbers_of_the_branch(kind):
    recipe = make(task="regression", labels=[], classes=[], label_branch="mass")
    values = np.array([0, 1, 3, 1]).astype(kind)
    found = recipe.targets(chunk(mass=values))
    assert (found.dtype, found.tolist()) == (np.float64, values.astype(float).tolist())


def test_a_regression_looks_for_no_classes():
    recipe = make(task="regression", labels=[], classes=[], label_branch="mass")
    assert recipe.with_classes_of(["no such file"]) is recipe


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_targets_and_weights_must_be_finite(wrong):
    recipe = make(task="regression", labels=[], classes=[], label_branch="mass", weight_branch="w")
    bad = chunk(mass=[wrong, 1.0, wrong, 2.0], w=[1.0, 1.0, 1.0, wrong])
    with pytest.raises(DataFault, match=r"label branch 'mass' is not finite .* for 2 of 4 events"):
        recipe.targets(bad)
    with pytest.raises(DataFault, match=r"weight branch 'w' is not finite .* for 1 of 4 events"):
        recipe.weights_of(bad)


def test_weights_are_of_files_or_of_a_branch_or_there_are_none():
    assert make().weights_of(chunk()) is None
    assert not make().weighted
    of_files = make(weights=[0.5, 1.0, -2.0])
    assert of_files.weighted
    assert of_files.weights_of(chunk()).tolist() == [0.5, -2.0, 1.0, 0.5]
    of_branch = make(weight_branch="w")
    found = of_branch.weights_of(chunk(w=np.array([1, -1, 0, 2], np.float32)))
    assert of_branch.weighted
    assert (found.dtype, found.tolist()) == (np.float64, [1, -1, 0, 2])


def kept(file, events, *weights):
    entries = EntryRange(file=file, start=0, stop=events)
    return Kept(range=entries, flow=(events, events), weights=(0.0, *weights) if weights else ())


def test_the_scale_is_the_mean_weight_of_the_events_kept():
    by_branch = Specs(flat={}, jagged={}, kept=[kept(0, 3, 2.0), kept(1, 1, -1.0)])
    assert make(weight_branch="w").with_weight_scale(by_branch).weight_scale == 0.25
    by_file = Specs(flat={}, jagged={}, kept=[kept(0, 3), kept(1, 1)])
    assert make(weights=[0.5, 2.5]).with_weight_scale(by_file).weight_scale == 1.0
    assert make().with_weight_scale(by_file).weight_scale == 1.0


@pytest.mark.parametrize("weights", [(0.0, 0.0), (-1.0, 1.0), (-3.0, 1.0)])
def test_weights_must_add_up_to_more_than_nothing(weights):
    specs = Specs(flat={}, jagged={}, kept=[kept(file, 2, weight) for file, weight in enumerate(weights)])
    with pytest.raises(DataFault, match="their sum must be above 0"):
        make(weight_branch="w").with_weight_scale(specs)


def test_old_recipes_are_classifications_without_weights():
    assert (make().task, make().weights, make().weight_branch, make().weight_scale) == (
        "classification", [], "", 1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("standard", "chunks", "enough"), [(True, 9, True), (False, 1, True), (False, 2, False)]
)
def test_cuts_must_leave_events_of_every_class_for_every_chunk(standard, chunks, enough):
    recipe = make(labels=[0, 1], classes=["b", "s"], standard=standard)
    specs = Specs(flat={}, jagged={}, kept=[kept(0, 500), kept(1, 7)])
    if enough:
        recipe.check_events(specs, chunks)
        return
    with pytest.raises(DataFault, match="too few events are left: 7 of label 's'; 10 are needed, fewer with"):
        recipe.check_events(specs, chunks)


def test_a_class_without_events_is_told_before_chunks_are_made():
    recipe = make(labels=[0, 1], classes=["b", "s"])
    with pytest.raises(DataFault, match="0 of label 's'"):
        recipe.check_events(Specs(flat={}, jagged={}, kept=[kept(0, 500)]), 1)


@pytest.fixture
def chunks(tmp_path):
    """Two chunk files with a branch of weights and one of labels."""
    from mlaas_condor.data import chunkfile

    paths = []
    for index in range(2):
        file = np.array([0, 0, 0, 1, 2], np.uint32)
        carried = {"w": np.array([1.0, 2.0, 1.0, 3.0, 1.0]), "kind": np.array([5, 5, 5, 7, 7])}
        made = chunkfile.Chunk({"x": np.zeros(5, np.float32)}, file, np.arange(5), carried)
        paths.append(tmp_path / f"chunk-{index}.zip")
        chunkfile.write(paths[-1], made)
    return paths


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [10 / 2 / 6, 10 / 2 / 4]),  # six events of class 0, four of class 1
        ({"weight_branch": "w"}, [1.0, 1.0]),  # whose weights are the same already
        ({"weights": [1.0, 1.0, 2.0]}, [12 / 2 / 6, 12 / 2 / 6]),
    ],
)
def test_balanced_classes_have_the_same_sum_of_weights(chunks, changes, expected):
    assert make(class_weights="balanced", **changes).with_class_factors(
        chunks
    ).class_factors == pytest.approx(expected)


def test_classes_of_a_branch_are_balanced_too(chunks):
    recipe = make(labels=[], classes=[], label_branch="kind", class_weights="balanced").with_classes_of(
        chunks
    )
    assert recipe.with_class_factors(chunks).class_factors == pytest.approx([10 / 2 / 6, 10 / 2 / 4])


def test_factors_are_of_classes_by_name(chunks):
    recipe = make(classes=["QCD", "ttH"], class_weights={"ttH": 3.0})
    assert recipe.with_class_factors(chunks).class_factors == [1.0, 3.0]
    assert make().with_class_factors(chunks).class_factors == []


def test_a_class_without_weight_cannot_be_balanced(chunks):
    recipe = make(class_weights="balanced", weights=[0.0, 1.0, 1.0])
    with pytest.raises(DataFault, match=r"cannot be balanced.* 0 of 0"):
        recipe.with_class_factors(chunks)
