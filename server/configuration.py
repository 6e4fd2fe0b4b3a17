"""``service.toml``: the only place where its keys are known."""

from __future__ import annotations

import tomllib
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, model_validator

from mlaas_condor import settings
from mlaas_condor.errors import Problem, RequestError
from mlaas_condor.jsonfile import Plain
from mlaas_condor.reading import nearest
from mlaas_condor.request import Size
from mlaas_condor.settings import Settings

Claims = Annotated[list[str], Field(min_length=1)]


def _located(path: Path, info: ValidationInfo) -> Path:
    """Take a relative path from where ``service.toml`` is, not from where somebody starts the service."""
    return Path(info.context["folder"] if info.context else "", path.expanduser())


Place = Annotated[Path, AfterValidator(_located)]


class Listen(Plain):
    """``[service]``: where it listens, and with how many processes."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="port; 0 for any that is free")
    url: str = Field("", description="how users reach it, where that is not what it listens on: https://…")
    workers: int = Field(2, ge=1, le=64, description="processes")
    threads: int = Field(32, ge=2, le=512, description="requests that each of them answers at a time")
    streams: int = Field(
        200, ge=2, le=2000, description="uploads, submissions, downloads and what follows a run, beside those"
    )
    body_seconds: float = Field(60, gt=0, description="how long to wait for the next piece of an upload")
    stop_seconds: float = Field(30, gt=0, description="how long requests may take to their end when it stops")
    log: Place | None = Field(
        None, description="file of the log, one JSON object a line; standard error otherwise"
    )
    metrics_token_file: Place | None = Field(
        None, description="file with a token that may read /metrics; administrators may always"
    )


class Tls(Plain):
    """``[tls]``: the service's own certificate, where no proxy in front has it."""

    certificate: Place = Field(description="file with the certificate and its chain, PEM")
    key: Place = Field(description="file with its private key, PEM")


class Tokens(Plain):
    """``[login.tokens]``: bearer tokens of one issuer."""

    issuer: str = Field(description="URL of the issuer, as its tokens name it")
    audience: Claims = Field(description="whom tokens must be for: one of these is enough")
    algorithms: Claims = Field(
        ["RS256", "ES256"], description="signatures that are taken; never symmetric ones"
    )
    user_claim: str = Field("sub", description="claim that tells one user from another, and never changes")
    name_claims: list[str] = Field(
        ["preferred_username", "email", "name"], description="claims with a name for people, the best first"
    )
    group_claims: list[str] = Field(["wlcg.groups", "groups"], description="claims with the user's groups")
    scopes: Literal["optional", "required"] = Field(
        "optional", description="whether a token without compute.* scopes may do nothing, or everything"
    )
    keys_seconds: float = Field(
        3600, ge=1, description="how long the issuer's keys are kept before a new look"
    )
    client_id: str = Field("", description="this service's name at the issuer: then browsers log in there")
    client_secret_file: Place | None = Field(None, description="file with the secret of that client")
    client_scopes: str = Field("openid profile email", description="what a browser's log-in asks for")
    session_seconds: float = Field(8 * 3600, gt=0, description="how long a browser stays logged in")


class Proxy(Plain):
    """``[login.proxy]``: a proxy in front knows who it is, and says so in headers."""

    kind: Literal["oauth2-proxy", "auth-proxy-server"] = Field(
        "oauth2-proxy", description="whose headers: X-Forwarded-*, or CMS's"
    )
    addresses: list[IPv4Network | IPv6Network] = Field(
        min_length=1, description="addresses or networks that the proxy speaks from; no other is believed"
    )
    hmac_key_file: Place | None = Field(
        None, description="auth-proxy-server: file with the key that its headers are signed with"
    )
    password_file: Place | None = Field(
        None,
        description="oauth2-proxy: file with its basic_auth_password, which then shows that it is the proxy",
    )
    client_headers_dropped: bool = Field(
        False,
        description="auth-proxy-server: something in front of it drops the cms-* headers that clients send; "
        "only then are roles taken for groups, and its token mode believed",
    )


class Login(Plain):
    """``[login]``: how the service knows who it is talking to."""

    method: Literal["none", "tokens", "proxy"] = Field(
        "none", description="tokens, the headers of a proxy in front, or none: one user, on loopback only"
    )
    administrators: list[str] = Field([], description="owners who see and may change everything")
    administrator_groups: list[str] = Field([], description="groups whose members may")
    tokens: Tokens | None = Field(None, description="for tokens")
    proxy: Proxy | None = Field(None, description="for proxy")

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Login:
        if self.method != "none" and getattr(self, self.method) is None:
            raise ValueError(f"method {self.method!r} needs a section [login.{self.method}]")
        return self


class Limits(Plain):
    """``[limits]``: what each user may have; 0 for none at all."""

    running_runs: int = Field(20, ge=0, description="runs that are not over, at a time")
    cpus: int = Field(256, ge=0, description="CPUs that the trainings of those runs ask for together")
    gpus: int = Field(8, ge=0, description="GPUs likewise")
    jobs: int = Field(20_000, ge=1, description="jobs in one stage of a run")
    stored: Size = Field(100 * 1024, description="folders and runs together, such as 100gb")
    requests_per_second: float = Field(
        50, gt=0, description="on average; short bursts may be ten times as many"
    )
    upload: Size = Field(20 * 1024, description="one upload as it is sent, and unpacked, such as 20gb")
    upload_files: int = Field(10_000, ge=1, description="files in one upload")
    uploads: int = Field(30, ge=1, description="uploads at a time")


class Inputs(Plain):
    """``[inputs]``: what job files may name beside what was uploaded."""

    folders: list[Place] = Field([], description="folders of the service's machine that everybody may read")
    hosts: list[str] = Field(
        ["*"], description="storage that may be named, * for any part; loopback only where it is named here"
    )


class Jobs(Plain):
    """``[jobs]``: as whom they run."""

    submit_as: Literal["service", "user"] = Field(
        "service",
        description="user: submitted with the user's own token, which the schedd maps to an account",
    )
    accounting_group: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_.]*$",
        description="group of the pool's accounting that all of it counts for",
    )


class Configuration(Plain):
    """Everything in ``service.toml``."""

    service: Listen = Field(Listen(), description="where it listens")
    home: Place | None = Field(None, description="folder of everything it keeps; MLAAS_CONDOR_HOME otherwise")
    pool: Literal["auto", "personal", "site"] | None = Field(None, description="which HTCondor pool")
    tls: Tls | None = Field(None, description="the service's own certificate")
    login: Login = Field(Login(), description="who is it")
    limits: Limits = Field(Limits(), description="what each user may have")
    inputs: Inputs = Field(Inputs(), description="what job files may name")
    jobs: Jobs = Field(Jobs(), description="as whom they run")

    @classmethod
    def read(cls, path: Path | None) -> Configuration:
        """Read ``service.toml``; without one, the defaults: one user, on loopback.

        Raises
        ------
        RequestError
            With everything that is wrong with it.
        """
        if path is None:
            return cls()
        try:
            raw = tomllib.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise RequestError([Problem(str(path), f"cannot be read: {error}")]) from error
        try:
            return cls.model_validate(raw, context={"folder": path.absolute().parent})
        except ValidationError as error:
            problems = [_problem(path, cast(dict[str, Any], each)) for each in error.errors()]
            raise RequestError(problems) from error

    def settings(self, home: str | None = None, pool: str | None = None) -> Settings:
        """Return where runs and pool are.

        Parameters
        ----------
        home, pool
            From a command line, which says more than the file.
        """
        given = str(self.home) if self.home else None
        group = self.jobs.accounting_group or None
        return settings.load(home=home or given, pool=pool or self.pool, accounting_group=group)


def _problem(path: Path, detail: dict[str, Any]) -> Problem:
    place = [str(part) for part in detail["loc"]]
    where = f"{path.name}: {'.'.join(place)}" if place else path.name
    if detail["type"] == "extra_forbidden":
        return Problem(where, "unknown key", nearest(place[-1], _known(place[:-1])))
    if detail["type"] == "missing":
        return Problem(where, "is missing")
    said = str(detail["msg"]).removeprefix("Value error, ")
    value = "" if isinstance(detail["input"], dict) else f"{detail['input']!r} does not do: "
    return Problem(where, f"{value}{said[:1].lower()}{said[1:]}")


def _known(place: list[str]) -> list[str]:
    return list(SECTIONS[".".join(place)].model_fields)


SECTIONS: dict[str, type[Plain]] = {
    "": Configuration, "service": Listen, "tls": Tls, "login": Login, "login.tokens": Tokens,
    "login.proxy": Proxy, "limits": Limits, "inputs": Inputs, "jobs": Jobs,
}  # fmt: skip
"""What there is, by the name of its section."""
