"""How the service runs: its processes, HTTP in and out, its log and its numbers."""
