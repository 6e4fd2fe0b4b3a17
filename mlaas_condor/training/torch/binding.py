"""PyTorch in this process: how it is set up, its random numbers, its files and its errors."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlaas_condor.errors import FrameworkMissing, ModelFault
from mlaas_condor.training import faults, models
from mlaas_condor.training.frameworks import FloatArray


def bind(threads: int) -> Any:
    """Import PyTorch, set up to give the same bits again, and return it.

    Parameters
    ----------
    threads
        CPU threads it may use.

    Raises
    ------
    FrameworkMissing
        It is not installed.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or sums on a GPU would differ between runs
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise FrameworkMissing(
            f"PyTorch cannot be imported where the job runs ({error}): pip install 'mlaas-condor[torch]'"
        ) from error
    torch.set_num_threads(max(threads, 1))
    # No more than a warning: an operation that has no such way must not end a training.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    return torch


def seed_all(torch: Any, *entropy: int) -> None:
    """Seed all random numbers that a module may draw: PyTorch's, NumPy's and Python's."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def read_state(torch: Any, path: Path) -> Any:
    """Return what ``torch.save`` wrote into a file; ``ModelFault`` where it is damaged.

    The file is trusted as the user's own code is: it is the job's own, or read together with that code.
    """
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # a module may keep whatever it likes in its state
            return torch.load(path, map_location="cpu", weights_only=False)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ModelFault(f"{path}: cannot be read as PyTorch's: {models.brief(error)}") from error


@contextlib.contextmanager
def faults_of(torch: Any, name: str, idim: int, x: FloatArray) -> Iterator[None]:
    """Turn what goes wrong in a module on events into errors of ours, as ``faults.of_model`` does it."""
    with faults.of_model(name, idim, x):
        try:
            yield
        except Exception as error:
            if is_out_of_memory(torch, error):
                raise MemoryError from error
            raise


def is_out_of_memory(torch: Any, error: BaseException) -> bool:
    """Tell whether PyTorch, or Python, has no memory left."""
    # For main memory PyTorch has no class of errors, only the words.
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
