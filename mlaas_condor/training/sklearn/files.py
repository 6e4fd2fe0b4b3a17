"""scikit-learn estimators as files that can be read without running what is in them."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import pickle
import platform
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

from mlaas_condor.errors import ModelFault
from mlaas_condor.training import faults, models

SKOPS_FILE, JOBLIB_FILE, VERSIONS_FILE = "model.skops", "model.joblib", "versions.json"
TRUSTED = ("sklearn.", "numpy.", "scipy.")
PACKAGES = ("scikit-learn", "numpy", "skops")

logger = logging.getLogger(__name__)


def write(estimator: Any, folder: Path, **noted: int) -> str:
    """Write ``model.skops``, where skops cannot ``model.joblib``, and ``versions.json``.

    Parameters
    ----------
    estimator
        The estimator.
    folder
        Where to write.
    noted
        What else goes into ``versions.json``.

    Returns
    -------
    str
        Which of the two it is.
    """
    joblib = importlib.import_module("joblib")
    folder.mkdir(parents=True, exist_ok=True)
    with faults.of_writing(folder):
        try:
            written = SKOPS_FILE
            _write_skops(estimator, folder / written)
        except Exception as error:
            if isinstance(error, OSError):
                raise
            logger.info("skops cannot write this model (%s): written as a pickle", models.brief(error))
            (folder / written).unlink(missing_ok=True)
            written = JOBLIB_FILE
            joblib.dump(estimator, folder / written)
        text = json.dumps({**_versions(), **noted}, indent=1)
        (folder / VERSIONS_FILE).write_text(text + "\n", "utf-8")
    return written


def _write_skops(estimator: Any, path: Path) -> None:
    """Write and read back: what skops can write, it cannot always read."""
    skops = importlib.import_module("skops.io")
    skops.dump(estimator, path)
    skops.load(path, trusted=skops.get_untrusted_types(file=path))


def read(folder: Path, trusted: bool) -> tuple[Any, dict[str, Any]]:
    """Return the estimator, and what ``versions.json`` says.

    Parameters
    ----------
    folder
        What ``write`` wrote into.
    trusted
        Whether any class may be used, and a pickle be loaded, which runs code.

    Raises
    ------
    ModelFault
        There is no model that can be loaded, or not without trust.
    """
    try:
        estimator = (_read_skops if (folder / SKOPS_FILE).exists() else _read_joblib)(folder, trusted)
        noted: dict[str, Any] = json.loads((folder / VERSIONS_FILE).read_text("utf-8"))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, EOFError,
            zipfile.BadZipFile, pickle.UnpicklingError) as error:  # fmt: skip
        raise ModelFault(
            f"{folder}: holds no scikit-learn model that can be loaded: {models.brief(error)}"
        ) from error
    others = [
        f"{name} {noted[name]} (here {here})"
        for name, here in _versions().items()
        if noted.get(name, here) != here
    ]
    if others:
        logger.warning("%s: the model was written with %s", folder, ", ".join(others))
    return estimator, noted


def _read_skops(folder: Path, trusted: bool) -> Any:
    skops = importlib.import_module("skops.io")
    path = folder / SKOPS_FILE
    asked = skops.get_untrusted_types(file=path)
    refused = [] if trusted else [name for name in asked if not _is_known(name)]
    if refused:
        raise ModelFault(
            f"{path}: holds {', '.join(refused)}, which is not of scikit-learn: to load it, give the model "
            "file too, which says that its code is trusted"
        )
    return skops.load(path, trusted=asked)


def _is_known(name: str) -> bool:
    """Tell whether a name is that of a class of the libraries, or of a function that measures."""
    module, _, attribute = name.rpartition(".")
    if not name.startswith(TRUSTED):
        return False
    if name.startswith("sklearn.metrics."):
        return True
    # Their functions can do anything: numpy's test helpers run strings.
    return isinstance(getattr(importlib.import_module(module), attribute, None), type)


def _read_joblib(folder: Path, trusted: bool) -> Any:
    path = folder / JOBLIB_FILE
    if path.exists() and not trusted:
        raise ModelFault(
            f"{path}: is a pickle, and loading it runs whatever code is in it: give the model file too, "
            "which says that it is trusted"
        )
    return importlib.import_module("joblib").load(path)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
