"""What a running training says of itself in its own ClassAd, so that ``condor_q -af`` shows it."""

from __future__ import annotations

import os

from mlaas_condor.state import Training


def publish(training: Training) -> bool:
    """Set ``ChirpMLaaS…`` attributes of the job this process runs in; False where that cannot be done.

    They reach the schedd with the shadow's next update: after seconds on a personal pool, after up to
    15 minutes elsewhere. Progress is news, not the work: no failure here may end a training, hence the
    wide net.
    """
    if "_CONDOR_CHIRP_CONFIG" not in os.environ:
        return False
    attributes = {
        "Epoch": training.epoch, "Epochs": training.epochs,
        "Loss": training.loss, "ValLoss": training.val_loss,
        "EventsPerSecond": round(training.rate), "SecondsLeft": round(training.left),
    }  # fmt: skip
    if training.value is not None:
        attributes[f"Val{training.metric.capitalize()}"] = training.value
    try:
        from htcondor2.htchirp import HTChirp

        with HTChirp() as chirp:
            for name, value in attributes.items():
                chirp.set_job_attr_delayed(f"ChirpMLaaS{name}", str(value))
    except Exception:
        return False
    return True
