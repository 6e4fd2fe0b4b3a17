"""From bytes to a matrix; knows nothing of HTCondor or of training frameworks."""
