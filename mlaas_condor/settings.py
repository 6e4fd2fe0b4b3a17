"""Settings: where runs are kept, which pool is used, how long a job should take.

A value comes from the first of: a command-line flag, the environment (``MLAAS_CONDOR_HOME``, …), the
user's file (``~/.config/mlaas-condor/config.toml``), the site profile, the default. Each value
remembers which of them it came from.
"""

from __future__ import annotations

import math
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from mlaas_condor import owners
from mlaas_condor.errors import Problem, RequestError

ENVIRONMENT_PREFIX = "MLAAS_CONDOR_"
POOLS = ("auto", "personal", "site")
SITE_CONFIGS = (Path("/etc/condor/condor_config"), Path("/usr/local/etc/condor_config"))
_GROUP = re.compile(r"(?:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)?")
OF_PROFILES = ("server", "servers")
"""Keys of the user's file that say which service is used; ``profiles.py`` reads them."""
own_pools: set[str] = set()
"""Configurations of personal pools that this process was turned to, their files there or not."""


def _xdg(variable: str, fallback: str) -> Path:
    """Return a base directory as the XDG specification finds it, with our folder appended."""
    base = os.environ.get(variable) or str(Path.home() / fallback)
    return Path(base) / "mlaas-condor"


def user_file() -> Path:
    """Return the path of the user's settings file; it need not exist."""
    return _xdg("XDG_CONFIG_HOME", ".config") / "config.toml"


@dataclass(frozen=True)
class Settings:
    """All settings, with the origin of each in ``origins``.

    Parameters
    ----------
    home
        Folder of the runs, the store of specs and chunks, and the personal pool.
    cache
        Folder of what can be fetched again: the private HTCondor.
    pool
        ``personal`` (the pool of ``mlaas-condor pool up``), ``site`` (``CONDOR_CONFIG``,
        ``/etc/condor``), or ``auto``: the site's where one is configured, else the personal one.
    site
        Name of a site profile in ``submit_templates/sites``, or ``auto``: ``personal`` for the pool of
        ``mlaas-condor pool up``, ``any`` for a site's.
    python
        The Python of the jobs, as the execution points see it.
    job_seconds
        How long a job of the specs and preprocess stages should take, in seconds.
    memory_mb
        Least memory any job asks for, in MiB.
    accounting_group
        Group of the pool's accounting that jobs count for; empty for none.

    Notes
    -----
    Where a service keeps the runs of several people apart, ``owner`` says whose these are. No file, variable
    or flag sets it, only the service: ``dataclasses.replace(settings, owner="jane")``.
    """

    home: Path
    cache: Path
    pool: str
    site: str
    python: str
    job_seconds: float
    memory_mb: int
    accounting_group: str
    origins: Mapping[str, str]
    owner: str = ""

    @property
    def own(self) -> Path:
        """Folder of the owner's runs and store; ``home`` itself where there is one owner only."""
        return self.home / "users" / owners.short_name(self.owner) if self.owner else self.home

    @property
    def runs(self) -> Path:
        """Folder with one run directory a run."""
        return self.own / "runs"

    @property
    def store(self) -> Path:
        """Folder of specs and chunks, by the content they were made from."""
        return self.own / "store"

    def make_own(self) -> Path:
        """Make the owner's folder and return it; other accounts of the machine cannot look into it."""
        self.home.mkdir(parents=True, exist_ok=True)
        if self.owner:
            self.own.parent.mkdir(mode=0o700, exist_ok=True)
            self.own.mkdir(mode=0o700, exist_ok=True)
        return self.own


def _defaults() -> dict[str, Any]:
    return {
        "home": _xdg("XDG_DATA_HOME", ".local/share"),
        "cache": _xdg("XDG_CACHE_HOME", ".cache"),
        "pool": "auto",
        "site": "auto",
        "python": sys.executable,
        "job_seconds": 600.0,
        "memory_mb": 512,
        "accounting_group": "",
    }


def site_pool_config() -> str:
    """Return the HTCondor configuration of the site's pool; empty where there is none."""
    named = os.environ.get("CONDOR_CONFIG", "")
    # The bindings set it to /dev/null where nothing is configured, and we set it to our own pool's.
    if named not in ("", os.devnull, *own_pools) and not _is_personal(named):
        return named
    return next((str(path) for path in SITE_CONFIGS if path.exists()), "")


def _is_personal(config: str) -> bool:
    try:
        return "MLAAS_CONDOR_PERSONAL_POOL" in Path(config).read_text("utf-8", errors="replace")
    except OSError:
        return False


def _profile_for(pool: str) -> str:
    return "any" if pool == "site" or (pool != "personal" and site_pool_config()) else "personal"


def _site_profile(name: str) -> dict[str, Any]:
    profiles = resources.files("mlaas_condor.submit_templates") / "sites"
    known = sorted(entry.name.removesuffix(".toml") for entry in profiles.iterdir())
    if name not in known:
        raise RequestError(
            [Problem("settings: site", f"no profile {name!r}", f"there is {', '.join(known)}")]
        )
    values: dict[str, Any] = tomllib.loads((profiles / f"{name}.toml").read_text("utf-8"))
    return values


def read_user_file(path: Path) -> dict[str, Any]:
    """Return what is in the user's file; empty where there is none."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise RequestError([Problem(str(path), f"cannot be read: {error}")]) from error


def load(**flags: Any) -> Settings:
    """Gather the settings.

    Parameters
    ----------
    flags
        Values given on the command line or by a Python caller; ``None`` counts as not given.

    Raises
    ------
    RequestError
        For every value that is not of its kind, and every name that is not a setting.
    """
    defaults = _defaults()
    path = user_file()
    layers = [
        ("flag", {name: value for name, value in flags.items() if value is not None}),
        ("environment", {
            name: os.environ[ENVIRONMENT_PREFIX + name.upper()]
            for name in defaults
            if os.environ.get(ENVIRONMENT_PREFIX + name.upper())
        }),
        (str(path), {name: each for name, each in read_user_file(path).items() if name not in OF_PROFILES}),
    ]  # fmt: skip
    given = {
        name: next((layer[name] for _, layer in layers if name in layer), "auto") for name in ("site", "pool")
    }
    site = _profile_for(given["pool"]) if given["site"] == "auto" else str(given["site"])
    layers += [(f"site profile {site}", _site_profile(site)), ("default", defaults)]
    problems = [
        Problem(f"settings: {name}", f"no such setting, given by {origin}", f"known: {', '.join(defaults)}")
        for origin, layer in layers
        for name in layer
        if name not in defaults
    ]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name in defaults:
        origins[name], raw = next((origin, layer[name]) for origin, layer in layers if name in layer)
        try:
            values[name] = _convert(name, raw)
        except (ValueError, TypeError, RuntimeError) as error:
            problems.append(Problem(f"settings: {name}", f"{error}, given by {origins[name]}"))
    if problems:
        raise RequestError(problems)
    return Settings(**values, origins=origins)


def _convert(name: str, raw: Any) -> Any:
    kind = {field.name: field.type for field in fields(Settings)}[name]
    if kind == "Path":
        if raw == "":
            raise ValueError("'' is not a folder")
        return Path(raw).expanduser().absolute()
    if kind in ("float", "int"):
        return _number(raw, whole=kind == "int")
    if name == "pool" and raw not in POOLS:
        raise ValueError(f"{raw!r} is none of {', '.join(POOLS)}")
    if name == "accounting_group":
        return _group(raw)
    if not raw:
        raise ValueError(f"{raw!r} does not do")
    return str(raw)


def _group(raw: Any) -> str:
    if not isinstance(raw, str) or not _GROUP.fullmatch(raw):
        raise ValueError(f"{raw!r} is no group: letters, digits, _ and -, and dots between groups and theirs")
    return raw


def _number(raw: Any, whole: bool) -> float | int:
    try:
        value = float(raw)
    except (ValueError, TypeError):
        value = math.nan
    if isinstance(raw, bool) or not 0 < value < math.inf or (whole and value != int(value)):
        raise ValueError(f"{raw!r} is not a positive {'whole ' * whole}number")
    return int(value) if whole else value
