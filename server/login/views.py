"""The pages of logging in and out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flask import Blueprint, g, make_response, redirect, render_template, request
from werkzeug.wrappers import Response

from mlaas_condor.errors import MlaasError

from ..faults import Forbidden, HttpFault, NotFound, Unauthorized
from .claims import identity_of
from .goals import safe_goal
from .refusals import refused
from .sessions import Attempt
from .tokens import ends

if TYPE_CHECKING:
    from . import Login

CALLBACK = "/login/callback"


def blueprint(login: Login) -> Blueprint:
    """Return the routes of a way to log in."""
    routes = Blueprint("login", __name__, template_folder="templates")
    views = _Views(login)
    routes.add_url_rule("/login", "show", views.show)
    routes.add_url_rule("/login/begin", "begin", views.begin)
    routes.add_url_rule(CALLBACK, "callback", views.callback)
    routes.add_url_rule("/login/paste", "paste", views.paste, methods=["POST"])
    routes.add_url_rule("/logout", "out", views.out, methods=["POST"])
    return routes


class _Views:
    def __init__(self, login: Login) -> None:
        self._login = login
        self._settings = login.configuration.login

    def show(self) -> Response:
        """Say how to log in; who is logged in goes on."""
        goal = safe_goal(request.args.get("next"))
        if self._settings.method != "tokens" and g.get("identity") is not None:
            return redirect(goal)
        return self._page(goal)

    def begin(self) -> Response:
        """Send the browser to the issuer."""
        if self._login.client is None:
            raise NotFound("there is no log-in at an issuer here: client_id in service.toml switches it on")
        attempt = Attempt.begin(safe_goal(request.args.get("next")))
        try:
            response = redirect(self._login.client.address(attempt, self._back()))
        except HttpFault as error:
            return self._page(attempt.goal, error)
        self._login.sessions.begin(request, response, attempt)
        return response

    def callback(self) -> Response:
        """Take back a browser that was at the issuer."""
        if self._login.client is None:
            raise NotFound("there is no log-in at an issuer here: client_id in service.toml switches it on")
        attempt = self._login.sessions.attempt(request)
        if attempt is None:
            return self._page(
                "/", refused("this log-in took too long, or began in another browser: begin anew", "")
            )
        try:
            claims = self._login.client.claims(attempt, request.args, self._back())
        except HttpFault as error:
            return self._page(attempt.goal, error)
        return self._enter(claims, attempt.goal)

    def paste(self) -> Response:
        """Log a browser in with a token that its user has."""
        if self._login.verifier is None:
            raise NotFound("there is nothing to log in to with a token here")
        goal = safe_goal(request.form.get("next"))
        if not self._login.sessions.is_own_form(request, request.form.get("csrf", "")):
            raise Forbidden(
                "this form is not ours, or an hour old: load the page /login anew, and paste again"
            )
        token = "".join(request.form.get("token", "").split())
        try:
            claims = self._login.verifier.verify(token.removeprefix("Bearer"))
        except HttpFault as error:
            return self._page(goal, error)
        return self._enter(claims, goal)

    def out(self) -> Response:
        """Have the browser forget who it is."""
        response = redirect(self._login.sign_out or "/login", 303)
        self._login.sessions.end(request, response)
        return response

    def _enter(self, claims: Mapping[str, Any], goal: str) -> Response:
        tokens = self._settings.tokens
        assert tokens is not None
        until = min(ends(claims), time.time() + tokens.session_seconds)
        if until <= time.time():
            return self._page(goal, refused("the token ended just now: get a new one"))
        response = redirect(goal, 303)
        self._login.sessions.arrive(request, response)
        self._login.sessions.start(request, response, identity_of(claims, tokens), until)
        return response

    def _page(self, goal: str, problem: MlaasError | None = None) -> Response:
        """Return the page that says how to log in, and what went wrong."""
        tokens, proxy = self._settings.tokens, self._settings.proxy
        response = make_response()
        told = {
            "method": self._settings.method,
            "next": goal,
            "problem": str(problem) if problem else "",
            "can_begin": self._login.client is not None,
            "issuer": tokens.issuer if tokens else "",
            "audience": tokens.audience[0] if tokens else "",
            "proxy": proxy.kind if proxy else "",
            "form_token": self._login.sessions.form_token(request, response) if tokens else "",
        }
        response.data = render_template("login.html", **told)
        response.status_code = problem.http_status if problem else 200
        if isinstance(problem, Unauthorized):
            response.headers.extend(problem.headers)
        return response

    def _back(self) -> str:
        """Return our address as the issuer knows it."""
        own = self._login.configuration.service.url
        return f"{(own or request.host_url).rstrip('/')}{CALLBACK}"
