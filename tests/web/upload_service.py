"""A service that only takes uploads, for whoever the header ``Owner`` names.

``python upload_service.py '{"service": {"port": 0}}' HOME``
"""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

from flask import Flask, request

from mlaas_condor.errors import MlaasError
from mlaas_condor.server.configuration import Configuration
from mlaas_condor.server.faults import reply_of
from mlaas_condor.server.service import EXTENSION
from mlaas_condor.server.serving import processes as serving
from mlaas_condor.server.storage import uploads
from mlaas_condor.server.storage.folders import Folders
from mlaas_condor.settings import load


def views(configuration, settings):
    """Return the application."""
    app = Flask("uploads")
    app.request_class = uploads.StreamingRequest
    folders = Folders(settings, configuration.limits)
    app.extensions[EXTENSION] = SimpleNamespace(folders=folders)

    @app.route("/folders/<name>", methods=["PUT", "POST"])
    def put(name):
        owner, fields = request.headers.get("Owner", "jane"), {}
        with uploads.receive(owner, fields) as archive:
            found = folders.put(owner, name, archive)
        return {"version": found.version, "files": found.files, "fields": fields}

    @app.post("/other")
    def other():
        return {"json": request.get_json(silent=True), "form": request.form, "files": len(request.files)}

    @app.errorhandler(MlaasError)
    def refused(error):
        reply = reply_of(error)
        return reply.model_dump(), reply.status, getattr(error, "headers", {})

    return app


def main():
    """Serve them."""
    stand_in = ModuleType("mlaas_condor.server.serving.wsgi")
    stand_in.application = views
    sys.modules[stand_in.__name__] = stand_in
    configuration = Configuration.model_validate(json.loads(sys.argv[1]))
    serving.serve(
        configuration, load(home=sys.argv[2]), None, lambda line: print(line, file=sys.stderr, flush=True)
    )


if __name__ == "__main__":
    main()
