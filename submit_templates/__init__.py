"""What HTCondor is given, to be read as it is: submit files, the DAG, the PRE script."""
