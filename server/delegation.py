"""``/api/v1/delegation``: a client lets this service act for it, without sending a private key."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Blueprint, Response, g, jsonify, request

from mlaas_condor.errors import CredentialFault, MlaasError
from mlaas_condor.grid import certificates
from mlaas_condor.grid.addresses import SERVICE
from mlaas_condor.grid.delegating import PATH
from mlaas_condor.grid.delegation import ANSWER_BYTES, Requests

from .faults import HttpFault, TooLarge, Unauthorized, Unprocessable, reply_of

_WHO = "say who you are: Authorization: Bearer TOKEN"
View = Callable[..., Response]


def blueprint(store: Requests, owner: Callable[[], str]) -> Blueprint:
    """Return the routes.

    Parameters
    ----------
    store
        Where requests and proxies are kept.
    owner
        Returns who makes the request that Flask serves now; ``""`` where that is not known.
    """
    routes = Blueprint("delegation", __name__, url_prefix=PATH)
    for_owner = _answering(owner)

    @routes.get("")
    @for_owner
    def show(who: str) -> Response:
        return _answer({"service": SERVICE, **_delegated(store, who)})

    @routes.post("/request")
    @for_owner
    def begin(who: str) -> Response:
        number, text = store.begin(who)
        return _answer({"id": number, "request": text}, 201)

    @routes.put("/<number>")
    @for_owner
    def finish(who: str, number: str) -> Response:
        # JSON writes a line end with two bytes; the rest is room for its braces.
        if request.content_length is None or request.content_length > 2 * ANSWER_BYTES:
            raise TooLarge("the answer to a request is a chain of certificates, and short")
        content = request.get_json(silent=True)
        chain = content.get("certificates") if isinstance(content, dict) else None
        if not isinstance(chain, str):
            raise HttpFault('send {"certificates": "-----BEGIN CERTIFICATE-----…"} as JSON')
        store.finish(who, number, chain)
        return _answer(_delegated(store, who))

    @routes.delete("")
    @for_owner
    def drop(who: str) -> Response:
        store.drop(who)
        return _answer({})

    return routes


def _answering(owner: Callable[[], str]) -> Callable[[View], View]:
    """Return what makes a view answer those only who are known, and errors of ours as JSON."""

    def for_owner(view: View) -> View:
        @wraps(view)
        def answer(**values: str) -> Response:
            who = owner()
            try:
                if not who:
                    raise Unauthorized(_WHO, {"WWW-Authenticate": "Bearer"})
                return view(who, **values)
            except CredentialFault as error:
                return _error(Unprocessable(str(error)))
            except MlaasError as error:
                return _error(error)

        return answer

    return for_owner


def _delegated(store: Requests, who: str) -> dict[str, Any]:
    path = store.proxy_of(who)
    if path is None:
        return {"identity": None, "ends": None}
    found = certificates.load(path)
    return {"identity": found.identity, "ends": found.ends}


def _answer(content: dict[str, Any], status: int = 200) -> Response:
    response = jsonify(content)
    response.status_code = status
    response.headers["Cache-Control"] = "no-store"
    return response


def _error(error: MlaasError) -> Response:
    # It names the service, so that a client knows to whom it would send its token.
    told = reply_of(error, g.get("request_id", ""))
    response = _answer(told.model_dump(), told.status)
    response.headers.extend(error.headers if isinstance(error, HttpFault) else {})
    return response
