"""What a proxy in front says of who makes a request, and why it is believed.

An address is believed, and what else runs at that address can speak from it. So a proxy can show by something
that no client has, a password or a signature, that what it says is its own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from flask import Request

from .. import configuration
from ..identity import Identity
from .claims import tidy
from .peers import peer_of
from .refusals import refused, shown
from .tokens import is_name

_FORWARDED = {
    "user": "X-Forwarded-User",
    "name": "X-Forwarded-Preferred-Username",
    "email": "X-Forwarded-Email",
    "groups": "X-Forwarded-Groups",
    "token": "X-Forwarded-Access-Token",
}
_CMS = "cms-auth"
_ROLE = "cms-authz-"
_SIGNED = ("cms-authn", _ROLE)
_SIGNATURE = "cms-authn-hmac"
_ALWAYS = ("cms-authn-name", "cms-authn-login", "cms-authn-method")
_ABSENT = frozenset({"", "<nil>"})  # the second is what auth-proxy-server writes for what it does not know


class ProxyHeaders:
    """Reads the headers of one proxy.

    Parameters
    ----------
    proxy
        What ``service.toml`` says of it.
    """

    def __init__(self, proxy: configuration.Proxy) -> None:
        self._proxy = proxy
        self._password = _secret(proxy.password_file)
        self._key = _secret(proxy.hmac_key_file)
        self._cms = proxy.kind == "auth-proxy-server"

    def identify(self, request: Request) -> Identity | None:
        """Return whom the proxy says that a request is of; None if it says nothing.

        Raises
        ------
        Unauthorized
            Somebody else says it, or it is not as this proxy says it.
        """
        sent = _cms_headers(request) if self._cms else _forwarded_headers(request)
        if not sent:
            return None
        peer = peer_of(request)
        if peer is None or not any(peer in network for network in self._proxy.addresses):
            name = next(iter(sent))
            raise refused(
                f"{name} is believed of the proxy only, not of {peer}: ask through the proxy", error=""
            )
        return self._of_cms(sent) if self._cms else self._of_oauth2_proxy(sent, request)

    def _of_oauth2_proxy(self, sent: Mapping[str, str], request: Request) -> Identity:
        user, name = (_single(_FORWARDED[key], sent.get(_FORWARDED[key], "")) for key in ("user", "name"))
        email = _single(_FORWARDED["email"], sent.get(_FORWARDED["email"], ""))
        if not user:
            raise refused(f"the proxy says {', '.join(sent)}, but not {_FORWARDED['user']}", error="")
        self._check_password(user, request)
        groups = [each.strip() for each in sent.get(_FORWARDED["groups"], "").split(",")]
        return Identity(
            owner=user,
            name=name or email or user,
            groups=tidy(groups),
            method="proxy",
            token=_single(_FORWARDED["token"], sent.get(_FORWARDED["token"], "")),
        )

    def _check_password(self, user: str, request: Request) -> None:
        """Make sure that the proxy itself says this name, with the password that only it has."""
        if self._password is None:
            return
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        try:
            given = base64.b64decode(value, validate=True) if scheme.lower() == "basic" else b""
        except (binascii.Error, ValueError):
            given = b""
        if not hmac.compare_digest(given, user.encode() + b":" + self._password.strip()):
            raise refused(
                f"{_FORWARDED['user']} is not what the proxy shows with its password: pass_basic_auth, "
                "basic_auth_password of OAuth2-Proxy, and password_file here",
                error="",
            )

    def _of_cms(self, sent: Mapping[str, str]) -> Identity:
        if sent.get("cms-auth-status", "").lower() != "ok":
            raise refused(f"cms-auth-status is {shown(sent.get('cms-auth-status', ''))}, not ok", error="")
        self._check_signature(sent)
        login = _single("cms-authn-login", sent.get("cms-authn-login", ""))
        if login in _ABSENT:
            raise refused(
                "the proxy knows you, but not your CERN account: it needs you in its CRIC file", error=""
            )
        believed = self._proxy.client_headers_dropped
        if sent.get("cms-authn-method", "").lower() == "oauth" and not believed:
            raise refused(
                "a name that auth-proxy-server has of a token may be one that the client sent: it is "
                "believed with certificates (-useX509), or where client_headers_dropped says otherwise",
                error="",
            )
        name = sent.get("cms-authn-name", "")
        return Identity(
            owner=login,
            name=name if name not in _ABSENT and is_name(name) else login,
            groups=tidy(_roles(sent)) if believed else (),
            method="proxy",
        )

    def _check_signature(self, sent: Mapping[str, str]) -> None:
        if self._key is None:
            return
        expected = signature(self._key, sent)
        if hmac.compare_digest(expected.encode(), sent.get(_SIGNATURE, "").encode()):
            return
        lost = [name for name in _ALWAYS if not sent.get(name)]
        hint = f"; {', '.join(lost)} did not arrive: a name in the CRIC file has to be ASCII" if lost else ""
        raise refused(f"{_SIGNATURE} is not of these headers and the key in hmac_key_file{hint}", error="")


def signature(key: bytes, headers: Mapping[str, str]) -> str:
    """Return what CMS's front ends put into ``cms-authn-hmac``.

    Lengths of names and values in hexadecimal, then both, of all ``cms-authn`` and ``cms-authz`` headers in
    the order of their names; signed with HMAC and SHA-1.

    Parameters
    ----------
    headers
        Names in lower case; others are passed over.
    """
    signed = sorted(name for name in headers if name.startswith(_SIGNED) and name != _SIGNATURE)
    lengths = "".join(f"h{len(name):x}v{len(headers[name].encode()):x}" for name in signed)
    texts = "".join(name + headers[name] for name in signed)
    return hmac.new(key, f"{lengths}#{texts}".encode(), hashlib.sha1).hexdigest()


def _forwarded_headers(request: Request) -> dict[str, str]:
    return {
        name: _decoded(name, request.headers[name]) for name in _FORWARDED.values() if name in request.headers
    }


def _cms_headers(request: Request) -> dict[str, str]:
    return {
        name.lower(): _decoded(name, value)
        for name, value in request.headers.items()
        if name.lower().startswith(_CMS)
    }


def _decoded(name: str, value: str) -> str:
    """Return the text of a header: WSGI hands bytes as if each were a letter."""
    try:
        text = value.encode("latin-1").decode()
    except UnicodeError as error:
        raise refused(f"{name} is neither ASCII nor UTF-8", error="") from error
    if not text.isprintable():
        raise refused(f"{name} holds what cannot be seen: {shown(text)}", error="")
    return text


def _single(name: str, value: str) -> str:
    """Return a value that there may be one of: a header sent twice arrives with a comma."""
    if value and ("," in value or not (is_name(value) or name == _FORWARDED["token"])):
        raise refused(f"{name} is sent twice, or is no name: {shown(value)}", error="")
    return value


def _roles(sent: Mapping[str, str]) -> list[str]:
    """Return ``operator:group:dbs`` for role ``operator`` in ``group:dbs``."""
    return [
        f"{name.removeprefix(_ROLE)}:{each}"
        for name, value in sent.items()
        if name.startswith(_ROLE)
        for each in value.split()
    ]


def _secret(path: Path | None) -> bytes | None:
    return path.read_bytes() if path is not None else None
