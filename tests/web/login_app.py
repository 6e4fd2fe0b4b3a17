"""A service that has nothing but its log-in, and says who one is."""

from __future__ import annotations

from flask import Flask, g, jsonify, request
from jinja2 import DictLoader

from mlaas_condor.errors import MlaasError
from mlaas_condor.server.configuration import Configuration
from mlaas_condor.server.faults import HttpFault, Unauthorized
from mlaas_condor.server.login import Login

SECRET = b"a key of the tests, 32 bytes long"
_BASE = "<title>{% block title %}{% endblock %}</title><main>{% block content %}{% endblock %}</main>"
_MACROS = (
    "{% macro copyable(text, id) %}<pre>{{ text }}</pre>{% endmacro %}{% macro icon(name) %}{% endmacro %}"
)


def configured(**login):
    """Return a configuration whose ``[login]`` is this; ``service``, ``tls`` and ``jobs`` are beside it."""
    beside = {name: login.pop(name) for name in ("service", "tls", "jobs") if name in login}
    return Configuration.model_validate({"login": login, **beside})


def taking_tokens(issuer, service=None, login=None, **tokens):
    """Return a configuration that takes the tokens of an issuer."""
    section = {"issuer": issuer.url, "audience": ["mlaas-condor"], **tokens}
    more = {"service": service} if service else {}
    return configured(method="tokens", tokens=section, **(login or {}), **more)


def application(configuration):
    """Return the WSGI application."""
    login = Login.of(configuration, SECRET)
    app = Flask("login_app")
    app.jinja_loader = DictLoader({"base.html": _BASE, "macros.html": _MACROS})
    app.register_blueprint(login.blueprint())
    app.testing = True

    @app.before_request
    def find_out():
        g.identity = login.identify(request)
        if g.identity is None and request.endpoint not in login.open_endpoints:
            raise Unauthorized("say who you are")

    @app.errorhandler(MlaasError)
    def refuse(error):
        headers = error.headers if isinstance(error, HttpFault) else {}
        return jsonify(error=str(error)), error.http_status, headers

    @app.get("/")
    def me():
        who = g.identity
        return jsonify(
            owner=who.owner,
            name=who.name,
            groups=list(who.groups),
            actions=None if who.actions is None else sorted(who.actions),
            administrator=who.administrator,
            method=who.method,
            token=who.token,
        )

    return app
