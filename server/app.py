"""The Flask application: what happens to every request, and which views there are."""

from __future__ import annotations

import logging
from importlib.metadata import version

from flask import Flask, Response, g, jsonify, redirect, request, url_for
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from mlaas_condor.errors import MlaasError, RequestError
from mlaas_condor.settings import Settings

from . import browsers, delegation, legacy, pages, permissions
from .api import documents, files, folders, me, runs
from .api.replies import Json, problems_of
from .configuration import Configuration
from .faults import ErrorReply, HttpFault, Unauthorized, reply_of
from .service import EXTENSION, Service, service, who
from .serving import observing
from .storage.uploads import StreamingRequest
from .watching import viewing

_DESCRIPTION = "From ROOT files and one small JSON file to a trained model, on an HTCondor pool."
_log = logging.getLogger(__name__)


def create_app(configuration: Configuration, settings: Settings | None = None) -> Flask:
    """Return the application.

    Parameters
    ----------
    configuration
        What ``service.toml`` says.
    settings
        Where runs and pool are; as `settings.load` finds them otherwise.
    """
    built = Service.of(configuration, settings)
    app = OpenAPI(
        "mlaas_condor.server",
        info=Info(title="mlaas-condor", version=version("mlaas-condor"), description=_DESCRIPTION),
        doc_ui=False,
        static_folder=None,
        validation_error_callback=_invalid,
        validation_error_status=RequestError.http_status,
        validation_error_model=ErrorReply,
    )
    app.json = Json(app)
    app.request_class = StreamingRequest
    app.extensions[EXTENSION] = built
    app.secret_key = built.secret
    observing.add_to(app)
    app.before_request(_begin)
    app.after_request(browsers.protect)
    app.after_request(_audit_delegation)
    app.register_error_handler(MlaasError, _refused)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unforeseen)
    for calls in (me.api, folders.api, runs.api, files.api, legacy.routes):
        app.register_api(calls)
    app.register_blueprint(documents.routes)
    app.register_blueprint(delegation.blueprint(built.delegation, _delegating))
    app.register_blueprint(built.login.blueprint())
    app.register_blueprint(pages.routes)
    return app


def _begin() -> AnyResponse | None:
    """Find out who it is, and whether they may come now: before any view."""
    if request.endpoint in observing.OPEN:
        return None
    browsers.check_host(service().configuration)
    g.identity = None
    found = service().login.identify(request)
    if found is not None:
        g.identity = found
        browsers.check_origin(found)
        service().limits.count_request(found)
        return None
    if request.endpoint in service().login.open_endpoints or request.endpoint == "pages.static":
        return None
    if browsers.wants_page():
        return redirect(url_for("login.show", next=request.full_path.rstrip("?")))
    raise Unauthorized("say who you are: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})


def _delegating() -> str:
    """Return who delegates a proxy, or looks at theirs: the first is for a run that they will submit."""
    permissions.check_action(who(), "read" if request.method in ("GET", "HEAD") else "create")
    return who().owner


def _audit_delegation(response: Response) -> Response:
    """Write into the audit log who gave the service a proxy, or took it back."""
    what = {"POST": "begin delegation", "PUT": "delegate", "DELETE": "forget"}.get(request.method)
    if request.blueprint == "delegation" and what and g.get("identity"):
        service().audit.write(who(), what, "proxy", g.request_id, status=response.status_code)
    return response


def _error(reply: ErrorReply, headers: dict[str, str] | None = None) -> AnyResponse:
    """Return an error as JSON, or as a page where a browser asks for pages."""
    if browsers.wants_page():
        response: Response = pages.error(reply)
    else:
        response = jsonify(reply.model_dump())
    response.status_code = reply.status
    response.headers.extend(headers or {})
    return response


def _refused(error: MlaasError) -> AnyResponse:
    reply = _without_places(reply_of(error, g.request_id))
    if reply.status >= 500:
        _log.warning("%s", error, extra={"request_id": g.request_id})
    headers = dict(error.headers) if isinstance(error, HttpFault) else {}
    if reply.status == 503:
        headers.setdefault("Retry-After", "10")
    return _error(reply, headers)


def _without_places(reply: ErrorReply) -> ErrorReply:
    """Take the folders of the service out of what is said."""
    said = viewing.without_places
    problems = [
        each.model_copy(update={"where": said(each.where), "what": said(each.what), "hint": said(each.hint)})
        for each in reply.problems
    ]
    return reply.model_copy(update={"error": said(reply.error), "problems": problems})


def _http_error(error: HTTPException) -> AnyResponse:
    status = error.code or 500
    if error.response is not None or status < 400:
        return error.get_response()
    headers = (
        {"Allow": ", ".join(sorted(getattr(error, "valid_methods", None) or ()))} if status == 405 else {}
    )
    code = error.name.lower().replace(" ", "_")
    said = error.description or error.name
    return _error(ErrorReply(error=said, code=code, status=status, request_id=g.request_id), headers)


def _unforeseen(error: Exception) -> AnyResponse:
    # What happened is for the log: a reply must not tell a stranger how the service looks inside.
    _log.error("unforeseen", exc_info=error, extra={"request_id": g.request_id})
    said = f"something went wrong here; the service's log knows it as {g.request_id}"
    return _error(ErrorReply(error=said, code="internal", status=500, request_id=g.request_id))


def _invalid(error: ValidationError) -> AnyResponse:
    return _refused(problems_of(error))
