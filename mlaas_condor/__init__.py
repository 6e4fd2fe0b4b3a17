"""From ROOT files and one small JSON file to a trained model, on an HTCondor pool.

>>> from mlaas_condor import submit
>>> run = submit("job.json")
>>> run.wait(progress=True)
>>> run.model()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlaas_condor.client.service import Service
    from mlaas_condor.errors import MlaasError, RequestError
    from mlaas_condor.inference.model import Model
    from mlaas_condor.inspection import inspect
    from mlaas_condor.request import Request
    from mlaas_condor.runs import Run
    from mlaas_condor.settings import Settings
    from mlaas_condor.workflow import list_runs, open_run, plan, submit

__all__ = [
    "MlaasError",
    "Model",
    "Request",
    "RequestError",
    "Run",
    "Service",
    "Settings",
    "inspect",
    "list_runs",
    "open_run",
    "plan",
    "submit",
]

_HOMES = {
    "MlaasError": "errors",
    "Model": "inference.model",
    "RequestError": "errors",
    "Request": "request",
    "Run": "runs",
    "Service": "client.service",
    "Settings": "settings",
    "inspect": "inspection",
}


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: ``mlaas-condor --help`` needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'workflow')}"), name)


def __dir__() -> list[str]:
    return __all__
