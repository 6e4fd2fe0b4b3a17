"""features.json: enough to make the matrix of the training again."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from data_tools import dataset_of, plain_dataset, specs_of
from pydantic import ValidationError

from mlaas_condor.data.features import Columns
from mlaas_condor.data.selection import Cut, Definition, Steps
from mlaas_condor.data.specs import BranchSpecs, Specs
from mlaas_condor.training import description
from mlaas_condor.training.description import FeaturesFile
from mlaas_condor.training.recipe import Recipe

KNOWN = {"met": "flat", "pt": "jagged"}


def recipe_of(**keys):
    given = {
        "name": "tiny_1", "model": "model.py", "labels": [0, 1], "classes": ["b", "s"], "epochs": 1,
        "batch_size": 10, "standard": True, "split": 0.2, "padding": None, "threshold": 0.5, "seed": 21,
        "verbose": 0, "threads": 1,
    }  # fmt: skip
    return Recipe(**{**given, **keys})


def through_json(found):
    return FeaturesFile.model_validate(json.loads(json.dumps(found, indent=1)))


@pytest.mark.parametrize("normalise", ["minmax", "standard", "robust", "none"])
@pytest.mark.parametrize("padding", [None, -999.0])
def test_the_columns_are_rebuilt_exactly(mktree, normalise, padding):
    large = np.linspace(1.6e9, 1.6e9 + 1000, 40)  # wide: worked out in float64
    dataset = dataset_of([mktree("a.root", 40, time=large, huge=np.geomspace(1, 3e38, 40))])
    specs, recipe = specs_of(dataset), recipe_of(normalise=normalise, padding=padding)
    columns = Columns.of(specs, normalise, padding)
    assert {scale.dtype for scale in columns.scales.values()} == {"float32", "float64"}
    rebuilt = through_json(description.features(recipe, dataset, specs)).layout()
    assert rebuilt == columns
    assert rebuilt.padding.tobytes() == columns.padding.tobytes()


def test_what_it_says_of_model_and_data(mktree):
    dataset = dataset_of([mktree("a.root", 40)], carried=["event"], fill_missing={"jet_pt": "jagged"})
    found = description.features(recipe_of(), dataset, specs_of(dataset), "torch", "model.pt2")
    assert (found["format"], found["framework"], found["model"]) == (description.FORMAT, "torch", "model.pt2")
    assert (found["name"], found["source"], found["tree"]) == ("tiny_1", "model.py", "events")
    assert found["carried"] == ["event"] and found["fill_missing"] == {"jet_pt": "jagged"}
    assert found["inputs"]["met"] == "flat" and found["inputs"]["jet_pt"] == "jagged"
    assert found["scales"]["njets"]["stored"] == "uint8" and found["scales"]["met"]["stored"] == "float32"
    assert found["jagged"]["never"] == 0 and "never_0" not in found["columns"]


@pytest.mark.parametrize(
    ("made", "cuts", "expected"),
    [
        ({"new": ("sum(a)", "flat")}, [], {"a": "jagged"}),
        ({"new": ("a * 2", "flat")}, [], {"a": "flat"}),
        ({"new": ("a * 2", "jagged")}, [], {"a": "jagged"}),
        ({"new": ("a * pt", "jagged")}, [], {"a": None}),
        ({"new": ("a * b", "jagged")}, [], {"a": None, "b": None}),
        ({"new": ("a * b", "flat")}, [], {"a": "flat", "b": "flat"}),
        ({"half": ("a / 2", None), "new": ("max(half)", "flat")}, [], {"a": "jagged"}),
        ({"new": ("met + sum(a * b)", "flat")}, [("b > 1", "any")], {"a": None, "b": "jagged"}),
        ({}, [("a > 1", None)], {"a": "flat"}),
        ({}, [("a > met", "all")], {"a": "jagged"}),
        ({}, [("count(a) > 1 and b < 5", None)], {"a": "jagged", "b": "flat"}),
    ],
)
def test_kinds_of_branches_that_are_only_used(made, cuts, expected):
    names = {"a", "b", "half", "met", "pt"}

    def used(expression):
        return sorted(names.intersection(re.findall(r"\w+", expression)))

    steps = Steps(
        definitions=[Definition(name=n, expression=e, branches=used(e)) for n, (e, _) in made.items()],
        cuts=[Cut(expression=e, branches=used(e), elements=elements) for e, elements in cuts],
    )
    kinds = {**KNOWN, **{name: kind for name, (_, kind) in made.items() if kind}}
    flat, jagged = ([name for name, kind in kinds.items() if kind == each] for each in ("flat", "jagged"))
    branch = BranchSpecs(length=1, minimum=0.0, maximum=1.0)
    dataset = plain_dataset([10], flat=flat, jagged=jagged, steps=steps)
    specs = Specs(flat=dict.fromkeys(flat, branch), jagged=dict.fromkeys(jagged, branch), kept=[])
    inputs = description.features(recipe_of(), dataset, specs)["inputs"]
    assert {name: kind for name, kind in inputs.items() if name not in KNOWN} == expected
    told = dict.fromkeys(expected, "jagged")
    if None in expected.values():
        inputs = description.features(recipe_of(), dataset, specs, branches=told)["inputs"]
        assert inputs.items() >= told.items()


@pytest.mark.parametrize(
    "damage",
    [
        {"columns": ["met", "other"]},
        {"jagged": {"pt": 10**15}},
        {"jagged": {"pt": -1}},
        {"scales": {}},
        {"format": "new"},
        {"unknown": 1},
    ],
)
def test_what_contradicts_itself_is_refused(damage):
    branch = BranchSpecs(length=1, minimum=0.0, maximum=1.0)
    dataset = plain_dataset([10], flat=["met"], jagged=["pt"])
    specs = Specs(flat={"met": branch}, jagged={"pt": branch}, kept=[])
    found = description.features(recipe_of(), dataset, specs)
    FeaturesFile.model_validate(found)
    with pytest.raises(ValidationError):
        FeaturesFile.model_validate(found | damage)
