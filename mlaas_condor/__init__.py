"""From ROOT files and one small JSON file to a trained model, on an HTCondor pool."""
