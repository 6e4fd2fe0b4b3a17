"""What a scikit-learn estimator is, what it consists of, and what is set in it before it is trained."""

from __future__ import annotations

import importlib
import pickle
from typing import Any

from mlaas_condor.errors import ModelFault
from mlaas_condor.training import models
from mlaas_condor.training.recipe import Task


def check(estimator: Any, name: str, task: Task) -> None:
    """Make sure that an estimator can be trained for a task, give scores, and be written.

    Parameters
    ----------
    estimator
        What the user's function returned.
    name
        Name of the user's file.
    task
        What is to be learnt.

    Raises
    ------
    ModelFault
        It cannot.
    """
    base = importlib.import_module("sklearn.base")
    kind = estimator.__name__ if isinstance(estimator, type) else type(estimator).__name__
    if isinstance(estimator, type):
        raise ModelFault(f"{name}: `model` returns the class {kind}, not an estimator: write {kind}()")
    if not isinstance(estimator, base.BaseEstimator) or not callable(getattr(estimator, "fit", None)):
        raise ModelFault(f"{name}: `model` returns a {kind}, no scikit-learn estimator")
    found = [each for each in ("classifier", "regressor") if getattr(base, f"is_{each}")(estimator)]
    wanted = "regressor" if task == "regression" else "classifier"
    if wanted not in found:
        what = f"a {found[0]}" if found else "neither classifier nor regressor"
        other = ', or set "task" in job.json' if found else ""
        raise ModelFault(
            f"{name}: `model` returns a {kind}, which is {what}: for a {task} return a {wanted}{other}"
        )
    # Of stacking it is known only once its last estimator is there.
    scores = ("predict_proba", "decision_function") if getattr(estimator, "final_estimator", 1) else ("fit",)
    if task == "classification" and not any(hasattr(estimator, method) for method in scores):
        raise ModelFault(
            f"{name}: a {kind} with these parameters has neither predict_proba nor decision_function, and so "
            "no scores of events"
        )
    try:
        pickle.dumps(estimator)
    except Exception as error:
        raise ModelFault(
            f"{name}: the {kind} cannot be written to a file ({models.brief(error)}): in place of a "
            "lambda use a function with a name"
        ) from error


def steps(estimator: Any) -> list[tuple[str, Any]]:
    """Return an estimator, and as long as that is a pipeline, the last step of it, with its name."""
    pipeline = importlib.import_module("sklearn.pipeline").Pipeline
    found = [("", estimator)]
    while isinstance(found[-1][1], pipeline):
        found.append(found[-1][1].steps[-1])
    return found


def parts(estimator: Any) -> dict[str, Any]:
    """Return an estimator, and those within it, by the prefix of their parameters."""
    inner = {
        f"{name}__": each
        for name, each in estimator.get_params(deep=True).items()
        if hasattr(each, "get_params") and not isinstance(each, type)
    }
    return {"": estimator, **dict(sorted(inner.items()))}


def settle(estimator: Any, seed: int, threads: int) -> None:
    """Give a seed, and the number of threads, where the user left that open."""
    for part in parts(estimator).values():
        if "random_state" in part.get_params(deep=False) and part.random_state is None:
            part.set_params(random_state=seed)
    set_threads(estimator, threads)


def set_threads(estimator: Any, threads: int, always: bool = False) -> None:
    """Set ``n_jobs`` where it is open, or all CPUs there are: those are what the job asked for.

    Where one estimator works in parallel, those within it do not.
    """
    parallel: list[str] = []
    for prefix, part in parts(estimator).items():
        own = part.get_params(deep=False)
        # LogisticRegression has it without effect, and warns.
        if "n_jobs" not in own or type(part).__name__ == "LogisticRegression":
            continue
        jobs = own["n_jobs"]
        if always or jobs is None or (isinstance(jobs, int) and jobs < 0):
            within = any(prefix.startswith(outer) for outer in parallel)
            part.set_params(n_jobs=1 if within else threads)
        parallel.append(prefix)


def learns_in_passes(estimator: Any) -> bool:
    """Tell whether ``partial_fit`` is there, and takes the parameters that the user set."""
    return (
        hasattr(estimator, "partial_fit")
        and not getattr(estimator, "early_stopping", False)
        and getattr(estimator, "class_weight", None) != "balanced"
    )
