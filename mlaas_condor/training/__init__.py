"""From chunks to a bundle; a framework is imported inside its own adapter only."""
