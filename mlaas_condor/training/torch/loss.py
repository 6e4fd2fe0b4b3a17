"""The loss that a PyTorch module learns by: the one that belongs to its outputs, or the user's own."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

from mlaas_condor.errors import ModelFault
from mlaas_condor.training import models
from mlaas_condor.training.torch.outputs import Outputs

_FOR_CLASSES = re.compile("crossentropy|bce|nll")


class Loss:
    """The loss of a batch: the mean over its events, each times its weight.

    Parameters
    ----------
    function
        Called with outputs, targets and ``reduction``, ``mean`` or ``none``.
    name
        What to call it.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function = function
        self.name = name

    def __call__(self, found: Any, targets: Any, weights: Any | None = None) -> Any:
        """Return the mean over the events of a batch."""
        if weights is None:
            return self._function(found, targets, reduction="mean")
        return (self._function(found, targets, reduction="none").view_as(weights) * weights).mean()

    def check(self, torch: Any, outputs: Outputs, targets: Any, device: str) -> None:
        """Make sure, on two events, that it can be learnt from."""
        found = torch.zeros(2, *outputs.shape, device=device, requires_grad=True)
        try:
            learns = bool(self(found, targets.to(device)).requires_grad)
        except Exception as error:
            raise ModelFault(
                f"{outputs.name}: `loss_function` fails on outputs of shape {tuple(found.shape)} and targets "
                f"of shape {tuple(targets.shape)}: {type(error).__name__}: {models.brief(error)}"
            ) from error
        if not learns:
            raise ModelFault(f"{outputs.name}: `loss_function` gives nothing that depends on the outputs")


def default(torch: Any, outputs: Outputs) -> Loss:
    """Return the loss that belongs to what a module gives."""
    functional = torch.nn.functional
    if outputs.task == "regression":
        return Loss(functional.mse_loss, "mean squared error")
    if outputs.count == 1:
        name = f"binary cross-entropy of {outputs.gives}"
        if outputs.gives == "probabilities":
            return Loss(functional.binary_cross_entropy, name)
        return Loss(functional.binary_cross_entropy_with_logits, name)
    name = f"cross-entropy of {outputs.gives}"
    if outputs.gives == "logits":
        return Loss(functional.cross_entropy, name)
    if outputs.gives == "log-probabilities":
        return Loss(functional.nll_loss, name)
    least = torch.finfo(torch.float32).tiny

    def of_probabilities(found: Any, targets: Any, reduction: str) -> Any:
        return functional.nll_loss(found.clamp_min(least).log(), targets, reduction=reduction)

    return Loss(of_probabilities, name)


def of_user(torch: Any, own: Any, outputs: Outputs) -> Loss:
    """Return the loss that the user's module brings; a class of PyTorch's is asked for one loss an event.

    Raises
    ------
    ModelFault
        It compares classes where a regression is learnt, or gives no loss.
    """
    name = str(getattr(own, "__name__", type(own).__name__))
    if outputs.task == "regression" and _FOR_CLASSES.search(name.lower().replace("_", "")):
        raise ModelFault(
            f"{outputs.name}: `loss_function` is {name}, which compares classes; for a regression use "
            "MSELoss, L1Loss or HuberLoss"
        )
    if isinstance(own, torch.nn.Module) and hasattr(own, "reduction"):
        own = copy.copy(own)
        own.reduction = "none"

    def function(found: Any, targets: Any, reduction: str) -> Any:
        values = own(found, targets)
        if reduction == "mean":
            return values.mean()
        if values.numel() != len(targets):
            raise ModelFault(
                f"{outputs.name}: with event weights `loss_function` must give one loss an event, it "
                f"gives shape {tuple(values.shape)} for {len(targets)} events: leave its mean out"
            )
        return values

    return Loss(function, name)


def take(torch: Any, module: Any, name: str) -> Any | None:
    """Return the ``loss_function`` that a module brings, None where there is none.

    Raises
    ------
    ModelFault
        It cannot be called.
    """
    found = None
    if isinstance(module, torch.nn.Sequential):
        # A Sequential takes every module that it is given for one of its layers.
        found = module._modules.pop("loss_function", None)
    if found is None:
        found = getattr(module, "loss_function", None)
    if found is not None and not callable(found):
        raise ModelFault(
            f"{name}: `loss_function` is {found!r}: it must be a function of outputs and targets, such as "
            "torch.nn.MSELoss()"
        )
    return found
