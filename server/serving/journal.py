"""The service's log: one JSON object a line, and never a token in it."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import Any

import orjson

_OF_EVERY_RECORD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_SECRET = re.compile(
    rb"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*"
    rb"|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:(?!-----END).)*"
)


class Lines(logging.Formatter):
    """Writes a record as JSON: time, level, what, and whatever was given with ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "logger": record.name,
            "process": record.process,
            **{key: value for key, value in record.__dict__.items() if key not in _OF_EVERY_RECORD},
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        # Whatever a library quotes in a message of its own.
        return _SECRET.sub(b"...", orjson.dumps(fields, default=str, option=orjson.OPT_NON_STR_KEYS)).decode()


def configuration(path: str) -> dict[str, Any]:
    """Return what `logging.config.dictConfig` takes.

    Parameters
    ----------
    path
        File of the log, which may be moved away at any time; standard error if empty.
    """
    target = {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}
    if path:
        target = {"class": "logging.handlers.WatchedFileHandler", "filename": path, "encoding": "utf-8"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": Lines}},
        "handlers": {"journal": {"formatter": "lines", **target}},
        "root": {"handlers": ["journal"], "level": "WARNING"},
        "loggers": {
            "mlaas_condor": {"level": "INFO"},
            # granian's own.
            "_granian": {"level": "INFO"},
            "granian.access": {"level": "WARNING"},
        },
    }
