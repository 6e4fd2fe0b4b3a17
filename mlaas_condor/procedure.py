"""How a run trains: what the request says of it, checked against its files, labels and model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mlaas_condor.errors import Problem
from mlaas_condor.lists import Lists
from mlaas_condor.params import MODEL_PREFIX, Metrics, Params, SplitFiles
from mlaas_condor.reading import nearest
from mlaas_condor.request import Request
from mlaas_condor.survey import Surveyed
from mlaas_condor.training.models import ModelFile, companions
from mlaas_condor.training.recipe import Recipe, classes_of

MOST_TRAININGS = 1000
_KINDS = ("Classifier", "Regressor")
IN_PARTS = frozenset(
    [f"{family}{kind}" for family in ("MLP", "SGD", "PassiveAggressive") for kind in _KINDS]
    + [f"{family}NB" for family in ("Gaussian", "Bernoulli", "Multinomial", "Complement", "Categorical")]
    + ["Perceptron"]
)
"""Estimators of scikit-learn that learn from a part of the events at a time."""
_WHOLE = {"make_pipeline", "early_stopping"}  # with these even such an estimator wants all events


@dataclass(frozen=True)
class Split:
    """Which events validate and test: shares, and positions of the files that do instead."""

    validation: float
    test: float
    validation_files: list[int]
    test_files: list[int]


def make(
    request: Request, lists: Lists, surveyed: Surveyed, labels: Sequence[str], model: ModelFile, name: str
) -> Recipe:
    """Return the recipe of the run; mistakes go to the request's problems.

    Parameters
    ----------
    request, lists, surveyed, model
        What the user wrote, and what was found.
    labels
        Of the files that can be read; empty with a label branch.
    name
        What the model file is called in jobs.
    """
    params = request.params
    numbers, names = classes_of(list(labels))
    split = _split(request, surveyed, labels)
    _check(request, model, names)
    weights = lists.weights.of_files
    return Recipe(
        name=request.job.name,
        model=name,
        modules=[each.name for each in companions(model.path)],
        task=request.job.task,
        labels=numbers,
        label_branch=lists.labels.branch,
        classes=names,
        weights=[float(weights[position]) for position in surveyed.positions] if weights else [],
        weight_branch=lists.weights.branch,
        epochs=params.epochs,
        batch_size=params.batch_size,
        standard=params.training == "standard",
        split=split.validation,
        test=split.test,
        validation_files=split.validation_files,
        test_files=split.test_files,
        early_stop=params.early_stop,
        best_model=_keeps_best(params),
        monitor=params.monitor,
        reduce_lr=params.reduce_lr,
        class_weights=params.class_weights,
        checkpoint=params.checkpoint,
        folds=params.folds,
        variants=variants(params),
        normalise=params.normalise,
        padding=params.nan,
        threshold=params.metrics.threshold if isinstance(params.metrics, Metrics) else 0.5,
        seed=params.seed,
        verbose=params.verbose,
        threads=request.job.cpus or 1,
        gpus=request.job.gpus_wanted,
    )


def variants(params: Params) -> list[dict[str, Any]]:
    """Return what each training has of its own: every combination of scanned values, each with every fold.

    One training only: none.
    """
    scanned = {key: [_understood(key, value) for value in values] for key, values in params.scan.items()}
    # No more than are told of as too many: a stranger's list of lists may have any number.
    products = itertools.islice(itertools.product(*scanned.values()), MOST_TRAININGS + 1)
    combined = [dict(zip(scanned, values, strict=True)) for values in products]
    folds: list[dict[str, Any]] = [{"fold": fold} for fold in range(params.folds or 0)] or [{}]
    made = [{**one, **fold} for one in combined for fold in folds]
    return made if len(made) > 1 or params.scan else []


def _understood(key: str, value: Any) -> Any:
    """Return a scanned value as params.json would have it; as it is where it is wrong: that is told later."""
    try:
        return getattr(Params.model_validate({key: value}), key, value)
    except ValidationError:
        return value


def copies(model: ModelFile) -> float:
    """Return how many matrices of all events the training holds at once; 0 where a part of the events does.

    Of scikit-learn the names in the file must do, as nothing of the user's is run here; where they leave
    a doubt, memory for all events is asked for.
    """
    if model.framework != "sklearn":
        return 0.0
    used = {name for name in model.names if name[:1].isupper()}
    if used and used <= IN_PARTS and not model.names & _WHOLE:
        return 0.0
    # Measured: these make float64 of it, and bins of that; others keep it, with a copy or two in between.
    return 7.0 if any(name.startswith("HistGradientBoosting") for name in used) else 4.0


def _keeps_best(params: Params) -> bool:
    return params.early_stop is not None if params.best_model is None else params.best_model


def _split(request: Request, surveyed: Surveyed, labels: Sequence[str]) -> Split:
    wanted = request.params.split
    if not isinstance(wanted, SplitFiles):
        return Split(wanted, 0.2, [], [])
    paths = [each.path for each in surveyed.files]
    found: dict[str, list[int]] = {}
    for key, value in (("validation", wanted.validation), ("test", wanted.test)):
        patterns = value if isinstance(value, list) else []
        found[key] = sorted({i for each in patterns for i in _matching(request, each, paths, key)})
    for key, value in (("validation", wanted.validation), ("test", wanted.test)):
        if value == []:
            request.problems.append(Problem(f"params.json: split.{key}", "names no file", "or give a share"))
    both = set(found["validation"]) & set(found["test"])
    problems = [f"{paths[i]} is in both" for i in sorted(both)]
    train = [i for i in range(len(paths)) if i not in found["validation"] and i not in found["test"]]
    if not train:
        problems.append("leaves no file to train on")
    elif labels and (gone := sorted(set(labels) - {labels[i] for i in train})):
        problems.append(f"leaves no file of label {', '.join(map(repr, gone))} to train on")
    request.problems += [Problem("params.json: split", problem) for problem in problems]
    shares = {
        key: value if isinstance(value, float) else 0.2
        for key, value in (("validation", wanted.validation), ("test", wanted.test))
    }
    return Split(shares["validation"], shares["test"], found["validation"], found["test"])


def _matching(request: Request, pattern: str, paths: Sequence[str], key: str) -> list[int]:
    """Return the positions of the input files that a name or pattern means."""
    whole = pattern if "://" in pattern else request.pattern(pattern)
    found = [i for i, path in enumerate(paths) if fnmatch(path, whole) or fnmatch(Path(path).name, pattern)]
    if not found:
        hint = nearest(pattern, [Path(path).name for path in paths])
        request.problems.append(
            Problem(f"params.json: split.{key}: {pattern}", "is none of the files of the run", hint)
        )
    return found


def _check(request: Request, model: ModelFile, classes: Sequence[str]) -> None:
    """Look for wishes that cannot be fulfilled together."""
    params, task = request.params, request.job.task
    wrong = [*_check_watching(params, task, model), *_check_classes(params, task, classes)]
    wrong += _check_scan(params, model)
    number = math.prod(map(len, params.scan.values())) * (params.folds or 1)
    if number > MOST_TRAININGS:
        wrong.append(("scan", f"makes {number} trainings, more than {MOST_TRAININGS}"))
    if params.folds and isinstance(params.split, SplitFiles) and isinstance(params.split.test, list):
        wrong.append(("folds", "deals out what tests, and split.test names files for it: give one of them"))
    request.problems += [Problem(f"params.json: {key}", what) for key, what in wrong]


def _check_watching(params: Params, task: str, model: ModelFile) -> Iterator[tuple[str, str]]:
    networks = model.framework in ("keras", "keras2", "torch")
    in_parts = model.framework == "sklearn" and not copies(model)
    standard = "standard" in (params.training, *params.scan.get("training", ()))
    in_turn = not standard and (networks or in_parts)
    if in_turn and params.best_model:
        yield "best_model", 'compares epochs over the same events: it needs "training": "standard"'
    if in_turn and params.reduce_lr:
        yield "reduce_lr", 'compares epochs over the same events: it needs "training": "standard"'
    if params.reduce_lr and not networks:
        yield "reduce_lr", f"a {model.framework} model has no learning rate that could be lowered"
    if params.monitor == "val_auc" and task == "regression":
        yield "monitor", "a regression has no AUC: leave it out, or write val_loss"


def _check_classes(params: Params, task: str, classes: Sequence[str]) -> Iterator[tuple[str, str]]:
    wanted = [params.class_weights, *params.scan.get("class_weights", [])]
    if task == "regression" and any(wanted):
        yield "class_weights", "a regression has no classes"
        return
    for each in wanted:
        for name, factor in each.items() if isinstance(each, Mapping) else ():
            if classes and name not in classes:
                yield "class_weights", f"{name!r} is no label; there are {', '.join(map(repr, classes))}"
            if factor < 0:
                yield "class_weights", f"{factor:g} for {name!r} is negative"


def _check_scan(params: Params, model: ModelFile) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with scanned values: each must be right for its key."""
    for key, values in params.scan.items():
        argument = key.removeprefix(MODEL_PREFIX)
        if argument != key:
            if model.keywords is not None and argument not in model.keywords:
                there = ", ".join(model.keywords) or "none"
                yield "scan", f"{key}: `model` in {model.path.name} has no argument {argument!r} ({there})"
            continue
        if len({repr(value) for value in values}) < len(values):
            yield "scan", f"{key}: a value is given twice: {values}"
        for value in values:
            try:
                Params.model_validate({key: value})
            except ValidationError as error:
                detail = error.errors()[0]
                yield "scan", f"{key}: {value!r} does not do: {detail['msg']}"
