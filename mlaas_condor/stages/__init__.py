"""One program a stage: ``python -m mlaas_condor.stages.specs …`` runs the same by hand and as a job."""
