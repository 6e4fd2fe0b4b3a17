"""``mlaas-condor proxy``: look at the credentials that storage asks for, and make a proxy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlaas_condor.errors import CredentialFault, Problem

from .common import AsJson, console, print_json, print_table

if TYPE_CHECKING:
    from rich.table import Table

    from mlaas_condor.grid.certificates import Credential
    from mlaas_condor.grid.proxy import Proxy
    from mlaas_condor.grid.tokens import Token

app = typer.Typer(help="Look at grid proxies and tokens, and make a proxy.", no_args_is_help=True)

_VOMS = "voms-proxy-init"


@app.command()
def info(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The proxy; without it, the one that is used.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the proxy and the token that storage would get, and what is wrong with them."""
    from mlaas_condor.grid import proxy, tokens

    path = proxy.find(str(file or ""), origin="")
    token: Token | None = None
    token_faults: list[Problem] = []
    try:
        token = tokens.find()
        token_faults = tokens.faults(token, []) if token else []
    except CredentialFault as error:
        token_faults = [Problem("token", str(error))]
    if path is None and token is None and not token_faults:
        raise CredentialFault(
            f"there is no proxy {proxy.default()}, and no token; make a proxy with `{proxy.how_to_renew()}`"
        )
    found = proxy.read(path) if path else None
    faults = proxy.faults(found) if found else []
    if as_json:
        print_json(_as_dict(found, faults, token, token_faults))
    else:
        print_table(_table(found, faults, token, token_faults))
    # A token that is no use does no harm beside a proxy.
    if faults if found else token_faults:
        raise typer.Exit(CredentialFault.exit_code)


@app.command()
def init(
    voms: Annotated[
        str, typer.Option(metavar="VO", help="With attributes of this VO, by voms-proxy-init.")
    ] = "",
    hours: Annotated[float, typer.Option(min=0.01, max=10_000, help="For how long.")] = 12,
    bits: Annotated[int, typer.Option(min=2048, max=8192, help="Length of its key.")] = 2048,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM or PKCS#12; ~/.globus/usercert.pem by default.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Its key; ~/.globus/userkey.pem by default.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The new file; X509_USER_PROXY, or /tmp/x509up_u<uid> by default.")
    ] = None,
) -> None:
    """Make a proxy of your certificate."""
    from mlaas_condor.grid import certificates, proxy

    path = (out or Path(os.environ.get(proxy.VARIABLE) or proxy.default())).expanduser().absolute()
    own, own_key = _own(certificate, key)
    if voms:
        _with_attributes(voms, hours, bits, path, own, own_key)
    else:
        holder = _load(own, own_key)
        made = certificates.make_proxy(holder, hours * 3600, bits)
        certificates.write(made, path)
    found = proxy.read(path)
    faults = proxy.faults(found)
    print_table(_table(found, faults, None, []))
    if faults:
        raise typer.Exit(CredentialFault.exit_code)
    if found.seconds_left < hours * 3600 - 60:
        console(stderr=True).print(
            f"warning: shorter than asked for, {found.issuer} ends then", style="yellow"
        )
    if proxy.find() != path:
        console().print(f"next: export {proxy.VARIABLE}={path}")


def _own(certificate: Path | None, key: Path | None) -> tuple[Path, Path]:
    """Return where the user's certificate and key are."""
    folder = Path.home() / ".globus"
    named = certificate or Path(os.environ.get("X509_USER_CERT", ""))
    if named == Path():
        named = folder / "usercert.pem"
        exported = folder / "usercred.p12"
        if not named.exists() and exported.exists():
            named = exported
    own_key = key or Path(os.environ.get("X509_USER_KEY", ""))
    if own_key == Path():
        # Beside the certificate, by the usual names.
        beside = named.with_name(named.name.replace("cert", "key"))
        own_key = beside if beside != named and beside.exists() else folder / "userkey.pem"
    return named.expanduser().absolute(), own_key.expanduser().absolute()


def _load(certificate: Path, key: Path) -> Credential:
    from mlaas_condor.grid import certificates

    if not certificate.exists():
        raise CredentialFault(
            f"there is no certificate {certificate}; name yours with --certificate and --key, "
            "or put it there: your browser exports it as usercred.p12"
        )
    secret = certificate if certificates.is_pkcs12(certificate) else key
    password = None
    if secret.exists() and certificates.needs_password(secret):
        password = _pass_phrase(secret)
    return certificates.load_pair(certificate, key, password)


def _pass_phrase(path: Path) -> bytes:
    if sys.stdin.isatty():
        return str(typer.prompt(f"Pass phrase of {path}", hide_input=True, err=True)).encode()
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise CredentialFault(
            f"{path} has a pass phrase; there is no terminal to ask for it, and standard input is empty"
        )
    return line.encode()


def _with_attributes(voms: str, hours: float, bits: int, path: Path, certificate: Path, key: Path) -> None:
    """Have the VO's own tool make it, which asks for the pass phrase by itself."""
    tool = shutil.which(_VOMS)
    if tool is None:
        raise CredentialFault(
            f"attributes of {voms} need {_VOMS}, which is not installed: install the package voms-clients "
            "(Debian, Ubuntu) or voms-clients-cpp (RHEL, Alma), or leave --voms away for a proxy without them"
        )
    whole, minutes = divmod(round(hours * 60), 60)
    call = [tool, "-rfc", "-voms", voms, "-valid", f"{whole}:{minutes:02d}", "-bits", str(bits)]
    call += ["-out", str(path), "-cert", str(certificate)]
    if certificate.suffix not in (".p12", ".pfx"):
        call += ["-key", str(key)]
    done = subprocess.run(call, check=False)
    if done.returncode:
        raise CredentialFault(f"{_VOMS} ended with exit code {done.returncode}; what it said is above")


def _table(
    proxy: Proxy | None, faults: list[Problem], token: Token | None, token_faults: list[Problem]
) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for row in _proxy_rows(proxy) if proxy else [("proxy", "none")]:
        table.add_row(*row)
    for fault in faults:
        table.add_row(Text("FAULT", style="red"), _sentence(fault))
    for row in _token_rows(token) if token else []:
        table.add_row(*row)
    for fault in token_faults:
        table.add_row(Text("FAULT", style="red"), _sentence(fault))
    return table


def _sentence(fault: Problem) -> str:
    return f"{fault.what}; {fault.hint}" if fault.hint else fault.what


def _left(ends: float) -> str:
    import time

    from mlaas_condor.grid.times import in_words, moment

    left = ends - time.time()
    return f"{in_words(left)}, until {moment(ends)}" if left > 0 else f"none, ended on {moment(ends)}"


def _proxy_rows(proxy: Proxy) -> list[tuple[str, str]]:
    rows = [
        ("proxy", str(proxy.path)),
        ("subject", proxy.subject),
        ("identity", proxy.identity),
        ("issuer", proxy.issuer),
        ("time left", _left(proxy.ends)),
    ]
    if proxy.attributes:
        rows += [("attributes" if i == 0 else "", each) for i, each in enumerate(proxy.attributes)]
    else:
        rows.append(("attributes", proxy.remark or "none"))
    if proxy.attributes_end is not None:
        rows.append(("their time left", _left(proxy.attributes_end)))
    kind = "an old kind, before RFC 3820" if proxy.legacy else "RFC 3820" if proxy.level else "no proxy"
    return [
        *rows,
        ("key", f"{proxy.key_kind}, {proxy.bits} bits"),
        ("level", f"{proxy.level} ({kind})"),
        ("permissions", f"{proxy.mode:04o}"),
    ]


def _token_rows(token: Token) -> list[tuple[str, str]]:
    ends = "does not say" if token.ends is None else _left(token.ends)
    return [
        ("token", token.origin),
        ("issuer", "unknown, it is no JSON Web Token" if token.opaque else token.issuer or "does not say"),
        ("subject", token.subject or "does not say"),
        ("audience", ", ".join(token.audience) or "does not say"),
        ("scopes", " ".join(token.scopes) or "none"),
        ("time left", ends),
    ]


def _as_dict(
    proxy: Proxy | None, faults: list[Problem], token: Token | None, token_faults: list[Problem]
) -> dict[str, object]:
    from dataclasses import asdict

    of_proxy, of_token = None, None
    if proxy:
        of_proxy = {**asdict(proxy), "mode": f"{proxy.mode:04o}", "seconds_left": proxy.seconds_left}
    if token:
        # All but the token itself.
        of_token = {name: value for name, value in asdict(token).items() if name not in ("text", "mode")}
    return {
        "proxy": of_proxy,
        "faults": [asdict(fault) for fault in faults],
        "token": of_token,
        "token_faults": [asdict(fault) for fault in token_faults],
    }
