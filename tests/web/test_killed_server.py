"""A service that is killed while it is used: what it accepted is there, and once.

The same with more of everything is ``benchmarks/service.py --kill 10``.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from pool_tools import keep_environment

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

pytestmark = pytest.mark.pool


def test_nothing_accepted_is_lost_or_doubled():
    from service_clients import LONGEST_SECONDS, running
    from service_killed import killed

    options = SimpleNamespace(clients=5, uploads=3, megabytes=3, submits=3, kill=3, keep=False)
    give_back = keep_environment()

    async def bounded(server, home):
        async with asyncio.timeout(LONGEST_SECONDS):
            return await killed(options, server, home)

    try:
        with running(options, with_peer=False) as (server, _, home):
            told = asyncio.run(bounded(server, home))
    finally:
        give_back()
    assert told.errors == []
    assert len(told.runs) == options.submits + 1
    assert len(told.versions) == options.uploads
