"""What a PyTorch module gives: logits, probabilities or values, and the scores that follow from it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mlaas_condor.errors import ModelFault
from mlaas_condor.training.frameworks import TargetArray
from mlaas_condor.training.recipe import Task

Gives = Literal["logits", "probabilities", "log-probabilities", "values"]

BOUNDED = {
    "Sigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Relu": (0.0, np.inf),
    "Softplus": (0.0, np.inf),
}
"""What a last operation of that name can give."""

# As PyTorch names operations in the graph that it differentiates: those that only arrange what they are
# given, and those that certainly make no probability.
_ARRANGING = re.compile(
    "View|UnsafeView|ReshapeAlias|Squeeze|Unsqueeze|Select|Slice|Split|Clone|Alias|ToCopy|T"
)
_LINEAR = re.compile("Addmm|Mm|Linear|NativeBatchNorm|NativeLayerNorm")


@dataclass(frozen=True)
class Outputs:
    """What a module gives for an event.

    Parameters
    ----------
    name
        What to call the module in messages: the name of the user's file.
    task
        What it learns.
    shape
        Shape of what it gives: ``()`` or ``(outputs,)``.
    gives
        What the numbers are; of a regression, ``values``.
    last
        Name of the operation that makes them, as far as it is known.
    """

    name: str
    task: Task
    shape: tuple[int, ...]
    gives: Gives
    last: str = ""

    @property
    def count(self) -> int:
        """Number of outputs."""
        return self.shape[0] if self.shape else 1

    def head(self, torch: Any) -> Any | None:
        """Return the module that makes scores of what is given; None where they are scores already.

        The softmax of the logarithms of probabilities is the probabilities.
        """
        if self.gives in ("probabilities", "values"):
            return None
        return torch.nn.Sigmoid() if self.count == 1 else torch.nn.Softmax(1)

    def check_classes(self, classes: int) -> None:
        """Refuse data with more classes than the module tells apart."""
        if self.task == "classification" and classes > max(self.count, 2):
            raise ModelFault(
                f"{self.name}: the data have {classes} classes, the model gives {self.count} score(s)"
            )

    def check_range(self, y: TargetArray) -> None:
        """Refuse targets that the last operation cannot give; or it would just go to its end."""
        low, high = BOUNDED.get(self.last, (-np.inf, np.inf))
        if len(y) and not low <= y.min() <= y.max() <= high:
            raise ModelFault(
                f"{self.name}: the targets run from {y.min():g} to {y.max():g}, the model's last "
                f"{self.last.lower()} gives {low:g} to {high:g}: for a regression end with Linear(…, 1), "
                "without an activation"
            )


def probe(torch: Any, module: Any, device: str, name: str, idim: int, task: Task) -> Outputs:
    """Find out what a module, in evaluation mode, gives; it is tried on two events of zeros.

    What the numbers are is told by the operation that makes them, found in the graph that PyTorch
    differentiates: a sigmoid or a linear layer, however the user wrote it. Of other operations it is
    told by what comes out for 256 events of widely spread values: numbers that are all within [0, 1] (of
    several outputs: that add up to 1) are probabilities, those whose exponentials are so are logarithms
    of probabilities, and all others are logits.

    Parameters
    ----------
    torch, module, device
        PyTorch; the module; where it is.
    name, idim, task
        What to call it; columns it takes; what it learns.

    Raises
    ------
    ModelFault
        It does not give one score an event, or one a class; for a regression not one value.
    """
    found = module(torch.zeros(2, idim, device=device))
    shape = tuple(getattr(found, "shape", ()))
    if not isinstance(found, torch.Tensor) or len(shape) not in (1, 2) or shape[0] != 2 or 0 in shape:
        raise ModelFault(
            f"{name}: an event must give one score, or one a class; for 2 events the model returns "
            f"{'shape ' + str(shape) if shape else type(found).__name__}"
        )
    last = _last_operation(found)
    outputs = Outputs(name, task, shape[1:], "values" if task == "regression" else "logits", last)
    if task == "regression" and outputs.count > 1:
        raise ModelFault(
            f"{name}: a regression needs one output an event, the model gives {outputs.count}: "
            "end it with Linear(…, 1)"
        )
    if task == "regression" or _LINEAR.fullmatch(last):
        return outputs
    if last == "Sigmoid" and outputs.count > 1:
        raise ModelFault(
            f"{name}: ends in a sigmoid for each of {outputs.count} classes, but an event has one class: "
            "end it with Linear, Softmax(1) or LogSoftmax(1)"
        )
    gives: Gives = (
        "probabilities" if last == "Sigmoid" else _what_comes_out(torch, module, device, name, idim)
    )
    return Outputs(name, task, shape[1:], gives, last)


def _last_operation(found: Any) -> str:
    """Return the name of the operation that made a tensor, seen through what only arranges."""
    node = found.grad_fn
    while node is not None:
        name = re.sub(r"Backward\d*$", "", node.name())
        if not _ARRANGING.fullmatch(name):
            return name
        node = node.next_functions[0][0] if node.next_functions else None
    return ""


def _what_comes_out(torch: Any, module: Any, device: str, name: str, idim: int) -> Gives:
    sizes = torch.logspace(-2, 3, 256)[:, None]
    generator = torch.Generator().manual_seed(0)
    events = torch.randn((256, idim), generator=generator) * sizes
    with torch.no_grad():
        try:
            found = module(events.to(device))
        except Exception:  # it takes no such values, as where they are to be indices
            found = module(torch.rand((256, idim), generator=generator).to(device))
    found = found.float().reshape(256, -1)
    found = found[found.isfinite().all(1)]  # an exponential of the user's may end at infinity
    if found.shape[1] > 1:
        candidates: tuple[tuple[Any, Gives], ...] = (
            (found, "probabilities"),
            (found.exp(), "log-probabilities"),
        )
        for values, gives in candidates:
            if bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < 1e-3).all()):
                return gives
        return "logits"
    if bool((found == 1).all()):
        raise ModelFault(
            f"{name}: gives 1 for every event, as a softmax of one output does: end it with Linear(…, 1), "
            "or with a sigmoid"
        )
    return "probabilities" if bool(((found >= 0) & (found <= 1)).all()) else "logits"
