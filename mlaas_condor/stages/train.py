"""The train stage: train the user's model on the chunks.

``python -m mlaas_condor.stages.train recipe.json specs.json CHUNKS_FOLDER`` reads the model file beside it
and writes, into ``output/train/``, ``model/``, ``history.jsonl``, ``metrics.json``, ``scores.npz``, and
``recipe.json`` with the classes that were found.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from mlaas_condor.batch import chirp
from mlaas_condor.data.features import Columns
from mlaas_condor.data.specs import Specs
from mlaas_condor.errors import InputUnreadable, ModelFault
from mlaas_condor.jsonfile import dumps
from mlaas_condor.run import mark
from mlaas_condor.stages.program import everything, log, main
from mlaas_condor.state import Training
from mlaas_condor.training import models
from mlaas_condor.training.frameworks import Setup, TrainedModel, open_adapter
from mlaas_condor.training.recipe import Recipe

if TYPE_CHECKING:
    from mlaas_condor.training import loop

MATRICES = Path("matrices")  # beside the output, in the scratch space of the job
_DISK = re.compile(r"^RequestDisk = (?P<kib>\d+)", re.MULTILINE)
_MODEL_BYTES = 2**28  # of the disk, kept for the model and what else the training writes
_REFUSAL = "MLAAS_KERAS_3_REFUSAL"


def work(arguments: list[str], output: Path) -> None:
    """Train, score, save."""
    recipe, specs = Recipe.read(Path(arguments[0])), Specs.read(Path(arguments[1]))
    columns = Columns.of(specs, recipe.normalise, recipe.padding)
    paths = sorted(Path(arguments[2]).glob("chunk-*.zip"))
    if not paths:
        raise InputUnreadable(f"there is no chunk in {arguments[2]}")
    recipe = recipe.with_classes_of(paths).with_weight_scale(specs)
    model_file = models.check(Path(recipe.model))
    if model_file.reason:
        log.info(model_file.reason)
    model = _open(model_file, len(columns), recipe)
    for line in model.describe().splitlines() if recipe.verbose else ():
        log.info("%s", line)

    # Not before the framework is bound: it pulls in scikit-learn, and the two share thread settings.
    from mlaas_condor.training import loop

    recipe.write(output / "recipe.json")
    MATRICES.mkdir(exist_ok=True)
    samples = loop.Samples(paths, columns, recipe, MATRICES, _space(paths))
    with (output / "history.jsonl").open("w", encoding="utf-8") as history:
        told = _Teller(passes=recipe.epochs * (1 if recipe.standard else len(paths)))
        for epoch in loop.train(model, samples, recipe):
            history.write(dumps(epoch.to_dict(), indent=None) + "\n")
            history.flush()
            told.tell(epoch)
            if recipe.verbose > 1:
                log.info("  %s", "  ".join(f"{name} {value:.4f}" for name, value in epoch.metrics.items()))
    scores = loop.score(model, samples)
    result = loop.measure(scores, recipe)
    (output / "metrics.json").write_text(dumps(result) + "\n")
    np.savez_compressed(output / "scores.npz", **vars(scores))
    main_file = model.save(output / "model")
    name = "rmse" if recipe.task == "regression" else "auc"
    test: Mapping[str, Any] = result["test"]
    log.info(
        "test %s %s on %d events; model saved as %s", name.upper(), test[name], test["events"], main_file
    )
    mark(output, 0, everything(output))


def _space(chunks: list[Path]) -> int | None:
    """Return the bytes left of the disk that the job asked for; None outside HTCondor."""
    path = os.environ.get("_CONDOR_JOB_AD")
    asked = _DISK.search(Path(path).read_text("utf-8", "replace")) if path and Path(path).exists() else None
    if not asked:
        return None
    return int(asked["kib"]) * 1024 - sum(chunk.stat().st_size for chunk in chunks) - _MODEL_BYTES


def _open(model_file: models.ModelFile, columns: int, recipe: Recipe) -> TrainedModel:
    """Make the model; where Keras 3 refuses it, start again with Keras 2."""
    try:
        return open_adapter(
            model_file, Setup(columns, recipe.seed, recipe.threads, recipe.task, len(recipe.classes))
        )
    except models.LegacyKerasNeeded as refusal:
        _start_again_with_keras_2(str(refusal).splitlines()[0])
    except ModelFault as fault:
        refusal_of_keras_3 = os.environ.get(_REFUSAL)
        if not refusal_of_keras_3:
            raise
        raise ModelFault(f"{refusal_of_keras_3} (and with Keras 2: {str(fault).splitlines()[0]})") from fault


def _start_again_with_keras_2(refusal: str) -> NoReturn:
    """Replace this process: one process can hold only one of the two Keras."""
    log.info("%s; starting again with Keras 2", refusal)
    sys.stdout.flush()
    os.environ[models.LEGACY_VARIABLE] = "1"
    os.environ[_REFUSAL] = refusal  # should Keras 2 fail as well, this is what the user wants to know
    os.execv(sys.executable, [sys.executable, "-P", "-m", "mlaas_condor.stages.train", *sys.argv[1:]])


class _Teller:
    """Says in the log, and in the job's ClassAd, where the training is."""

    def __init__(self, passes: int) -> None:
        self._passes = passes
        self._done = 0
        self._started = time.monotonic()

    def tell(self, epoch: loop.Epoch) -> None:
        """Tell of one pass."""
        self._done += 1
        training = Training(
            epoch=self._done,
            epochs=self._passes,
            loss=epoch.loss,
            val_loss=epoch.val_loss,
            val_auc=epoch.val_auc,
            rate=epoch.events / epoch.seconds if epoch.seconds else 0.0,
            left=(time.monotonic() - self._started) / self._done * (self._passes - self._done),
        )
        log.info("%s%s", "" if epoch.chunk is None else f"chunk {epoch.chunk}  ", training)
        chirp.publish(training)


if __name__ == "__main__":
    main("train", work)
