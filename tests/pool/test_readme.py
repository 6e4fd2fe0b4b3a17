"""Every command of the README, in its order, as a newcomer types them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from example_tools import copy_example
from pool_tools import CACHE, settings_of

from mlaas_condor.batch import pool

pytestmark = pytest.mark.pool

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_readme_do_what_it_says(tmp_path):
    home = tmp_path / "home"
    folder = copy_example(tmp_path)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "CONDOR_CONFIG"},
        "MLAAS_CONDOR_HOME": str(home),
        "MLAAS_CONDOR_CACHE": str(CACHE),
        "MLAAS_CONDOR_POOL": "personal",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }

    def run(*command):
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    said = {}
    try:
        for line in "".join(blocks("sh")).splitlines():
            said[line] = run("sh", "-c", line)
        shown = run(sys.executable, "-W", "error", "-c", "\n".join(blocks("python")))
    finally:
        pool.down(settings_of(home), force=True)
    assert "test AUC 0." in said["mlaas-condor watch tth_1"]
    assert "completed" in said["mlaas-condor status tth_1"]
    assert "epoch 3/3" in said["mlaas-condor logs tth_1 --stage train"]
    assert (folder / "tth_1.tar.gz").stat().st_size > 100_000
    assert re.search(r"tth_1 +completed", said["mlaas-condor list"])
    assert "running tth_2 here" in said["mlaas-condor run job.json --local"]
    assert re.search(r"0\.9\d+ .*/tth_3\.tar\.gz", shown)
    assert "epoch 3/3" in shown
