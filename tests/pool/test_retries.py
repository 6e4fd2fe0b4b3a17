"""What counts as a failed attempt of a job: not an end that only put it on hold for its credential."""

from __future__ import annotations

import time

import pytest

from mlaas_condor import templates

pytestmark = pytest.mark.pool

# Ends with the codes that a file lists, one an attempt, and counts them.
SCRIPT = """\
number=$(wc -l < {folder}/attempts)
echo >> {folder}/attempts
exit $(sed -n "$((number + 1))p" {folder}/codes)
"""


@pytest.mark.parametrize(
    ("codes", "ended", "attempts"),
    [
        ([29, 29, 29, 29, 27, 27, 0], 0, 7),  # holds leave all attempts to storage that is away
        ([27, 27, 27, 0], 27, 3),
        ([28, 0], 28, 1),
    ],
)
def test_ends_that_only_hold_a_job_are_no_failures(settings, tmp_path, codes, ended, attempts):
    import htcondor2

    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    (tmp_path / "attempts").write_text("")
    (tmp_path / "job.sh").write_text(SCRIPT.format(folder=tmp_path))
    lines = templates.render("credentials.sub", identity="").splitlines()
    policy = dict(line.split(" = ", 1) for line in lines if " = " in line and not line.startswith("#"))
    policy = {key.strip(): value for key, value in policy.items()}
    policy["periodic_release"] = policy["periodic_release"].replace("1800", "0")
    description = {
        "executable": "/bin/sh", "transfer_executable": "False", "arguments": str(tmp_path / "job.sh"),
        "should_transfer_files": "YES", "initialdir": str(tmp_path), "log": "log", **policy,
    }  # fmt: skip
    schedd = htcondor2.Schedd()
    cluster = schedd.submit(htcondor2.Submit(description)).cluster()
    deadline = time.monotonic() + 150
    while schedd.query(constraint=f"ClusterId == {cluster}"):
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.5)
    assert f"return value {ended}" in (tmp_path / "log").read_text()
    assert len((tmp_path / "attempts").read_text().splitlines()) == attempts
