"""A service as a place of runs: what a machine without HTCondor does it all with."""
