"""The files of ``submit_templates/``: texts to be read as they are, with ``@{name}`` where a value goes."""

from __future__ import annotations

import string
from importlib import resources


class _Template(string.Template):
    """`string.Template` with ``@``, because HTCondor has a use for ``$``."""

    delimiter = "@"


def text(name: str) -> str:
    """Return a template as it stands."""
    return (resources.files("mlaas_condor.submit_templates") / name).read_text("utf-8")


def render(template: str, /, **values: object) -> str:
    """Return a template with its values filled in; a missing value is a `KeyError`."""
    return _Template(text(template)).substitute({key: str(value) for key, value in values.items()})
