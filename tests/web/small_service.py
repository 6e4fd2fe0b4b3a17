"""A service whose application is a few views that show what granian and the gateway do with a request.

``python small_service.py '{"service": {"port": 0}}' HOME``
"""

from __future__ import annotations

import json
import sys
import time
from types import ModuleType

from flask import Flask, Response, request, send_file, stream_with_context

from mlaas_condor.server.configuration import Configuration
from mlaas_condor.server.serving import processes as serving
from mlaas_condor.server.serving.exchange import ended, step_aside
from mlaas_condor.settings import load


def views(_configuration, settings):
    """Return the application."""
    if (settings.home / "cannot").exists():
        raise RuntimeError("it cannot start")
    app = Flask("small")

    @app.get("/environ")
    def environ():
        return {key: value for key, value in request.environ.items() if isinstance(value, str)}

    @app.route("/echo", methods=["POST", "PUT"])
    def echo():
        total, last = 0, b""
        try:
            while piece := request.environ["wsgi.input"].read(100_000):
                total, last = total + len(piece), piece[-3:]
        except Exception as error:
            (settings.home / request.args.get("note", "note")).write_text(type(error).__name__)
            raise
        return {"bytes": total, "last": last.decode()}

    @app.post("/lines")
    def lines():
        source = request.environ["wsgi.input"]
        return {"first": source.readline().decode(), "rest": [each.decode() for each in source.readlines()]}

    @app.post("/form")
    def form():
        return {**request.form, **{name: len(file.read()) for name, file in request.files.items()}}

    @app.post("/unread")
    def unread():
        return "too large\n", 413

    @app.get("/file")
    def file():
        return send_file(settings.home / "file", conditional=True)

    @app.get("/stream")
    def stream():
        over = ended(request.environ)
        aside = step_aside(request.environ)
        note = settings.home / request.args["note"]

        def events():
            try:
                yield f"data: {request.path} {aside}\n\n"
                note.with_suffix(".ended").write_text(str(over.wait(60)))
            finally:
                note.with_suffix(".closed").touch()

        return Response(stream_with_context(events()), mimetype="text/event-stream")

    @app.get("/endless")
    def endless():
        step_aside(request.environ)

        def blocks():
            try:
                while True:
                    yield b"x" * 2**18
            finally:
                (settings.home / "endless.closed").touch()

        return Response(blocks())

    @app.get("/broken")
    def broken():
        def blocks():
            if request.args["when"] == "later":
                yield b"x"
            raise RuntimeError("a view that fails")

        return Response(stream_with_context(blocks()), headers={"Content-Length": "10"})

    @app.get("/sleep")
    def sleep():
        (settings.home / "asleep").touch()
        time.sleep(float(request.args["seconds"]))
        return "awake\n"

    @app.get("/odd")
    def odd():
        return Response("x", headers={"X-Odd": "µ"})

    return app


def say(line):
    """Tell where it listens."""
    print(line, file=sys.stderr, flush=True)


def main():
    """Serve them."""
    stand_in = ModuleType("mlaas_condor.server.serving.wsgi")
    stand_in.application = views
    sys.modules[stand_in.__name__] = stand_in
    configuration = Configuration.model_validate(json.loads(sys.argv[1]))
    serving.serve(configuration, load(home=sys.argv[2]), None, say)


if __name__ == "__main__":
    main()
