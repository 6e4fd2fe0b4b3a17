"""``/api/v1/me``: who you are here, and what you may have."""

from __future__ import annotations

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from .. import browsers
from ..service import service, who
from . import models
from .descriptions import answers
from .replies import reply

api = APIBlueprint(
    "api_me",
    __name__,
    url_prefix="/api/v1",
    abp_tags=[Tag(name="service", description="You, and the service itself")],
    operation_id_callback=lambda *, name, path, method: name,
)


@api.get("/me", responses=answers({200: models.Me}))
def show_me() -> Response:
    """Show who you are to this service, what you may have, and what you have of it."""
    identity = who()
    told = models.Me(
        owner=identity.owner,
        name=identity.name,
        groups=list(identity.groups),
        actions=None if identity.actions is None else sorted(identity.actions),
        administrator=identity.administrator,
        limits=service().configuration.limits.model_dump(mode="json"),
        usage=service().limits.usage(identity.owner),
        csrf=browsers.csrf_token(identity),
    )
    return reply(told)
