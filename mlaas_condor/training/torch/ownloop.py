"""PyTorch modules that train themselves, by ``train_clf`` or ``torch_train``, as MLaaS4HEP let them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlaas_condor.training.frameworks import FloatArray, TargetArray
from mlaas_condor.training.torch.binding import is_out_of_memory
from mlaas_condor.training.torch.network import Network


class Events:
    """Events as a data set of PyTorch's, which gives a batch at a time.

    Parameters
    ----------
    torch
        PyTorch.
    tensors
        Features, shape (events, columns), and classes or targets, shape (events, 1).
    """

    def __init__(self, torch: Any, *tensors: Any) -> None:
        self._torch = torch
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, row: int) -> list[Any]:
        return [tensor[row] for tensor in self.tensors]

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """Return the events of a batch, for PyTorch's loader, without touching each of them."""
        index = self._torch.tensor(rows, device=self.tensors[0].device)
        return [tensor.index_select(0, index) for tensor in self.tensors]


def loader(network: Network, x: FloatArray, y: TargetArray, batch_size: int, seed: int | None = None) -> Any:
    """Return a ``DataLoader`` of events, on the module's device.

    Parameters
    ----------
    network
        The module.
    x, y
        Features, shape (events, columns); classes or targets, shape (events,).
    batch_size
        Events a batch.
    seed
        Seed of the order in which it takes them, another one each time it is gone through; None: as they
        come.
    """
    torch = network.torch
    events = Events(
        torch,
        network.tensor(x).to(network.device),
        network.tensor(np.asarray(y)).reshape(-1, 1).to(network.device),
    )
    return torch.utils.data.DataLoader(
        events,
        batch_size=batch_size,
        shuffle=seed is not None,
        collate_fn=list,
        # Its own also where nothing is drawn: a loader always takes a number from its generator.
        generator=torch.Generator().manual_seed(seed or 0),
    )


def run(network: Network, train: Any, validation: Any) -> None:
    """Call the module's own loop once.

    Raises
    ------
    ModelFault
        It fails; the message gives the line of the user's own code.
    OutOfMemory
        It fails for want of memory.
    """
    network.learn()
    try:
        getattr(network.module, str(network.own_loop))(
            model=network.module, train_loader=train, val_loader=validation
        )
    except (Exception, SystemExit) as error:
        if is_out_of_memory(network.torch, error):
            raise
        raise network.user_fault(error) from error
