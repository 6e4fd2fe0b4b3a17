"""The pages: what people with a browser see, made on the server, of the same functions as the interface."""

from . import changing, folders, helping, runs, submitting
from .blueprint import error, routes

__all__ = ["changing", "error", "folders", "helping", "routes", "runs", "submitting"]
