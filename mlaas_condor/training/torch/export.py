"""PyTorch modules as programs that need no code of the user's: exported, and as ONNX."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlaas_condor.training import models
from mlaas_condor.training.frameworks import NoOnnx
from mlaas_condor.training.torch.network import Network
from mlaas_condor.training.writing import replacing

INPUT, OUTPUT = "features", "scores"


class NoProgram(Exception):
    """The module cannot be exported; the message says why, in a sentence for the user."""


def export(network: Network) -> Any:
    """Return the module in evaluation mode, with what makes its scores, as a ``torch.export`` program.

    It takes any number of events, shape (events, columns), and gives scores of shape (events, outputs).

    Raises
    ------
    NoProgram
        The module cannot be exported, or predicts otherwise once it is.
    """
    torch, device = network.torch, network.device
    network.rest()
    network.module.to("cpu")
    try:
        with _quiet(), torch.no_grad():
            whole = _with_scores(network)
            events = torch.zeros(2, network.idim)
            shapes = ({0: torch.export.Dim("events")},)
            program = torch.export.export(whole, (events,), dynamic_shapes=shapes, strict=False)
            _compare(torch, whole, program.module(), network.idim)
    except Exception as error:
        raise NoProgram(f"{network.name}: PyTorch cannot export the module: {_reason(error)}") from error
    finally:
        network.module.to(device)
    return program


def _reason(error: Exception) -> str:
    if "DataDependent" in type(error).__name__:
        return "it decides by the values of events"
    return f"{type(error).__name__}: {models.brief(error, 200)}"


def _with_scores(network: Network) -> Any:
    nn = network.torch.nn
    parts = [network.module]
    if not network.outputs.shape:  # from a `squeeze` even a single number, for a single event
        parts += [nn.Flatten(0), nn.Unflatten(0, (-1, 1))]
    head = network.outputs.head(network.torch)
    whole = nn.Sequential(*parts, *([] if head is None else [head]))
    # Not by `eval`, which would reach the user's own once more.
    whole.training = False
    return whole


def _compare(torch: Any, module: Any, exported: Any, idim: int) -> None:
    """Make sure that a program does what the module does, for other numbers of events too."""
    generator = torch.Generator().manual_seed(0)
    for n in (1, 5):
        events = torch.randn((n, idim), generator=generator)
        torch.testing.assert_close(exported(events.clone()), module(events.clone()), rtol=1e-4, atol=1e-5)


def write(torch: Any, program: Any, path: Path) -> None:
    """Write an exported program to a file."""
    # Of a path PyTorch wants the ending.
    with _quiet(), replacing(path) as part, part.open("wb") as file:
        torch.export.save(program, file)


def read(torch: Any, path: Path) -> Any:
    """Return the program that a file holds; whatever PyTorch raises comes through."""
    with _quiet():
        return torch.export.load(path)


def write_onnx(torch: Any, program: Any, name: str, path: Path) -> None:
    """Write an exported program as ONNX.

    Parameters
    ----------
    torch, program
        PyTorch, and the program.
    name
        What to call the model in messages.
    path
        The file; it is replaced only once it is complete.

    Raises
    ------
    NoOnnx
        It cannot be written so.
    StorageFull
        No space is left.
    """
    try:
        with _quiet():
            written = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("events")},),
                verbose=False,
            )
    except ImportError as error:
        raise NoOnnx(
            f"{name}: writing ONNX takes onnx and onnxscript ({error}): pip install 'mlaas-condor[torch]'"
        ) from error
    except Exception as error:
        raise NoOnnx(
            f"{name}: PyTorch cannot write the module as ONNX: {type(error).__name__}: "
            f"{models.brief(error, 200)}"
        ) from error
    with replacing(path) as part:
        written.save(part)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch's exporters from printing graphs and what they are used to; errors come through."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
            yield
    finally:
        logging.disable(before)
