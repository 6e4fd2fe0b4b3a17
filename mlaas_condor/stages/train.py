"""The train stage: train the user's model on the chunks.

``python -m mlaas_condor.stages.train recipe.json specs.json CHUNKS_FOLDER [TASK]`` reads the model file
beside it and writes, into ``output/train/`` (where there are several trainings, into a folder below it),
``model/``, ``history.jsonl``, ``metrics.json``, ``scores.npz``, and ``recipe.json`` with the classes that
were found. It goes on from what is in ``checkpoint.TASK/``; with exit code 85 it has left a checkpoint
there, and is to be started again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from mlaas_condor.batch import chirp
from mlaas_condor.data import storedchunks
from mlaas_condor.data.features import Columns
from mlaas_condor.data.specs import Specs
from mlaas_condor.errors import LEAVE, InputUnreadable, ModelFault, StageError
from mlaas_condor.jsonfile import dumps
from mlaas_condor.reading import digest_of
from mlaas_condor.run import checkpoint_folder, mark, training_folder
from mlaas_condor.stages.program import everything, log, main
from mlaas_condor.state import Training
from mlaas_condor.training import models
from mlaas_condor.training.checkpoints import Checkpoints, Leave
from mlaas_condor.training.frameworks import Setup, TrainedModel, open_adapter
from mlaas_condor.training.recipe import Recipe

if TYPE_CHECKING:
    from mlaas_condor.training import loop
    from mlaas_condor.training.samples import Samples

MATRICES = Path("matrices")  # beside the output, in the scratch space of the job
FETCHED = Path("fetched")  # chunks from storage, also there
_DISK = re.compile(r"^RequestDisk = (?P<kib>\d+)", re.MULTILINE)
_MODEL_BYTES = 2**28  # of the disk, kept for the model and what else the training writes
_REFUSAL = "MLAAS_KERAS_3_REFUSAL"
_COMPARED = 1000  # events whose scores of the model and of its ONNX are compared
_TELL_SECONDS = 10.0  # between two lines within a pass


def work(arguments: list[str], output: Path) -> None:
    """Train, score, save."""
    task = int(arguments[3]) if len(arguments) > 3 else 0
    recipe = Recipe.read(Path(arguments[0]))
    try:
        _work(arguments, task, recipe, output)
    except StageError as error:
        if not recipe.variants:
            raise
        own = ", ".join(f"{key}={value}" for key, value in recipe.variants[task].items())
        raise type(error)(f"{error} (with {own})") from error


def _work(arguments: list[str], task: int, recipe: Recipe, output: Path) -> None:
    specs = Specs.read(Path(arguments[1]))
    folder = training_folder(output, task, len(recipe.variants))
    folder.mkdir(exist_ok=True)
    recipe = recipe.variant(task)
    columns = Columns.of(specs, recipe.normalise, recipe.padding)
    paths = _chunks(Path(arguments[2]))
    if not paths:
        raise InputUnreadable(f"there is no chunk in {arguments[2]}")
    recipe = recipe.with_classes_of(paths).with_weight_scale(specs).with_class_factors(paths)
    model_file = models.check(Path(recipe.model))
    if model_file.reason:
        log.info(model_file.reason)
    model = _open(model_file, len(columns), recipe)
    for line in model.describe().splitlines() if recipe.verbose else ():
        log.info("%s", line)

    # Not before the framework is bound: it pulls in scikit-learn, and the two share thread settings.
    from mlaas_condor.training.samples import Samples

    recipe.write(folder / "recipe.json")
    MATRICES.mkdir(exist_ok=True)
    samples = Samples(paths, columns, recipe, MATRICES, _space(paths))
    key = _key(arguments, recipe, model_file.framework)
    checkpoints = Checkpoints(checkpoint_folder(Path(), task), key, recipe.checkpoint, leave=_on_a_pool())
    signal.signal(signal.SIGTERM, checkpoints.ask)
    try:
        _train(model, samples, recipe, checkpoints, folder)
    except Leave:
        _leave()
    # Its last checkpoint is written: from now on there is nothing to wait for.
    signal.signal(signal.SIGTERM, _leave)
    _finish(model, model_file.framework, samples, recipe, folder)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mark(output, task, everything(folder))
    checkpoints.clear()


def _chunks(folder: Path) -> list[Path]:
    """Return the files of the chunks, fetched where the folder has only stubs of them."""
    stubs = sorted(folder.glob(storedchunks.STUBS))
    return storedchunks.fetch(stubs, FETCHED) if stubs else sorted(folder.glob("chunk-*.zip"))


def _leave(*_: object) -> NoReturn:
    """End, to go on from the checkpoint in another process."""
    with contextlib.suppress(RuntimeError, OSError):  # a signal may have come while something was written
        log.info("a checkpoint is written; leaving, to go on from there")
        sys.stdout.flush()
    os._exit(LEAVE)


def _train(
    model: TrainedModel, samples: Samples, recipe: Recipe, checkpoints: Checkpoints, folder: Path
) -> None:
    from mlaas_condor.training import loop

    trainer = loop.Trainer(model, samples, recipe, checkpoints)
    if trainer.progress.history or trainer.progress.portions:
        log.info("going on from a checkpoint: %d passes are over", len(trainer.progress.history))
    told = _Teller(trainer, recipe)
    for epoch in trainer.run(told.tell_part):
        told.tell(epoch)
        if recipe.verbose > 1:
            log.info("  %s", "  ".join(f"{name} {value:.4f}" for name, value in epoch.metrics.items()))
    if trainer.stopped_early:
        log.info("stopped early: no improvement for %d epochs", trainer.progress.watch.waited)
    lines = "".join(dumps(entry, indent=None) + "\n" for entry in trainer.history)
    (folder / "history.jsonl").write_text(lines, "utf-8")


def _finish(
    model: TrainedModel, framework: models.Framework, samples: Samples, recipe: Recipe, folder: Path
) -> None:
    """Score all events, and write what is to be known of the model, and the model."""
    from mlaas_condor.training import scoring

    scores = scoring.score(model, samples)
    result = scoring.measure(scores, recipe)
    (folder / "metrics.json").write_text(dumps(result) + "\n")
    np.savez_compressed(folder / "scores.npz", **vars(scores))
    main_file = model.save(folder / "model")
    # Keras 2 may have had to take over, so that only here it is known what trained.
    (folder / "trained.json").write_text(dumps({"framework": framework, "model": main_file}) + "\n")
    _look_closer(model, samples, recipe, folder)
    (folder / "resources.json").write_text(dumps(_resources(recipe)) + "\n")
    name = "rmse" if recipe.task == "regression" else "auc"
    test: Mapping[str, Any] = result["test"]
    log.info(
        "test %s %s on %d events; model saved as %s",
        name.upper(),
        "unknown" if test[name] is None else f"{test[name]:.4f}",
        test["events"],
        main_file,
    )


def _look_closer(model: TrainedModel, samples: Samples, recipe: Recipe, folder: Path) -> None:
    """Write how the features look and how much each branch matters, and the model as ONNX."""
    from mlaas_condor.training import distributions, importance, onnx

    made = distributions.of_samples(samples, samples.paths, samples.columns, recipe.classes)
    (folder / "distributions.json").write_text(dumps(made.to_dict()) + "\n")
    x, y, weights = _test_events(samples, recipe)
    if len(y):
        found = importance.permutation(
            model.predict, x, y, samples.columns, weights, recipe.task, recipe.seed
        )
        (folder / "importance.json").write_text(dumps(found) + "\n")
    exported = onnx.export(model, folder / "model", x[:_COMPARED], recipe.task)
    (folder / "onnx.json").write_text(dumps(exported) + "\n")
    if exported["file"] is None:
        log.info("no ONNX: %s", exported["reason"])


def _test_events(samples: Samples, recipe: Recipe) -> tuple[Any, Any, Any]:
    """Return features, truth and weights of some events that were not trained on."""
    from mlaas_condor.training import importance

    total = sum(len(sample.rows["test"]) for sample in samples)
    parts = ((sample.x, sample.y, sample.weights, sample.rows["test"]) for sample in samples)
    return importance.gather(parts, total, samples.columns, recipe.seed)


def _on_a_pool() -> bool:
    return "_CONDOR_JOB_AD" in os.environ


def _key(arguments: list[str], recipe: Recipe, framework: models.Framework) -> str:
    """Return what a checkpoint depends on: another recipe, model or data are another training."""
    # How often to write one changes nothing of what comes out.
    plain = recipe.model_copy(update={"checkpoint": Recipe.model_fields["checkpoint"].default, "verbose": 0})
    files = digest_of([Path(arguments[1]), Path(recipe.model), *map(Path, recipe.modules)])
    return f"{hashlib.sha256(plain.model_dump_json().encode()).hexdigest()} {files} {framework}"


def _resources(recipe: Recipe) -> dict[str, Any]:
    """Return what the job has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "asked": {"cpus": recipe.threads, "gpus": recipe.gpus},
        "used": {
            "memory": round(used.ru_maxrss / 1024),  # Linux has KiB
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        },
    }


def _space(chunks: list[Path]) -> int | None:
    """Return the bytes left of the disk that the job asked for; None outside HTCondor."""
    path = os.environ.get("_CONDOR_JOB_AD")
    asked = _DISK.search(Path(path).read_text("utf-8", "replace")) if path and Path(path).exists() else None
    if not asked:
        return None
    return int(asked["kib"]) * 1024 - sum(chunk.stat().st_size for chunk in chunks) - _MODEL_BYTES


def _open(model_file: models.ModelFile, columns: int, recipe: Recipe) -> TrainedModel:
    """Make the model; where Keras 3 refuses it, start again with Keras 2."""
    setup = Setup(
        idim=columns, seed=recipe.seed, threads=recipe.threads, task=recipe.task,
        classes=len(recipe.classes), gpus=recipe.gpus, arguments=recipe.arguments,
    )  # fmt: skip
    try:
        model = open_adapter(model_file, setup)
        _check_outputs(model, model_file, setup)
        return model
    except models.LegacyKerasNeeded as refusal:
        _start_again_with_keras_2(str(refusal).splitlines()[0])
    except ModelFault as fault:
        refusal_of_keras_3 = os.environ.get(_REFUSAL)
        if not refusal_of_keras_3:
            raise
        raise ModelFault(f"{refusal_of_keras_3} (and with Keras 2: {str(fault).splitlines()[0]})") from fault


def _check_outputs(model: TrainedModel, model_file: models.ModelFile, setup: Setup) -> None:
    """Refuse a network that tells more classes apart than there are, before it is trained."""
    if model_file.framework not in ("keras", "keras2", "torch") or setup.task == "regression":
        return
    scores = model.predict(np.zeros((2, setup.idim), np.float32))
    if scores.ndim == 2 and scores.shape[1] > setup.classes:
        raise ModelFault(
            f"{model_file.path.name}: the data have {setup.classes} classes, the model gives "
            f"{scores.shape[1]} scores"
        )


def _start_again_with_keras_2(refusal: str) -> NoReturn:
    """Replace this process: one process can hold only one of the two Keras."""
    log.info("%s; starting again with Keras 2", refusal)
    sys.stdout.flush()
    os.environ[models.LEGACY_VARIABLE] = "1"
    os.environ[_REFUSAL] = refusal  # should Keras 2 fail as well, this is what the user wants to know
    os.execv(sys.executable, [sys.executable, "-P", "-m", "mlaas_condor.stages.train", *sys.argv[1:]])


class _Teller:
    """Says in the log, and in the job's ClassAd, where the training is."""

    def __init__(self, trainer: loop.Trainer, recipe: Recipe) -> None:
        self._trainer = trainer
        self._metric = "RMSE" if recipe.task == "regression" else "AUC"
        self._said = time.monotonic()

    def tell(self, epoch: loop.Epoch) -> None:
        """Tell of one pass that is over."""
        chunk = "" if epoch.chunk is None else f"chunk {epoch.chunk}  "
        self._say(chunk, len(self._trainer.progress.history), None, epoch.events, epoch.seconds)

    def tell_part(self) -> None:
        """Tell of a pass that takes long, now and then."""
        if time.monotonic() - self._said > _TELL_SECONDS:
            progress = self._trainer.progress
            events = sum(part.events for part in progress.fitted)
            percent = int(100 * self._trainer.part_of_pass)
            self._say("", len(progress.history) + 1, percent, events, progress.seconds)

    def _say(self, chunk: str, epoch: int, percent: int | None, events: int, seconds: float) -> None:
        trainer = self._trainer
        progress = trainer.progress
        last = progress.history[-1] if progress.history else {}
        over = len(progress.history) + (trainer.part_of_pass if percent is not None else 0.0)
        spent = progress.elapsed + progress.seconds
        training = Training(
            epoch=epoch,
            epochs=trainer.passes,
            loss=last.get("loss", float("nan")),
            val_loss=last.get("val_loss", float("nan")),
            value=last.get(f"val_{self._metric.lower()}"),
            rate=events / seconds if seconds else 0.0,
            left=spent / over * (trainer.passes - over) if over else 0.0,
            metric=self._metric,
            percent=percent,
        )
        log.info("%s%s", chunk, training)
        chirp.publish(training)
        self._said = time.monotonic()


if __name__ == "__main__":
    main("train", work)
