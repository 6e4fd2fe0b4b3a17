"""Services to talk to: for one user, and for several with tokens of a real issuer."""

from __future__ import annotations

import issuers
import pytest
from flask.testing import FlaskClient
from pool_tools import keep_environment

from mlaas_condor import settings as settings_module
from mlaas_condor.server.app import create_app
from mlaas_condor.server.configuration import Configuration


class Client(FlaskClient):
    """Somebody who says who they are with each request."""

    token = ""

    def open(self, *arguments, headers=None, **named):
        sent = dict(headers or {})
        if self.token:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        # Read at once, and closed as a server does it; what follows something says otherwise.
        return super().open(*arguments, headers=sent, **{"buffered": True, **named})


@pytest.fixture
def make_app(tmp_path):
    """Make an application: ``make_app(login={…})``; what differs from a service for one user."""
    made = []
    give_back = keep_environment()

    def make(**configuration):
        home = tmp_path / "home"
        limits = {"requests_per_second": 100_000, **configuration.pop("limits", {})}
        settings = settings_module.load(home=str(home), pool="personal")
        app = create_app(Configuration.model_validate({**configuration, "limits": limits}), settings)
        app.test_client_class = Client
        made.append(app)
        return app

    yield make
    for app in made:
        if found := app.extensions.get("mlaas_condor.viewing"):
            found.states.close()
    give_back()


@pytest.fixture
def app(make_app):
    """A service for one user."""
    return make_app()


@pytest.fixture
def client(app):
    """The one user."""
    return app.test_client()


@pytest.fixture(scope="session")
def issuer():
    """A real issuer of tokens."""
    with issuers.running() as running:
        yield running


@pytest.fixture
def shared_app(make_app, issuer):
    """A service for several users, who show tokens."""
    tokens = {"issuer": issuer.url, "audience": [issuers.AUDIENCE]}
    login = {"method": "tokens", "tokens": tokens, "administrator_groups": ["/cms/operators"]}
    return make_app(login=login)


@pytest.fixture
def user(shared_app, issuer):
    """Return a client of somebody: ``user("jane", groups=["/cms/higgs"], scope="compute.read")``."""

    def log_in(name, **claims):
        client = shared_app.test_client()
        client.token = issuer.token(name, **claims)
        return client

    return log_in
