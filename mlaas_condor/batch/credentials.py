"""The proxy of queued jobs: telling the queue that its file is a new one, and letting held jobs go on.

A running job gets a replaced file from its shadow. One that waits or is held keeps the end of the old proxy
in its ad, is matched or held by that, and must be told.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlaas_condor.batch.queue import constraint, pool_errors
from mlaas_condor.batch.reasons import OURS
from mlaas_condor.errors import PoolLost
from mlaas_condor.run import RunFolder

_ENDS = "x509UserProxyExpiration"
_ATTRIBUTES = [
    "ClusterId", "ProcId", "JobStatus", "HoldReasonCode", "HoldReasonSubCode", "EnteredCurrentStatus", "Iwd",
    "x509userproxy", _ENDS,
]  # fmt: skip
_HELD = 5
_CORRUPTED_CREDENTIAL = 4  # HTCondor's own
# A job held so soon after the file was replaced may have failed with the old one, which its shadow looks at
# every ten minutes by default.
_DELIVERY_SECONDS = 600


def refreshed(folder: RunFolder, proxy: Path, ends: float, again: bool = False) -> int:
    """Tell the queue when the new proxy of a run ends, and release the jobs held for the old one.

    A job that this very proxy did not help is not released, or it would start and fail for ever.

    Parameters
    ----------
    folder
        The run.
    proxy
        The file that was replaced; jobs that are submitted with another one are left alone.
    ends
        When the new proxy ends, in seconds since 1970.
    again
        Release also the jobs that were held with this very proxy: a person wants it.

    Returns
    -------
    int
        How many jobs were released.

    Raises
    ------
    PoolLost
        The schedd does not answer.
    """
    import htcondor2

    with pool_errors(PoolLost):
        schedd = htcondor2.Schedd()
        ads = schedd.query(constraint=constraint(folder), projection=_ATTRIBUTES)
        replaced, file = proxy.stat().st_mtime, proxy.resolve()
        mine = [ad for ad in ads if _uses(ad, file)]
        # Whole seconds, as the queue keeps them.
        stale = {_number(ad) for ad in mine if ad.get(_ENDS) != int(ends)}
        if stale:
            _tell(schedd, folder, mine, int(ends))
        held = [
            number
            for ad in mine
            if _held_for_credential(ad)
            and ((number := _number(ad)) in stale or again or _since(ad) < replaced + _DELIVERY_SECONDS)
        ]
        if not held:
            return 0
        reply = schedd.act(htcondor2.JobAction.Release, held, "its proxy was renewed")
    return int(reply["TotalSuccess"])


def _tell(schedd: Any, folder: RunFolder, mine: Iterable[Any], ends: int) -> None:
    """Write the end of the new proxy into the ads of the jobs that are still there."""
    import classad2
    import htcondor2

    # Not by their numbers: one job that has left the queue would make it fail for all of them.
    named = {(str(ad["x509userproxy"]), str(ad.get("Iwd", "/"))) for ad in mine}
    files = " || ".join(
        f"(x509userproxy == {classad2.quote(path)} && Iwd == {classad2.quote(iwd)})"
        for path, iwd in sorted(named)
    )
    those = f"{constraint(folder)} && {_ENDS} =!= {ends} && ({files})"
    try:
        schedd.edit(those, _ENDS, str(ends))
    except htcondor2.HTCondorException:
        # Also what it says where there is none any more: then all is well.
        if schedd.query(constraint=those, projection=["ClusterId"]):
            raise


def _uses(ad: Any, file: Path) -> bool:
    named = ad.get("x509userproxy")
    return isinstance(named, str) and Path(str(ad.get("Iwd", "/")), named).resolve() == file


def _number(ad: Any) -> str:
    return f"{ad['ClusterId']}.{ad['ProcId']}"


def _since(ad: Any) -> float:
    since = ad.get("EnteredCurrentStatus", 0)
    return float(since) if isinstance(since, int | float) else 0.0


def _held_for_credential(ad: Any) -> bool:
    if ad.get("JobStatus") != _HELD:
        return False
    code, subcode = ad.get("HoldReasonCode"), ad.get("HoldReasonSubCode")
    return (code, subcode) == OURS or code == _CORRUPTED_CREDENTIAL
