"""The OpenAPI document is right, complete, and kept: whatever is sent, replies are as it says."""

from __future__ import annotations

import contextlib
import getpass
import re
from pathlib import Path

import openapi_spec_validator
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies
from schemathesis import checks
from web_tools import record

from mlaas_condor.server.api import documents
from mlaas_condor.server.watching import following

NO_CALLS = ("pages.", "login.", "static")
NO_DESCRIPTION = {"documents.document", "documents.browse"}
UNAVAILABLE = {503, 507}


@pytest.fixture
def document(client):
    return client.get("/openapi.json").json


def test_it_is_openapi(document):
    assert document["openapi"].startswith("3.1")
    openapi_spec_validator.validate(document)


def test_every_call_is_in_it(app, document):
    described = {
        (path, method.upper()) for path, operations in document["paths"].items() for method in operations
    }
    there = {
        (re.sub(r"<(?:[^<>:]+:)?([^<>]+)>", r"{\1}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if not rule.endpoint.startswith(NO_CALLS) and rule.endpoint not in NO_DESCRIPTION
    }
    assert described == there


def test_every_call_is_described(document):
    for operation in documents.operations_of(document):
        assert operation["summary"].endswith("."), operation
        assert operation["tags"]
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), (operation["operationId"], parameter["name"])
        for status, answer in operation["responses"].items():
            assert answer["description"], operation["operationId"]
            if int(status) >= 400 and operation["operationId"] != "readyz":
                kinds = answer["content"]
                assert kinds == {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorReply"}}}
    numbers = [each["operationId"] for each in documents.operations_of(document)]
    assert len(numbers) == len(set(numbers))


def test_every_field_of_a_reply_is_described(document):
    for name, schema in document["components"]["schemas"].items():
        for key, field in schema.get("properties", {}).items():
            said = field.get("description") or "$ref" in str(field)
            assert said or name in ("FolderList", "RunList", "Events", "FileList"), (name, key)


def test_every_call_is_in_the_documentation(document):
    said = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    for path in document["paths"]:
        words = (
            path.replace("runs/{name}", "runs/luca_1").replace("{name}", "luca").replace("{number}", "NUMBER")
        )
        assert words in said, path


def test_headers_that_may_be_sent_are_described(document):
    found = {
        parameter["name"]
        for operation in documents.operations_of(document)
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "header"
    }
    assert found == {
        "Idempotency-Key", "If-Match", "If-None-Match", "If-Range", "Last-Event-ID", "Range",
    }  # fmt: skip


def test_only_gets_that_delete_are_deprecated(document):
    found = {
        (path, method)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if operation.get("deprecated")
    }
    assert found == {("/delete_specs", "get"), ("/delete_folder", "get")}


def test_who_one_is_is_described(shared_app, user):
    found = user("jane").get("/openapi.json").json
    schemes = found["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert schemes["issuer"]["openIdConnectUrl"].endswith("/.well-known/openid-configuration")
    needed = {str(each["security"]) for each in documents.operations_of(found) if each["tags"] != ["service"]}
    assert needed == {"[{'bearer': []}, {'issuer': []}]"}


def test_there_is_a_page_of_it(client, document):
    page = client.get("/api", headers={"Accept": "text/html"})
    assert page.mimetype == "text/html"
    for operation in documents.operations_of(document):
        assert f'id="{operation["operationId"]}"' in page.text
    assert "style=" not in page.text
    assert "<script" not in page.text.replace('<script src="/static/', "")


@pytest.fixture
def schema(app, monkeypatch):
    """The document, with a service behind it in which there is something to find."""
    monkeypatch.setattr(following, "TICK", 0.01)
    monkeypatch.setattr(following, "_LONGEST", 0.05)
    owner = getpass.getuser()
    for name in ("completed_1", "failed_1", "cancelled_1"):
        record(app, name, owner)

    def from_here(environ, start):
        found = app({**environ, "REMOTE_ADDR": "127.0.0.1"}, start)
        with contextlib.closing(found):
            return [b"".join(found)]

    return schemathesis.openapi.from_wsgi("/openapi.json", from_here)


CHECKS = ["status_code_conformance", "content_type_conformance", "response_schema_conformance"]
METHODS = ["get", "post", "put", "patch", "delete"]


def test_a_stranger_who_tries_everything(schema):
    operations = [result.ok() for result in schema.get_all_operations()]
    # What deletes comes last, or there would soon be nothing to find.
    for operation in sorted(operations, key=lambda each: METHODS.index(each.method.lower())):
        _try(operation)


def _try(operation):
    there = ["completed_1", "failed_1", "cancelled_1", None, None]

    @given(case=operation.as_strategy(), name=strategies.sampled_from(there))
    @settings(
        max_examples=10, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None
    )
    def attempt(case, name):
        if name and "name" in case.path_parameters:
            case.path_parameters["name"] = name
        if name and "process_name" in case.query:
            case.query["process_name"] = name
        response = case.call()
        assert response.status_code < 500 or response.status_code in UNAVAILABLE, response.text
        case.validate_response(response, checks=[checks.CHECKS.get_one(each) for each in CHECKS])

    attempt()
