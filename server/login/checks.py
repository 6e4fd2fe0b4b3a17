"""What is wrong with how ``service.toml`` has people log in, and what to know of it before it starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from mlaas_condor.errors import Problem

from ..configuration import Configuration, Proxy, Tokens
from .fetching import is_loopback, is_private
from .keys import ALGORITHMS
from .nobody import account

_TOML = "service.toml: "


def problems(configuration: Configuration) -> list[Problem]:
    """Return everything for which the service must not start."""
    login = configuration.login
    found = list(_unused_sections(configuration))
    if login.method == "none":
        found += _of_none(configuration)
    if login.method == "tokens" and login.tokens is not None:
        found += _of_tokens(configuration, login.tokens)
    if login.method == "proxy" and login.proxy is not None:
        found += _of_proxy(configuration, login.proxy)
    return found


def warning(configuration: Configuration) -> str:
    """Return what whoever starts the service must know; empty if there is nothing."""
    login = configuration.login
    if login.method == "none":
        return (
            f"nobody logs in: whoever reaches this service is {account()}, and that is everybody with an "
            "account on this machine; login.method in service.toml changes it"
        )
    if login.method == "tokens" or login.proxy is None:
        return ""
    addresses = ", ".join(map(str, login.proxy.addresses))
    if login.proxy.kind == "oauth2-proxy" and login.proxy.password_file is None:
        return (
            f"without login.proxy.password_file every process at {addresses} can be whoever it says: if that "
            "is this machine, everybody with an account on it"
        )
    if login.proxy.client_headers_dropped:
        return "auth-proxy-server signs cms-* headers of its clients: something in front of it must drop them"
    return ""


def _unused_sections(configuration: Configuration) -> Iterator[Problem]:
    login = configuration.login
    for name in ("tokens", "proxy"):
        if getattr(login, name) is not None and login.method != name:
            yield Problem(
                f"{_TOML}login.{name}",
                f"is not used with method {login.method!r}",
                f'set login.method = "{name}", or leave the section out',
            )


def _of_none(configuration: Configuration) -> Iterator[Problem]:
    service = configuration.service
    if not is_loopback(service.host):
        yield Problem(
            f"{_TOML}service.host",
            f"{service.host!r} can be reached from elsewhere, and login.method is 'none'",
            "use 127.0.0.1, or have users log in",
        )
    if service.url and not is_loopback(urlsplit(service.url).hostname or ""):
        yield Problem(
            f"{_TOML}service.url",
            f"{service.url!r} is for others, and login.method is 'none'",
            "leave it out, or have users log in",
        )
    if configuration.jobs.submit_as == "user":
        yield _no_token("with login.method 'none'")


def _of_tokens(configuration: Configuration, tokens: Tokens) -> Iterator[Problem]:
    place = f"{_TOML}login.tokens"
    service = configuration.service
    parts = urlsplit(tokens.issuer)
    if not is_private(tokens.issuer) or parts.query or parts.fragment or parts.username:
        yield Problem(f"{place}.issuer", f"{tokens.issuer!r} is no https address", "https://iam.example.org/")
    unsafe = [each for each in tokens.algorithms if each not in ALGORITHMS]
    if unsafe:
        yield Problem(
            f"{place}.algorithms",
            f"{', '.join(map(repr, unsafe))}: not a signature that only the issuer can make",
            f"there are {', '.join(ALGORITHMS)}",
        )
    for name in ("audience", "group_claims", "name_claims"):
        if not all(each.strip() for each in getattr(tokens, name)):
            yield Problem(f"{place}.{name}", "one of them is empty")
    if not tokens.user_claim.strip():
        yield Problem(f"{place}.user_claim", "is empty", '"sub" is made for it')
    if not is_loopback(service.host) and configuration.tls is None and not service.url.startswith("https:"):
        yield Problem(
            f"{_TOML}service",
            f"tokens would travel to {service.host} for everybody to read",
            "add [tls], or say in service.url under which https address a proxy in front has it",
        )
    yield from _of_client(configuration, tokens)


def _of_client(configuration: Configuration, tokens: Tokens) -> Iterator[Problem]:
    place = f"{_TOML}login.tokens"
    if tokens.client_secret_file is not None:
        if not tokens.client_id:
            yield Problem(f"{place}.client_secret_file", "is the secret of no client", "set client_id")
        yield from _of_secret(f"{place}.client_secret_file", tokens.client_secret_file)
    if not tokens.client_id:
        return
    if "openid" not in tokens.client_scopes.split():
        yield Problem(f"{place}.client_scopes", "has no openid, without which there is no id token")
    if not configuration.service.url and not is_loopback(configuration.service.host):
        yield Problem(
            f"{_TOML}service.url",
            "is needed with client_id",
            "the issuer sends browsers back to URL/login/callback",
        )


def _of_proxy(configuration: Configuration, proxy: Proxy) -> Iterator[Problem]:
    place = f"{_TOML}login.proxy"
    for network in proxy.addresses:
        if network.prefixlen == 0:
            yield Problem(f"{place}.addresses", f"{network} is everybody", "name the proxy's own address")
    if is_loopback(configuration.service.host) and not any(
        network.is_loopback for network in proxy.addresses
    ):
        yield Problem(
            f"{place}.addresses",
            f"no proxy at {', '.join(map(str, proxy.addresses))} reaches {configuration.service.host}",
            "set service.host, or add 127.0.0.1",
        )
    if proxy.kind == "oauth2-proxy":
        for name in ("hmac_key_file", "client_headers_dropped"):
            if getattr(proxy, name):
                yield Problem(
                    f"{place}.{name}", "is of auth-proxy-server", "password_file is of oauth2-proxy"
                )
        if proxy.password_file is not None:
            yield from _of_secret(f"{place}.password_file", proxy.password_file)
        return
    if proxy.password_file is not None:
        yield Problem(f"{place}.password_file", "is of oauth2-proxy", "hmac_key_file is of auth-proxy-server")
    if proxy.hmac_key_file is None:
        yield Problem(
            f"{place}.hmac_key_file",
            "is missing: without a signature whatever runs at its address could say who it is",
            "the file that hmac names in auth-proxy-server's configuration",
        )
    else:
        yield from _of_secret(f"{place}.hmac_key_file", proxy.hmac_key_file)
    if configuration.jobs.submit_as == "user":
        yield _no_token("from auth-proxy-server")


def _of_secret(place: str, path: Path) -> Iterator[Problem]:
    try:
        if not path.read_bytes().strip():
            yield Problem(place, f"{path} is empty")
    except OSError as error:
        yield Problem(place, f"{path} cannot be read: {error.strerror}", f"by the account {account()}")


def _no_token(whence: str) -> Problem:
    return Problem(
        f"{_TOML}jobs.submit_as", f"there is no token of a user {whence} to submit with", 'use "service"'
    )
