"""The calls of ``/api/v1``: thin views over the same functions that the command line uses."""
