"""The page that tells how to do all of it without these pages."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote

from flask import Response, request

from ..service import service
from .blueprint import page, routes
from .runs import API


@dataclass(frozen=True)
class Step:
    """Something to do, and the line that does it."""

    id: str
    title: str
    words: str
    command: str


@routes.get("/help")
def help() -> Response:
    """Tell how to get a token, and how to do everything with curl."""
    configuration = service().configuration
    url = configuration.service.url.rstrip("/") or request.host_url.rstrip("/")
    method = configuration.login.method
    tokens = configuration.login.tokens
    authorization = "" if method == "none" else ' -H "Authorization: Bearer $TOKEN"'
    return page(
        "help.html",
        url=url,
        method=method,
        issuer=tokens.issuer if tokens else "",
        once=f"eval $(oidc-agent)\noidc-gen -w device --iss {quote(tokens.issuer)} mlaas" if tokens else "",
        token=f"TOKEN=$(oidc-token --aud {quote(tokens.audience[0])} mlaas)"
        if tokens
        else "TOKEN=$(cat token)",
        audience=tokens.audience[0] if tokens else "",
        scopes=tokens.scopes if tokens else "",
        steps=_steps(url, authorization),
        cli=_cli(url, method != "none"),
    )


def _oidc_token(audience: str) -> str:
    return f"oidc-token --aud {quote(audience)} mlaas"


def _steps(url: str, authorization: str) -> list[Step]:
    curl = f"curl -sS{authorization}"
    runs = f"{url}{API}/runs"
    return [
        Step(
            "upload",
            "Upload a folder",
            "The folder with your job.json and what it names; tar with gz, bz2, xz or zstd, or zip. The same "
            "name again is a new version, and runs keep the one that they began with.",
            f"tar -C luca -czf luca.tar.gz .\n{curl} -T luca.tar.gz {url}{API}/folders/luca",
        ),
        Step(
            "plan",
            "See what would be done",
            "Every problem at once, or how many jobs there would be and what each may use. Nothing "
            "is queued.",
            f"{curl} --json @luca/job.json '{url}{API}/plans?folder=luca'",
        ),
        Step(
            "submit",
            "Submit a run",
            "The reply has its name, luca_1 say. With an Idempotency-Key the same line twice submits once.",
            f"{curl} -H \"Idempotency-Key: $(uuidgen)\" --json @luca/job.json '{runs}?folder=luca'",
        ),
        Step(
            "status",
            "See how it does",
            "Each stage, what it waits for, why it is held.",
            f"{curl} {runs}/luca_1",
        ),
        Step(
            "logs",
            "Follow the log of the training",
            "As it is written; without follow, what there is so far.",
            f"{curl} -N '{runs}/luca_1/logs?stage=train&task=0&stream=both&follow=true'",
        ),
        Step(
            "model",
            "Fetch the model",
            "The bundle, once the run is completed. Where the connection breaks, the same line goes "
            "on from there.",
            f"{curl} -C - -o luca_1.tar.gz {runs}/luca_1/model",
        ),
        Step(
            "end",
            "Cancel, resume, delete",
            "Resume redoes only what is missing. What is deleted is gone.",
            f"{curl} -X POST {runs}/luca_1/cancel\n{curl} -X POST {runs}/luca_1/resume\n"
            f"{curl} -X DELETE {runs}/luca_1",
        ),
    ]


def _cli(url: str, needs_token: bool) -> str:
    lines = [
        f"export MLAAS_CONDOR_SERVER={url}",
        *(["export BEARER_TOKEN=$TOKEN"] if needs_token else []),
        "mlaas-condor submit luca/job.json",
        "mlaas-condor watch luca_1",
        "mlaas-condor model luca_1 -o luca_1.tar.gz",
    ]
    return "\n".join(lines)
