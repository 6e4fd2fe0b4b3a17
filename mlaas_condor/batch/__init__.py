"""HTCondor: the only part that imports ``htcondor2`` and ``classad2``; plain data goes in and out."""
