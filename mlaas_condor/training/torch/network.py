"""A PyTorch module of the user's on one device, with the loss and the optimizer that it learns by."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlaas_condor.errors import ModelFault, StageError
from mlaas_condor.training import models
from mlaas_condor.training.frameworks import FloatArray, Setup, TargetArray
from mlaas_condor.training.models import ModelFile
from mlaas_condor.training.torch import loss as torch_loss
from mlaas_condor.training.torch.binding import bind, faults_of, seed_all
from mlaas_condor.training.torch.loss import Loss
from mlaas_condor.training.torch.outputs import Outputs, probe

OWN_LOOPS = ("train_clf", "torch_train")
"""Methods by which a module trains itself, as MLaaS4HEP knew them."""

RATE = 1e-3
"""Learning rate of the optimizer where the user gives none."""


def batches(events: int, size: int) -> list[tuple[int, int]]:
    """Return the first event of each batch, and the one after its last.

    A last event that is alone joins the batch before it: BatchNorm cannot learn from one event.
    """
    starts = list(range(0, events, size))
    if size > 1 and len(starts) > 1 and starts[-1] == events - 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], events], strict=True)) if starts else []


class Arrays(NamedTuple):
    """Events, what is to be learnt of them, and their weights, as tensors."""

    x: Any
    y: Any
    weights: Any | None


@dataclass
class Network:
    """A module on a device, and how it learns.

    Parameters
    ----------
    torch, module
        PyTorch; the module.
    path
        The user's file, or the folder where the module comes from.
    setup
        What the module is made for.
    device
        Where the module is: ``cpu``, ``cuda:0``.
    outputs, loss
        What it gives, and the loss that it learns by.
    optimizer
        What changes it; None with a loop of the user's own, and where it can only predict.
    own_loop
        Name of the method that trains it; None for our loop.
    """

    torch: Any
    module: Any
    path: Path
    setup: Setup
    device: str
    outputs: Outputs
    loss: Loss
    optimizer: Any | None = None
    own_loop: str | None = None

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self.path.name

    @property
    def idim(self) -> int:
        """Number of columns."""
        return self.setup.idim

    def learn(self) -> None:
        """Put the module into training mode."""
        self.module.train()
        if not self.module.training:
            _set_mode(self.module, True)

    @property
    def learns(self) -> bool:
        """Whether it can learn; an exported program cannot, and has no modes either."""
        return self.optimizer is not None or self.own_loop is not None

    def rest(self) -> None:
        """Put the module into evaluation mode."""
        if self.learns:
            rest(self.module)

    def arrays(self, x: FloatArray, y: TargetArray, weights: FloatArray | None = None) -> Arrays:
        """Return events as tensors in main memory, copied only where it cannot be helped."""
        return Arrays(self.tensor(x), self.targets(y), None if weights is None else self.tensor(weights))

    def tensor(self, values: NDArray[Any], dtype: DTypeLike = np.float32) -> Any:
        """Return numbers as a tensor; what must not be written to is copied."""
        return self.torch.from_numpy(np.require(values, dtype, ["C", "W"]))

    def targets(self, y: TargetArray) -> Any:
        """Return what is to be learnt as the loss wants it: class numbers, or shaped as the outputs.

        Raises
        ------
        ModelFault
            There are more classes than outputs, or targets that the module cannot give.
        """
        if self.outputs.task == "regression":
            self.outputs.check_range(y)
        else:
            self.outputs.check_classes(int(y.max(initial=0)) + 1)
            if self.outputs.count > 1:
                return self.tensor(y, np.int64)
        return self.tensor(y).reshape(len(y), *self.outputs.shape)

    def one_pass(
        self,
        arrays: Arrays,
        order: Any,
        bounds: list[tuple[int, int]],
        seed: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        forward: Callable[[Any], Any] | None = None,
    ) -> float:
        """Learn by one pass over events, and return the sum of their losses.

        Parameters
        ----------
        arrays
            The events.
        order
            Tensor of the rows, in the order in which they are taken.
        bounds
            Where in it each batch begins and ends.
        seed
            Seed of what is drawn meanwhile; None: goes on with what was drawn before.
        rank, ranks
            Which share of every batch is taken here, where several devices share the work.
        forward
            What is called instead of the module; it averages gradients over the ranks.
        """
        torch, device = self.torch, self.device
        forward = forward or self.module
        optimizer: Any = self.optimizer
        x: Any
        x, y, weights = map(self._place, arrays)
        order = order.to(x.device)
        total = torch.zeros((), dtype=torch.float64, device=device)
        if seed is not None:
            seed_all(torch, seed, rank)
        self.learn()
        for start, stop in bounds:
            rows = order[start:stop] if ranks == 1 else order[start + rank : stop : ranks]
            found = forward(_take(x, rows, device))
            optimizer.zero_grad()
            if len(rows):
                loss = self.loss(found, _take(y, rows, device), _take(weights, rows, device))
            else:  # a batch smaller than the number of ranks
                loss = found.sum()
            # The mean over the ranks is to be that over the events, however unequal their shares are.
            (loss if ranks == 1 else loss * (len(rows) * ranks / (stop - start))).backward()
            optimizer.step()
            total.add_(loss.detach(), alpha=len(rows))
        return float(total)

    def _place(self, values: Any | None) -> Any | None:
        """Move events to the device, where it has room for all of them; else each batch is moved."""
        if values is None or not self.device.startswith("cuda"):
            return values
        free, _ = self.torch.cuda.mem_get_info(self.device)
        return values.to(self.device) if values.nbytes < free / 4 else values

    def faults(self, x: FloatArray) -> contextlib.AbstractContextManager[None]:
        """Turn what goes wrong on events into errors of ours."""
        return faults_of(self.torch, self.name, self.idim, x)

    def groups(self) -> list[dict[str, Any]]:
        """Return the groups of parameters that the optimizer changes, with their learning rates."""
        return [] if self.optimizer is None else list(self.optimizer.param_groups)

    def weights(self) -> dict[str, Any]:
        """Return the module's weights, in main memory whatever the device."""
        return {
            name: value.detach().cpu() if isinstance(value, self.torch.Tensor) else value
            for name, value in self.module.state_dict().items()
        }

    def take_weights(self, weights: dict[str, Any], path: Path) -> None:
        """Take the weights that were read from a file; ``ModelFault`` where they are of another module."""
        self._check_weights(weights, path)
        self.module.load_state_dict(weights)

    def _check_weights(self, weights: dict[str, Any], path: Path) -> None:
        if _shapes(weights) != _shapes(self.module.state_dict()):
            raise ModelFault(f"{path}: holds the weights of another model than {self.name}")

    def state(self) -> dict[str, Any]:
        """Return all that changes in training: weights, the optimizer's state, that of random numbers."""
        return {
            "weights": self.module.state_dict(),
            "method": type(self.optimizer).__name__,
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
            "random": self.torch.get_rng_state(),
        }

    def take_state(self, state: dict[str, Any], path: Path) -> None:
        """Take the state that was read from a file; ``ModelFault``, and no change, where it is of another."""
        self._check_weights(state["weights"], path)
        try:
            if state["method"] != type(self.optimizer).__name__:
                raise ValueError
            if self.optimizer is not None:
                self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise ModelFault(
                f"{path}: holds the state of another optimizer than that of {self.name}"
            ) from error
        self.module.load_state_dict(state["weights"])
        self.torch.set_rng_state(state["random"])

    def user_fault(self, error: BaseException) -> StageError:
        """Return the error to raise for one that the user's own code let out."""
        return models.user_fault(self.path, error)


def build(model_file: ModelFile, setup: Setup, device: str) -> Network:
    """Run the user's file and take the module it makes; errors as ``frameworks.open_adapter``.

    Parameters
    ----------
    model_file, setup
        The file, and what the module is made for.
    device
        Where the module is to be.
    """
    torch = bind(setup.threads)
    seed_all(torch, setup.seed)
    path, idim = model_file.path, setup.idim
    module = models.build(model_file, idim, setup.arguments)
    if not isinstance(module, torch.nn.Module):
        raise ModelFault(f"{path.name}: `model` returns a {type(module).__name__}, no torch.nn.Module")
    own = torch_loss.take(torch, module, path.name)
    module.to(device)
    cuda = [device] if device.startswith("cuda") else []
    nothing = np.zeros((2, idim), np.float32)
    with faults_of(torch, path.name, idim, nothing), torch.random.fork_rng(devices=cuda), torch.enable_grad():
        rest(module)
        outputs = probe(torch, module, device, path.name, idim, setup.task)
    outputs.check_classes(setup.classes)
    network = Network(torch, module, path, setup, device, outputs, torch_loss.default(torch, outputs))
    if own is not None:
        network.loss = torch_loss.of_user(torch, own, outputs)
        network.loss.check(torch, outputs, network.targets(np.zeros(2, np.int64)), device)
    network.own_loop = next((name for name in OWN_LOOPS if callable(getattr(module, name, None))), None)
    if network.own_loop is None:
        network.optimizer = _own_optimizer(network) or _adam(network)
    return network


def rest(module: Any) -> None:
    """Put a module into evaluation mode, also where a ``train`` of the user's own pays no heed to it."""
    module.eval()
    _set_mode(module, False)


def _set_mode(module: Any, training: bool) -> None:
    for part in module.modules():
        part.training = training


def _shapes(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, "shape", None) for name, value in weights.items()}


def _own_optimizer(network: Network) -> Any | None:
    """Return what the module's ``configure_optimizers`` gives; None where it has none."""
    configure = getattr(network.module, "configure_optimizers", None)
    if not callable(configure):
        return None
    try:
        found = configure()
    except Exception as error:
        raise network.user_fault(error) from error
    if isinstance(found, (list, tuple)) and len(found) == 1:
        found = found[0]
    if isinstance(found, dict) and set(found) == {"optimizer"}:
        found = found["optimizer"]
    if found is not None and not isinstance(found, network.torch.optim.Optimizer):
        raise ModelFault(
            f"{network.name}: `configure_optimizers` must return one torch.optim.Optimizer, without a "
            f"scheduler; it returns {found!r}"
        )
    return found


def _adam(network: Network) -> Any:
    torch = network.torch
    parameters = [each for each in network.module.parameters() if each.requires_grad]
    if not parameters:
        raise ModelFault(f"{network.name}: the module has no parameters that could be learnt")
    # All parameters in one call: one by one they take a third of the time of a batch.
    fused = all(each.dtype == torch.float32 for each in parameters)
    return torch.optim.Adam(parameters, lr=RATE, fused=fused)


def _take(values: Any | None, rows: Any, device: str) -> Any | None:
    if values is None:
        return None
    if device == "cpu":
        return values.index_select(0, rows)
    return values.index_select(0, rows.to(values.device)).to(device)
