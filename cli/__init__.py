"""The command line; prints, and leaves the work to ``mlaas_condor.workflow``."""
