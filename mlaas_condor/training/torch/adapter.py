"""Train PyTorch modules: with a loop of ours, or with the user's own.

PyTorch is imported when a model is made, never by importing this module.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.errors import ModelFault
from mlaas_condor.training import faults, models
from mlaas_condor.training.frameworks import FloatArray, NoOnnx, Setup, TargetArray, TrainedModel
from mlaas_condor.training.models import ModelFile
from mlaas_condor.training.recipe import Task
from mlaas_condor.training.torch import binding, ownloop
from mlaas_condor.training.torch import export as torch_export
from mlaas_condor.training.torch import loss as torch_loss
from mlaas_condor.training.torch import network as torch_network
from mlaas_condor.training.torch.export import NoProgram
from mlaas_condor.training.torch.network import Network
from mlaas_condor.training.torch.outputs import Gives, Outputs
from mlaas_condor.training.torch.parallel import Ranks
from mlaas_condor.training.writing import replacing

logger = logging.getLogger(__name__)

PREDICT_BATCH = 8192
"""Events a call of the module when nothing is learnt."""

PROGRAM_FILE = "model.pt2"
WEIGHTS_FILE = "weights.pth"
ABOUT_FILE = "model.json"


class TorchModel(TrainedModel):
    """A PyTorch module.

    What the module gives, as ``outputs.probe`` finds out, decides on loss and scores:

    - one output: binary cross-entropy; where it is no probability, that of logits, and a sigmoid
      makes the scores;
    - several outputs: cross-entropy of logits, or of probabilities or their logarithms where the module
      ends in a (log-)softmax; the scores add up to 1;
    - a regression: the mean squared error.

    The optimizer is Adam with a learning rate of 0.001. A module may bring its own:

    - ``loss_function(outputs, targets)``, a function or a loss of ``torch.nn``: gives one loss an event, or
      their mean. Targets are float32 and of the shape of the outputs; for several outputs, class numbers;
    - ``configure_optimizers()``, which returns an optimizer;
    - ``train_clf(model, train_loader, val_loader)``, or ``torch_train`` of the same arguments: a loop of its
      own, called once a ``fit`` with loaders of ``(xs, ys)``, float32, ``ys`` of shape (events, 1).

    With several GPUs, each learns from a share of every batch (``parallel``); a loop of the user's own
    gets one.

    Parameters
    ----------
    network
        The module, and how it learns.
    ranks
        The processes that learn together with this one; None for none.
    program
        The exported program that the module comes from: it can predict, but not learn.
    """

    learning = "passes"

    def __init__(self, network: Network, ranks: Ranks | None = None, program: Any | None = None) -> None:
        self.own_loop = network.own_loop is not None
        self._network = network
        self._torch = network.torch
        self._name = network.name
        self._head = network.outputs.head(network.torch)
        self._ranks = ranks
        self._program = program

    @classmethod
    def build(cls, model_file: ModelFile, setup: Setup) -> Self:
        """Make the user's model; parameters and errors as ``frameworks.open_adapter``."""
        return cls.on_devices(model_file, setup, _devices(binding.bind(setup.threads), setup.gpus))

    @classmethod
    def on_devices(cls, model_file: ModelFile, setup: Setup, devices: Sequence[str]) -> Self:
        """Make the user's model, as ``build`` does it, on given devices; this process has the first."""
        network = torch_network.build(model_file, setup, devices[0])
        if len(devices) == 1:
            return cls(network)
        if network.own_loop:
            logger.warning(
                "%s: its own loop, %s, trains on one of %d GPUs", network.name, network.own_loop, len(devices)
            )
            return cls(network)
        return cls(network, Ranks(network, model_file, setup, devices))

    @classmethod
    def load(
        cls,
        folder: Path,
        model_file: ModelFile | None = None,
        threads: int = 1,
        task: Task = "classification",
    ) -> Self:
        """Return the model that ``save`` wrote; the user's file is needed where it could not be exported.

        One that was exported can predict without that file, but not learn; its loss is the default one.
        """
        torch = binding.bind(threads)
        setup, shape = _read_about(folder, threads, task)
        if (folder / PROGRAM_FILE).exists():
            return cls._of_program(torch, folder, setup, shape)
        if model_file is None:
            raise ModelFault(
                f"{folder}: holds weights only, for the model could not be exported: its model file is needed"
            )
        network = torch_network.build(model_file, setup, "cpu")
        weights = folder / WEIGHTS_FILE
        network.take_weights(binding.read_state(torch, weights), weights)
        return cls(network)

    @classmethod
    def _of_program(cls, torch: Any, folder: Path, setup: Setup, shape: tuple[int, ...]) -> Self:
        try:
            program = torch_export.read(torch, folder / PROGRAM_FILE)
        except Exception as error:  # damaged files make PyTorch raise all kinds
            raise ModelFault(
                f"{folder / PROGRAM_FILE}: PyTorch {torch.__version__} cannot load it: {models.brief(error)}"
            ) from error
        gives: Gives = "values" if setup.task == "regression" else "probabilities"
        outputs = Outputs(folder.name, setup.task, shape, gives)
        loss = torch_loss.default(torch, outputs)
        return cls(Network(torch, program.module(), folder, setup, "cpu", outputs, loss), None, program)

    def fit(
        self,
        x: FloatArray,
        y: TargetArray,
        batch_size: int,
        shuffle_seed: int | None = None,
        weights: FloatArray | None = None,
        validation: tuple[FloatArray, TargetArray] | None = None,
    ) -> dict[str, float]:
        """Train by one pass over these events."""
        network = self._network
        if not network.learns:
            raise ModelFault(
                f"{self._name}: an exported model can only predict: build it from its model file"
            )
        if network.own_loop:
            return self._fit_by_own_loop(x, y, batch_size, shuffle_seed, weights, validation)
        with network.faults(x):
            arrays = network.arrays(x, y, weights)
            order = np.arange(len(x))
            if shuffle_seed is not None:
                np.random.default_rng(shuffle_seed).shuffle(order)
            bounds = torch_network.batches(len(x), batch_size)
            learn = self._ranks.one_pass if self._ranks else network.one_pass
            total = learn(arrays, network.tensor(order, np.int64), bounds, shuffle_seed)
        return {"loss": total / len(x) if len(x) else float("nan")}

    def evaluate(self, x: FloatArray, y: TargetArray, weights: FloatArray | None = None) -> dict[str, float]:
        """Return the loss for these events, without training."""
        network, total = self._network, 0.0
        with network.faults(x), self._torch.no_grad():
            network.rest()
            targets = network.targets(y)
            factors = None if weights is None else network.tensor(weights)
            for start in range(0, len(x), PREDICT_BATCH):
                found = self._found(x, start)
                part = slice(start, start + PREDICT_BATCH)
                mine = None if factors is None else factors[part].to(network.device)
                loss = network.loss(found, targets[part].to(network.device), mine)
                total += float(loss) * len(found)
        return {"loss": total / len(x) if len(x) else float("nan")}

    def predict(self, x: FloatArray) -> FloatArray:
        """Return the scores, shape (events,) or (events, classes), or the predictions; float32."""
        outputs = self._network.outputs
        scores: NDArray[np.float32] = np.empty((len(x), outputs.count), np.float32)
        with self._network.faults(x), self._torch.no_grad():
            self._network.rest()
            for start in range(0, len(x), PREDICT_BATCH):
                found = self._found(x, start)
                found = found if self._head is None else self._head(found)
                scores[start : start + PREDICT_BATCH] = found.reshape(-1, outputs.count).cpu().numpy()
        return scores.reshape(len(x)) if outputs.count == 1 else scores

    def learning_rate(self) -> float | None:
        """Return the optimizer's learning rate; None without one, and where groups of parameters differ."""
        rates = {float(group["lr"]) for group in self._network.groups()}
        return rates.pop() if len(rates) == 1 else None

    def set_learning_rate(self, rate: float) -> None:
        """Change the optimizer's learning rate."""
        for group in self._network.groups():
            group["lr"] = rate

    def checkpoint(self, path: Path) -> None:
        """Write the module's and the optimizer's state, and that of the random numbers, to a file."""
        with replacing(path) as part:
            self._torch.save(self._network.state(), part)

    def restore(self, path: Path) -> None:
        """Take all states from a checkpoint of the same model."""
        self._network.take_state(binding.read_state(self._torch, path), path)
        if self._ranks:
            self._ranks.close()  # the next pass begins by giving all of them the same state

    def save(self, folder: Path) -> str:
        """Write the weights, and the exported program, which gives scores, where there can be one.

        Returns
        -------
        str
            ``model.pt2``, for ``torch.export.load``; ``weights.pth`` where the module cannot be exported,
            as when it decides by the values of events: loading it takes the user's file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        network = self._network
        with faults.of_writing(folder):
            self._torch.save(network.weights(), folder / WEIGHTS_FILE)
            (folder / ABOUT_FILE).write_text(json.dumps(self._about(), indent=1) + "\n", encoding="utf-8")
            try:
                torch_export.write(network.torch, self._exported(), folder / PROGRAM_FILE)
            except NoProgram as reason:
                logger.warning("%s; saved as %s, which needs the model file", reason, WEIGHTS_FILE)
                (folder / PROGRAM_FILE).unlink(missing_ok=True)
                return WEIGHTS_FILE
        return PROGRAM_FILE

    def export_onnx(self, path: Path) -> None:
        """Write the model as ONNX, from the exported program; ``scores`` have shape (events, outputs)."""
        try:
            program = self._exported()
        except NoProgram as reason:
            raise NoOnnx(str(reason)) from reason
        torch_export.write_onnx(self._torch, program, self._name, path)

    def describe(self) -> str:
        """Return the module's parts, its parameters, loss, optimizer, scores and device."""
        network = self._network
        parameters = sum(each.numel() for each in network.module.parameters())
        if network.own_loop:
            way = f"trained by its own loop, {network.own_loop}"
        elif network.optimizer is None:
            way = "only to predict"
        else:
            way = f"optimizer {type(network.optimizer).__name__}"
        devices = self._ranks.devices if self._ranks else [network.device]
        return "\n".join(
            [
                *repr(network.module).splitlines(),
                f"{parameters} parameters, loss {network.loss.name}, {way}; scores are {self._scores()}; "
                f"PyTorch {self._torch.__version__}, {', '.join(devices)}",
            ]
        )

    def _about(self) -> dict[str, Any]:
        """Return what it takes to load the model again, and what its files hold."""
        network, setup = self._network, self._network.setup
        return {
            "idim": setup.idim,
            "classes": setup.classes,
            "arguments": dict(setup.arguments),
            "task": setup.task,
            "shape": list(network.outputs.shape),
            "gives": network.outputs.gives,
            "scores": self._scores(),
            "pytorch": str(self._torch.__version__),
        }

    def _scores(self) -> str:
        return "its outputs" if self._head is None else f"the {type(self._head).__name__} of its outputs"

    def _exported(self) -> Any:
        """Return the module and what makes its scores as a program that needs no code of the user's."""
        return self._program or torch_export.export(self._network)

    def _found(self, x: FloatArray, start: int) -> Any:
        """Return what the module gives for a batch."""
        # Always a copy: a module may write into what it is given.
        part = self._torch.from_numpy(np.array(x[start : start + PREDICT_BATCH], np.float32))
        # A `squeeze` of the user's leaves no dimension of a single event.
        return self._network.module(part.to(self._network.device)).reshape(
            len(part), *self._network.outputs.shape
        )

    def _fit_by_own_loop(
        self,
        x: FloatArray,
        y: TargetArray,
        batch_size: int,
        seed: int | None,
        weights: FloatArray | None,
        validation: tuple[FloatArray, TargetArray] | None,
    ) -> dict[str, float]:
        """Hand the events to the module's own loop, as MLaaS4HEP does it."""
        network = self._network
        if weights is not None:
            raise ModelFault(
                f"{self._name}: its own loop, `{network.own_loop}`, sees no event weights: train without "
                "weights, or without that loop"
            )
        val_x, val_y = validation or (np.empty((0, network.idim), np.float32), np.empty(0, np.int64))
        with network.faults(x):
            network.targets(y)  # for what it refuses
            train = ownloop.loader(network, x, y, batch_size, seed)
            val = ownloop.loader(network, val_x, val_y, batch_size)
            if seed is not None:
                binding.seed_all(self._torch, seed)
            ownloop.run(network, train, val)
        return self.evaluate(x, y)


def _read_about(folder: Path, threads: int, task: Task) -> tuple[Setup, tuple[int, ...]]:
    """Return what a saved model was made for, and the shape of what it gives an event."""
    try:
        about = json.loads((folder / ABOUT_FILE).read_text("utf-8"))
        setup = Setup(about["idim"], 0, threads, task, about["classes"], 0, about["arguments"])
        return setup, tuple(about["shape"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFault(
            f"{folder}: holds no PyTorch model that can be loaded: {models.brief(error)}"
        ) from error


def _devices(torch: Any, gpus: int) -> list[str]:
    """Return the devices to learn on: as many GPUs as were asked for and are there, else the CPU."""
    seen = torch.cuda.device_count() if gpus and torch.cuda.is_available() else 0
    if seen < gpus:
        logger.warning(
            "the job asked for %d GPU(s), PyTorch sees %d: training on %s",
            gpus, seen, f"{seen} GPU(s)" if seen else "the CPU",
        )  # fmt: skip
    return [f"cuda:{i}" for i in range(min(gpus, seen))] or ["cpu"]
