"""What goes wrong while a model is trained or written, as errors of ours: one wording for all frameworks."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlaas_condor.errors import ModelFault, OutOfMemory, StageError, StorageFull
from mlaas_condor.training import models


@contextlib.contextmanager
def of_model(
    name: str, idim: int, x: NDArray[np.floating], out_of_memory: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
    """Turn what a model raises on events into our errors.

    Parameters
    ----------
    name
        What to call the model: the name of the user's file.
    idim
        Number of columns it was made for.
    x
        The events, shape (events, columns).
    out_of_memory
        What the framework raises for want of memory, beside Python's own error.
    """
    if x.ndim != 2 or x.shape[1] != idim:
        raise ModelFault(f"{name}: made for {idim} columns, given events of shape {x.shape}")
    try:
        yield
    except StageError:
        raise
    except Exception as error:
        if isinstance(error, (MemoryError, *out_of_memory)):
            raise OutOfMemory(
                f"{name}: no memory left for {len(x)} events of {idim} columns: ask for more "
                "memory in job.json, or use smaller chunks (chunk_size) or batches (batch_size)"
            ) from error
        raise ModelFault(
            f"{name}: the model fails on {len(x)} events of {idim} columns: "
            f"{type(error).__name__}: {models.brief(error)}"
        ) from error


@contextlib.contextmanager
def of_writing(path: Path) -> Iterator[None]:
    """Tell a full disk from whatever else a framework makes of it."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error):
            raise StorageFull(f"{path}: no space left to write the model") from error
        raise
