"""Calls that are answered elsewhere, as the OpenAPI document has them."""

from __future__ import annotations

from typing import Any

from mlaas_condor.grid.delegating import PATH

from .descriptions import answers, body, content

_DELEGATION = ["delegation"]
_SERVICE = ["service"]
_KNOWN = {
    "type": "object",
    "required": ["identity", "ends"],
    "properties": {
        "service": {"type": "string", "description": "whose service this is"},
        "identity": {
            "type": ["string", "null"],
            "description": "of the proxy that the service has; null for none",
        },
        "ends": {"type": ["number", "null"], "description": "when it ends, in seconds since 1970"},
    },
}
_REQUEST = {
    "type": "object",
    "required": ["id", "request"],
    "properties": {
        "id": {"type": "string", "description": "number of the request"},
        "request": {"type": "string", "description": "a request for a certificate, PEM"},
    },
}
_CHAIN = {
    "type": "object",
    "required": ["certificates"],
    "properties": {
        "certificates": {"type": "string", "description": "a chain of certificates, PEM; never a key"}
    },
}
_NUMBER = {
    "name": "number",
    "in": "path",
    "required": True,
    "description": "number of the request",
    "schema": {"type": "string"},
}


def _json(schema: dict[str, Any], said: str) -> dict[str, Any]:
    return {"description": said, "content": {"application/json": {"schema": schema}}}


def _open(summary: str, name: str, responses: dict[str, Any]) -> dict[str, Any]:
    """Return what is said of a call that needs no token."""
    return {
        "tags": _SERVICE,
        "summary": summary,
        "operationId": name,
        "security": [{}],
        "responses": responses,
    }


_READY = {
    "type": "object",
    "required": ["status", "home", "pool"],
    "properties": {
        "status": {"enum": ["ready", "degraded", "not ready"], "description": "degraded: the pool is away"},
        "home": {"type": "string", "description": "whether its folder can be written"},
        "pool": {"type": "string", "description": "whether HTCondor answers"},
    },
}
_LIVES = {"type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}}}

OPERATIONS: dict[str, dict[str, Any]] = {
    PATH: {
        "get": {
            "tags": _DELEGATION,
            "summary": "Show which proxy of yours the service has.",
            "operationId": "show_delegated",
            "responses": answers({200: _json(_KNOWN, "Whose it is, and when it ends")}),
        },
        "delete": {
            "tags": _DELEGATION,
            "summary": "Have the service forget your proxy.",
            "operationId": "drop_delegated",
            "responses": answers({200: _json({"type": "object"}, "It is forgotten")}, 507),
        },
    },
    f"{PATH}/request": {
        "post": {
            "tags": _DELEGATION,
            "summary": "Begin: the service makes a key, and a request for a certificate.",
            "operationId": "begin_delegation",
            "responses": answers({201: _json(_REQUEST, "The request")}, 507),
        }
    },
    f"{PATH}/{{number}}": {
        "put": {
            "tags": _DELEGATION,
            "summary": "Answer a request with a chain of certificates that your proxy signed.",
            "operationId": "finish_delegation",
            "parameters": [_NUMBER],
            **body("the chain", application__json=_CHAIN),
            "responses": answers({200: _json(_KNOWN, "The service has it")}, 404, 409, 413, 422, 507),
        }
    },
    "/healthz": {
        "get": _open("Tell whether the process lives.", "healthz", {"200": _json(_LIVES, "It does")})
    },
    "/readyz": {
        "get": _open(
            "Tell whether the service can do what it is there for.",
            "readyz",
            {"200": _json(_READY, "It can, perhaps without the pool"), "503": _json(_READY, "It cannot")},
        )
    },
    "/metrics": {
        "get": {
            "tags": _SERVICE,
            "summary": "Show what is counted, for Prometheus: to administrators, and whom the service names.",
            "operationId": "metrics",
            "responses": answers({200: content("text/plain", "The numbers")}),
        }
    },
}
