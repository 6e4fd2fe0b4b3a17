"""A real personal pool for the whole session."""

from __future__ import annotations

import pytest
from example_tools import copy_example
from pool_tools import personal_pool, settings_of, turn_to


@pytest.fixture(scope="session")
def pool_home():
    """A home of its own, with a pool of 4 CPUs and two pretended V100 cards of 24 GB."""
    with personal_pool(cpus=4, simulate_gpus="2,2") as home:
        yield home


@pytest.fixture
def settings(pool_home):
    """Settings of the session's pool, which this process is turned to."""
    return turn_to(settings_of(pool_home))


@pytest.fixture
def request_folder(tmp_path):
    """A copy of the example that a test may change."""
    return copy_example(tmp_path)
