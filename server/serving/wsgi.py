"""The application in a process that answers requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..app import create_app
from ..configuration import Configuration

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from mlaas_condor.settings import Settings


def application(configuration: Configuration, settings: Settings) -> WSGIApplication:
    """Return the application of a configuration."""
    return create_app(configuration, settings)
