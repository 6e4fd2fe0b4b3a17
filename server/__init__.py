"""The HTTP side: what a service of mlaas-condor answers."""
