"""The program ``mlaas-condor``: Ctrl-C while it still imports what it needs is no traceback either."""

from __future__ import annotations

import os
import sys

INTERRUPTED = 130


def run() -> None:
    """Run the command line."""
    try:
        from .main import run as command_line

        command_line()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # at once: threads may still look into files
