"""The OpenAPI document, made from the views and their models, and a page to browse it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, Literal, cast

from flask import Blueprint, Response, current_app, render_template
from flask_openapi3.openapi import OpenAPI
from markupsafe import Markup, escape
from pydantic import BaseModel

from mlaas_condor.request import Job
from mlaas_condor.state import StageState

from ..faults import ErrorReply
from ..service import service
from . import models
from .descriptions import ADDED, COMPONENTS
from .elsewhere import OPERATIONS
from .replies import reply

_NUMPY = re.compile(r"\n\nParameters\n-+\n(?P<fields>.*)\Z", re.DOTALL)
# Those that views name, and those of which the library would keep only what it knows of schemas.
_REQUESTS: tuple[type[BaseModel], ...] = (Job, models.SharingBody)
_REPLIES: tuple[type[BaseModel], ...] = (ErrorReply, models.FolderSummary, models.RunDetail, models.Submitted)
_CODE = re.compile(r"`+([^`]+)`+")
_EXTENSION = "mlaas_condor.openapi"

routes = Blueprint("documents", __name__, template_folder="templates")


def specification() -> dict[str, Any]:
    """Return the document of this service."""
    if _EXTENSION not in current_app.extensions:
        current_app.extensions[_EXTENSION] = _made(cast(OpenAPI, current_app))
    return cast(dict[str, Any], current_app.extensions[_EXTENSION])


def _made(app: OpenAPI) -> dict[str, Any]:
    made = deepcopy(app.api_doc)
    for path, operations in OPERATIONS.items():
        made["paths"].setdefault(path, {}).update(deepcopy(operations))
    schemas = made["components"]["schemas"]
    # The library keeps of a schema what it knows; these are whole.
    for model in _REQUESTS:
        schemas |= _schema_of(model, "validation")
    for model in _REPLIES:
        schemas |= _schema_of(model, "serialization")
    made["components"]["securitySchemes"] = _schemes()
    for operation in operations_of(made):
        _complete(operation)
    _describe(schemas["Stage"], inspect.getdoc(StageState) or "")
    for schema in schemas.values():
        found = schema.get("description", "")
        schema["description"] = _NUMPY.sub("", found)
        _describe(schema, found)
    used = _used(made["paths"], schemas)
    made["components"]["schemas"] = {name: schemas[name] for name in sorted(used)}
    made["tags"].append({"name": "delegation", "description": "A proxy that the service may use for you"})
    made["paths"] = dict(sorted(made["paths"].items()))
    return made


def _schema_of(model: type[BaseModel], mode: Literal["validation", "serialization"]) -> dict[str, Any]:
    """Return the schema of a model and of those in it, by name."""
    schema = model.model_json_schema(ref_template=COMPONENTS + "{model}", mode=mode)
    return cast(dict[str, Any], schema.pop("$defs", {}) | {model.__name__: schema})


def _schemes() -> dict[str, Any]:
    login = service().configuration.login
    schemes: dict[str, Any] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "a token of the issuer; with compute.* scopes it allows just those",
        }
    }
    if login.tokens:
        address = f"{login.tokens.issuer.rstrip('/')}/.well-known/openid-configuration"
        schemes["issuer"] = {"type": "openIdConnect", "openIdConnectUrl": address}
    return schemes


def operations_of(made: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the operations of a document."""
    for operations in made["paths"].values():
        yield from (each for each in operations.values() if isinstance(each, dict) and "responses" in each)


def _complete(operation: dict[str, Any]) -> None:
    """Say what is the same for all calls, and say it as simply as it is."""
    if operation.get("description"):
        operation["description"] = operation["description"].replace("<br/>", "\n").strip()
    added = operation.pop(ADDED, [])
    if added:
        operation["parameters"] = [*operation.get("parameters", []), *added]
    for parameter in operation.get("parameters", []):
        parameter["schema"] = _without_null(parameter["schema"])
    if "security" not in operation:
        known: list[dict[str, list[str]]] = [{"bearer": []}]
        if service().configuration.login.tokens:
            known.append({"issuer": []})
        if service().configuration.login.method != "tokens":
            known.append({})
        operation["security"] = known


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is there or not; it is never null."""
    kinds = [each for each in schema.get("anyOf", []) if each.get("type") != "null"]
    if "anyOf" not in schema or len(kinds) != 1:
        return schema
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    return {**kinds[0], **rest}


def _describe(schema: dict[str, Any], docstring: str) -> None:
    """Take the descriptions of fields from the docstring of a dataclass."""
    found = _NUMPY.search(docstring)
    names: list[str] = []
    for line in found["fields"].splitlines() if found else ():
        if line and not line.startswith(" "):
            names = [name.strip() for name in line.split(",")]
            continue
        for name in names:
            if (field := schema.get("properties", {}).get(name)) is not None:
                field["description"] = f"{field.get('description', '')} {line.strip()}".strip()


def _used(part: object, schemas: Mapping[str, Any]) -> set[str]:
    """Return the names of the schemas that a part of the document refers to, and those that these do."""
    found: set[str] = set()
    waiting = [part]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping):
            name = str(each.get("$ref", "")).removeprefix(COMPONENTS)
            if name in schemas and name not in found:
                found.add(name)
                waiting.append(schemas[name])
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)
    return found


@routes.get("/openapi.json")
def document() -> Response:
    """Return the document."""
    return reply(specification())


@routes.get("/api")
def browse() -> str:
    """Show the calls that there are."""
    made = specification()
    schemas = made["components"]["schemas"]
    return render_template("api.html", groups=_groups(made), schemas=schemas, made=made, words=_words)


def _words(text: str | None) -> Markup:
    """Return a text for the page, what stands in backticks as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text or ""))))


def _groups(made: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the calls as the page shows them, by their tags."""
    groups: dict[str, list[dict[str, Any]]] = {each["name"]: [] for each in made["tags"]}
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            shown = {"method": method.upper(), "path": path, **operation}
            groups.setdefault(operation["tags"][0], []).append(shown)
    return groups
