"""Attributes that a running job sets in its own ClassAd, so that status and ``condor_q`` show them."""

from __future__ import annotations

import os
from collections.abc import Mapping


def publish(attributes: Mapping[str, float | int | str]) -> bool:
    """Set attributes of the job this process runs in; False outside a job or where HTCondor refuses.

    They arrive with the starter's next update. Progress is news, not the work: no failure here may end
    a training, hence the wide net.
    """
    if "_CONDOR_SCRATCH_DIR" not in os.environ:
        return False
    try:
        from htcondor2.htchirp import HTChirp

        with HTChirp() as chirp:
            for name, value in attributes.items():
                chirp.set_job_attr_delayed(name, f'"{value}"' if isinstance(value, str) else str(value))
    except Exception:
        return False
    return True
